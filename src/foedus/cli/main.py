"""The script ``foedus``: a table of nouns, loaded when they are called, and the edge where errors become exit codes."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping, Sequence

import click

from foedus import __version__
from foedus.cli.lazy import LazyGroup
from foedus.cli.output import INTERRUPTED, colour, fail, internal
from foedus.domain.errors import FoedusError, UsageError

NOUNS: Mapping[str, tuple[str, str]] = {
    "demo": ("foedus.cli.demo", "A whole federation on this machine, in under a minute."),
    "new": ("foedus.cli.new", "Make a folder with a plan that runs."),
    "simulate": ("foedus.cli.simulate", "Run a plan with simulated clients in this process."),
    "run": ("foedus.cli.run", "Submit, follow and steer live runs; compare and plot any."),
    "model": ("foedus.cli.model", "List and download the models of a live run."),
    "plan": ("foedus.cli.plan", "A plan's digest, and its author's signature."),
    "node": ("foedus.cli.node", "Be a node: join, offer data, decide on plans, work."),
    "login": ("foedus.cli.login", "Log in at a coordinator through its login provider."),
    "logout": ("foedus.cli.logout", "End the token that you use."),
    "whoami": ("foedus.cli.whoami", "Show who you are to the coordinator."),
    "coordinator": ("foedus.cli.coordinator", "Be a coordinator: start it, invite nodes, give tokens."),
    "data": ("foedus.cli.data", "Divide a dataset as a run's partition says."),
    "schema": ("foedus.cli.schema", "Print the JSON Schema of run.toml."),
    "doctor": ("foedus.cli.doctor", "Check this machine, and say how to mend what is wrong."),
    "explain": ("foedus.cli.explain", "Explain an error code: what it means, why it happens, what to do."),
    "completion": ("foedus.cli.completion", "Print the completion script of a shell."),
    "version": ("foedus.cli.version", "Print the versions of foedus, Python and torch."),
}
"""Noun → the module whose ``command`` it is, and one line of help, so that help and completion import none of them."""

EXAMPLES = """\
foedus demo                            a whole federation on this machine, in under a minute
foedus new hello && cd hello           a folder with a plan that runs
foedus simulate run.toml               train it with simulated clients
"""

CODES = """\
Exit codes: 0 done; 1 failed; 2 usage; 3 configuration, plan or data refused; 4 access; 5 unreachable; 6 not found;
7 conflict; 9 too few clients; 10 integrity; 11 storage; 130 interrupted.
`foedus explain CODE` explains the code that an error shows in brackets.
"""


@click.group(
    cls=LazyGroup, lazy=NOUNS, invoke_without_command=True, epilog=CODES, context_settings={"max_content_width": 120}
)
@click.version_option(__version__, prog_name="foedus")
@click.pass_context
def foedus(context: click.Context) -> None:
    """Train models together without sharing data: one plan, in simulation and in a live federation."""
    context.color = colour()
    if context.invoked_subcommand is None:
        click.echo(f"foedus {__version__}: train models together without sharing data.\n\n{EXAMPLES}")
        click.echo("`foedus --help` lists every command; `foedus COMMAND --help` shows one with its options.")


def execute(arguments: Sequence[str]) -> int:
    """Run a command line; returns the exit code. Every exception ends here."""
    as_json = "--json" in arguments
    try:
        code = foedus.main(list(arguments), prog_name="foedus", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except FoedusError as error:
        return fail(error, as_json)
    except click.ClickException as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError) and not as_json:
            error.show()
            return UsageError.exit_code
        return fail(_usage(error), as_json)
    except (click.Abort, KeyboardInterrupt):
        return fail(Interrupted("interrupted", "Interrupted."), as_json)
    except BrokenPipeError:
        # Whoever read has gone; Python's own flush at exit would complain about the same pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return fail(internal(error).with_traceback(error.__traceback__), as_json)


class Interrupted(FoedusError):
    """Ctrl-C."""

    exit_code = INTERRUPTED


def _usage(error: click.ClickException) -> UsageError:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "foedus"
    what = "A command is missing." if isinstance(error, click.exceptions.NoArgsIsHelpError) else error.format_message()
    return UsageError("usage", f"{what}{_nearest_choice(error)}", "", f"`{path} --help` shows how it is called.")


def _nearest_choice(error: click.ClickException) -> str:
    """Which of an option's choices was meant, perhaps."""
    given = re.match(r"'([^']*)'", error.message)
    if not isinstance(error, click.BadParameter) or error.param is None or given is None:
        return ""
    known = error.param.type.choices if isinstance(error.param.type, click.Choice) else ()
    close = difflib.get_close_matches(given[1], [str(name) for name in known], n=1)
    return f" Did you mean `{close[0]}`?" if close else ""


def main() -> None:
    """The script's entry point."""
    sys.exit(execute(sys.argv[1:]))
