"""Start-up kits: from the operator's list of sites to nodes that have joined; what is changed or too old is refused."""

from __future__ import annotations

import json
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foedus.client.http import Connection
from foedus.client.provision import provision, sign_kit, signing_key
from foedus.domain.errors import AccessError, ConfigError, ConflictError, FoedusError, NotFoundError
from foedus.node import kit, owner
from foedus.node.certificate import AUTHORITY, install_certificate, request_certificate, trust_of
from foedus.node.keys import NEXT, other_key, rotate_key
from foedus.node.vault import KEY, Vault
from foedus.wire.people import NewOrg, OrgView
from foedus.wire.public_keys import public_key
from foedus.wire.trust import Kit, fingerprint_of
from tests.certificates import Authority
from tests.unit.coordinator.door import Door, opened
from tests.unit.coordinator.scene import refusal

SITES = """
authority = "ca.pem"
[[site]]
name = "clinic-a"
organisation = "clinic"
[[site]]
name = "lab-b"
hours = 2
"""


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with opened(tmp_path_factory.mktemp("kits")) as found:
        with Connection(found.url, found.token) as connection:
            connection.post("/orgs", OrgView, NewOrg(name="clinic"))
        yield found


def provisioned(door: Door, folder: Path, text: str = SITES) -> dict[str, Path]:
    Authority(folder / "ca", "ca").path.replace(folder / "ca.pem")
    (folder / "sites.toml").write_text(text)
    with Connection(door.url, door.token) as connection:
        made = provision(connection, folder / "sites.toml", folder / "kits", signing_key(folder / "sign.key"))
    return {one.site: one.path for one in made}


def test_sites_join_with_their_kits_once_and_no_kit_holds_a_private_key(door: Door, tmp_path: Path) -> None:
    kits = provisioned(door, tmp_path)
    assert {path.name for path in kits.values()} == {"clinic-a.kit", "lab-b.kit"}
    signer = fingerprint_of(public_key(signing_key(tmp_path / "sign.key")))
    for name, path in kits.items():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert "PRIVATE" not in path.read_text() and (tmp_path / "sign.key").read_text().strip() not in path.read_text()
        found = kit.open_kit(path, signer)
        assert (found.kit.name, found.signer, found.kit.coordinator) == (name, signer, door.url)
        made = kit.init(tmp_path / name, found.kit)
        assert made.node and made.coordinator == door.url
        assert (tmp_path / name / AUTHORITY).read_text() == (tmp_path / "ca.pem").read_text()
        assert trust_of(tmp_path / name).authority == tmp_path / name / AUTHORITY
    assert stat.S_IMODE((tmp_path / "sign.key").stat().st_mode) == 0o600
    listed = {node["name"]: node for node in door.ask("GET", "/nodes").json()["nodes"]}
    assert {"clinic-a", "lab-b"} <= set(listed)
    again = refusal(lambda: kit.init(tmp_path / "again", kit.open_kit(kits["lab-b"]).kit))
    assert (type(again), again.code) == (AccessError, "join_token_refused")


