"""Each verb that asks, against the application over a real store."""

import gzip
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aggregator.storage import Store
from aggregator.storage.types import StorageOptions
from cli.main import run
from tests.aggregator.api.conftest import FLEET, SAMPLES
from tests.aggregator.api.tab import served
from tests.aggregator.storage.fleet import DAY, accepted

HOUR = ("--from", str(DAY), "--until", str(DAY + 3600))
Ask = Callable[..., str]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an aggregator with a fleet in its store; its clock stands ten minutes after DAY."""
    folder = tmp_path_factory.mktemp("verbs")
    store = Store(StorageOptions(location=str(folder / "store")))
    store.insert([accepted(batch) for batch in FLEET])
    with served(store, folder) as url:
        yield url
    store.close()


@pytest.fixture
def ask(server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs a command line and gives what it printed; the server is told by the environment."""
    monkeypatch.setenv("FLEETFLAME_SERVER", server)

    def asked(*arguments: str, code: int = 0) -> str:
        result = run(arguments)
        shown = capsys.readouterr()
        assert result == code, shown.err
        return shown.err if code else shown.out

    return asked


def total(folded: str) -> int:
    """Samples in folded text."""
    return sum(int(line.rpartition(" ")[2]) for line in folded.splitlines())


def rows(text: str) -> list[dict[str, str]]:
    """A tab-separated table with its header."""
    header, *lines = (line.split("\t") for line in text.splitlines())
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_a_query_in_a_pipe_is_folded(ask: Ask) -> None:
    """Every sample of the range, and of those that match."""
    assert total(ask("query", *HOUR)) == SAMPLES
    parts = [total(ask("query", f'service="{name}"', *HOUR)) for name in ("search", "checkout")]
    assert sum(parts) == SAMPLES
    assert total(ask("query", "--from", "-11m")) == SAMPLES


def test_kernel_frames_and_labels_are_chosen_by_options(ask: Ask) -> None:
    """--no-kernel keeps the samples, --by puts labels first."""
    text = ask("query", *HOUR, "--no-kernel", "--by", "node", "--by", "service")
    assert "_[k]" not in text
    assert total(text) == SAMPLES
    assert {line.split(";")[0] for line in text.splitlines()} == {f"web-{n}.example" for n in range(3)}


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("x.svg", b"<svg"),
        ("x.html", b"<!DOCTYPE"),
        ("x.speedscope.json", b'{"$schema"'),
        ("x.json", b'{"version":1'),
        ("x.folded", b""),
        ("x", b""),
    ],
)
def test_a_files_name_says_the_format(ask: Ask, tmp_path: Path, name: str, start: bytes) -> None:
    """Unless --format does."""
    assert ask("query", *HOUR, "-o", str(tmp_path / name)) == ""
    assert (tmp_path / name).read_bytes().startswith(start)
    assert ask("query", *HOUR, "-o", str(tmp_path / "y.svg"), "--format", "folded") == ""
    assert total((tmp_path / "y.svg").read_text()) == SAMPLES


def test_pprof_is_gzip(ask: Ask, tmp_path: Path) -> None:
    """As `go tool pprof` expects it."""
    ask("query", *HOUR, "-o", str(tmp_path / "cpu.pb.gz"))
    assert gzip.decompress((tmp_path / "cpu.pb.gz").read_bytes())


