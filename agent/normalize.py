"""One window of raw samples -> the same samples in terms that hold on every host and for good.

Addresses become (build ID, file offset), offsets from `_stext`, or names; images become labels; leaf first becomes root
first, user frames before kernel frames; return addresses become addresses inside the call. No sample is dropped but
those that relabelling drops, and those are counted: what cannot be resolved becomes a placeholder frame.

    [user miss] user frames ... [kernel miss] kernel frames ...

A placeholder stands at the root side of the part that it belongs to, in place of what is missing there.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agent.facts import ProcessFacts
from agent.frames import Gathered, Pool, Segments, add_up, assemble_unique, gather, in_batches, join
from agent.image import Image
from agent.jit.maps import JitMaps
from agent.kernel import Kernel
from agent.processes import ImageTable
from agent.python.codes import Codes
from agent.python.insertion import Insertion
from agent.resolve import IdFrames, Resolver
from agent.window import FIRST_STACK, ID_STACK_BIT, PLAIN_DEPTH, Stop, Window
from fleetflame.model import FrameMiss, Labels, NamedFrame, StackTable
from fleetflame.model import Mapping as FrameMapping

LabelOf = Callable[[ProcessFacts, str], Labels | None]
"""Labels of a process and the name of its thread ("" unless per thread); None drops its samples."""

FILTERED = "filtered"
"""Name under which samples are counted that relabelling drops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalizedWindow:
    """Row i: `row_count[i]` samples of the label set `series[row_series[i]]` with the stack `row_stack[i]`.

    Rows are sorted by (series, stack), each pair once; stacks, series, mappings and named frames are each there once.
    taken == row_count.sum() + sum(lost.values()). `degraded` counts samples by the misses in their stacks.
    """

    start_ns: int
    end_ns: int
    period_ns: int
    type: str = "cpu"
    mappings: tuple[FrameMapping, ...]
    named: tuple[NamedFrame, ...]
    series: tuple[Labels, ...]
    stacks: StackTable
    row_series: NDArray[np.uint32]
    row_stack: NDArray[np.uint32]
    row_count: NDArray[np.uint64]
    taken: int
    lost: Mapping[str, int] = field(default_factory=dict)
    degraded: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Rows that have labels: which series, which image, which stacks, how many samples."""

    series: NDArray[np.int64]
    image: NDArray[np.int64]
    user: NDArray[np.uint64]
    kernel: NDArray[np.uint64]
    python: NDArray[np.uint64]
    count: NDArray[np.uint64]


_Parts = tuple[Segments, ...]
"""Part i of a stack: a placeholder or nothing, then its frames."""

_STOPPED = {
    Stop.DEPTH: FrameMiss.DEPTH_LIMIT,
    Stop.UNMAPPED: FrameMiss.NO_UNWIND_TABLE,
    Stop.NO_FRAME_POINTER: FrameMiss.NO_FRAME_POINTER,
    Stop.NO_RULE: FrameMiss.NO_UNWIND_RULE,
    Stop.RULE: FrameMiss.NO_UNWIND_RULE,
    Stop.UNREADABLE: FrameMiss.STACK_UNREADABLE,
    Stop.NO_PROGRESS: FrameMiss.NO_UNWIND_RULE,
}
"""What a stack lacks at its root, by where its unwinding stopped. The others are whole, or nobody knows."""

_MISSES = max(FrameMiss) + 1
_SAID = frozenset(miss for miss in FrameMiss if miss < FIRST_STACK)


class Normalizer:
    """Normalizes windows in the order in which they were taken. To be used by one thread."""

    def __init__(
        self,
        images: ImageTable,
        kernel: Kernel,
        label_of: LabelOf,
        *,
        jit: JitMaps | None = None,
        codes: Codes | None = None,
    ) -> None:
        self._images = images
        self._kernel = kernel
        self._label_of = label_of
        self._jit = JitMaps() if jit is None else jit  # an empty one is false
        self._codes = Codes() if codes is None else codes

    def normalize(self, window: Window) -> NormalizedWindow:
        """The window's samples, all of them but those that are counted in `lost`."""
        image_ids, first, image_of = np.unique(window.counts["image"], return_index=True, return_inverse=True)
        comms = window.counts["comm"][first].tolist()
        images = [self._images.get(*image) for image in zip(image_ids.tolist(), map(_text, comms), strict=True)]
        series, rows, filtered = self._label(window, images, image_of)
        resolver = Resolver(self._images, self._kernel, self._jit, window.start_ns)
        insertion = Insertion(self._codes, resolver.numbering, images)
        stacks, stack_of = _Stacks(window, resolver, insertion).of(rows, images)
        row_series, row_stack, row_count = add_up(rows.series, stack_of, rows.count)
        lost = dict(window.lost)
        if filtered:
            lost[FILTERED] = lost.get(FILTERED, 0) + filtered
        # SANITY: nothing here makes or loses a sample; what the window says of itself is the sampler's promise.
        kept = int(row_count.sum(dtype=np.uint64))
        assert kept + filtered == int(window.counts["count"].sum(dtype=np.uint64)), "samples were lost in normalization"
        self._images.end_window()
        self._jit.end_window()
        self._codes.end_window()
        return NormalizedWindow(
            start_ns=window.start_ns,
            end_ns=window.end_ns,
            period_ns=window.period_ns,
            mappings=tuple(resolver.numbering.mappings),
            named=tuple(resolver.numbering.named),
            series=series,
            stacks=stacks,
            row_series=row_series.astype(np.uint32),
            row_stack=row_stack.astype(np.uint32),
            row_count=row_count,
            taken=window.taken,
            lost=lost,
            degraded=count_degraded(stacks, row_stack, row_count),
        )

    def _label(
        self, window: Window, images: list[Image], image_of: NDArray[np.int64]
    ) -> tuple[tuple[Labels, ...], _Rows, int]:
        """(label sets, the rows that have one, samples of those that have none)."""
        # Rows have a thread where labels per thread are on; else their name is the process's, which its facts have.
        thread = np.where(window.counts["tid"] == 0, b"", window.counts["comm"])
        threads, thread_of = np.unique(thread, return_inverse=True)
        names = [_text(name) for name in threads.tolist()]
        pairs, pair_of = np.unique(image_of * len(names) + thread_of, return_inverse=True)
        series: dict[Labels, int] = {}
        numbers = np.full(len(pairs), -1, np.int64)
        for at, pair in enumerate(pairs.tolist()):
            labels = self._label_of(images[pair // len(names)].facts, names[pair % len(names)])
            if labels is not None:
                numbers[at] = series.setdefault(labels, len(series))
        row_series = numbers[pair_of]
        kept = row_series >= 0
        rows = window.counts[kept]
        return (
            tuple(series),
            _Rows(
                series=row_series[kept],
                image=image_of[kept],
                user=rows["user"],
                kernel=rows["kernel"],
                python=rows["python"],
                count=rows["count"],
            ),
            int(window.counts["count"][~kept].sum(dtype=np.uint64)),
        )


class _Stacks:
    """Puts a window's stacks together."""

    def __init__(self, window: Window, resolver: Resolver, insertion: Insertion) -> None:
        self._window = window
        self._resolver = resolver
        self._insertion = insertion
        self._pools = [_all_misses()]
        self._pooled = len(self._pools[0])

    def of(self, rows: _Rows, images: list[Image]) -> tuple[StackTable, NDArray[np.int64]]:
        """(stacks, each content once; for each row the number of its stack)."""
        # A sample has a user or a kernel stack: with neither, something could not be read.
        user = np.where((rows.user == 0) & (rows.kernel == 0), np.uint64(FrameMiss.NO_USER_STACK), rows.user)
        user_parts, user_of = self._user_parts(user, rows.image, images)
        user_parts, user_of = self._with_python(user_parts, user_of, rows)
        kernel_parts, kernel_of = self._kernel_parts(rows.kernel)
        kinds = max(1, len(kernel_parts[0]))
        combined, combined_of = np.unique(user_of * kinds + kernel_of, return_inverse=True)
        which_user, which_kernel = np.divmod(combined, kinds)
        parts = [part.pick(which_user) for part in user_parts] + [part.pick(which_kernel) for part in kernel_parts]
        stacks, number_of = assemble_unique(join(self._pools), parts)
        return stacks, number_of[combined_of]

    def _user_parts(
        self, keys: NDArray[np.uint64], image: NDArray[np.int64], images: list[Image]
    ) -> tuple[_Parts, NDArray[np.int64]]:
        """(each pair of image and key once, ordered by image; for each row the number of its pair)."""
        unique, key_of = np.unique(keys, return_inverse=True)
        kinds = max(1, len(unique))
        pairs, pair_of = np.unique(image * kinds + key_of, return_inverse=True)
        owner, which = np.divmod(pairs, kinds)
        key = unique[which]
        parts = _empty_parts(key)
        by_kernel = (key & np.uint64(ID_STACK_BIT)) != 0
        raw, ids = self._window.stacks, self._window.id_stacks
        for chosen, found in self._find(parts, np.flatnonzero(~by_kernel & (key >= FIRST_STACK)), key, raw.keys):
            frames = gather(raw.offsets, found)
            address = _inside_calls(raw.address, frames, raw.exact)
            pool = self._resolver.user(images, owner[chosen][frames.stack], address)
            self._add_user(parts, chosen, frames, pool)
            self._set_stops(parts, chosen, raw.stop[found])
        for chosen, found in self._find(parts, np.flatnonzero(by_kernel), key, ids.keys):
            frames = gather(ids.offsets, found)
            resolved = IdFrames(
                status=ids.status[frames.index],
                build_id=ids.build_id[frames.index],
                address=_inside_calls(ids.address, frames),
            )
            pool = self._resolver.resolved(resolved, images, owner[chosen][frames.stack])
            self._add_user(parts, chosen, frames, pool)
        return parts, pair_of

    def _with_python(self, parts: _Parts, part_of: NDArray[np.int64], rows: _Rows) -> tuple[_Parts, NDArray[np.int64]]:
        """(each pair of a part and a Python stack once, woven; for each row the number of its pair)."""
        unique, python_of = np.unique(rows.python, return_inverse=True)
        if not unique.any():
            return parts, part_of
        pairs, first, pair_of = np.unique(part_of * len(unique) + python_of, return_index=True, return_inverse=True)
        which, python = np.divmod(pairs, len(unique))
        key, owner = unique[python], rows.image[first]
        woven = tuple(part.pick(which) for part in parts)
        _miss, body = woven
        known = self._window.python
        at = np.minimum(np.searchsorted(known.keys, key), max(len(known) - 1, 0))
        there = (key >= FIRST_STACK) & (known.keys[at] == key) if len(known) else np.zeros(len(key), np.bool)
        natives = join(self._pools)
        for chosen in in_batches(np.flatnonzero(there)):
            pool, length = self._insertion.insert(natives, body.pick(chosen), known, at[chosen], owner[chosen])
            body.start[chosen] = self._pooled + np.cumsum(length) - length
            body.length[chosen] = length
            self._pools.append(pool)
            self._pooled += len(pool)
        lost = np.flatnonzero(~there & (key != 0))
        _set_miss(woven, lost[_miss.length[lost] == 0], FrameMiss.INTERPRETER_FRAMES)
        return woven, pair_of

    def _kernel_parts(self, keys: NDArray[np.uint64]) -> tuple[_Parts, NDArray[np.int64]]:
        """(each key once; for each row the number of its key)."""
        key, key_of = np.unique(keys, return_inverse=True)
        parts = _empty_parts(key)
        raw = self._window.stacks
        for chosen, found in self._find(parts, np.flatnonzero(key >= FIRST_STACK), key, raw.keys):
            frames = gather(raw.offsets, found)
            self._add(parts, chosen, frames, self._resolver.kernel(_inside_calls(raw.address, frames)))
        return parts, key_of

    def _find(
        self, parts: _Parts, wanted: NDArray[np.int64], key: NDArray[np.uint64], known: NDArray[np.uint64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Batches of (those of the parts `wanted` whose stack is in the table with the keys `known`, its number there).
        The others become placeholders."""
        at = np.searchsorted(known, key[wanted])
        there = at < len(known)
        there[there] = known[at[there]] == key[wanted][there]
        _set_miss(parts, wanted[~there], FrameMiss.STACK_EXPIRED)
        return zip(in_batches(wanted[there]), in_batches(at[there].astype(np.int64)), strict=True)

    def _add_user(self, parts: _Parts, chosen: NDArray[np.int64], frames: Gathered, pool: Pool) -> None:
        """As `_add`, but each stack ends before the first caller that lies in no mapping.

        Code without frame pointers uses the register for something else. The chain then goes through whatever that
        points to: the first word that is no address shows it, and nothing rootward of it was ever a caller.
        """
        first = self._pooled
        self._add(parts, chosen, frames, pool)
        nowhere = (pool.mapping == 0) & (pool.address == np.uint64(FrameMiss.UNMAPPED)) & frames.is_caller
        _miss, body = parts
        # Positions are counted from the pool's start, as `body.start` is; reversed, so that the leafmost one stays.
        at = np.flatnonzero(nowhere)[::-1]
        broken = chosen[frames.stack[at]]
        body.length[broken] = first + at - body.start[broken]
        _set_miss(parts, broken, FrameMiss.NO_FRAME_POINTER)

    def _set_stops(self, parts: _Parts, chosen: NDArray[np.int64], stop: NDArray[np.uint8]) -> None:
        """Says where the unwinding of these parts stopped, unless what it came to shows more."""
        miss, _body = parts
        # As deep as the kernel's own unwinder goes is no limit to ours.
        told = chosen[stop != Stop.UNKNOWN]
        miss.length[told[miss.start[told] == FrameMiss.DEPTH_LIMIT]] = 0
        for reason, missing in _STOPPED.items():
            here = chosen[stop == reason]
            _set_miss(parts, here[miss.length[here] == 0], missing)

    def _add(self, parts: _Parts, chosen: NDArray[np.int64], frames: Gathered, pool: Pool) -> None:
        """Puts the frames of the parts `chosen` into the pool."""
        _miss, body = parts
        depth = np.diff(frames.offsets)
        body.start[chosen] = self._pooled + frames.offsets[:-1]
        body.length[chosen] = depth
        _set_miss(parts, chosen[depth >= PLAIN_DEPTH], FrameMiss.DEPTH_LIMIT)
        _set_miss(parts, chosen[depth == 0], FrameMiss.STACK_EXPIRED)
        self._pools.append(pool)
        self._pooled += len(pool)


def count_degraded(stacks: StackTable, row_stack: NDArray[np.int64], row_count: NDArray[np.uint64]) -> dict[str, int]:
    """Samples by the misses in their stacks, under the misses' lower-case names. One with two misses counts twice."""
    missing = np.flatnonzero(stacks.mapping == 0)
    holder = np.searchsorted(stacks.offsets, missing, side="right") - 1
    samples = np.zeros(len(stacks), np.uint64)
    np.add.at(samples, row_stack, row_count)
    pairs = np.unique(np.stack([holder, stacks.address[missing].astype(np.int64)], axis=1), axis=0)
    return {
        FrameMiss(miss).name.lower(): int(samples[pairs[pairs[:, 1] == miss, 0]].sum(dtype=np.uint64))
        for miss in np.unique(pairs[:, 1]).tolist()
    }


def _text(comm: bytes) -> str:
    return comm.decode("utf-8", "backslashreplace")


def _all_misses() -> Pool:
    """A pool in which frame number m is the placeholder m."""
    return Pool(mapping=np.zeros(_MISSES, np.uint32), address=np.arange(_MISSES, dtype=np.uint64))


def _empty_parts(key: NDArray[np.uint64]) -> _Parts:
    """Parts without frames; those with a key that is a miss have its placeholder."""
    parts = tuple(Segments(start=np.zeros(len(key), np.int64), length=np.zeros(len(key), np.int64)) for _ in range(2))
    said = key < FIRST_STACK
    for code in np.unique(key[said]).tolist():
        if code:
            _set_miss(parts, np.flatnonzero(key == code), code if code in _SAID else FrameMiss.STACK_EXPIRED)
    return parts


def _set_miss(parts: _Parts, numbers: NDArray[np.int64], miss: int) -> None:
    parts[0].start[numbers] = miss
    parts[0].length[numbers] = 1


def _inside_calls(
    address: NDArray[np.uint64], frames: Gathered, exact: NDArray[np.bool] | None = None
) -> NDArray[np.uint64]:
    """The frames' addresses; a caller's is a return address, so the byte before it lies in its call instruction. Where
    `exact` says so it was interrupted instead, by a signal."""
    called = frames.is_caller
    if exact is not None:
        called &= ~exact[frames.index]
    return address[frames.index] - called
