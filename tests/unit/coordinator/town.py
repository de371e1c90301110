"""A coordinator with two organisations beside its own, and somebody of every role who owns one of everything."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import insert, select

from foedus.coordinator import submitting
from foedus.coordinator.blob_rows import own_blob
from foedus.coordinator.identities import NodeIdentity, Person, new_id
from foedus.coordinator.tokens import Grant, authenticate, issue
from foedus.domain.codec import encode_tensors
from foedus.domain.plan import PlanBundle
from foedus.domain.tree import names_of_dtypes
from foedus.store.naming import client_names
from foedus.store.people import users
from foedus.store.tables import datasets, nodes, uploads
from foedus.wire.messages import Manifest, SubmitRun, TensorView
from foedus.wire.signing import Signer
from tests.unit.coordinator.door import Door, opened
from tests.unit.coordinator.scene import initial_model, spec

ROLES = ("operator", "admin", "researcher", "node_owner", "auditor")


@dataclass(frozen=True)
class Owner:
    """Somebody, the token that they hold, and what is theirs: by the name that a path has for it."""

    person: Person
    token: str
    owned: Mapping[str, str]


@dataclass(frozen=True)
class Town:
    """Who there is. ``colleagues``: of the organisation of each role's person; ``stranger``: of another one."""

    door: Door
    people: Mapping[str, Owner]
    colleagues: Mapping[str, Owner]
    stranger: Owner
    node: Signer

    def other(self, role: str, whose: str) -> Owner:
        """Whose objects a person of this role asks for: ``own``, a colleague's (``org``), ``foreign``."""
        return {"own": self.people[role], "org": self.colleagues[role], "foreign": self.stranger}[whose]


@contextmanager
def town(folder: Path) -> Iterator[Town]:
    """A coordinator, and its people."""
    with opened(folder) as door:
        clinic, other = (door.write("/orgs", {"name": name})["id"] for name in ("clinic", "other"))
        people = {"operator": owner(door, door.token)}
        for role in ROLES[1:]:
            people[role] = owner(door, door.user(f"the-{role}", role, org=clinic))
        everything = ("admin", "researcher", "node_owner", "auditor")
        near = owner(door, door.user("near", *everything, org=clinic))
        home = owner(door, door.user("at-home", *everything))
        colleagues = {role: home if role == "operator" else near for role in ROLES}
        stranger = owner(door, door.user("stranger", *everything, org=other))
        yield Town(door, people, colleagues, stranger, door.enrol("signer"))


def owner(door: Door, token: str) -> Owner:
    """Give somebody one of everything."""
    with door.parts.store.reading() as tx:
        person = authenticate(tx, token)
    return Owner(person, token, belongings(door, person))


def belongings(door: Door, person: Person) -> dict[str, str]:
    """A run with a plan of its own, a node with a dataset, a token, a blob and an upload; the user themselves."""
    live, node = door.parts.live, new_id("nd")
    client = f"c-{node}"
    plan = PlanBundle({"plan.py": f"model = loss = None  # {person.id}\n".encode()}, "plan.py")
    command = submission(plan, live.artifacts.put_bytes(plan.to_bytes()), live.artifacts.put_bytes(model()))
    prepared = submitting.prepare(live.artifacts, command)
    blob, key = live.artifacts.put_bytes(person.id.encode()), {"owner_id": person.id, "org_id": person.org}
    upload = {"id": new_id("up"), "digest": "0" * 64, "size": 9, "actor": person.actor, "created_at": time.time()}
    with live.store.transaction("belongings") as tx:
        own_blob(tx, live.artifacts, blob, person.actor)
        run = submitting.submit(tx, prepared, person).id
        row = {"id": node, "name": client, "public_key": node, "status": "active", "joined_at": 0.0, **key}
        tx.execute(insert(nodes).values(**row))
        tx.execute(insert(datasets).values(client=client, node_id=node, tags=[], examples=1))
        tx.execute(insert(client_names).values(client=client, node_id=node, since=0.0))
        tx.execute(insert(uploads).values(**upload, completed=0))
        token = issue(tx, "test", Grant(person.id, "spare", 3600.0)).id
    owned = {"run": run, "node": node, "client": client, "token": token, "user": person.id, "digest": command.plan_blob}
    return {**owned, "upload": upload["id"], "brought": blob, "org": person.org}  # type: ignore[dict-item]


def model() -> bytes:
    """The initial model of every run."""
    return encode_tensors(initial_model())


def submission(plan: PlanBundle, plan_blob: str, parameters: str) -> SubmitRun:
    """A draft of a run."""
    tensors = tuple(
        TensorView(name=n, shape=tuple(t.shape), dtype=names_of_dtypes[t.dtype], kind=kind, module="Linear")  # type: ignore[arg-type]
        for (n, t), kind in zip(initial_model().items(), ("parameter", "parameter", "buffer"), strict=True)
    )
    made = SubmitRun(
        spec=spec(1, 1, test={"ratio": 0.0}),
        plan=plan.digest,
        plan_blob=plan_blob,
        parameters=parameters,
        manifest=Manifest(tensors=tensors, metrics={"loss": "min"}),
    )
    return made.model_copy(update={"draft": True})


def node_of(found: Town) -> NodeIdentity:
    """The node that has a key here."""
    with found.door.parts.store.reading() as tx:
        row = tx.execute(select(nodes).where(nodes.c.id == found.node.key_id)).one()
    return NodeIdentity(row.id, row.name, row.organisation, row.org_id)


def roles_in_table(found: Owner, door: Door) -> list[str]:
    """The roles that the database has of somebody."""
    with door.parts.store.reading() as tx:
        return list(tx.execute(select(users.c.roles).where(users.c.id == found.person.id)).scalar_one())


def narrowed(found: Owner, door: Door, *actions: str) -> Owner:
    """The same person, with a token that is narrowed to these actions."""
    secret = door.write("/tokens", {"name": "narrow", "actions": actions}, token=found.token)["token"]
    return replace(found, token=str(secret))
