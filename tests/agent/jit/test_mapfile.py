"""The map of a process: whose it must be, and what is read of it as it grows."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.jit.mapfile import (
    CHUNK,
    CLOCK_SLACK_NS,
    MAX_FILE_BYTES,
    MapFile,
    MapMiss,
    News,
    Owner,
    is_mixed,
    open_map,
    read_owner,
)
from agent.jit.perfmap import MAX_LINE
from agent.openat import ProcessFiles
from tests.agent.jit.writing import text_of

HOUR_NS = 3_600_000_000_000


@dataclass
class Home:
    """A process's root, and the place of its map."""

    files: ProcessFiles
    path: Path

    def open(self, *, users: frozenset[int] | None = None, begin_ns: int = 0) -> int | MapMiss:
        owner = Owner(users=frozenset({os.getuid()}) if users is None else users, begin_ns=begin_ns)
        found = open_map(self.files, 7, owner)
        if not isinstance(found, MapMiss):
            os.close(found)
            return 1
        return found


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    (tmp_path / "root/tmp").mkdir(parents=True)
    fd = os.open(tmp_path, os.O_PATH)
    with ProcessFiles(fd) as files:
        yield Home(files, tmp_path / "root/tmp/perf-7.map")
    os.close(fd)


@dataclass
class Growing:
    """A map that is written and read."""

    path: Path
    map: MapFile

    def append(self, text: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(text)

    def write(self, text: bytes) -> None:
        self.path.write_bytes(text)  # truncates: the file's number stays

    def read(self, limit: int = 1 << 30) -> News:
        return self.map.read(limit)


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[Growing]:
    path = tmp_path / "perf-1.map"
    path.touch()
    file = MapFile(os.open(path, os.O_RDONLY))
    yield Growing(path, file)
    file.close()


def starts(news: News) -> list[int]:
    return news.entries.start.tolist()


def test_a_map_of_the_processs_own_is_opened(home: Home) -> None:
    """It lies in the process's root."""
    assert home.open() is MapMiss.ABSENT
    home.path.write_bytes(text_of((1, 1, "a")))
    assert home.open() == 1


def test_nothing_but_a_regular_file_is_opened(home: Home) -> None:
    """A FIFO blocks, a link leads elsewhere, a folder has no lines."""
    os.mkfifo(home.path)
    assert home.open() is MapMiss.NOT_REGULAR
    home.path.unlink()
    home.path.mkdir()
    assert home.open() is MapMiss.NOT_REGULAR
    home.path.rmdir()
    (home.path.parent / "other").write_bytes(text_of((1, 1, "a")))
    home.path.symlink_to("other")
    assert home.open() is MapMiss.ABSENT


@pytest.mark.skipif(os.getuid() != 0, reason="gives files away")
def test_a_map_of_another_user_is_not_believed(home: Home) -> None:
    """Anyone can write into /tmp; only root may write for others."""
    home.path.write_bytes(b"")
    os.chown(home.path, 1234, 1234)
    assert home.open(users=frozenset({1000})) is MapMiss.FOREIGN
    assert home.open(users=frozenset({1000, 1234})) == 1
    os.chown(home.path, 0, 0)
    assert home.open(users=frozenset({1000})) == 1


def test_a_map_from_before_the_process_is_not_its_own(home: Home) -> None:
    """A container that starts again has PID 1 and its files of before."""
    home.path.write_bytes(text_of((1, 1, "a")))
    written = home.path.stat().st_mtime_ns
    assert home.open(begin_ns=written) == 1
    assert home.open(begin_ns=written + 2 * CLOCK_SLACK_NS) is MapMiss.STALE


def test_a_huge_map_is_refused(home: Home) -> None:
    """Sparse, it costs its owner nothing."""
    home.path.touch()
    os.truncate(home.path, MAX_FILE_BYTES + 1)
    assert home.open() is MapMiss.TOO_LARGE


@pytest.mark.parametrize("mode", ["ab", "r+b"])
def test_a_map_that_a_later_process_appends_to_is_mixed(tmp_path: Path, mode: str) -> None:
    """CPython adds to what it finds: the lines of a former process with that PID stay before its own."""
    path = tmp_path / "perf-7.map"
    path.write_bytes(text_of((1, 1, "a")))
    born = path.stat().st_ctime_ns
    with path.open(mode) as own:
        folder = os.open("/proc/self", os.O_PATH)
        users = frozenset({os.getuid()})
        later, sooner = (Owner(users=users, begin_ns=born + sign * 2 * CLOCK_SLACK_NS) for sign in (1, -1))
        try:
            assert is_mixed(own.fileno(), folder, later) == (mode == "ab")
            assert not is_mixed(own.fileno(), folder, sooner)
        finally:
            os.close(folder)


def test_this_process_knows_who_it_is() -> None:
    """Users and PID come from the kernel."""
    fd = os.open("/proc/self", os.O_PATH)
    try:
        users, pid = read_owner(fd)
    finally:
        os.close(fd)
    assert os.getuid() in users
    assert pid == os.getpid()


def test_what_was_appended_is_read_once(growing: Growing) -> None:
    """Whole lines only; half a line is read when it is whole."""
    growing.append(text_of((0x100, 1, "a")) + b"200 1 ha")
    news = growing.read()
    assert (starts(news), news.whole, news.anew) == ([0x100], True, False)
    assert starts(growing.read()) == []
    growing.append(b"lf\n300 1 b\n")
    news = growing.read()
    assert (starts(news), news.whole, news.malformed) == ([0x200, 0x300], True, 0)
    assert growing.map.line(int(news.entries.offset[0])) == b"200 1 half\n"


def test_a_map_written_anew_is_read_whole(growing: Growing) -> None:
    """Shorter, longer, or as long as before: HotSpot truncates the file that is there."""
    growing.append(text_of((0x100, 1, "a"), (0x200, 1, "b")))
    growing.read()
    growing.write(text_of((0x300, 1, "c")))
    news = growing.read()
    assert (starts(news), news.anew) == ([0x300], True)
    growing.write(text_of((0x400, 1, "d"), (0x500, 1, "e")))
    news = growing.read()
    assert (starts(news), news.anew) == ([0x400, 0x500], True)
    growing.write(text_of((0x400, 1, "d"), (0x501, 1, "e")))
    news = growing.read()
    assert (starts(news), news.anew) == ([0x400, 0x501], True)


def test_a_long_map_is_read_in_pieces(growing: Growing) -> None:
    """No more than is granted, and it says that there is more."""
    lines = 60_000
    growing.append(b"".join(b"%x 1 some_function_of_a_large_program\n" % (0x1000 + n) for n in range(lines)))
    seen: list[int] = []
    pieces = 0
    while len(seen) < lines:
        news = growing.read(CHUNK // 2)
        assert news.size <= CHUNK
        seen += starts(news)
        assert news.whole == (len(seen) == lines)
        pieces += 1
    assert pieces > 2
    assert seen == [0x1000 + n for n in range(lines)]


@pytest.mark.parametrize("text", [b"\0" * (3 * CHUNK), b"x" * (3 * CHUNK), bytes(range(256)) * 4096])
def test_what_is_no_map_ends(growing: Growing, text: bytes) -> None:
    """Zeroes, a line without end, a program: read once, counted, and what follows is a map again."""
    growing.append(text)
    growing.read()
    growing.append(b"\n" + b"z" * MAX_LINE * 2 + b"\n" + text_of((0x100, 1, "a")))
    news = growing.read()
    assert (starts(news)[-1:], news.whole) == ([0x100], True)
    assert news.malformed
    assert growing.read().size == 0


@given(st.lists(st.binary(max_size=30) | st.sampled_from([b"100 10 a\n", b"0x200 0x10 b\n", b"\n"]), max_size=12))
def test_any_pieces_give_what_the_whole_gives(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]) -> None:
    """However it was written, and whenever it was read."""
    path = tmp_path_factory.mktemp("map") / "m"
    path.touch()
    bit, whole = (MapFile(os.open(path, os.O_RDONLY)) for _ in range(2))
    rows, malformed = [], 0
    for piece in pieces:
        with path.open("ab") as file:
            file.write(piece)
        news = bit.read(1 << 30)
        rows += list(zip(starts(news), news.entries.offset.tolist(), news.entries.digest.tolist(), strict=True))
        malformed += news.malformed
    news = whole.read(1 << 30)
    assert rows == list(zip(starts(news), news.entries.offset.tolist(), news.entries.digest.tolist(), strict=True))
    assert malformed == news.malformed
    bit.close()
    whole.close()


def test_an_hour_old_map_still_grows(growing: Growing) -> None:
    """Old is only what was last written before its process began."""
    growing.append(text_of((0x100, 1, "a")))
    os.utime(growing.path, ns=(time.time_ns() - HOUR_NS,) * 2)
    assert starts(growing.read()) == [0x100]
