"""The `fleetflame` command: finds the verb, runs it, and prints every failure once, in one line.

A verb's module is imported when it is asked for, and none of them imports what it runs before it runs: an agent's
process never holds the aggregator's libraries, and `--help` answers at once.
"""

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import click

from fleetflame.errors import FleetflameError

VERBS = {
    "up": "Profile this machine: start a bus, an aggregator and an agent.",
    "agent": "Run one node's agent.",
    "aggregator": "Run one aggregator.",
    "query": "Show a profile.",
    "diff": "Show what changed between two selections, times or builds.",
    "top": "List the functions with the most samples.",
    "nodes": "List the nodes that samples came from.",
    "labels": "List label names, or the values of one.",
    "builds": "List builds of executables, libraries, kernels and modules.",
    "symbols": "List, upload and look for symbols of builds.",
    "status": "Show the ledger: what became of every sample.",
    "doctor": "Check what profiling needs on this machine.",
    "import": "Store a profile that another tool took.",
    "completion": "Print what a shell needs to complete commands.",
}
"""Verb -> what it does. Each is the `command` of the module of its name, but `import`, which cannot name a module. The
lines stand here because importing every verb for them would take `--help` a quarter of a second."""

INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""


class Verbs(click.Group):
    """The group of all verbs, each imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Verbs in the order of their use, not of the alphabet."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The verb's command, None if there is no such verb."""
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"cli.{'importing' if cmd_name == 'import' else cmd_name}").command
        assert isinstance(command, click.Command), "each verb's module defines `command`"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The table of verbs, without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


CONTEXT = {"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "FLEETFLAME", "max_content_width": 100}


@click.command(cls=Verbs, context_settings=CONTEXT)
@click.version_option(package_name="fleetflame", message="%(prog)s %(version)s")
def command() -> None:
    """Where the CPU time of a whole fleet goes: always on, merged into one flame graph.

    \b
    Try it on this machine:   fleetflame up
    and in another terminal:  fleetflame query 'cpu{service="sshd"}' --from -5m

    Each option can also be given as an environment variable: `fleetflame COMMAND --help` names it. Exit codes: 0, 1 for
    a failure, 2 for wrong usage.
    """


def main() -> None:
    """Entry point: runs the command line and exits with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Exit code of one command line. Each failure that is not our bug becomes one line on standard error."""
    try:
        result = command.main(list(arguments), prog_name="fleetflame", standalone_mode=False)
        sys.stdout.flush()
    except FleetflameError as error:
        return _fail(error.message, hint=error.hint, code=error.exit_code)
    except click.NoSuchCommand as error:
        return _fail(f"no such command: `{error.command_name}`", hint=_closest(_near(error)), code=2)
    except click.NoSuchOption as error:
        hint = _closest(error.possibilities) if error.possibilities else _usage_hint(arguments)
        return _fail(f"no such option: `{error.option_name}`", hint=hint, code=2)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.message, err=True)
        return error.exit_code
    except click.ClickException as error:
        return _fail(_lowered(error.format_message()), hint=_usage_hint(arguments), code=error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone, `... | head`. What is buffered must not raise again at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001  # the outermost, and a traceback is of no use to whom it would reach
        return _crashed(error)
    return result if isinstance(result, int) else 0


def _fail(message: str, *, hint: str, code: int) -> int:
    # What a command line, a file or a server held may be in it: no control sequence gets to the terminal.
    message = "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in message)
    first, _, rest = message.partition("\n")
    lines = [f"fleetflame: {first}", rest] if rest else [f"fleetflame: {first}"]
    if hint:
        lines = [*lines, f"({hint})"] if rest else [f"{lines[0]} ({hint})"]
    click.echo("\n".join(lines), err=True)
    return code


def _near(error: click.NoSuchCommand) -> list[str]:
    import difflib  # 0.2 MB: not for those who type well

    known = (
        error.ctx.command.list_commands(error.ctx) if error.ctx and isinstance(error.ctx.command, click.Group) else []
    )
    return difflib.get_close_matches(error.command_name, known, n=1)


def _closest(names: Sequence[str] | None) -> str:
    if not names:
        return "try `fleetflame --help`"
    return "did you mean " + " or ".join(f"`{name}`" for name in sorted(names)[:3]) + "?"


def _usage_hint(arguments: Sequence[str]) -> str:
    # From the words and not from click's context, which half of its errors come without.
    context, group = click.Context(command), cast(click.Group, command)
    path = ["fleetflame"]
    for word in arguments:
        verb = group.get_command(context, word)
        if verb is None:
            break
        path.append(word)
        if not isinstance(verb, click.Group):
            break
        group = verb
    return f"try `{' '.join(path)} --help`"


def _crashed(error: Exception) -> int:
    """One line for what nobody foresaw; where logs are for programs, they get the traceback."""
    from cli.logging import note_crash

    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    note_crash(error)
    if isinstance(error, OSError) and error.strerror:
        where = f": `{os.fsdecode(error.filename)}`" if error.filename else ""
        return _fail(f"{error.strerror.lower()}{where}", hint="`fleetflame doctor` checks this machine", code=1)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    hint = "please report it; `--log-level debug` of what runs for long shows more"
    return _fail(f"an error of ours: {text}, at {Path(frame.filename).name}:{frame.lineno}", hint=hint, code=1)


def _lowered(message: str) -> str:
    """Click's sentence in our manner: lower case, no full stop, operands in backquotes."""
    text = message.strip().rstrip(".").replace("'", "`")
    return text[:1].lower() + text[1:]


if __name__ == "__main__":
    main()
