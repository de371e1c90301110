"""What an admin asks for goes to the right place, and comes back as messages."""

from __future__ import annotations

import pytest

from foedus.client import admin
from foedus.client.http import Connection
from foedus.domain.errors import ConfigError, UsageError
from foedus.wire.people import ChangeUser
from tests.unit.client.peer import Answer, Peer

NODE = b'{"id": "n_1", "name": "clinic-a", "status": "revoked", "last_seen": 1.5, "version": "0", "datasets": []}'


def test_a_join_token_is_made(peer: Peer, connection: Connection) -> None:
    token = b'{"token": "fdj_0123456789abcdef", "expires_at": "2030-01-01T00:00:00Z"}'
    peer.answers["POST /join-tokens"] = Answer(body=token)
    assert admin.create_join_token(connection).token == "fdj_0123456789abcdef"


TOKEN = (
    b'{"id": "tk_1", "name": "ci", "user": "ada", "roles": ["researcher"], "actions": ["runs.read"],'
    b' "expires_at": "2030-01-01T00:00:00Z", "token": "fdp_0123456789abcdef"}'
)
USER = (
    b'{"id": "us_1", "name": "ada", "org": "clinic", "org_id": "org_1", "roles": ["researcher"], "disabled": false,'
    b' "created_at": "2030-01-01T00:00:00Z"}'
)


def test_a_person_gets_a_token(peer: Peer, connection: Connection) -> None:
    peer.answers = {"POST /tokens": Answer(body=TOKEN), "POST /tokens/tk_1/rotate": Answer(body=TOKEN)}
    assert admin.create_token(connection, "ci", "us_1", ["runs.read"], 30).token == "fdp_0123456789abcdef"
    assert peer.log[0].json() == {"name": "ci", "user": "us_1", "actions": ["runs.read"], "days": 30}
    assert admin.rotate_token(connection, "tk_1", 5.0).id == "tk_1"
    assert peer.log[1].json() == {"overlap": 5.0, "days": 90.0}


def test_users_are_made_and_changed(peer: Peer, connection: Connection) -> None:
    peer.answers = {"POST /users": Answer(body=USER), "PATCH /users/us_1": Answer(body=USER)}
    assert admin.create_user(connection, "ada", ["researcher"], "org_1").org == "clinic"
    assert peer.log[0].json() == {"name": "ada", "org": "org_1", "roles": ["researcher"]}
    assert admin.change_user(connection, "us_1", ChangeUser(disabled=True)).id == "us_1"
    assert peer.log[1].json() == {"disabled": True}


def test_a_name_that_is_none_is_refused_before_it_is_sent(peer: Peer, connection: Connection) -> None:
    with pytest.raises(ConfigError):
        admin.create_token(connection, "../x")
    assert not peer.log


def test_nodes_are_listed_and_revoked(peer: Peer, connection: Connection) -> None:
    peer.answers = {
        "GET /nodes": Answer(body=b'{"nodes": [' + NODE + b"]}"),
        "POST /nodes/n_1/revoke": Answer(body=NODE),
    }
    assert [node.name for node in admin.list_nodes(connection)] == ["clinic-a"]
    assert admin.revoke_node(connection, "n_1").status == "revoked"


def test_what_is_no_id_of_a_node_is_refused(peer: Peer, connection: Connection) -> None:
    with pytest.raises(UsageError):
        admin.revoke_node(connection, "../tokens")
    assert not peer.log
