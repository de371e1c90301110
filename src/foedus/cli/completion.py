"""``foedus completion SHELL``: click's own completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from foedus.cli.output import emit, json_option
from foedus.domain.errors import UsageError


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@json_option
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    For bash:  foedus completion bash > ~/.local/share/bash-completion/completions/foedus
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise UsageError("shell_unknown", f"There is no completion for {shell}.", "", "Use bash, zsh or fish.")
    script = kind(context.find_root().command, {}, "foedus", "_FOEDUS_COMPLETE").source()
    emit({"shell": shell, "script": script}, script)
