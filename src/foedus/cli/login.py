"""``foedus login``: a token from the coordinator's login provider, kept for the commands that follow."""

from __future__ import annotations

import click

from foedus.cli.kept_tokens import keep_token
from foedus.cli.output import emit, json_option, say
from foedus.client.login import log_in
from foedus.wire.trust import DeviceLogin


@click.command("login")
@click.argument("url", envvar="FOEDUS_COORDINATOR", metavar="URL")
@json_option
def command(url: str) -> None:
    """Log in at the coordinator at URL: open the page that is shown, and agree there."""
    made = log_in(url, _show)
    assert made.token is not None
    path = keep_token(url, made.token)
    emit({"name": made.name, "coordinator": url, "kept": str(path)}, f"logged in at {url} as {made.name}")


def _show(device: DeviceLogin) -> None:
    say(f"Open {device.url}")
    say(f"and agree, if it shows the code {device.code}. Waiting for {device.expires_in // 60} minutes.")
