"""Which build of a file an address belongs to.

A build ID is the identity of an address for good: (build ID, file offset) can be named on any machine, at any time. It
is read from the file's own note; a file without one is identified by its ends and its size. Pure: bytes in, values out.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAX_BYTES = 64
HASHED_BYTES = 4096
"""How much of each end of a file without a note goes into its identity: the headers are in the first, the section
table usually in the last. Peers choose the same 4 KiB, so that a changed build differs in at least one of them."""

NT_GNU_BUILD_ID = 3
NT_GO_BUILD_ID = 4


@dataclass(frozen=True, slots=True, order=True)
class BuildId:
    """1 to 64 bytes, printed as lower-case hex. Raises ValueError for any other length."""

    raw: bytes

    def __post_init__(self) -> None:
        if not 1 <= len(self.raw) <= MAX_BYTES:
            raise ValueError(f"a build ID has 1 to {MAX_BYTES} bytes, not {len(self.raw)}")

    @classmethod
    def parse(cls, text: str) -> "BuildId":
        """The build ID that `text` spells in hex of either case. Raises ValueError for anything else."""
        if not text.isascii() or not text.isalnum():
            raise ValueError(f"not a build ID: {text[:80]!r}")
        return cls(bytes.fromhex(text))

    def __str__(self) -> str:
        return self.raw.hex()


@dataclass(frozen=True, slots=True)
class Note:
    """One entry of an ELF note section: `name` without its NUL."""

    name: bytes
    type: int
    desc: bytes


def iter_notes(data: bytes, *, align: int = 4) -> Iterator[Note]:
    """Entries of a note section or segment, little-endian, up to the first that does not fit into `data`.

    Layout (gABI, "Note Section"): namesz u32, descsz u32, type u32, name padded to `align`, desc padded to `align`.
    """
    at = 0
    while at + 12 <= len(data):
        namesz, descsz, kind = struct.unpack_from("<III", data, at)
        name_at = at + 12
        desc_at = name_at + _padded(namesz, align)
        end = desc_at + descsz
        if end > len(data):
            return
        yield Note(data[name_at : name_at + namesz].rstrip(b"\0"), kind, data[desc_at:end])
        at = desc_at + _padded(descsz, align)


def from_notes(data: bytes, *, align: int = 4) -> BuildId | None:
    """The GNU build ID among the notes, else Go's, else None. A note of impossible length is passed over."""
    go = None
    for note in iter_notes(data, align=align):
        if note.name == b"Go" and note.type == NT_GO_BUILD_ID and note.desc != b"redacted":
            # Go's ID is text of about 83 characters, "actionID/.../contentID": too long to be one of ours as it is.
            go = BuildId(hashlib.sha256(note.desc).digest()[:20]) if 1 <= len(note.desc) <= MAX_BYTES * 2 else go
    return gnu_from_notes(data, align=align) or go


def gnu_from_notes(data: bytes, *, align: int = 4) -> BuildId | None:
    """The GNU build ID among the notes, None without one: for whoever has more notes to look at before Go's counts."""
    for note in iter_notes(data, align=align):
        if note.name == b"GNU" and note.type == NT_GNU_BUILD_ID and 1 <= len(note.desc) <= MAX_BYTES:
            return BuildId(note.desc)
    return None


def from_file_ends(head: bytes, tail: bytes, size: int) -> BuildId:
    """Identity of a file without a note: 16 bytes of SHA-256 over its first and last 4 KiB and its size.

    `head` and `tail` are what reading at 0 and at max(0, size - 4096) gave, 4096 bytes at most each.
    """
    digest = hashlib.sha256(b"fleetflame file\0" + size.to_bytes(8, "little"))
    digest.update(head[:HASHED_BYTES])
    digest.update(tail[-HASHED_BYTES:])
    return BuildId(digest.digest()[:16])


def _padded(size: int, align: int) -> int:
    return (size + align - 1) // align * align
