"""Puts the Python frames of a window into its user stacks: columns in, columns out.

Native frames are resolved already and lie in a pool, leaf first; what comes out is a pool of whole stacks. What the
kernel could not follow is a placeholder on the root side of what it could.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.frames import Pool, Segments, gather
from agent.image import Image
from agent.python.code import Code, CodeMiss
from agent.python.codes import Codes
from agent.python.weave import PythonFrames, parse_words, weave
from agent.resolve import Numbering
from agent.window import PythonStacks
from fleetflame.model import FrameMiss, Mapping, MappingKind, NamedFrame

INTERPRETER = Mapping(MappingKind.INTERPRETER)

_INCOMPLETE = 2
"""From this `enum python_miss` of bpf/python.h on, frames are missing; before, there were none to find."""
_HIDDEN = -1
_Named = tuple[NDArray[np.int64], NDArray[np.uint64]]


class Insertion:
    """Names frames for one window."""

    def __init__(self, codes: Codes, numbering: Numbering, images: Sequence[Image]) -> None:
        self._codes = codes
        self._numbering = numbering
        self._images = images

    def insert(
        self, pool: Pool, native: Segments, python: PythonStacks, found: NDArray[np.int64], owner: NDArray[np.int64]
    ) -> tuple[Pool, NDArray[np.int64]]:
        """(frames, how many each stack has): stack i is `native` i of `pool` with the stack found[i] of `python`, both
        of the image owner[i]."""
        count = len(found)
        words = gather(python.offsets, found)
        frames = parse_words(python.words[words.index], words.stack)
        mapping, address = self._name(frames, owner)
        shown = mapping != _HIDDEN
        broken = np.flatnonzero(python.miss[found] >= _INCOMPLETE)
        # As far at the root as the last frame that was found; at the end of the stack if there is none.
        last = np.full(count, np.iinfo(np.int64).max)
        last[frames.stack] = frames.native
        stack = np.concatenate([frames.stack[shown], broken])
        order = np.argsort(stack, kind="stable")
        place = np.concatenate([frames.native[shown], last[broken]])[order]
        mapping = np.concatenate([mapping[shown], np.zeros(len(broken), np.int64)])[order]
        missing = np.full(len(broken), np.uint64(FrameMiss.INTERPRETER_FRAMES))
        address = np.concatenate([address[shown], missing])[order]
        stack = stack[order]

        natives = np.repeat(np.arange(count), native.length)
        first = np.repeat(native.start - np.cumsum(native.length) + native.length, native.length)
        index = first + np.arange(len(natives))
        woven = weave(natives, native.length, stack, place)
        return (
            Pool(
                mapping=np.concatenate([pool.mapping[index], mapping.astype(np.uint32)])[woven],
                address=np.concatenate([pool.address[index], address])[woven],
            ),
            np.bincount(natives, minlength=count) + np.bincount(stack, minlength=count),
        )

    def _name(self, frames: PythonFrames, owner: NDArray[np.int64]) -> _Named:
        """Mapping and address of each frame; the mapping _HIDDEN for those that Python itself does not show."""
        table = np.stack(
            [
                owner[frames.stack],
                frames.code.astype(np.int64),
                frames.checksum.astype(np.int64),
                frames.offset.astype(np.int64),
            ],
            axis=1,
        )
        unique, which = np.unique(table, axis=0, return_inverse=True)
        mapping, address = np.zeros(len(unique), np.int64), np.zeros(len(unique), np.uint64)
        for at, (image, code, checksum, offset) in enumerate(unique.tolist()):
            function = self._codes.find(self._images[image], (code, checksum))
            if isinstance(function, Code):
                mapping[at] = self._numbering.of(INTERPRETER)
                address[at] = self._numbering.of_name(NamedFrame(function.name, function.file, function.line(offset)))
            elif function is CodeMiss.INTERNAL:
                mapping[at] = _HIDDEN
            else:
                address[at] = FrameMiss.UNREAD_FUNCTION
        return mapping[which.ravel()], address[which.ravel()]
