"""One window's rows under the dictionary's numbers, and any part of them as the tables of a batch.

Rows are ordered by stack number, and new stacks have the highest numbers: so any range of rows refers to stacks that
are known, that an earlier range announced, or that are a range of numbers of its own. That is what lets a window be cut
anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent import dictionary
from agent.dictionary import UNKNOWN, StackDictionary
from agent.normalize import NormalizedWindow
from fleetflame.model import NAMED_KINDS, Labels, Mapping, NamedFrame, StackTable
from fleetflame.wire import MAX_SEGMENTS, MAX_STRING_BYTES

MAX_LINE = (1 << 32) - 1


class Part(NamedTuple):
    """Rows [low, high), and the stacks [first_new, end_new) that they are the first to refer to."""

    low: int
    high: int
    first_new: int
    end_new: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """What a batch says of a part: see `model.Batch`."""

    mappings: tuple[Mapping, ...]
    named: tuple[NamedFrame, ...]
    series: tuple[Labels, ...]
    stacks: StackTable
    sample_series: NDArray[np.uint32]
    sample_number: NDArray[np.uint32]
    sample_count: NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedRows:
    """Rows ordered by (number, series), each pair once; `new_stacks[i]` is the place of stack `first_new + i` in
    `stacks`."""

    stacks: StackTable
    mappings: Sequence[Mapping]
    named: Sequence[NamedFrame]
    labels: Sequence[Labels]
    series: NDArray[np.int64]
    number: NDArray[np.int64]
    count: NDArray[np.uint64]
    first_new: int
    new_stacks: NDArray[np.int64]

    def part(self, low: int, high: int) -> Part:
        """Rows [low, high) with the stacks that no row before `low` refers to."""
        return Part(low, high, self._announced(low), self._announced(high))

    def _announced(self, row: int) -> int:
        return self.first_new if row == 0 else max(self.first_new, int(self.number[row - 1]) + 1)

    def tables(self, part: Part) -> Tables:
        """The part's rows and new stacks, with only those mappings, names and series that they refer to."""
        stacks = _take(self.stacks, self._places(part))
        used, mapping = np.unique(stacks.mapping, return_inverse=True)
        mappings = tuple(_sendable_mapping(self.mappings[index]) for index in used.tolist())
        address, names = self._named_indices(mappings, mapping, stacks.address)
        rows = slice(part.low, part.high)
        used_series, series = np.unique(self.series[rows], return_inverse=True)
        order = np.lexsort((self.number[rows], series))
        return Tables(
            mappings=mappings,
            named=tuple(_sendable_name(self.named[index]) for index in names.tolist()),
            series=tuple(self.labels[index] for index in used_series.tolist()),
            stacks=StackTable(offsets=stacks.offsets, mapping=mapping.astype(np.uint32), address=address),
            sample_series=series[order].astype(np.uint32),
            sample_number=self.number[rows][order].astype(np.uint32),
            sample_count=self.count[rows][order],
        )

    def _places(self, part: Part) -> NDArray[np.int64]:
        return self.new_stacks[part.first_new - self.first_new : part.end_new - self.first_new]

    def _named_indices(
        self, mappings: Sequence[Mapping], mapping: NDArray[np.intp], address: NDArray[np.uint64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        is_named = np.array([entry.kind in NAMED_KINDS for entry in mappings], bool)[mapping]
        names, index = np.unique(address[is_named], return_inverse=True)
        renumbered = address.copy()
        renumbered[is_named] = index
        return renumbered, names


def number_rows(window: NormalizedWindow, known: StackDictionary) -> NumberedRows:
    """The window's rows, and its new stacks put into `known`. Stacks without a row are left out.

    Stacks that differ only in where one build was seen are one stack, and label sets that are equal one series; their
    rows are added up.
    """
    frames = dictionary.frame_bytes(window.stacks, window.mappings, window.named)
    referred, row_stack = np.unique(window.row_stack, return_inverse=True)
    ids, first, same = np.unique(
        dictionary.stack_ids(frames, window.stacks.offsets, referred), return_index=True, return_inverse=True
    )
    first_new = known.next_number
    number = known.find(ids)
    unknown = np.flatnonzero(number == UNKNOWN)
    unknown = unknown[dictionary.order_by_frames(frames, window.stacks.offsets, referred[first[unknown]])]
    number[unknown] = known.add(ids[unknown])
    labels = {entry: index for index, entry in enumerate(dict.fromkeys(window.series))}
    series = np.array([labels[entry] for entry in window.series], np.int64)
    row_number, row_series, count = _added_up(number[same][row_stack], series[window.row_series], window.row_count)
    return NumberedRows(
        stacks=window.stacks,
        mappings=window.mappings,
        named=window.named,
        labels=tuple(labels),
        series=row_series,
        number=row_number,
        count=count,
        first_new=first_new,
        new_stacks=referred[first[unknown]].astype(np.int64),
    )


def _added_up(
    number: NDArray[np.int64], series: NDArray[np.int64], count: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
    order = np.lexsort((series, number))
    number, series, count = number[order], series[order], count[order]
    differs = (number[1:] != number[:-1]) | (series[1:] != series[:-1])
    start = np.flatnonzero(np.append(True, differs)[: len(number)])
    return number[start], series[start], np.add.reduceat(count, start) if len(start) else count


def _take(stacks: StackTable, places: NDArray[np.int64]) -> StackTable:
    start = stacks.offsets[places].astype(np.int64)
    depth = stacks.offsets[places + 1].astype(np.int64) - start
    offsets = np.append(0, np.cumsum(depth))
    frames = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], depth)
    return StackTable(offsets=offsets.astype(np.uint32), mapping=stacks.mapping[frames], address=stacks.address[frames])


def _sendable_mapping(mapping: Mapping) -> Mapping:
    # A profiled process can map a file of a thousand executable segments, under any name.
    path = sendable(mapping.path)
    if path is mapping.path and len(mapping.segments) <= MAX_SEGMENTS:
        return mapping
    return replace(mapping, path=path, segments=mapping.segments[:MAX_SEGMENTS])


def _sendable_name(frame: NamedFrame) -> NamedFrame:
    return NamedFrame(sendable(frame.name), sendable(frame.file), min(max(frame.line, 0), MAX_LINE))


def sendable(text: str) -> str:
    """`text` as a message may have it: "?" for what UTF-8 cannot spell (bytes of a path that are not text), cut at
    MAX_STRING_BYTES. `text` itself where nothing is to be changed."""
    if text.isascii() and len(text) <= MAX_STRING_BYTES:
        return text
    return text.encode(errors="replace")[:MAX_STRING_BYTES].decode(errors="ignore")
