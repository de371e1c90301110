"""The audit log: entries are chained, appended with the act itself, and whatever is changed behind it is found."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, insert, select, text, update

from foedus.store.audit import Act, audit, audit_head, entries, head, record
from foedus.store.unit_of_work import Store
from foedus.wire.audit import GENESIS, AuditEntry, AuditHead, canonical, digest, link, verify

COUNT = 6


@pytest.fixture
def store(database_url: str) -> Store:
    """A database with six entries."""
    store = Store(database_url, migrate=True)
    for number in range(COUNT):
        with store.transaction("t") as tx:
            record(tx, Act("person:us_1", "tokens.create", f"tk_{number}", "org_1", detail={"name": "a"}))
    return store


def read(store: Store, org: str | None = None) -> tuple[AuditEntry, ...]:
    with store.reading() as tx:
        return entries(tx, 0, 1000, org)


def test_i6_a_chain_that_nobody_touched_verifies_from_its_beginning_to_its_head(store: Store) -> None:
    found = read(store)
    with store.reading() as tx:
        at = head(tx)
    verdict = verify(found, witnesses=[at])
    assert (verdict.broken, verdict.entries, verdict.head) == (None, COUNT, at)
    assert (found[0].previous, found[0].seq) == (GENESIS, 1)
    store.close()


def _edit(tx: Connection) -> None:
    body = tx.execute(select(audit.c.body).where(audit.c.seq == 3)).scalar_one()
    tx.execute(update(audit).where(audit.c.seq == 3).values(body=body.replace("tk_2", "tk_9")))


def _forge(tx: Connection) -> None:
    """An edit whose own hash is right again; the next entry does not follow it."""
    row = tx.execute(select(audit).where(audit.c.seq == 3)).one()
    body = row.body.replace("tk_2", "tk_9")
    forged = link(3, row.at, row.previous, digest(body))
    tx.execute(update(audit).where(audit.c.seq == 3).values(body=body, hash=forged))


def _redate(tx: Connection) -> None:
    tx.execute(update(audit).where(audit.c.seq == 3).values(at=audit.c.at + 1))


def _delete(tx: Connection) -> None:
    tx.execute(delete(audit).where(audit.c.seq == 3))


def _reorder(tx: Connection) -> None:
    for old, new in ((3, 100), (4, 3), (100, 4)):
        tx.execute(update(audit).where(audit.c.seq == old).values(seq=new))


def _insert(tx: Connection) -> None:
    row = dict(tx.execute(select(audit).where(audit.c.seq == COUNT)).one()._mapping)
    tx.execute(insert(audit).values(**{**row, "seq": COUNT + 1, "previous": row["hash"]}))


@pytest.mark.parametrize(
    ("attack", "broken"), [(_edit, 3), (_forge, 4), (_redate, 3), (_delete, 3), (_reorder, 3), (_insert, COUNT + 1)]
)
def test_whatever_is_changed_the_first_entry_that_does_not_hold_is_named(
    store: Store, attack: Callable[[Connection], None], broken: int
) -> None:
    with store.transaction("t") as tx:
        attack(tx)
    verdict = verify(read(store))
    store.close()
    assert verdict.broken == broken
    assert verdict.entries == broken - 1 and verdict.why


def test_a_log_that_was_cut_with_its_head_is_found_by_a_witness_alone(store: Store) -> None:
    with store.transaction("t") as tx:
        witness = head(tx)
        row = tx.execute(select(audit).where(audit.c.seq == COUNT - 2)).one()
        tx.execute(delete(audit).where(audit.c.seq > row.seq))
        tx.execute(update(audit_head).values(seq=row.seq, hash=row.hash))
    found = read(store)
    assert verify(found).broken is None
    verdict = verify(found, witnesses=[witness])
    assert (verdict.broken, verdict.entries) == (COUNT - 1, COUNT - 2)
    for number in range(3):
        with store.transaction("t") as tx:
            record(tx, Act("somebody", "else", str(number)))
    verdict = verify(read(store), witnesses=[witness])
    store.close()
    assert verdict.broken == COUNT and "witnessed" in verdict.why


def test_the_bodies_of_other_organisations_are_withheld_and_the_chain_verifies_without_them(store: Store) -> None:
    with store.transaction("t") as tx:
        record(tx, Act("person:us_2", "runs.submit", "run_2", "org_2"))
    found = read(store, "org_2")
    store.close()
    assert [entry.text is None for entry in found] == [True] * COUNT + [False]
    assert verify(found).broken is None
    assert json.loads(str(found[-1].text))["object"] == "run_2"


def test_the_same_act_twice_has_two_digests_so_that_withheld_bodies_cannot_be_guessed(store: Store) -> None:
    for _ in range(2):
        with store.transaction("t") as tx:
            record(tx, Act("person:us_1", "tokens.create", "tk_1", "org_1"))
    bodies = [entry.body for entry in read(store)]
    store.close()
    assert len(set(bodies)) == len(bodies)


def test_an_entry_stays_only_if_the_act_does(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.transaction("t") as tx:
        record(tx, Act("person:us_1", "users.create", "us_9"))
        raise ZeroDivisionError
    assert len(read(store)) == COUNT
    store.close()


def test_many_writers_append_one_chain(store: Store) -> None:
    def write(number: int) -> None:
        for _ in range(5):
            with store.transaction("t") as tx:
                record(tx, Act(f"person:us_{number}", "tokens.create"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read(store)
    with store.reading() as tx:
        assert tx.execute(text("SELECT count(*) FROM audit")).scalar_one() == len(found) == COUNT + 30
    assert verify(found).broken is None
    store.close()


def test_long_texts_are_cut(store: Store) -> None:
    with store.transaction("t") as tx:
        record(tx, Act("a" * 9000, "request.refuse", "b" * 9000, detail={"why": "c" * 9000}))
    assert len(str(read(store)[-1].text)) < 2000
    store.close()


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=9) | st.integers() | st.booleans(), max_size=5))
def test_canonical_text_is_ascii_and_says_the_same(value: dict[str, object]) -> None:
    written = canonical(value)
    assert written.isascii() and json.loads(written) == value
    assert canonical(dict(reversed(value.items()))) == written


def test_a_chain_is_followed_from_a_head_in_its_middle(store: Store) -> None:
    found = read(store)
    store.close()
    start = AuditHead(seq=3, hash=found[2].hash)
    assert verify(found[3:], start).broken is None
    assert verify(found[3:], AuditHead(seq=3, hash=found[1].hash)).broken == 4
