"""speedscope JSON: what its schema asks for, all samples in it."""

import json
from typing import Any

from aggregator.fold import fold
from aggregator.foldedtext import parse
from aggregator.render import speedscope
from tests.aggregator.render import golden
from tests.aggregator.render.samples import every_kind, hostile


def valid(data: bytes) -> dict[str, Any]:
    """The document, after checking what the schema demands of a file with sampled profiles."""
    document = json.loads(data)
    assert document["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    frames = document["shared"]["frames"]
    for frame in frames:
        assert isinstance(frame["name"], str)
        assert set(frame) <= {"name", "file", "line", "col"}
        assert isinstance(frame.get("file", ""), str)
        assert isinstance(frame.get("line", 0), int)
    units = {"bytes", "microseconds", "milliseconds", "nanoseconds", "none", "seconds"}
    for profile in document["profiles"]:
        assert set(profile) == {"type", "name", "unit", "startValue", "endValue", "samples", "weights"}
        assert profile["type"] == "sampled"
        assert profile["unit"] in units
        assert len(profile["samples"]) == len(profile["weights"])
        assert profile["endValue"] - profile["startValue"] == sum(profile["weights"])
        assert all(0 <= frame < len(frames) for sample in profile["samples"] for frame in sample)
    assert 0 <= document["activeProfileIndex"] < len(document["profiles"])
    return dict(document)


def test_the_document_is_the_golden_one() -> None:
    """Time and samples, with files and lines."""
    made = every_kind()
    data = speedscope.render(fold(made), files=speedscope.source_lines(made))
    golden.check("every_kind.speedscope.json", (json.dumps(valid(data), indent=1, ensure_ascii=False) + "\n").encode())


def test_stacks_are_root_first_and_complete() -> None:
    """Samples are what the folded text says."""
    document = valid(speedscope.render(parse(b"a;b 1\na;c 2\na 4\n").folded))
    names = [frame["name"] for frame in document["shared"]["frames"]]
    (profile,) = document["profiles"]
    samples = zip(profile["samples"], profile["weights"], strict=True)
    lines = [f"{';'.join(names[at] for at in stack)} {weight}" for stack, weight in samples]
    assert lines == ["a 4", "a;b 1", "a;c 2"]
    assert profile["unit"] == "none"


def test_hostile_and_empty_profiles_are_valid() -> None:
    """Names of any kind, and no samples at all."""
    valid(speedscope.render(fold(hostile())))
    valid(speedscope.render(parse(b"").folded))
