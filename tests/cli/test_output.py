"""What is printed: for people, for pipes, into files."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest

from cli.output import Column, clean, print_table, write_chunks
from fleetflame.errors import FleetflameError, UsageError

COLUMNS = [Column("node"), Column("last seen"), Column("samples", number=True)]
ROWS = [("web-1", "now", 1234), ("evil\x1b[2J\tname\n", "[bold]never[/]", 5)]


class Terminal(io.TextIOWrapper):
    """Standard output as a terminal has it."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def isatty(self) -> bool:
        """Yes."""
        return True

    @property
    def shown(self) -> str:
        """What was written."""
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode()


@contextmanager
def on_terminal() -> Iterator[Terminal]:
    """Standard output is a terminal."""
    made = Terminal()
    with redirect_stdout(made):
        yield made


def test_a_pipe_gets_tabs_and_a_header(capsys: pytest.CaptureFixture[str]) -> None:
    """As many columns in each line, whatever the values hold."""
    print_table(COLUMNS, ROWS, empty="none")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "node\tlast_seen\tsamples"
    assert lines[1] == "web-1\tnow\t1234"
    assert [line.count("\t") for line in lines] == [2, 2, 2]
    print_table(COLUMNS, [], empty="none")
    assert capsys.readouterr().out == "node\tlast_seen\tsamples\n"


def test_a_terminal_gets_a_table_without_control_characters() -> None:
    """Nor is text from a profiled machine taken for markup."""
    with on_terminal() as terminal:
        print_table(COLUMNS, ROWS, empty="none")
    assert "1234" in terminal.shown
    assert "[bold]never[/]" in terminal.shown
    assert "\x1b[2J" not in terminal.shown


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """https://no-color.org"""
    monkeypatch.setenv("NO_COLOR", "1")
    with on_terminal() as terminal:
        print_table(COLUMNS, ROWS, empty="none")
    assert "\x1b[3" not in terminal.shown


def test_an_empty_table_says_what_that_means() -> None:
    """To people."""
    with on_terminal() as terminal:
        print_table(COLUMNS, [], empty="no node has sent samples yet")
    assert terminal.shown == "no node has sent samples yet\n"


def test_text_for_a_terminal_is_made_harmless() -> None:
    """Also where a character is split over two pieces."""
    with on_terminal() as terminal:
        write_chunks([b"main;\x1b[31m\xc3", b"\xa9 1\n\tend"], "")
    assert terminal.shown == "main;�[31mé 1\n\tend"


def test_binary_is_not_written_to_a_terminal() -> None:
    """The remedy is in the error."""
    with on_terminal(), pytest.raises(UsageError) as caught:
        write_chunks([b"\x1f\x8b"], "-", binary=True)
    assert caught.value.hint == "add `-o FILE`"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """The former one stays when the source fails halfway."""
    target = tmp_path / "flame.svg"
    assert write_chunks([b"one", b"two"], str(target)) == 6
    assert target.read_bytes() == b"onetwo"

    def failing() -> "list[bytes]":
        raise FleetflameError("gone")

    with pytest.raises(FleetflameError, match="gone"):
        write_chunks((piece for piece in [b"x", *failing()]), str(target))
    assert target.read_bytes() == b"onetwo"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """With the reason."""
    with pytest.raises(FleetflameError, match=r"failed to write `.*nowhere/x`: no such file"):
        write_chunks([b"x"], str(tmp_path / "nowhere" / "x"))


def test_a_fifo_is_written_in_place(tmp_path: Path) -> None:
    """Process substitution: `-o >(gzip > x.gz)`."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_chunks([b"data"], str(pipe))
    assert os.read(reader, 10) == b"data"
    os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.parametrize(("text", "shown"), [("plain é 日本", "plain é 日本"), ("a\x00b\u202ec\n", "a�b�c�")])
def test_clean_keeps_what_can_be_printed(text: str, shown: str) -> None:
    """Controls and direction marks become a sign."""
    assert clean(text) == shown
