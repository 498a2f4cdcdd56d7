"""Text of any length in blocks of whole lines, so that a regular expression runs over many lines at once. Pure."""

from collections.abc import Iterable, Iterator


def whole_lines(chunks: Iterable[bytes], *, longest: int) -> Iterator[bytes]:
    """The same text in blocks that end with a line; the start of one longer than `longest` may be left out."""
    rest = b""
    for chunk in chunks:
        block = rest + chunk
        end = block.rfind(b"\n") + 1
        if end:
            yield block[:end]
        rest = block[end:] if len(block) - end <= longest else b""
    if rest:
        yield rest + b"\n"
