"""What a hello changes: which process speaks for a node, the facts that it reports, and whose clients' names are."""

from __future__ import annotations

import logging
import time

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from foedus.coordinator.identities import NodeIdentity, Person
from foedus.coordinator.live import Live
from foedus.coordinator.policy import within
from foedus.domain.errors import ConflictError, NotFoundError
from foedus.store.audit import Act, record
from foedus.store.naming import client_names
from foedus.store.tables import datasets, nodes
from foedus.wire.messages import Hello, Released

log = logging.getLogger("foedus.coordinator")


def greet(tx: Connection, node: NodeIdentity, command: Hello) -> None:
    """From now on the process of this boot speaks for the node, and the one of before does not."""
    row = tx.execute(select(nodes.c.boot, nodes.c.boot_before).where(nodes.c.id == node.id)).one()
    values = {"boot": command.boot, "version": command.version, "last_seen": time.time()}
    facts = command.facts.model_dump(mode="json") if command.facts is not None else None
    if row.boot != command.boot:
        values["boot_before"] = row.boot
    if row.boot_before == command.boot:
        _clashed(tx, node)
    tx.execute(update(nodes).where(nodes.c.id == node.id).values(**values, facts=facts))


def note_clash(live: Live, node: NodeIdentity) -> None:
    """Flag a node for which a process polls whose place another has taken: two live by one key."""
    with live.store.transaction("clash") as tx:
        _clashed(tx, node)


def claim(tx: Connection, node: NodeIdentity, client: str) -> None:
    """Take a client's name for a node that offers it.

    Raises:
        ConflictError: ``client_name_taken`` where it is another's, or stands twice.
    """
    if tx.execute(select(datasets.c.client).where(datasets.c.client == client)).first() is not None:
        raise _taken(client)
    owner = select(client_names.c.node_id).where(client_names.c.client == client)
    if tx.execute(owner).scalar_one_or_none() is None:
        try:
            with tx.begin_nested():
                row = {"client": client, "node_id": node.id, "since": time.time()}
                tx.execute(insert(client_names).values(**row))
        except IntegrityError:
            log.info("two nodes take the name %s at once", client)
    if tx.execute(owner).scalar_one_or_none() != node.id:
        raise _taken(client)


def release(tx: Connection, who: Person, client: str) -> Released:
    """Let another node take a name. The node that has it may have it again if it is the first to offer it then.

    Raises:
        NotFoundError: ``client_unknown``, also where the name's node is not theirs to change.
    """
    mine = within(who, "nodes.change", nodes.c.owner_id, nodes.c.org_id)
    query = select(client_names.c.node_id).join(nodes, nodes.c.id == client_names.c.node_id)
    node = tx.execute(query.where(client_names.c.client == client, mine)).scalar_one_or_none()
    if node is None:
        raise NotFoundError(
            "client_unknown",
            f"No node has the client name {client[:64]!a}.",
            "",
            "`foedus coordinator nodes` shows the names.",
        )
    tx.execute(delete(client_names).where(client_names.c.client == client))
    tx.execute(delete(datasets).where(datasets.c.client == client))
    record(tx, Act(who.actor, "nodes.release", str(node), who.org, detail={"client": client}))
    return Released(client=client)


def release_all(tx: Connection, node: str) -> None:
    """The names of a node that was revoked are free."""
    tx.execute(delete(client_names).where(client_names.c.node_id == node))


def _clashed(tx: Connection, node: NodeIdentity) -> None:
    tx.execute(update(nodes).where(nodes.c.id == node.id).values(clashes=nodes.c.clashes + 1))
    log.warning("two processes speak for node %s (%s): its key may be in use twice", node.name, node.id)


def _taken(client: str) -> ConflictError:
    return ConflictError(
        "client_name_taken",
        f"The client name {client} belongs to another node, or stands twice.",
        "Client names are unique per coordinator: they decide batches and the order of sums.",
        "Rename the dataset: `foedus node data remove`, then `foedus node data add --name OTHER`; or ask an admin.",
    )
