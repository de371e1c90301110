"""``foedus plan``: a plan's digest, and its author's signature. Free of torch."""

from __future__ import annotations

import os
from pathlib import Path

import click

from foedus.cli.options import examples
from foedus.cli.output import emit, json_option
from foedus.domain.errors import ConflictError, NotFoundError, StorageError
from foedus.domain.plan import read_bundle
from foedus.wire.plan_signature import sign_plan, signature_path
from foedus.wire.public_keys import generate_key, public_key
from foedus.wire.trust import fingerprint_of

FILE = click.Path(path_type=Path, dir_okay=False)
PLAN = click.argument("plan", metavar="PLAN", type=click.Path(path_type=Path))


@click.group("plan")
def command() -> None:
    """A plan's digest, which owners approve, and its author's signature, which some of them trust."""


@command.command("digest")
@PLAN
@json_option
def digest_command(plan: Path) -> None:
    """Print the digest of the plan's file or folder: of every byte of it, its lock and its options."""
    bundle = read_bundle(plan)
    emit({"digest": bundle.digest, "files": sorted(bundle.files)}, bundle.digest)


@command.command("key")
@click.argument("file", type=FILE)
@json_option
def key_command(file: Path) -> None:
    """Make an author's key in FILE, which nobody else should read, and print the public half for owners."""
    private = generate_key()
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(private.hex())
    except FileExistsError as error:
        raise ConflictError("key_exists", f"There is {file} already.", "", "Name another file.") from error
    except OSError as error:
        raise StorageError("key_unwritable", f"{file} cannot be written.", error.strerror or "") from error
    key = public_key(private)
    text = f"{key}\nfingerprint {fingerprint_of(key)}\nNext, an owner: foedus node trust add NAME {key}"
    emit({"file": str(file), "key": key, "fingerprint": fingerprint_of(key)}, text)


@command.command("sign", epilog=examples("foedus plan sign plan.py --key author.key"))
@PLAN
@click.option("--key", "key_file", type=FILE, required=True, help="The author's key, as `foedus plan key` made it.")
@json_option
def sign_command(plan: Path, key_file: Path) -> None:
    """Sign the plan: PLAN.signature goes to the nodes with each run of it. Sign again after any change."""
    signed = sign_plan(_private(key_file), read_bundle(plan).digest)
    target = signature_path(plan)
    target.write_text(signed.model_dump_json())
    emit({"file": str(target), **signed.model_dump()}, f"{target}: signed by {fingerprint_of(signed.signer)}")


def _private(path: Path) -> bytes:
    try:
        private = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError):
        private = b""
    if len(private) != 32:
        fix = "Make one with `foedus plan key FILE`."
        raise NotFoundError("key_missing", f"There is no author's key in {path}.", "", fix)
    return private
