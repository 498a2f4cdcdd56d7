"""Logs of the long-running commands: lines for people on a terminal, JSON objects otherwise. Only `set_up` acts."""

import json
import logging
import sys
import time
from typing import Any

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}
_COLOURS = {"DEBUG": "\x1b[2m", "WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[1;31m"}
_RESET = "\x1b[0m"


def set_up(*, process: str, level: str, format_name: str, colour: bool) -> None:
    """Sends every log record of this process to standard error, as `format_name` says (`auto`: by what it is).

    `process` (agent, aggregator) becomes a field of JSON lines, so that mixed output can be told apart.
    """
    human = format_name == "human" or (format_name == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(HumanFormatter(colour=colour and sys.stderr.isatty()) if human else JsonFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)


def note_crash(error: BaseException) -> None:
    """The traceback of an error that nobody foresaw: a field of a JSON line, or shown to who asked for debug."""
    handlers = logging.getLogger().handlers
    for_programs = any(isinstance(handler.formatter, JsonFormatter) for handler in handlers)
    level = logging.CRITICAL if for_programs else logging.DEBUG
    logging.getLogger(__name__).log(level, "an error of ours", exc_info=error)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller passed as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, process, logger, message, extra fields, and a traceback if there is one."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end. A field that JSON does not know is written as its text."""
        entry = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "process": self.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {f"{name}_" if name in entry else name: value for name, value in fields(record).items()}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class HumanFormatter(logging.Formatter):
    """`12:30:01 warning  message  name=value`, the level in colour; a traceback follows on lines of its own."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self.colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """The line or lines, without control characters that a message might carry."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = f"{record.levelname.lower():8}"
        extra = "".join(f"  {name}={_shown(value)}" for name, value in fields(record).items())
        text = "".join(char if char.isprintable() else " " for char in record.getMessage() + extra)
        if self.colour and record.levelname in _COLOURS:
            level = f"{_COLOURS[record.levelname]}{level}{_RESET}"
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{clock} {level} {text}{trace}"


def _shown(value: object) -> str:
    text = str(value)
    return json.dumps(text) if " " in text or not text else text


def _timestamp(seconds: float) -> str:
    milliseconds = int(seconds * 1000) % 1000
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03d}Z"
