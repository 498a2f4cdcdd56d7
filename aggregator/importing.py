"""Profiles that other tools took, as batches for the store: folded text and pprof. Pure: bytes in, batches out.

    data -> Samples (what a file holds) -> Batch, one for each node

What has a name in the file keeps it: such frames have the kind IMPORTED and are rendered as they are, so that a text
exported, imported and exported again is the same. What has none, but a build ID and a place in the file, is stored like
our own samples, and named when symbols are there. The same import twice is stored once: its identity is its content.
"""

import hashlib
import re
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from aggregator.fold import Folded
from aggregator.foldedtext import Fault, parse
from aggregator.naming import MAX_NAME
from aggregator.pprofreader import GZIP_MAGIC, read
from aggregator.samples import Samples
from aggregator.trie import grow
from fleetflame.errors import UsageError
from fleetflame.model import Batch, Labels, Ledger, Mapping, MappingKind, NamedFrame, StackTable
from fleetflame.subjects import check_node

I64 = NDArray[np.int64]

DEFAULT_NODE = "import"
DEFAULT_PERIOD_NS = 10_101_010
"""What a sample of folded text stands for where nobody says: 1 / 99 s, as `perf record -F 99` takes them."""
MAX_SERIES = 10_000
"""Label sets of one import. Labels that tell each sample apart, such as trace ids, are no labels here."""
_WINDOW_NS = 10_000_000_000
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What the importer says of a file. Raises UsageError for a label that cannot be one.

    `labels` win over the file's. `time_ns` is when samples were taken, if the file does not say; `period_ns` what one
    stands for, if neither says. `form` is `folded`, `pprof`, or `auto`: by content.
    """

    time_ns: int
    time_given: bool = False
    """Whether `time_ns` wins over the file's own time."""
    labels: MappingOf[str, str] = field(default_factory=dict)
    type: str = "cpu"
    form: str = "auto"
    period_ns: int = DEFAULT_PERIOD_NS

    def __post_init__(self) -> None:
        for name, value in self.labels.items():
            if not _NAME.fullmatch(name) or not value or len(value) > MAX_NAME:
                raise UsageError(f"not a label: `{name[:80]}={value[:80]}`", hint="write NAME=VALUE, neither empty")
        check_node(self.labels.get("node", DEFAULT_NODE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import is: batches to store, what they hold, and what could not be read of folded text."""

    batches: tuple[Batch, ...]
    samples: int
    stacks: int
    lines: int = 0
    bad: int = 0
    faults: tuple[Fault, ...] = ()


def import_profile(data: bytes, options: ImportOptions) -> Imported:
    """Batches for the profile in `data`. Raises UsageError if it cannot be read, or holds nothing.

    A bad line of folded text is counted and reported; if no line is good, the first reason is the error's.
    """
    form = options.form if options.form != "auto" else _form_of(data)
    if form == "pprof":
        return _imported(read(data), options, data)
    parsed = parse(data)
    if parsed.faults and parsed.bad == parsed.lines:
        first = parsed.faults[0]
        raise UsageError(f"no line could be read: line {first.line}: {first.reason}", hint="a line is `frame;frame 12`")
    samples = _samples_of_text(parsed.folded, whole="comm" in options.labels)
    done = _imported(samples, options, data)
    return replace(done, lines=parsed.lines, bad=parsed.bad, faults=parsed.faults)


def _imported(samples: Samples, options: ImportOptions, data: bytes) -> Imported:
    total = int(samples.count.sum())
    if not total:
        raise UsageError("the file holds no samples")
    identity = hashlib.blake2b(data, digest_size=32).digest()
    batches = _batches(samples, options, identity)
    return Imported(batches=batches, samples=total, stacks=sum(len(batch.stacks) for batch in batches))


def _form_of(data: bytes) -> str:
    """pprof is compressed, or a message, whose first fields are small numbers: control characters that no text has."""
    return "pprof" if data.startswith(GZIP_MAGIC) or _CONTROL.search(data, 0, 64) else "folded"


def _samples_of_text(folded: Folded, *, whole: bool) -> Samples:
    """The stacks of a text. Their first frames are the names of processes, unless they are wholly code."""
    nodes, offsets, items = folded.stacks()
    first = np.zeros(len(items), bool)
    first[offsets[:-1]] = not whole
    comms, group = np.unique(np.where(first, items, 0)[offsets[:-1]], return_inverse=True)
    used, frame = np.unique(items[~first], return_inverse=True)
    kept = np.concatenate(([0], np.cumsum(~first)))
    return Samples(
        mappings=(Mapping(MappingKind.IMPORTED),),
        named=tuple(NamedFrame(folded.names[item]) for item in used.tolist()),
        frame_mapping=np.zeros(len(used), np.int64),
        frame_address=np.arange(len(used), dtype=np.uint64),
        offsets=kept[offsets],
        frame=frame,
        labels=tuple((("comm", folded.names[item]),) for item in comms.tolist()),
        group=group,
        count=folded.count[nodes],
    )


def _batches(samples: Samples, options: ImportOptions, identity: bytes) -> tuple[Batch, ...]:
    """One batch for each node that the file, or the importer, names."""
    given = dict(options.labels)
    nodes: dict[str, list[int]] = {}
    series: list[Labels] = []
    for number, labels in enumerate(samples.labels):
        merged = {**dict(labels), **given}
        node = merged.pop("node", DEFAULT_NODE)
        nodes.setdefault(check_node(node), []).append(number)
        series.append(tuple(sorted(merged.items())))
    if len(series) > MAX_SERIES:
        raise UsageError(f"{len(series):,} label sets in the file, {MAX_SERIES:,} are allowed")
    return tuple(
        _batch(samples, options, identity, (node, np.array(groups)), series) for node, groups in sorted(nodes.items())
    )


def _batch(
    samples: Samples, options: ImportOptions, identity: bytes, where: tuple[str, I64], series: list[Labels]
) -> Batch:
    """The samples of one node: its stacks once each, and one row for each (series, stack)."""
    node, groups = where
    rows = np.flatnonzero(np.isin(samples.group, groups) & (samples.count > 0))
    length = (samples.offsets[1:] - samples.offsets[:-1])[rows]
    start = samples.offsets[:-1][rows]
    _, end = grow(length, lambda which, depth: samples.frame[start[which] + depth])
    _, first, stack = np.unique(end, return_index=True, return_inverse=True)
    own = sorted({series[group] for group in groups.tolist()})
    number = {labels: at for at, labels in enumerate(own)}
    group = np.array([number.get(labels, 0) for labels in series])[samples.group[rows]]
    keys, index = np.unique(group * len(first) + stack, return_inverse=True)
    count = np.zeros(len(keys), np.uint64)
    np.add.at(count, index, samples.count[rows])
    taken = int(count.sum())
    cut = int(samples.count[rows][_is_cut(samples, rows)].sum())
    time_ns = options.time_ns if options.time_given or not samples.time_ns else samples.time_ns
    stated = repr((sorted(options.labels.items()), options.type, time_ns)).encode()
    return Batch(
        node=node,
        epoch=hashlib.blake2b(identity + stated, digest_size=16).digest(),
        sequence=1,
        dictionary=1,
        window_start_ns=time_ns,
        window_ns=samples.window_ns or _WINDOW_NS,
        period_ns=samples.period_ns or options.period_ns,
        type=options.type,
        mappings=samples.mappings,
        named=samples.named,
        series=tuple(own),
        stacks=_stack_table(samples, start[first], length[first]),
        sample_series=(keys // len(first)).astype(np.uint32),
        sample_number=(keys % len(first)).astype(np.uint32),
        sample_count=count,
        ledger=Ledger(taken=taken, taken_in_epoch=taken, degraded={"depth_limit": cut} if cut else {}),
    )


def _is_cut(samples: Samples, rows: I64) -> NDArray[np.bool_]:
    """Which of these rows begin with a placeholder for frames that were too many."""
    kinds = np.array([mapping.kind for mapping in samples.mappings], np.uint8)
    first = samples.offsets[:-1][rows]
    cut = samples.offsets[1:][rows] > first
    root = samples.frame_mapping[samples.frame[first[cut]]]
    cut[cut] = kinds[root] == MappingKind.MISS
    return cut


def _stack_table(samples: Samples, start: I64, length: I64) -> StackTable:
    ends = np.cumsum(length)
    at = np.repeat(start - (ends - length), length) + np.arange(int(length.sum()))
    frame = samples.frame[at]
    return StackTable(
        offsets=np.concatenate(([0], ends)).astype(np.uint32),
        mapping=samples.frame_mapping[frame].astype(np.uint32),
        address=samples.frame_address[frame],
    )
