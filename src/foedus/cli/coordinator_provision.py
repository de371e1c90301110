"""``foedus coordinator provision``: a start-up kit for every site."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
from platformdirs import user_config_path

from foedus.cli.connection import connected
from foedus.cli.options import examples
from foedus.cli.output import emit, json_option, say, table
from foedus.client.http import Connection
from foedus.client.provision import provision, signing_key
from foedus.wire.public_keys import public_key
from foedus.wire.trust import fingerprint_of

PLACE = click.Path(path_type=Path)
EXAMPLE = examples("foedus coordinator provision sites.toml --out kits")


@click.command("provision", epilog=EXAMPLE)
@click.argument("sites", metavar="SITES.toml", type=PLACE)
@click.option("--out", type=PLACE, required=True, help="The folder for the kits, NAME.kit for each site.")
@click.option("--key", type=PLACE, help="The key that signs them (default: in your config folder, made at first use).")
@json_option
@connected
def command(connection: Connection, sites: Path, out: Path, key: Path | None) -> None:
    """Make a start-up kit for each site: whom to join, as what, with a one-use token; no private key."""
    private = signing_key(key or user_config_path("foedus") / "provision.key")
    made = provision(connection, sites, out, private)
    signer = fingerprint_of(public_key(private))
    rows = [[kit.site, str(kit.path), _time(kit.expires_at)] for kit in made]
    kits = [{"site": kit.site, "path": str(kit.path), "expires_at": kit.expires_at} for kit in made]
    emit({"signer": signer, "kits": kits}, table(["site", "kit", "good until (UTC)"], rows))
    say(f"Send each kit to its site alone, and tell it by another way who signed it: {signer}")
    say("There:  foedus node init --kit FILE --signer FINGERPRINT")


def _time(at: str) -> str:
    return f"{datetime.fromisoformat(at).astimezone(UTC):%Y-%m-%d %H:%M}"
