"""A node that witnesses its coordinator's audit log notices when entries are changed, cut or replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, select, update

from foedus.cli.node_witness import command
from foedus.client import audit as client_audit
from foedus.client.http import Connection as Person
from foedus.domain.errors import IntegrityError
from foedus.node import owner
from foedus.node.transport import Link
from foedus.node.vault import Vault
from foedus.node.witness import Witnessed, forget, observe, witnessed
from foedus.store.audit import Act, audit, audit_head, head, record
from foedus.wire.audit import GENESIS, AuditHead, digest, link
from foedus.wire.signing import Signer
from tests.unit.coordinator.door import Door, opened


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with opened(tmp_path_factory.mktemp("coordinator")) as made:
        yield made


@pytest.fixture
def home(door: Door, tmp_path: Path) -> Path:
    """A node that has joined."""
    home = tmp_path / "node"
    owner.init(home, f"n-{abs(hash(tmp_path)) % 10**9}")
    owner.join(home, door.url, door.ask("POST", "/join-tokens").json()["token"])
    return home


def act(door: Door, times: int = 3) -> AuditHead:
    """Something happens; returns the head."""
    with door.parts.store.transaction("t") as tx:
        for number in range(times):
            record(tx, Act("somebody", "something", str(number)))
        return head(tx)


def look(home: Path, told: AuditHead, every: float = 0.0) -> Witnessed:
    """A poll has told this head; returns what the node keeps."""

    async def run() -> None:
        with Vault(home) as vault:
            identity = vault.identity()
            assert identity.node and identity.coordinator
            async with Link(identity.coordinator, Signer(identity.node, vault.private_key)) as link:
                await observe(vault, link, told, every)

    asyncio.run(run())
    with Vault(home) as vault:
        kept = witnessed(vault)
    assert kept is not None
    return kept


def rewrite(tx: Connection, start: int) -> AuditHead:
    """Change an entry, and every one after it, so that the chain holds in itself."""
    previous = GENESIS
    for row in tx.execute(select(audit).order_by(audit.c.seq)).all():
        body = row.body.replace("somebody", "nobody") if row.seq >= start else row.body
        found = link(row.seq, row.at, previous, digest(body))
        tx.execute(update(audit).where(audit.c.seq == row.seq).values(body=body, previous=previous, hash=found))
        previous = found
    tx.execute(update(audit_head).values(hash=previous))
    return head(tx)


def test_a_log_that_grows_is_followed_to_its_new_head(door: Door, home: Path) -> None:
    first, second = act(door), act(door)
    assert look(home, first) == look(home, first)
    assert look(home, second, every=3600.0).head == first
    kept = look(home, second)
    assert (kept.head, kept.broken) == (second, "")


def test_a_log_that_was_rewritten_is_flagged_by_the_node_and_by_who_verifies_with_its_witness(
    door: Door, home: Path
) -> None:
    kept = look(home, act(door))
    with door.parts.store.transaction("t") as tx:
        rewrite(tx, kept.head.seq - 1)
    told = act(door)
    found = look(home, told)
    assert found.head == kept.head and f"entry {kept.head.seq + 1}" in found.broken
    with Vault(home) as vault:
        assert "witness_broken" in [line.event for line in vault.audit()]
    with pytest.raises(IntegrityError) as refusal:
        command.main(["--home", str(home)], standalone_mode=False)
    assert refusal.value.code == "audit_broken"
    with Person(door.url, door.token) as person:
        assert client_audit.check(client_audit.read(person), client_audit.head(person)).entries == told.seq
        with pytest.raises(IntegrityError) as broken:
            client_audit.check(client_audit.read(person), None, [kept.head])
    assert broken.value.code == "audit_broken" and f"entry {kept.head.seq}" in broken.value.what
    assert look(home, act(door)).broken == found.broken


def test_a_log_that_was_cut_is_flagged_without_asking_for_more(door: Door, home: Path) -> None:
    kept = look(home, act(door))
    with door.parts.store.transaction("t") as tx:
        row = tx.execute(select(audit).where(audit.c.seq == kept.head.seq - 2)).one()
        tx.execute(delete(audit).where(audit.c.seq > row.seq))
        tx.execute(update(audit_head).values(seq=row.seq, hash=row.hash))
        told = head(tx)
    assert f"entry {kept.head.seq} was witnessed" in look(home, told, every=3600.0).broken


def test_an_owner_who_knows_why_begins_anew(door: Door, home: Path) -> None:
    kept = look(home, act(door))
    assert look(home, AuditHead(seq=kept.head.seq, hash="0" * 64)).broken
    with Vault(home) as vault:
        forget(vault)
        assert witnessed(vault) is None
    assert look(home, act(door)).broken == ""


def test_a_node_sees_the_links_and_not_what_they_say(door: Door, home: Path) -> None:
    act(door)
    with Vault(home) as vault:
        identity = vault.identity()
        signer = Signer(str(identity.node), vault.private_key)
    page = door.signed(signer, "POST", "/node/audit", b'{"after": 0, "limit": 1000}').json()
    assert len(page["entries"]) == page["head"]["seq"]
    assert {entry["text"] for entry in page["entries"]} == {None}


def test_an_export_verifies_without_a_coordinator(door: Door, tmp_path: Path) -> None:
    with Person(door.url, door.token) as person:
        expected, file = client_audit.head(person), tmp_path / "audit.jsonl"
        assert client_audit.export(client_audit.read(person), file) == expected.seq
    assert client_audit.check(client_audit.load(file), expected).entries == expected.seq
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:2], *lines[3:]]))
    with pytest.raises(IntegrityError) as refusal:
        client_audit.check(client_audit.load(file), None)
    assert "entry 3" in refusal.value.what
    file.write_text("{}")
    with pytest.raises(IntegrityError) as refusal:
        client_audit.check(client_audit.load(file), None)
    assert refusal.value.code == "audit_unreadable"
