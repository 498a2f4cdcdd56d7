"""One set of the kernel's maps -> one Window. Columns throughout: the maps are read in batches straight into numpy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.kernelmaps import CounterArray, HashMap, Rows
from agent.window import COUNT_DTYPE, IdStacks, PythonStacks, RawStacks, Window
from bpf import layout
from bpf.layout import Counter

_CHUNKS = {"counts": 1024, "stacks": 256, "id_stacks": 64, "python_stacks": 64}
"""Entries per system call: 0.25 MB of buffers or less each, whatever the maps' sizes. Larger ones are no faster."""

_U8 = np.dtype("<u8")
_HEAD = np.dtype([("depth", "<u4"), ("stop", "<u4")])
_PYTHON_HEAD = np.dtype([("depth", "<u4"), ("miss", "<u4")])
_FRAME = np.dtype([("address", "<u8"), ("exact", "?"), ("guessed", "?")])


class MapSet:
    """Set `index` (0 or 1) of the maps whose descriptors `maps` names. Only drained while no program writes to it."""

    def __init__(self, maps: dict[str, int], index: int) -> None:
        self._counters = CounterArray(maps[f"counters{index}"], len(Counter))
        self._counts = HashMap(maps[f"counts{index}"], layout.COUNT_KEY, _U8, chunk=_CHUNKS["counts"])
        self._stacks = HashMap(maps[f"stacks{index}"], _U8, layout.STACK, chunk=_CHUNKS["stacks"])
        self._id_stacks = HashMap(maps[f"id_stacks{index}"], _U8, layout.ID_STACK, chunk=_CHUNKS["id_stacks"])
        self._python = HashMap(maps[f"python_stacks{index}"], _U8, layout.PYTHON_STACK, chunk=_CHUNKS["python_stacks"])

    def take(self, *, start_ns: int, end_ns: int, period_ns: int) -> tuple[Window, dict[str, int]]:
        """Empties the set: its window, and the counters that are neither taken nor lost samples. Raises OSError."""
        counters = dict(zip(Counter, self._counters.take(), strict=True))
        window = Window(
            start_ns=start_ns,
            end_ns=end_ns,
            period_ns=period_ns,
            counts=self._take_counts(),
            stacks=self._take_stacks(),
            id_stacks=self._take_id_stacks(),
            python=self._take_python_stacks(),
            taken=counters[Counter.TAKEN],
            lost={counter.name.lower(): counters[counter] for counter in layout.LOSSES if counters[counter]},
        )
        return window, {counter.name.lower(): counters[counter] for counter in layout.DEGRADATIONS}

    def _take_counts(self) -> Rows:
        parts = [np.zeros(0, COUNT_DTYPE)]
        for keys, values in self._counts.drain():
            rows = np.zeros(len(keys), COUNT_DTYPE)
            for name in layout.COUNT_KEY.names or ():
                rows[name] = keys[name]
            rows["count"] = values
            parts.append(rows)
        return np.concatenate(parts)

    def _take_stacks(self) -> RawStacks:
        keys, heads, parts = [np.zeros(0, _U8)], [np.zeros(0, _HEAD)], [np.zeros(0, _FRAME)]
        for chunk, stacks in self._stacks.drain():
            keys.append(chunk.copy())
            heads.append(stacks[["depth", "stop"]].astype(_HEAD))
            frames = np.empty((len(chunk), layout.MAX_DEPTH), _FRAME)
            frames["address"] = stacks["address"]
            frames["exact"] = _bits(stacks["exact"])
            frames["guessed"] = _bits(stacks["by_frame_pointer"])
            parts.append(frames[_used(stacks["depth"], layout.MAX_DEPTH)])
        head = np.concatenate(heads)
        key, offsets, order = _sort(np.concatenate(keys), head["depth"])
        frame = np.concatenate(parts)[order]
        stop = head["stop"][np.argsort(np.concatenate(keys))]
        return RawStacks(
            keys=key,
            offsets=offsets,
            stop=stop.astype(np.uint8),
            address=frame["address"].copy(),
            exact=frame["exact"].copy(),
            guessed=frame["guessed"].copy(),
        )

    def _take_id_stacks(self) -> IdStacks:
        keys, depths, parts = [np.zeros(0, _U8)], [np.zeros(0, np.uint32)], [np.zeros(0, layout.ID_FRAME)]
        for chunk, stacks in self._id_stacks.drain():
            keys.append(chunk.copy())
            depths.append(stacks["depth"].copy())
            parts.append(stacks["frame"][_used(stacks["depth"], layout.MAX_ID_DEPTH)])
        key, offsets, order = _sort(np.concatenate(keys), np.concatenate(depths))
        frame = np.concatenate(parts)[order]
        return IdStacks(
            keys=key,
            offsets=offsets,
            status=frame["status"].astype(np.uint32),
            build_id=frame["build_id"].copy(),
            address=frame["address"].astype(np.uint64),
        )

    def _take_python_stacks(self) -> PythonStacks:
        keys, heads, parts = [np.zeros(0, _U8)], [np.zeros(0, _PYTHON_HEAD)], [np.zeros(0, _U8)]
        for chunk, stacks in self._python.drain():
            keys.append(chunk.copy())
            heads.append(stacks[["depth", "miss"]].astype(_PYTHON_HEAD))
            parts.append(stacks["word"][_used(stacks["depth"], layout.PYTHON_WORDS)])
        head = np.concatenate(heads)
        key, offsets, order = _sort(np.concatenate(keys), head["depth"])
        miss = head["miss"][np.argsort(np.concatenate(keys))]
        return PythonStacks(keys=key, offsets=offsets, miss=miss.astype(np.uint8), words=np.concatenate(parts)[order])


def _bits(words: NDArray[np.uint64]) -> NDArray[np.bool]:
    """For each row of words its bits, the lowest of the first word first."""
    return np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little").astype(np.bool)


def _used(depth: NDArray[np.uint32], places: int) -> NDArray[np.bool]:
    """Which of the places of each stack hold a frame."""
    return np.arange(places, dtype=np.uint32)[None, :] < depth[:, None]


def _sort(
    keys: NDArray[Any], depths: NDArray[np.uint32]
) -> tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.int64]]:
    """Ascending keys, the offsets of their frames, and where each frame stood before."""
    order = np.argsort(keys)
    before = np.zeros(len(keys) + 1, np.int64)
    np.cumsum(depths, out=before[1:])
    depths = depths[order]
    offsets = np.zeros(len(keys) + 1, np.uint32)
    np.cumsum(depths, out=offsets[1:])
    shift = before[:-1][order] - offsets[:-1].astype(np.int64)
    return keys[order], offsets, np.arange(int(offsets[-1]), dtype=np.int64) + np.repeat(shift, depths)
