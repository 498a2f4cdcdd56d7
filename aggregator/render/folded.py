"""Folded text: one line per stack, root first, `;` between frames, one space, the samples.

What `flamegraph.pl`, `inferno`, speedscope and every other tool of that family reads. Lines are in the order of
`LC_ALL=C sort`, so that equal profiles are equal files.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aggregator.diff import Difference
from aggregator.fold import Folded
from aggregator.trie import Trie, preorder


def render(folded: Folded) -> bytes:
    """`folded` as UTF-8 text, a newline after each line; nothing at all for a profile without samples."""
    return _text(folded.trie, folded.names, folded.count > 0, [folded.count])


def render_diff(difference: Difference) -> bytes:
    """Both as text: stack, samples before, samples after; what `difffolded.pl` writes and `flamegraph.pl` reads."""
    before, after = difference.before.count, difference.after.count
    return _text(difference.trie, difference.names, (before > 0) | (after > 0), [before, after])


def _text(trie: Trie, names: Sequence[str], shown: NDArray[np.bool_], columns: Sequence[NDArray[np.uint64]]) -> bytes:
    """A line for each node that is `shown`, as every node without children is: path, number in each of `columns`."""
    order = preorder(trie)
    lines = np.flatnonzero(shown[order])
    depth = trie.depth[order].tolist()
    name = [names[item] for item in trie.item[order].tolist()]
    counts = [column[order[lines]].tolist() for column in columns]
    # From one line's end to the next one's, a walk passes what the next one does not have in common with it.
    path: list[str] = []
    text, start = [], 1
    for end, *numbers in zip((lines + 1).tolist(), *counts, strict=True):
        if end > start:
            path[depth[start] - 1 :] = name[start:end]
        text.append(f"{';'.join(path)} {' '.join(map(str, numbers))}\n")
        start = end
    # In order already, but where a name goes on with what sorts before `;`. Code points sort as their UTF-8 does.
    text.sort()
    return "".join(text).encode()
