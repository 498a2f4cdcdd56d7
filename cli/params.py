"""Types of option values: durations, sizes and addresses as people write them, with errors that say how."""

import re
from typing import Any

import click

from fleetflame.errors import UsageError

_SIZE = re.compile(r"(\d{1,18})\s*(?:([kmgt])(?:i?b)?|b)?", re.ASCII | re.IGNORECASE)
_SHIFTS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


class DurationType(click.ParamType[int]):
    """A duration such as `90s` or `30d`, as whole seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Seconds; a bare number is seconds already."""
        from aggregator.times import SECOND_NS, parse_duration

        if isinstance(value, int):
            return value
        if str(value).strip().isdigit():
            return int(value)
        try:
            return parse_duration(str(value)) // SECOND_NS
        except UsageError as error:
            self.fail(f"{error.message} ({error.hint})", param, ctx)


class SizeType(click.ParamType[int]):
    """A number of bytes such as `512MiB` or `20g`; units are powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes."""
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(str(value).strip())
        if not found:
            self.fail(f"not a size: `{value}` (write bytes, or a number with KiB, MiB, GiB, TiB)", param, ctx)
        return int(found.group(1)) << _SHIFTS[(found.group(2) or "").lower()]


class AddressType(click.ParamType[Any]):
    """HOST:PORT, as an `aggregator.config.Address`."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The address."""
        from aggregator.config import parse_address

        try:
            return parse_address(value) if isinstance(value, str) else value
        except UsageError as error:
            self.fail(f"{error.message} ({error.hint})", param, ctx)


DURATION = DurationType()
SIZE = SizeType()
ADDRESS = AddressType()


def format_size(size: int) -> str:
    """Bytes in the largest unit that needs no fraction: `512MiB`, `20GiB`, `1000B`; SIZE reads it back."""
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size and size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return f"{size}B"


def format_seconds(seconds: int) -> str:
    """Seconds in the largest units: `30d`, `1m30s`; DURATION reads it back."""
    from aggregator.times import SECOND_NS, format_duration

    return format_duration(seconds * SECOND_NS)


def human_size(size: float) -> str:
    """Bytes for reading: `1.4 GiB`, `312 B`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
