"""`fleetflame completion`: what a shell needs to complete our commands and options."""

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    Examples:
      source <(fleetflame completion bash)
      fleetflame completion zsh > "${fpath[1]}/_fleetflame"
      fleetflame completion fish > ~/.config/fish/completions/fleetflame.fish
    """
    kind = get_completion_class(shell)
    root = click.get_current_context().find_root().command
    assert kind is not None, "click completes every shell in SHELLS"
    click.echo(kind(root, {}, "fleetflame", "_FLEETFLAME_COMPLETE").source())
