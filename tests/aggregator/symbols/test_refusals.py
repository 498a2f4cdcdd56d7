"""Refused files: each is counted, and each reason is said once per build."""

import logging

import pytest

from aggregator.symbols import refusals
from aggregator.symbols.faults import Fault, SymbolFileError
from aggregator.symbols.refusals import Refusals
from tests.aggregator.symbols.test_service import counted


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Builds and reasons of the warnings so far."""
    return [
        (record.__dict__["of"], record.__dict__["reason"])
        for record in caplog.records
        if record.levelno == logging.WARNING
    ]


def test_each_is_counted_and_said_once_per_build_and_reason(caplog: pytest.LogCaptureFixture) -> None:
    """Nodes lend the same broken file again and again."""
    told = Refusals()
    before = counted("symbol_files", "outcome", Fault.TRUNCATED)
    for build, fault in (("a", Fault.TRUNCATED), ("a", Fault.TRUNCATED), ("b", Fault.TRUNCATED), ("a", Fault.NOT_ELF)):
        told.note(SymbolFileError(fault, "why"), about=build, source="node web-1")
    assert counted("symbol_files", "outcome", Fault.TRUNCATED) == before + 3
    assert said(caplog) == [("a", "truncated"), ("b", "truncated"), ("a", "not_elf")]


@pytest.mark.parametrize("fault", [Fault.NOT_FOUND, Fault.UNREACHABLE, Fault.CONFLICT, Fault.NO_SYMBOLS])
def test_what_is_no_news_is_not_said(caplog: pytest.LogCaptureFixture, fault: Fault) -> None:
    """Nothing was there, most files are stripped, and a conflict is said as such."""
    before = counted("symbol_files", "outcome", fault)
    Refusals().note(SymbolFileError(fault, "why"), about="a", source="upload")
    assert counted("symbol_files", "outcome", fault) == before + (fault is Fault.NO_SYMBOLS)
    assert said(caplog) == []


def test_what_is_remembered_is_bounded(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends millions of builds is not remembered for ever."""
    monkeypatch.setattr(refusals, "MAX_SAID", 2)
    told = Refusals()
    for build in ("a", "b", "c", "a"):
        told.note(SymbolFileError(Fault.NOT_ELF, "why"), about=build, source="upload")
    assert [build for build, _ in said(caplog)] == ["a", "b", "c", "a"]
