"""Numbers and facts of a profile in words, the same in every format that people read."""

from datetime import UTC, datetime

from aggregator.profile import Completeness, Origin

_UNITS = ((1_000_000_000 * 3600, "h"), (1_000_000_000 * 60, "min"), (1_000_000_000, "s"), (1_000_000, "ms"))


def share(part: int, whole: int) -> str:
    """`part` of `whole` in per cent: never 0 for something, never 100 for less than all."""
    if not part or not whole:
        return "0%"
    if part == whole:
        return "100%"
    percent = 100 * part / whole
    if percent < 0.01:
        return "<0.01%"
    return ">99.99%" if percent > 99.99 else f"{percent:.2f}%"


def samples(count: int) -> str:
    """A number of samples."""
    return "1 sample" if count == 1 else f"{count:,} samples"


def duration(nanoseconds: int) -> str:
    """A length of time with three digits or so: `41.2 s`, `3.5 h`."""
    for size, unit in _UNITS:
        if nanoseconds >= size:
            amount = nanoseconds / size
            return f"{amount:,.0f} {unit}" if amount >= 100 else f"{amount:.3g} {unit}"
    return f"{nanoseconds / 1_000_000:.2g} ms"


def time_range(from_ns: int, until_ns: int) -> str:
    """Start and end in UTC, the day once if it is the same; empty if unknown."""
    if not until_ns:
        return ""
    start, end = (datetime.fromtimestamp(ns // 1_000_000_000, UTC) for ns in (from_ns, until_ns))
    last = f"{end:%H:%M:%S}" if start.date() == end.date() else f"{end:%Y-%m-%d %H:%M:%S}"
    return f"{start:%Y-%m-%d %H:%M:%S} – {last} UTC"


def amount(completeness: Completeness, value: int, origin: Origin, *, timed: bool) -> list[str]:
    """How much a profile holds, and of when."""
    facts = [samples(completeness.total)]
    if timed:
        facts.append(f"{duration(value)} of {origin.type.upper() if origin.type == 'cpu' else origin.type} time")
    if when := time_range(origin.from_ns, origin.until_ns):
        facts.append(when)
    return facts


def wholeness(completeness: Completeness) -> list[str]:
    """How complete the stacks are: what is whole first, then what is not, if anything."""
    total = completeness.total
    facts = [f"{share(completeness.whole, total)} whole"] if total else []
    if completeness.truncated:
        facts.append(f"{share(completeness.truncated, total)} truncated")
    if completeness.unsymbolized:
        facts.append(f"{share(completeness.unsymbolized, total)} with unnamed frames")
    return facts


def side(label: str, completeness: Completeness) -> str:
    """One side of a difference: what it is called, how much it holds and how complete it is."""
    return f"{label}: {', '.join([samples(completeness.total), *wholeness(completeness)])}"
