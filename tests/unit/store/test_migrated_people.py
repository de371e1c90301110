"""The tokens of the first release become users of the operating organisation, and stay valid."""

from __future__ import annotations

from sqlalchemy import create_engine, insert, select

from foedus.coordinator.identities import Person
from foedus.coordinator.tokens import authenticate, first_admin
from foedus.store.migrations.versions import r0001_released as released
from foedus.store.people import organisations
from foedus.store.tables import runs
from foedus.store.unit_of_work import Store
from foedus.wire.signing import hash_secret, new_secret


def test_tokens_of_the_release_speak_for_users_and_runs_have_owners(tmp_path: object) -> None:
    url, secrets = f"sqlite:///{tmp_path}/db", {name: new_secret("fdp") for name in ("admin", "ada")}
    engine = create_engine(url)
    with engine.begin() as old:
        released.metadata.create_all(old)
        old.execute(insert(released.schema).values(version=1))
        for at, (name, secret) in enumerate(secrets.items()):
            row = {"hash": hash_secret(secret), "name": name, "role": "admin" if name == "admin" else "researcher"}
            old.execute(insert(released.api_tokens).values(**row, created_at=float(at)))
        run = {column.name: "{}" if column.type.python_type is dict else "ada" for column in released.runs.columns}
        run |= {"spec": {}, "manifest": {}, "data": {}, "parts": {}, "created_at": 1.0, "updated_at": 1.0, "epoch": 0}
        old.execute(insert(released.runs).values(**run))
    engine.dispose()
    store = Store(url, migrate=True)
    with store.transaction("t") as tx:
        assert first_admin(tx) is None
        people: dict[str, Person] = {name: authenticate(tx, secret) for name, secret in secrets.items()}
        (org,) = tx.execute(select(organisations)).all()
        row = tx.execute(select(runs.c.owner_id, runs.c.org_id)).one()
    store.close()
    assert people["admin"].roles == {"admin", "operator"}
    assert people["ada"].roles == {"researcher"}
    assert {person.org for person in people.values()} == {org.id} == {row.org_id}
    assert row.owner_id == people["ada"].id
