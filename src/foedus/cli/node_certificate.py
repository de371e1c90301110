"""``foedus node certificate``: a TLS certificate for the node, where the coordinator asks for one. Free of torch."""

from __future__ import annotations

from pathlib import Path

import click

from foedus.cli.options import home_option
from foedus.cli.output import emit, json_option
from foedus.node.certificate import install_certificate, request_certificate


@click.group("certificate")
def command() -> None:
    """The TLS certificate that this node shows."""


@command.command("request")
@click.option("--organisation", default="", help="The node's organisation, as the coordinator has it.")
@home_option
@json_option
def request(organisation: str, home: Path) -> None:
    """Make a TLS key, which never leaves the node, and print the request for a certificate over it."""
    pem = request_certificate(home, organisation)
    emit({"request": pem}, pem.rstrip())


@command.command("install")
@click.argument("certificate", type=click.Path(path_type=Path, dir_okay=False))
@home_option
@json_option
def install(certificate: Path, home: Path) -> None:
    """Show CERTIFICATE (PEM, with its chain) from now on; it is over the key of the last request."""
    install_certificate(home, certificate)
    emit({"installed": str(certificate)}, "The node shows it at its next connection.")
