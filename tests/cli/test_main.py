"""The command as a whole: verbs on demand, one line for each failure, the right exit code."""

import errno
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from cli.main import VERBS, command, run


def leaves(group: click.Command, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    """Every command without subcommands, with its path."""
    if not isinstance(group, click.Group):
        return [(path, group)]
    context = click.Context(group)
    found = []
    for name in group.list_commands(context):
        child = group.get_command(context, name)
        assert child is not None
        found += leaves(child, (*path, name))
    return found


COMMANDS = leaves(command)
IDS = [" ".join(path) for path, _ in COMMANDS]


def test_help_lists_every_verb_with_what_it_does() -> None:
    """`fleetflame --help` is the table of contents."""
    shown = CliRunner().invoke(command, ["--help"]).output
    for verb in VERBS:
        assert any(line.split()[:1] == [verb] and len(line.split()) > 2 for line in shown.splitlines()), verb


@pytest.mark.parametrize(("path", "verb"), COMMANDS, ids=IDS)
def test_every_command_has_examples_and_an_explained_option_with_a_variable(
    path: tuple[str, ...], verb: click.Command
) -> None:
    """Help of an option, its environment variable, and how the command is used."""
    shown = CliRunner().invoke(command, [*path, "--help"], terminal_width=200).output
    assert "Examples:" in shown
    for option in verb.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            context = click.Context(verb, auto_envvar_prefix="FLEETFLAME_" + "_".join(path).upper())
            known = option.envvar or f"{context.auto_envvar_prefix}_{(option.name or '').upper()}"
            names = [known] if isinstance(known, str) else list(known)
            long = max(option.opts, key=len).lstrip("-").upper().replace("-", "_")
            assert all(name in shown for name in names), names
            assert any(name.endswith(long) for name in names), (names, long)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["qury"], 2, "fleetflame: no such command: `qury` (did you mean `query`?)"),
        (["query", "--fron", "-1h"], 2, "fleetflame: no such option: `--fron` (did you mean `--from`?)"),
        (["query", "--format", "gif"], 2, "fleetflame: invalid value for `--format`"),
        (["aggregator", "--retention", "soon"], 2, "not a duration: `soon`"),
        (["aggregator", "--memory", "much"], 2, "not a size: `much`"),
        (["aggregator", "--http", "nowhere"], 2, "not an address: `nowhere`"),
        (["aggregator", "--memory", "1MiB"], 2, "too small"),
        (["aggregator", "--nats", "http://x"], 2, "not a NATS URL: `http://x`"),
        (["aggregator", "--retention", "36h"], 2, "whole days"),
        (["query", "--server", "http://127.0.0.1:1"], 1, "fleetflame: failed to reach `http://127.0.0.1:1`"),
        (["query", "--server", "ftp://x"], 2, "fleetflame: not a server URL: `ftp://x`"),
        (["query", "--server", "http://[x"], 2, "fleetflame: not a server URL: `http://[x`"),
        (["agent", "--nats", "nats://[x"], 2, "fleetflame: not a NATS URL: `nats://[x`"),
        (["aggregator", "--nats", "nats://[x"], 2, "fleetflame: not a NATS URL: `nats://[x`"),
        (["aggregator", "--nats", "nats://x:99999"], 2, "fleetflame: not a NATS URL: `nats://x:99999`"),
        (["aggregator", "--storage", "http://[x"], 2, "fleetflame: not a ClickHouse URL: `http://[x`"),
        (["aggregator", "--debuginfod", "http://[x"], 2, "fleetflame: not a debuginfod URL: `http://[x`"),
    ],
)
def test_a_failure_is_one_line_with_its_code(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """2 for wrong usage, 1 for what went wrong, and nothing but the line."""
    assert run(arguments) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert shown.err.startswith("fleetflame: ")
    assert len(shown.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["--colour"], "fleetflame"),
        (["agent", "--wndw", "1"], "fleetflame agent"),
        (["agent", "--window"], "fleetflame agent"),
        (["symbols", "upload", "--zzz", "file"], "fleetflame symbols upload"),
        (["nodes", "surplus"], "fleetflame nodes"),
    ],
)
def test_wrong_usage_points_to_the_help_of_the_command(
    arguments: list[str], path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless a name is so near that it can be guessed."""
    assert run(arguments) == 2
    shown = capsys.readouterr().err
    assert f"(try `{path} --help`)" in shown or "did you mean" in shown
    assert len(shown.splitlines()) == 1


def test_a_message_carries_no_control_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever wrote what is wrong."""
    assert run(["query", "--server", "ftp://\x1b[2J"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_group_without_a_verb_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    """As wrong usage."""
    assert run(["symbols"]) == 2
    assert capsys.readouterr().err.lower().startswith("usage: ")


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "no space left on device: `/data/x`"),
        (
            ExceptionGroup("all", [ValueError("two\nlines")]),
            "an error of ours: ValueError: two lines, at test_main.py:",
        ),
    ],
)
def test_no_traceback_reaches_whoever_ran_the_command(
    raised: Exception, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever breaks, one line says what and where."""

    def breaks(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(command, "main", breaks)
    if isinstance(raised, ExceptionGroup):
        try:
            raise raised.exceptions[0]
        except ValueError:
            pass
    assert run(["nodes"]) == 1
    shown = capsys.readouterr().err
    assert told in shown
    assert len(shown.splitlines()) == 1


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """`fleetflame --version`."""
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fleetflame 0.")


def loaded_by(arguments: list[str]) -> set[str]:
    """Modules in a process that ran the command line."""
    code = f"import sys; from cli.main import run; run({arguments!r}); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_an_agent_never_holds_the_aggregators_libraries() -> None:
    """Its memory is counted in megabytes: chdb alone has 150."""
    loaded = loaded_by(["agent", "--help"])
    foreign = {"starlette", "uvicorn", "httpx", "chdb", "clickhouse_connect", "rich", "re2", "symbolic", "elftools"}
    assert not foreign & loaded
    assert not [name for name in loaded if name.startswith("aggregator.")]


def test_help_loads_nothing_heavy() -> None:
    """What makes `--help` slow is importing."""
    heavy = {"numpy", "starlette", "uvicorn", "chdb", "clickhouse_connect", "rich", "re2", "nats", "asyncio"}
    assert not heavy & loaded_by(["--help"])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    """What a shell sources."""
    shown = CliRunner().invoke(command, ["completion", shell])
    assert shown.exit_code == 0
    assert "_FLEETFLAME_COMPLETE" in shown.output


def test_a_reader_that_goes_away_is_no_failure_to_report() -> None:
    """`fleetflame ... | head -1` ends quietly."""
    code = "import sys; from cli.main import run; sys.exit(run(['agent', '--help']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait()