def test_a_kit_that_was_changed_is_of_another_signer_or_too_old_is_refused(door: Door, tmp_path: Path) -> None:
    (path,) = provisioned(door, tmp_path, '[[site]]\nname = "site-c"\n').values()
    text = path.read_text()
    signed: dict[str, Any] = json.loads(text)

    def opened_as(content: str, signer: str | None = None) -> FoedusError:
        (tmp_path / "kit").write_text(content)
        return refusal(lambda: kit.open_kit(tmp_path / "kit", signer))

    for old, new in (("site-c", "site-d"), (door.url, "https://evil.example.org")):
        changed = {**signed, "kit": signed["kit"].replace(old, new)}
        assert opened_as(json.dumps(changed)).code == "proof_refused"
    stranger = signing_key(tmp_path / "stranger.key")
    forged = sign_kit(Kit.model_validate_json(signed["kit"]), stranger).model_dump_json()
    expected = fingerprint_of(signed["signer"])
    assert opened_as(forged, expected).code == "kit_refused"
    assert kit.open_kit(path, expected.upper()).signer == expected
    fields = json.loads(signed["kit"])
    late = Kit.model_validate({**fields, "expires_at": "2020-01-01T00:00:00Z"})
    assert "good until" in opened_as(sign_kit(late, stranger).model_dump_json()).why
    other = Kit.model_validate({**fields, "authority": Authority(tmp_path / "x", "x").path.read_text()})
    assert "expects" in opened_as(sign_kit(other, stranger).model_dump_json()).why
    for content in ("", "{}", "[" * 10_000, "x" * 300_000, json.dumps({**signed, "more": 1})):
        assert opened_as(content).code == "kit_refused"
    for name in ("../../etc/cron.d/x", "a/b", "a\\b", ".", "a" * 100):
        hostile = json.dumps({**fields, "name": name})
        forged = json.dumps({**signed, "kit": hostile})
        assert opened_as(forged).code in {"proof_refused", "kit_refused"}
    assert isinstance(refusal(lambda: kit.open_kit(tmp_path / "nowhere")), NotFoundError)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", ConfigError),
        ("site = 5", ConfigError),
        ('[[site]]\nname = "../evil"', ConfigError),
        ('[[site]]\nname = "a"\n[[site]]\nname = "a"', ConflictError),
        ('coordinator = "http://fl.example.org"\n[[site]]\nname = "a"', AccessError),
        ('authority = "missing.pem"\n[[site]]\nname = "a"', ConfigError),
        ('[[site]]\nname = "a"\nhours = 1e9', ConfigError),
        ('[[site]]\nname = "a"\norganisation = "nowhere"', NotFoundError),
        ("[" * 5000, ConfigError),
    ],
)
def test_a_list_of_sites_that_is_wrong_makes_no_kit(
    text: str, kind: type[FoedusError], door: Door, tmp_path: Path
) -> None:
    assert isinstance(refusal(lambda: provisioned(door, tmp_path, text)), kind)
    assert not [*tmp_path.rglob("*.kit")]


def node(door: Door, home: Path) -> Path:
    token = door.ask("POST", "/join-tokens").json()["token"]
    owner.init(home, f"node-{secrets.token_hex(4)}")
    owner.join(home, door.url, token)
    return home


def test_a_rotation_that_was_killed_is_finished_by_the_next(door: Door, tmp_path: Path) -> None:
    """Whether it was killed before the coordinator heard of the new key, or before it was put in place here."""
    home = node(door, tmp_path / "node")
    first = (home / KEY).read_text()
    rotate_key(home, overlap=0.0)
    second = (home / KEY).read_text()
    assert first != second and not (home / NEXT).exists()
    (home / KEY).write_text(first)
    (home / NEXT).write_text(second)
    rotate_key(home)
    assert (home / KEY).read_text() == second
    (home / NEXT).write_text(first)
    assert refusal(lambda: rotate_key(home)).code == "key_taken"
    (home / NEXT).unlink()
    rotate_key(home)
    assert (home / KEY).read_text() not in (first, second)
    assert stat.S_IMODE((home / KEY).stat().st_mode) == 0o600
    with Vault(home) as vault:
        assert "key_rotated" in [entry.event for entry in vault.audit()]


def test_the_key_to_try_next_is_one_that_was_not_refused(tmp_path: Path) -> None:
    (tmp_path / KEY).write_text("00" * 32 + "\n")
    (tmp_path / NEXT).write_text("11" * 32)
    assert other_key(tmp_path, set()) == bytes(32)
    assert other_key(tmp_path, {bytes(32)}) == b"\x11" * 32
    assert other_key(tmp_path, {bytes(32), b"\x11" * 32}) is None


def test_a_certificate_is_asked_for_signed_and_shown(door: Door, tmp_path: Path) -> None:
    home, authority = node(door, tmp_path / "node"), Authority(tmp_path / "ca", "clients")
    request = request_certificate(home, "clinic")
    assert "PRIVATE" not in request
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(authority.answer(request))
    install_certificate(home, certificate)
    shown = trust_of(home)
    assert shown.certificate and shown.key and stat.S_IMODE(shown.key.stat().st_mode) == 0o600
    stranger = authority.issue("stranger").certificate
    assert refusal(lambda: install_certificate(home, stranger)).code == "certificate_unusable"
    assert refusal(lambda: install_certificate(home, tmp_path / "none")).code == "certificate_unusable"
    newer = request_certificate(home, "clinic")
    assert trust_of(home) == shown
    certificate.write_bytes(authority.answer(newer))
    install_certificate(home, certificate)
    assert shown.certificate.read_bytes() == certificate.read_bytes()
