"""What is kept about each build, as values and as JSON. Pure."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from aggregator.symbols.faults import Fault
from aggregator.symbols.table import Rank
from fleetflame.buildid import BuildId
from fleetflame.model import Segment

MAX_CONFLICTS = 8


class Source(StrEnum):
    """Where a symbol file came from."""

    UPLOAD = "upload"
    """An operator gave it."""
    LOCAL = "local"
    """A debug directory of the aggregator's machine."""
    NODE = "node"
    """A node that runs the build lent its file."""
    SHARED = "shared"
    """The fleet's object store: another aggregator or an earlier run put it there."""
    DEBUGINFOD = "debuginfod"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One content that names a build."""

    rank: Rank
    content: str
    """SHA-256 of the file, hex."""
    digest: str
    """SHA-256 of what its table says, hex: a lent copy with its code zeroed says the same as the file itself."""
    source: Source
    where: str
    """Node, URL or path: for people."""
    functions: int
    table_bytes: int
    content_bytes: int
    added: float
    """Unix time."""
    pinned: bool = False
    """An operator said that this is the one, whatever comes later."""
    parser: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One build. `path` is where the fleet or a person has the file; `segments` convert offsets into addresses."""

    build_id: BuildId
    path: str
    kept: Kept
    segments: tuple[Segment, ...] = ()
    conflicts: tuple[Kept, ...] = ()
    """Other contents of the same rank that say something else; the first one is in use."""


class Verdict(StrEnum):
    """What became of a content that was offered for a build."""

    TAKEN = "taken"
    BETTER = "better"
    """It knows more than the one before, and took its place."""
    REPLACED = "replaced"
    """An operator pinned it in place of the one before."""
    SAME = "same"
    WORSE = "worse"
    """What is there knows more, or is pinned."""
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a content gave no table. Final for that content and parser, but want of time or memory may pass."""

    fault: Fault
    detail: str
    parser: int
    at: float


def judge(record: Record | None, offer: Kept) -> Verdict:
    """Whether `offer` names the build from now on. The rules:

    1. what an operator pins is taken; what is pinned gives way only to another that is pinned
    2. the better rank wins, whichever came first
    3. of one rank the first stays; a second that says the same is the same, one that says something else a conflict
    """
    if record is None:
        return Verdict.TAKEN
    kept = record.kept
    # A table of an older parser is remade from the same content: that is no second opinion.
    if kept.content == offer.content and kept.parser != offer.parser:
        return Verdict.REPLACED
    if offer.pinned:
        same = kept.digest == offer.digest and kept.pinned
        return Verdict.SAME if same else Verdict.REPLACED
    if kept.pinned or kept.rank.worth > offer.rank.worth:
        return Verdict.WORSE
    if kept.rank.worth < offer.rank.worth:
        return Verdict.BETTER
    return Verdict.SAME if kept.digest == offer.digest else Verdict.CONFLICT


def with_conflict(record: Record, offer: Kept) -> Record:
    """The record with `offer` among its conflicts, once per content and no more than `MAX_CONFLICTS`."""
    if any(known.digest == offer.digest for known in record.conflicts):
        return record
    return replace(record, conflicts=(*record.conflicts, offer)[:MAX_CONFLICTS])


def to_json(record: Record) -> dict[str, Any]:
    """The record as JSON values."""
    return {
        "build_id": str(record.build_id),
        "path": record.path,
        "kept": _kept_to_json(record.kept),
        "segments": [[s.offset, s.vaddr, s.size] for s in record.segments],
        "conflicts": [_kept_to_json(kept) for kept in record.conflicts],
    }


def from_json(value: dict[str, Any]) -> Record:
    """The record that `to_json` wrote. Raises ValueError, KeyError, TypeError for anything else."""
    return Record(
        build_id=BuildId.parse(value["build_id"]),
        path=str(value["path"]),
        kept=_kept_from_json(value["kept"]),
        segments=tuple(Segment(*map(int, segment)) for segment in value["segments"]),
        conflicts=tuple(_kept_from_json(kept) for kept in value["conflicts"]),
    )


def _kept_to_json(kept: Kept) -> dict[str, Any]:
    return {name: getattr(kept, name) for name in Kept.__dataclass_fields__}


def _kept_from_json(value: dict[str, Any]) -> Kept:
    known = {name: value[name] for name in Kept.__dataclass_fields__ if name in value}
    return Kept(**(known | {"rank": Rank(value["rank"]), "source": Source(value["source"])}))
