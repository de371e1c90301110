"""``foedus node init``, ``join`` and ``rotate-key``: a node's home, its key, and the coordinator that knows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foedus.cli.options import home_option, secret_from_environment
from foedus.cli.output import emit, json_option
from foedus.domain.errors import UsageError
from foedus.node import kit, owner
from foedus.node.keys import rotate_key
from foedus.node.vault import Identity
from foedus.wire.trust import OVERLAP

FILE = click.Path(path_type=Path, dir_okay=False)
signer_option = click.option(
    "--signer", metavar="FINGERPRINT", help="Who must have signed the kit, as its sender told you."
)


@click.command("init")
@click.argument("name", required=False)
@click.option("--kit", "kit_file", type=FILE, help="A start-up kit, which names the node and has it join at once.")
@signer_option
@home_option
@json_option
def init(name: str | None, kit_file: Path | None, signer: str | None, home: Path) -> None:
    """Make a node called NAME: a home and a key, which never leaves it."""
    if (name is None) == (kit_file is None):
        raise UsageError("node_name_missing", "A node needs a name, or a kit that names it.", "", "Give NAME or --kit.")
    if kit_file is not None:
        opened = kit.open_kit(kit_file, signer)
        made = kit.init(home, opened.kit)
        emit(
            {**_identity(made, home), "signer": opened.signer},
            f"node {made.name} in {home} has joined {made.coordinator} as {made.node}\nkit signed by {opened.signer}",
        )
        return
    assert name is not None
    made = owner.init(home, name)
    emit(
        _identity(made, home),
        f"node {made.name} in {home}\nNext: foedus node join --home {home} --coordinator URL --token TOKEN",
    )


@click.command("join")
@click.option("--coordinator", metavar="URL", envvar="FOEDUS_COORDINATOR", show_envvar=True)
@click.option("--token", help="The join token; better in FOEDUS_JOIN_TOKEN or FOEDUS_JOIN_TOKEN_FILE.")
@click.option("--kit", "kit_file", type=FILE, help="A start-up kit, in place of both.")
@signer_option
@home_option
@json_option
def join(coordinator: str | None, token: str | None, kit_file: Path | None, signer: str | None, home: Path) -> None:
    """Join a coordinator with a one-use token from `foedus coordinator invite`, or with a kit."""
    if kit_file is not None:
        made = kit.join(home, kit.open_kit(kit_file, signer).kit)
    else:
        made = _join(coordinator, token, home)
    lines = [f"node {made.name} has joined {made.coordinator} as {made.node}"]
    lines.append(
        f"Next: foedus node data add FILE --name NAME --tags TAG --home {home}, then foedus node start --home {home}"
    )
    emit(_identity(made, home), "\n".join(lines))


def _join(coordinator: str | None, token: str | None, home: Path) -> Identity:
    secret = token or secret_from_environment("FOEDUS_JOIN_TOKEN")
    if secret is None:
        raise UsageError("token_missing", "There is no join token.", "", "Give --token, or set FOEDUS_JOIN_TOKEN.")
    if coordinator is None:
        raise UsageError("coordinator_missing", "There is no coordinator to join.", "", "Give --coordinator or --kit.")
    return owner.join(home, coordinator, secret)


@click.command("rotate-key")
@click.option("--overlap", type=click.FloatRange(0, 86400), default=OVERLAP, show_default=True, metavar="SECONDS")
@home_option
@json_option
def rotate(overlap: float, home: Path) -> None:
    """Replace the node's key, also while it works; for --overlap seconds the old one is accepted too."""
    made = rotate_key(home, overlap)
    emit(made.model_dump(mode="json"), f"node {made.node} has a new key; the old one holds for {made.overlap:.0f} s")


def _identity(made: Identity, home: Path) -> dict[str, Any]:
    return {**vars(made), "home": str(home)}
