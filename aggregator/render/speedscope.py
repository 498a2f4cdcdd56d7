"""speedscope's own format: one sampled profile of weighted stacks, and one more where time is known.

The shape is fixed by the JSON schema at https://www.speedscope.app/file-format-schema.json: `shared.frames` is a list
of frames, each sample a list of indices into it from the root to the leaf, `weights` has one number for each sample.
Extra facts about completeness stand in the profile's name, which the viewer shows.
"""

import json
from itertools import pairwise

from aggregator.fold import Folded
from aggregator.profile import Profile
from aggregator.render import wording

SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def render(folded: Folded, *, title: str = "", files: dict[str, tuple[str, int]] | None = None) -> bytes:
    """`folded` as UTF-8 JSON. `files` says file and line of functions by their written name, where one is known."""
    nodes, offsets, items = folded.stacks()
    name = title or folded.origin.title or "fleetflame"
    completeness = ", ".join(wording.wholeness(folded.completeness()))
    samples = _lists(offsets.tolist(), (items - 1).tolist())
    weights = [("none", "samples", folded.count[nodes].tolist())]
    if folded.timed:
        weights.insert(0, ("nanoseconds", "time", folded.value[nodes].tolist()))
    document = {
        "$schema": SCHEMA,
        "exporter": "fleetflame",
        "name": name,
        "activeProfileIndex": 0,
        "shared": {"frames": [_frame(each, files or {}) for each in folded.names[1:]]},
        "profiles": [
            {
                "type": "sampled",
                "name": f"{name}: {what} ({completeness})" if completeness else f"{name}: {what}",
                "unit": unit,
                "startValue": 0,
                "endValue": sum(column),
                "samples": samples,
                "weights": column,
            }
            for unit, what, column in weights
        ],
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def source_lines(profile: Profile) -> dict[str, tuple[str, int]]:
    """File and line of functions by written name. Where builds differ, the one that sorts first."""
    locations = profile.detail().locations
    found: dict[str, tuple[str, int]] = {}
    rows = zip(locations.rendered(), locations.file.tolist(), locations.line.tolist(), strict=True)
    for name, file, line in rows:
        if file:
            place = (locations.strings[file], line)
            found[name] = min(found.get(name, place), place)
    return found


def _frame(name: str, files: dict[str, tuple[str, int]]) -> dict[str, str | int]:
    frame: dict[str, str | int] = {"name": name}
    if name in files:
        file, line = files[name]
        frame["file"] = file
        if line:
            frame["line"] = line
    return frame


def _lists(bounds: list[int], flat: list[int]) -> list[list[int]]:
    return [flat[start:end] for start, end in pairwise(bounds)]