def test_nothing_found_is_said_beside_the_data(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty file would not say why."""
    assert run(["query", 'service="none"', *HOUR, "--server", server]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert 'no samples match `service="none"`' in shown.err


@pytest.mark.parametrize(
    ("selector", "reason"),
    [
        ('servce="search"', "no label `servce`; there are `comm`, `node`, `service`"),
        ('service="a=\\"b"', "`fleetflame labels` shows"),
        ("checkout", 'is `service="checkout"`'),
    ],
)
def test_why_nothing_was_found_is_guessed(
    server: str, capsys: pytest.CaptureFixture[str], selector: str, reason: str
) -> None:
    """A label that nobody has, a service's name where a profile type stands."""
    assert run(["query", selector, *HOUR, "--server", server]) == 0
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["query"], ["top"], ["top", "--sort", "total"], ["diff", 'service="search"', 'service="checkout"']]
)
def test_labels_that_nothing_has_are_said_beside_the_data(
    server: str, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """`[no LABEL]` at every root looks like an answer."""
    asked = [*arguments, *HOUR, "--server", server, "--by", "service", "--by", "servce", "--by", "servce"]
    assert run(asked) == 0
    shown = capsys.readouterr()
    said = "no series has a label `servce` in this time range; there are `comm`, `node`, `service`"
    assert shown.err == f"fleetflame: {said}\n"
    assert shown.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["servce", *HOUR], "no series has a label `servce` in this time range; there are `comm`, `node`, `service`"),
        (["service", *HOUR, "--query", 'comm="none"'], 'no series matches `comm="none"` in this time range'),
        ([*HOUR, "--query", 'comm="none"'], 'no series matches `comm="none"` in this time range'),
        (["service", "--from", "0", "--until", "60"], "no samples in this time range"),
    ],
)
def test_an_empty_list_of_labels_says_why(
    server: str, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """On standard error, below the header."""
    assert run(["labels", *arguments, "--server", server]) == 0
    shown = capsys.readouterr()
    assert shown.err == f"fleetflame: {said}\n"
    assert len(shown.out.splitlines()) == 1


def test_a_difference_says_which_side_is_empty(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Else everything looks new, or gone."""
    assert run(["diff", 'service="none"', 'service="search"', *HOUR, "--server", server]) == 0
    assert 'no samples on the side before: `service="none"`' in capsys.readouterr().err
    assert run(["diff", 'service="search"', "--build", "abcd", "--build", "dead", *HOUR, "--server", server]) == 0
    assert 'on the side after: `service="search"` of build `dead`' in capsys.readouterr().err


def test_a_malformed_question_is_wrong_usage(ask: Ask) -> None:
    """With the caret below the place."""
    said = ask("query", "cpu{service=search}", code=2).splitlines()
    assert said[1][said[2].index("^") :].startswith("search}")
    assert "not a time" in ask("query", "--from", "yesterday", code=2)
    assert "not a label name" in ask("query", "--by", "a-b", code=2)


def test_top_lists_functions_in_both_orders(ask: Ask) -> None:
    """With shares of all samples."""
    by_self = rows(ask("top", *HOUR, "-n", "3"))
    assert list(by_self[0]) == ["self", "self_%", "total", "total_%", "function"]
    assert len(by_self) == 3
    assert by_self == sorted(by_self, key=lambda row: -int(row["self"]))
    by_total = rows(ask("top", *HOUR, "--sort", "total"))
    assert by_total == sorted(by_total, key=lambda row: -int(row["total"]))
    assert json.loads(ask("top", *HOUR, "--json"))["samples"] == SAMPLES


def test_labels_and_values_are_listed(ask: Ask) -> None:
    """In the range, of the series that match."""
    assert [row["label"] for row in rows(ask("labels", *HOUR))] == ["comm", "node", "service"]
    assert [row["service"] for row in rows(ask("labels", "service", *HOUR))] == ["checkout", "search"]
    narrowed = ask("labels", "node", *HOUR, "--query", 'node=~".*-1.*"', "--json")
    assert json.loads(narrowed)["values"] == ["web-1.example"]


def test_nodes_builds_and_symbols_are_listed(ask: Ask) -> None:
    """A header and a row each."""
    nodes = rows(ask("nodes"))
    assert [node["node"] for node in nodes] == [f"web-{n}.example" for n in range(3)]
    assert sum(int(node["samples"]) for node in nodes) == SAMPLES
    assert {build["path"] for build in rows(ask("builds"))} == {"/usr/lib/libc.so.6", "[kernel]"}
    assert rows(ask("symbols", "list")) == []
    assert json.loads(ask("symbols", "missing", "--json")) == {"missing": []}


def test_status_adds_up(ask: Ask) -> None:
    """Exit code 0 while it does."""
    accounts = rows(ask("status"))
    assert accounts[-1]["node"] == "(all)"
    assert int(accounts[-1]["stored"]) == SAMPLES
    assert {account["books"] for account in accounts} == {"balance"}
    assert json.loads(ask("status", "--json"))["balances"] is True


def test_a_difference_is_of_two_selectors_times_or_builds(ask: Ask) -> None:
    """Samples of both sides, whatever they differ in."""
    both = ask("diff", 'service="search"', 'service="checkout"', *HOUR)
    assert sum(int(field) for line in both.splitlines() for field in line.rsplit(" ", 2)[1:]) == SAMPLES
    times = ("--from", str(DAY + 60), "--until", str(DAY + 120))
    assert ask("diff", "cpu", *times, "--baseline-from", str(DAY), "--baseline-until", str(DAY + 60))
    ask("diff", "cpu", *HOUR, "--build", "abcd", "--build", "ef01")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cpu"], "there is nothing to compare with"),
        (["cpu", "--build", "abcd"], "--build is given 1 times"),
        (["cpu", "cpu"], "both sides of the difference are the same"),
    ],
)
def test_a_difference_needs_two_sides(ask: Ask, arguments: list[str], message: str) -> None:
    """And says how to give them."""
    assert message in ask("diff", *arguments, code=2)


def test_what_is_exported_can_be_imported_again(ask: Ask, tmp_path: Path) -> None:
    """Folded and pprof, by file and by standard input: the same samples under the same names."""
    exported = ask("query", 'service="search"', *HOUR)
    (tmp_path / "x.folded").write_text(exported)
    ask("query", 'service="search"', *HOUR, "-o", str(tmp_path / "x.pb.gz"))
    when = ("--time", str(DAY + 300))
    ask("import", str(tmp_path / "x.folded"), "--label", "node=folded", "--label", "team=a,b=c", *when)
    ask("import", str(tmp_path / "x.pb.gz"), "--label", "node=pprof", *when)
    assert ask("query", 'node="folded"', *HOUR) == exported
    assert total(ask("query", 'node="pprof"', *HOUR)) == total(exported)
    assert total(ask("query", 'team="a,b=c"', *HOUR)) == total(exported)


def test_an_import_tells_what_it_took_and_what_not(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once however often it is given; bad lines by number."""
    (tmp_path / "x").write_text("main;work 3\nno count\nmain 4\n")
    command = ["import", str(tmp_path / "x"), "--server", server, "--time", str(DAY + 400), "--label", "node=lines"]
    assert run(command) == 0
    said = capsys.readouterr().err
    assert "imported 7 samples of 2 stacks at 2026-" in said
    assert "1 of 3 lines could not be read; the first: line 2: " in said
    assert run(command) == 0
    assert "(it was stored before)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "arguments", "code", "message"),
    [
        ("", [], 2, "x` is empty"),
        ("what is this", [], 2, "no line could be read"),
        ("a;b 1", ["--format", "pprof"], 2, "not a pprof profile"),
        ("a;b 1", ["--label", "team"], 2, "not a label: `team`"),
        ("a;b 1", ["--label", "1team=x"], 2, "not a label"),
        ("a;b 1", ["--label", "node=a b"], 2, "not a node name"),
        ("main;work 1", ["--time", "soon"], 2, "not a time"),
        ("main;work 1", ["--time", "now+1d"], 2, "in the future"),
        ("main;work 1", ["--time", "2001-01-01T00:00:00Z"], 2, "beyond the retention"),
    ],
)
def test_what_cannot_be_imported_is_refused(
    ask: Ask, tmp_path: Path, content: str, arguments: list[str], code: int, message: str
) -> None:
    """With the reason."""
    (tmp_path / "x").write_text(content)
    assert message in ask("import", str(tmp_path / "x"), *arguments, code=code)


def test_a_file_that_is_not_there_is_named(ask: Ask, tmp_path: Path) -> None:
    """Before anything is sent."""
    assert "failed to read" in ask("import", str(tmp_path / "none"), code=1)


def test_symbols_are_uploaded_and_refusals_are_named(ask: Ask, tmp_path: Path) -> None:
    """Each by its file; where there are several, the others are taken."""
    (tmp_path / "script").write_text("#!/bin/sh\n")
    said = ask("symbols", "upload", str(tmp_path / "script"), code=1)
    assert f"`{tmp_path / 'script'}`: not an ELF file" in said
    (tmp_path / "empty").touch()
    assert f"`{tmp_path / 'empty'}` is empty" in ask("symbols", "upload", str(tmp_path / "empty"), code=1)
    program = str(Path(sys.executable).resolve())
    listed = ask("symbols", "upload", "--force", program)
    assert "\ttaken\t" in listed
    assert len(rows(ask("symbols", "list"))) == 1
    said = ask("symbols", "upload", "--force", str(tmp_path / "script"), program, str(tmp_path / "none"), code=1)
    assert "script`" in said
    assert f"failed to read `{tmp_path / 'none'}`" in said


def test_doctor_finds_the_server(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Ready, whatever else it finds of this machine."""
    run(["doctor", "--json", "--server", server])
    findings = {row["check"]: row["outcome"] for row in json.loads(capsys.readouterr().out)}
    assert findings["server"] == "ok"
