"""Log lines for people and for programs."""

import json
import logging
import sys

import pytest

from cli.logging import HumanFormatter, JsonFormatter, note_crash, set_up


def record(message: str, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    """A record as `logger.log(level, message, extra=extra)` makes it."""
    return logging.getLogger("agent.publish").makeRecord("agent.publish", level, "f", 1, message, (), None, extra=extra)


def test_json_lines_hold_time_level_process_and_the_extra_fields() -> None:
    """One object a line, whatever the values are."""
    line = JsonFormatter("agent").format(record("batch\nsent", samples=3, node="web-1", where=object))
    entry = json.loads(line)
    assert "\n" not in line
    assert entry["time"].endswith("Z")
    assert (entry["level"], entry["process"], entry["logger"]) == ("info", "agent", "agent.publish")
    assert (entry["message"], entry["samples"], entry["node"]) == ("batch\nsent", 3, "web-1")


def test_a_field_cannot_hide_a_standard_one() -> None:
    """`time` of the caller's becomes `time_`."""
    entry = json.loads(JsonFormatter("agent").format(record("x", time="late")))
    assert entry["time"].endswith("Z")
    assert entry["time_"] == "late"


def test_lines_for_people_carry_no_control_characters() -> None:
    """A process name must not colour, or clear, the operator's terminal."""
    line = HumanFormatter(colour=False).format(record("seen \x1b[2J", comm="a b\n"))
    assert line.isprintable()
    assert line.endswith('comm="a b\\n"')


def test_a_traceback_is_kept() -> None:
    """In both forms."""
    try:
        raise ValueError("broken")
    except ValueError:
        failed = record("failed", logging.ERROR)
        failed.exc_info = sys.exc_info()
    assert "ValueError: broken" in HumanFormatter(colour=True).format(failed)
    assert "ValueError: broken" in json.loads(JsonFormatter("agent").format(failed))["exception"]


@pytest.mark.parametrize(
    ("format_name", "level", "shown"), [("json", "error", True), ("human", "info", False), ("human", "debug", True)]
)
def test_the_traceback_of_our_own_error_is_for_programs(
    format_name: str, level: str, shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """And for who asks for debug messages."""
    root = logging.getLogger()
    former, former_level = root.handlers[:], root.level
    try:
        set_up(process="agent", level=level, format_name=format_name, colour=False)
        note_crash(ValueError("broken"))
    finally:
        root.handlers[:], _ = former, root.setLevel(former_level)
        logging.captureWarnings(False)
    assert ("ValueError: broken" in capsys.readouterr().err) is shown


def test_without_a_terminal_logs_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    """`auto` looks at standard error."""
    root = logging.getLogger()
    former, level = root.handlers[:], root.level
    try:
        set_up(process="agent", level="warning", format_name="auto", colour=True)
        logging.getLogger("x").info("not this")
        logging.getLogger("x").warning("this")
    finally:
        root.handlers[:], _ = former, root.setLevel(level)
        logging.captureWarnings(False)
    assert json.loads(capsys.readouterr().err)["message"] == "this"
