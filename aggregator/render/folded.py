"""Folded text: one line per stack, root first, `;` between frames, one space, the samples.

What `flamegraph.pl`, `inferno`, speedscope and every other tool of that family reads. Lines are in the order of
`LC_ALL=C sort`, so that equal profiles are equal files.
"""

from itertools import pairwise

from aggregator.diff import Difference
from aggregator.fold import Folded
from aggregator.trie import paths, preorder


def render(folded: Folded) -> bytes:
    """`folded` as UTF-8 text, a newline after each line; nothing at all for a profile without samples."""
    nodes, offsets, items = folded.stacks()
    frames = [folded.names[item] for item in items.tolist()]
    rows = zip(pairwise(offsets.tolist()), folded.count[nodes].tolist(), strict=True)
    lines = [f"{';'.join(frames[start:end])} {count}\n".encode() for (start, end), count in rows]
    lines.sort()
    return b"".join(lines)


def render_diff(difference: Difference) -> bytes:
    """Both as text: stack, samples before, samples after; what `difffolded.pl` writes and `flamegraph.pl` reads."""
    before, after = difference.before.count, difference.after.count
    order = preorder(difference.trie)
    nodes = order[(before[order] > 0) | (after[order] > 0)]
    offsets, items = paths(difference.trie, nodes)
    frames = [difference.names[item] for item in items.tolist()]
    rows = zip(pairwise(offsets.tolist()), before[nodes].tolist(), after[nodes].tolist(), strict=True)
    lines = [f"{';'.join(frames[start:end])} {one} {other}\n".encode() for (start, end), one, other in rows]
    lines.sort()
    return b"".join(lines)
