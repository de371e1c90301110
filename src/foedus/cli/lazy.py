"""A group of commands that are imported by name when they are called, so that help and completion stay quick."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import click

from foedus.domain.modules import load

Table = Mapping[str, tuple[str, str]]
"""Name → the module whose ``command`` it is, or ``module:name``, and one line of help."""


class LazyGroup(click.Group):
    """A group with some commands of its own and a table of others."""

    def __init__(self, *arguments: Any, lazy: Table, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names: the table's in its order, then the group's own."""
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, from its module where the table has it."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, _, name = self.lazy[cmd_name][0].partition(":")
        command: click.Command = vars(load(module))[name or "command"]
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name; a name that is none is refused with the nearest one."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            meant = f" Did you mean `{ctx.command_path} {close[0]}`?" if close else ""
            raise click.UsageError(f"No such command {args[0]!r}.{meant}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line for each command, without importing it."""
        own = {name: command.get_short_help_str(100) for name, command in self.commands.items()}
        lines = {name: line for name, (_, line) in self.lazy.items()} | own
        with formatter.section("Commands"):
            formatter.write_dl(list(lines.items()))
