"""``foedus coordinator start``: a coordinator in this process, until it is told to stop."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from foedus.cli.coordinator_settings import PLACE, blobs_option, place_options
from foedus.cli.logs import log_options
from foedus.cli.observed import observed
from foedus.cli.output import emit, json_option
from foedus.coordinator.app import open_coordinator, serve
from foedus.coordinator.settings import read_settings
from foedus.wire.people import Token

log = logging.getLogger("foedus.coordinator")


@click.command("start")
@place_options
@blobs_option
@click.option("--host", help="The address to listen on (default: 127.0.0.1); any other needs TLS.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port (default: 8470); 0 takes one that is free.")
@click.option("--tls-cert", type=PLACE, help="A certificate, as PEM.")
@click.option("--tls-key", type=PLACE, help="Its key, as PEM.")
@click.option("--migrate", is_flag=True, default=None, help="Bring PostgreSQL to this release's schema first.")
@log_options
@json_option
def command(**given: Any) -> None:
    """Start a coordinator here, until Ctrl-C. Everything it knows is in --folder; start it again, and it goes on.

    With --database, any number of them may run on one PostgreSQL and one store of blobs, behind a load balancer.

    The first start prints an admin's API token, this once.
    """
    with observed("foedus-coordinator"):
        settings = read_settings(given)
        opened = open_coordinator(settings)

        def started(url: str) -> None:
            data = {"url": url, "folder": str(settings.folder), "token": opened.admin.token if opened.admin else None}
            emit(data, "\n".join(_greeting(url, opened.admin)))
            sys.stdout.flush()
            log.info("listening on %s", url)

        serve(opened.context, started)


def _greeting(url: str, admin: Token | None) -> list[str]:
    lines = [f"coordinator  {url}", f"API          {url}/openapi.json"]
    if admin is not None:
        lines += [
            f"admin token  {admin.token}",
            "             It is shown this once. In another terminal:",
            f"               export FOEDUS_COORDINATOR={url} FOEDUS_TOKEN={admin.token}",
            "               foedus coordinator invite",
        ]
    return lines
