"""Folded text: one line per stack, root first, `;` between frames, one space, the samples.

What `flamegraph.pl`, `inferno`, speedscope and every other tool of that family reads. Lines are in the order of
`LC_ALL=C sort`, so that equal profiles are equal files.
"""

from aggregator.fold import Folded


def render(folded: Folded) -> bytes:
    """`folded` as UTF-8 text, a newline after each line; nothing at all for a profile without samples."""
    nodes, offsets, items = folded.stacks()
    frames = [folded.names[item] for item in items.tolist()]
    bounds = offsets.tolist()
    counts = folded.count[nodes].tolist()
    lines = [
        f"{';'.join(frames[start:end])} {count}\n".encode()
        for start, end, count in zip(bounds[:-1], bounds[1:], counts, strict=True)
    ]
    lines.sort()
    return b"".join(lines)
