"""Which nodes may come in: join tokens are used once, names are unique, revocation bites at once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update

from foedus.coordinator.identities import Person
from foedus.coordinator.joining import create_join_token, join_node
from foedus.coordinator.keys import identify, known
from foedus.coordinator.nodes import (
    hello,
    list_nodes,
    revoke_node,
)
from foedus.domain.errors import AccessError, ConflictError, FoedusError, NotFoundError
from foedus.store.tables import approvals, assignments, join_tokens
from foedus.store.unit_of_work import Store
from foedus.wire.messages import DatasetView, Hello, JoinNode, PlanApproval
from foedus.wire.public_keys import generate_key, public_key
from foedus.wire.trust import NewJoinToken

ADMIN = Person("us_1", "admin", "org_1", frozenset({"admin", "operator"}))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty database."""
    return Store(f"sqlite:///{tmp_path / 'a.db'}")


def _join(store: Store, name: str, key: str | None = None, token: str | None = None) -> str:
    with store.transaction("join") as tx:
        token = token or create_join_token(tx, ADMIN, NewJoinToken()).token
        return join_node(tx, JoinNode(token=token, name=name, public_key=key or public_key(generate_key()))).node


def _hello(store: Store, node: str, *clients: str, boot: str = "boot-0001") -> None:
    datasets = tuple(DatasetView(client=client, tags=("digits",), examples=10) for client in clients)
    with store.transaction("hello") as tx:
        hello(tx, identify(tx, node), Hello(boot=boot, version="0", datasets=datasets))


def test_a_join_token_works_once(store: Store) -> None:
    with store.transaction("t") as tx:
        token = create_join_token(tx, ADMIN, NewJoinToken()).token
        assert token not in str(tx.execute(select(join_tokens)).all())
    _join(store, "clinic-a", token=token)
    with pytest.raises(AccessError) as refusal:
        _join(store, "clinic-b", token=token)
    assert refusal.value.code == "join_token_refused"


def test_an_expired_or_unknown_join_token_is_refused(store: Store) -> None:
    with store.transaction("t") as tx:
        token = create_join_token(tx, ADMIN, NewJoinToken()).token
        tx.execute(update(join_tokens).values(expires_at=1.0))
    for secret in (token, "fdj_" + "0" * 48):
        with pytest.raises(AccessError):
            _join(store, "clinic-a", token=secret)


def test_of_eight_that_race_for_a_join_token_one_wins(store: Store) -> None:
    with store.transaction("t") as tx:
        token = create_join_token(tx, ADMIN, NewJoinToken()).token
    outcomes: list[str] = []

    def race(number: int) -> None:
        try:
            outcomes.append(_join(store, f"clinic-{number}", token=token))
        except FoedusError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[:7] == ["join_token_refused"] * 7
    with store.reading() as tx:
        assert len(list_nodes(tx, ADMIN).nodes) == 1


def test_a_lost_reply_to_join_may_be_asked_for_again(store: Store) -> None:
    key = public_key(generate_key())
    with store.transaction("t") as tx:
        token = create_join_token(tx, ADMIN, NewJoinToken()).token
    assert _join(store, "clinic-a", key, token) == _join(store, "clinic-a", key, token)


def test_a_taken_name_is_refused_and_the_token_is_not_used_up(store: Store) -> None:
    _join(store, "clinic-a")
    with store.transaction("t") as tx:
        token = create_join_token(tx, ADMIN, NewJoinToken()).token
    with pytest.raises(ConflictError) as refusal:
        _join(store, "clinic-a", token=token)
    assert refusal.value.code == "node_name_taken"
    _join(store, "clinic-b", token=token)


def test_a_malformed_key_is_refused(store: Store) -> None:
    with pytest.raises(AccessError) as refusal:
        _join(store, "clinic-a", "A" * 44)
    assert refusal.value.code == "key_malformed"


def test_hello_replaces_what_was_known(store: Store) -> None:
    node = _join(store, "a")
    digest = "a" * 64
    with store.transaction("hello") as tx:
        approved = (PlanApproval(digest=digest, state="approved"),)
        hello(tx, identify(tx, node), Hello(boot="boot-0001", version="1", approvals=approved))
        hello(tx, identify(tx, node), Hello(boot="boot-0001", version="2"))
        (view,) = list_nodes(tx, ADMIN).nodes
    assert (view.version, view.datasets) == ("2", ())


def _lease(store: Store, node: str, boot: str) -> None:
    row = {"id": "as_1", "run_id": "r", "round": 1, "phase": "train", "attempt": 0, "client": "c0000", "node_id": node}
    with store.transaction("lease") as tx:
        tx.execute(insert(assignments).values(**row, status="leased", token=3, lease_until=9e9, boot=boot))


def _status(store: Store) -> tuple[str, int]:
    with store.reading() as tx:
        row = tx.execute(select(assignments.c.status, assignments.c.token)).one()
        return str(row.status), int(row.token)


def test_a_new_boot_frees_the_leases_of_the_old_one_and_keeps_the_token(store: Store) -> None:
    node = _join(store, "a")
    _lease(store, node, "boot-0001")
    _hello(store, node, "c0000", boot="boot-0001")
    assert _status(store) == ("leased", 3)
    _hello(store, node, "c0000", boot="boot-0002")
    assert _status(store) == ("open", 3)


def test_a_revoked_node_is_unknown_at_once_and_the_names_of_its_datasets_are_free(store: Store) -> None:
    node, other = _join(store, "a"), _join(store, "b")
    _hello(store, node, "c0000")
    with store.transaction("revoke") as tx:
        assert revoke_node(tx, ADMIN, node).status == "revoked"
        assert known(tx, node, 0.0) is None
        with pytest.raises(AccessError) as refusal:
            identify(tx, node)
        with pytest.raises(NotFoundError):
            revoke_node(tx, ADMIN, "nd_unknown")
    assert refusal.value.code == "key_unknown"
    _hello(store, other, "c0000")


def test_a_key_joins_once_and_never_after_it_was_revoked(store: Store) -> None:
    key = public_key(generate_key())
    node = _join(store, "a", key)
    for name in ("b", "a"):
        with store.transaction("t") as tx:
            if name == "a":
                revoke_node(tx, ADMIN, node)
        with pytest.raises(ConflictError) as refusal:
            _join(store, name, key)
        assert refusal.value.code == "key_taken"


def test_of_two_answers_on_one_plan_the_last_counts(store: Store) -> None:
    node, digest = _join(store, "a"), "a" * 64
    said = tuple(PlanApproval(digest=digest, state=state) for state in ("pending", "rejected"))
    with store.transaction("hello") as tx:
        hello(tx, identify(tx, node), Hello(boot="boot-0001", version="1", approvals=said))
        assert tx.execute(select(approvals.c.state)).scalars().all() == ["rejected"]
