"""Lines of /proc/PID/maps."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from agent.procmaps import MAX_REGIONS, Region, iter_executable, iter_with_file

MAPS = b"""\
00400000-00401000 r--p 00000000 fe:00 42                         /opt/app
00401000-00402000 r-xp 00001000 fe:00 42                         /opt/app
559ff1319000-559ff133a000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000010000 rwxp 00000000 00:00 0
7f0000100000-7f0000101000 r-xp 00000000 00:01 7                          /memfd:jit code (deleted)
7f0000200000-7f0000201000 r-xs 0000f000 103:0a 99                        /a\\012b  c
7ff8a4429000-7ff8a442b000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
""".replace(b"00:00 0\n", b"00:00 0 \n")  # where there is no path, the kernel ends the line with the space before it


def region(start: int, end: int, path: bytes = b"", **others: object) -> Region:
    defaults = {"offset": 0, "device": (0, 0), "inode": 0, "deleted": False, "executable": True}
    return Region(start=start, end=end, path=path, **(defaults | others))  # type: ignore[arg-type]


EXECUTABLE = [
    region(0x401000, 0x402000, b"/opt/app", offset=0x1000, device=(0xFE, 0), inode=42),
    region(0x7F0000000000, 0x7F0000010000),
    region(0x7F0000100000, 0x7F0000101000, b"/memfd:jit code", device=(0, 1), inode=7, deleted=True),
    region(0x7F0000200000, 0x7F0000201000, b"/a\nb  c", offset=0xF000, device=(0x103, 10), inode=99),
    region(0x7FF8A4429000, 0x7FF8A442B000, b"[vdso]"),
    region(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, b"[vsyscall]"),
]


def test_executable_regions_are_read() -> None:
    """Files, deleted files, anonymous memory and the kernel's own regions are told apart."""
    assert list(iter_executable([MAPS])) == EXECUTABLE


def test_regions_with_a_file_are_read_whatever_their_permissions() -> None:
    """Only lines with a path are given, the ones without execute permission too."""
    found = list(iter_with_file([MAPS]))
    assert [(r.start, r.executable) for r in found] == [
        (0x400000, False),
        (0x401000, True),
        (0x7F0000100000, True),
        (0x7F0000200000, True),
    ]
    assert all(r.has_file for r in found)


@given(st.lists(st.integers(0, len(MAPS)), max_size=20))
def test_any_partition_of_the_text_gives_the_same_regions(cuts: list[int]) -> None:
    """Chunks may end anywhere."""
    bounds = [0, *sorted(cuts), len(MAPS)]
    chunks = [MAPS[a:b] for a, b in pairwise(bounds)]
    assert list(iter_executable(chunks)) == EXECUTABLE


@given(st.binary(max_size=400))
def test_what_is_no_line_is_passed_over(noise: bytes) -> None:
    """Bytes that the kernel never writes make no region and no error."""
    assert list(iter_executable([noise.replace(b"x", b"y") + b"\n", MAPS])) == EXECUTABLE


def test_a_line_without_its_end_still_counts() -> None:
    """The last line may lack its line feed."""
    assert list(iter_executable([MAPS.rstrip(b"\n")])) == EXECUTABLE


def test_regions_are_bounded() -> None:
    """A process with more mappings than we keep costs no more."""
    lines = (b"%x-%x r-xp 00000000 00:00 0\n" % (n * 8192, n * 8192 + 4096) for n in range(MAX_REGIONS + 10))
    assert len(list(iter_executable(lines))) == MAX_REGIONS


def test_an_endless_line_is_not_kept() -> None:
    """A line longer than a path can be is dropped, and what comes after it is read."""
    endless = [b"1000-2000 r-xp 00000000 00:00 1 /", *[b"a" * 10000] * 10, b"\n"]
    assert list(iter_executable([*endless, MAPS])) == EXECUTABLE
