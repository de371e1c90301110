"""People and their tokens: narrowed, ended, rotated, revoked; and nobody gets more than they were given."""

from __future__ import annotations

import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from foedus.coordinator.app import ADMIN_TOKEN, open_coordinator
from foedus.coordinator.people import Entrant, enter, user_view
from foedus.coordinator.recovery import recover
from foedus.coordinator.settings import Settings
from foedus.domain.errors import AccessError, FoedusError
from foedus.store.audit import audit, entries
from foedus.store.people import api_tokens, users
from foedus.store.tables import metadata
from foedus.wire.audit import verify
from tests.postgres import usual_database
from tests.unit.coordinator.door import Door, code, opened
from tests.unit.coordinator.town import Town, narrowed, roles_in_table, town


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town(tmp_path_factory.mktemp("coordinator")) as made:
        yield made


def rows(door: Door) -> dict[str, int]:
    """How many rows each table has, but for entries of refusals, of which each kind gets one a minute."""
    with door.parts.store.reading() as tx:
        found = {t.name: tx.execute(select(func.count()).select_from(t)).scalar_one() for t in metadata.sorted_tables}
    return {**found, "audit": found["audit"] - refused(door)}


def refused(door: Door) -> int:
    """How many entries of the audit log tell of refusals."""
    with door.parts.store.reading() as tx:
        bodies = tx.execute(select(audit.c.body)).scalars().all()
    return [json.loads(body)["action"] for body in bodies].count("request.refuse")


def test_the_first_admin_s_token_is_in_a_file_of_its_owner_before_it_is_committed(tmp_path: Path) -> None:
    opened_once = open_coordinator(Settings(tmp_path))
    file = tmp_path / ADMIN_TOKEN
    assert opened_once.admin is not None
    assert file.read_text().strip() == opened_once.admin.token
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with opened_once.context.store.reading() as tx:
        assert opened_once.admin.token not in str(tx.execute(select(api_tokens)).all())
    opened_once.context.store.close()
    assert opened_once.lock is not None
    opened_once.lock.close()


def test_a_start_that_dies_before_its_commit_leaves_a_file_that_the_next_replaces(tmp_path: Path) -> None:
    (tmp_path / ADMIN_TOKEN).write_text("fdp_of_a_start_that_was_killed\n")
    with opened(tmp_path) as door:
        assert (tmp_path / ADMIN_TOKEN).read_text().strip() == door.token
        assert door.ask("GET", "/runs").status_code == 200


def test_who_has_the_folder_gets_a_token_when_every_other_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database := usual_database(tmp_path):  # one that is not in the folder is named where the coordinator's is
        monkeypatch.setenv("FOEDUS_COORDINATOR_DATABASE", database)
    with opened(tmp_path) as door:
        with door.parts.store.transaction("t") as tx:
            tx.execute(update(api_tokens).values(revoked_at=1.0))
            tx.execute(update(users).values(disabled_at=1.0))
        assert code(door.ask("GET", "/runs")) == "token_refused"
        token = recover(tmp_path).token
        assert door.ask("GET", "/users", token=token).status_code == 200
    with pytest.raises(FoedusError) as refusal:
        recover(tmp_path / "nowhere")
    assert refusal.value.code == "coordinator_folder_missing"


def test_a_narrowed_token_may_do_what_it_names_and_nothing_else(found: Town) -> None:
    narrow = narrowed(found.people["researcher"], found.door, "runs.read").token
    assert found.door.ask("GET", "/runs", token=narrow).status_code == 200
    for method, path in (("POST", "/runs"), ("GET", "/nodes"), ("GET", "/tokens")):
        reply = found.door.ask(method, path, token=narrow)
        assert (reply.status_code, code(reply)) == (403, "token_too_narrow")
    assert code(found.door.ask("GET", "/users", token=narrow)) == "role_needed"


def test_nobody_makes_a_token_that_is_wider_than_its_user_or_than_the_token_that_makes_it(found: Town) -> None:
    door, researcher, admin = found.door, found.people["researcher"], found.people["admin"]
    for actions in (["users.create"], ["runs.read", "no.such"]):
        reply = door.ask("POST", "/tokens", token=researcher.token, json={"name": "x", "actions": actions})
        assert (reply.status_code, code(reply)) == (403, "token_too_wide")
    reply = door.ask(
        "POST",
        "/tokens",
        token=admin.token,
        json={"name": "x", "user": researcher.person.id, "actions": ["users.read"]},
    )
    assert code(reply) == "token_too_wide"
    narrow = narrowed(researcher, door, "tokens.create", "tokens.change", "tokens.read").token
    for body in ({"name": "x"}, {"name": "x", "actions": ["runs.read"]}):
        assert code(door.ask("POST", "/tokens", token=narrow, json=body)) == "token_too_wide"
    wide = researcher.owned["token"]
    assert code(door.ask("POST", f"/tokens/{wide}/rotate", token=narrow)) == "token_too_wide"
    made = door.write("/tokens", {"name": "x", "actions": ["tokens.read"]}, token=narrow)
    assert made["actions"] == ["tokens.read"]


def test_a_token_is_rotated_and_the_old_one_is_taken_for_the_overlap(found: Town) -> None:
    door, researcher = found.door, found.people["researcher"]
    old = door.write("/tokens", {"name": "ci", "actions": ["runs.read"]}, token=researcher.token)
    new = door.write(f"/tokens/{old['id']}/rotate", {"overlap": 4.0}, token=researcher.token)
    assert (new["name"], new["actions"], new["id"] != old["id"]) == ("ci", ["runs.read"], True)
    assert door.ask("GET", "/runs", token=old["token"]).status_code == 200
    end = time.monotonic() + 120
    while (reply := door.ask("GET", "/runs", token=old["token"])).status_code == 200:
        assert time.monotonic() < end
    assert (reply.status_code, code(reply)) == (401, "token_expired")
    assert door.ask("GET", "/runs", token=new["token"]).status_code == 200
    assert code(door.ask("POST", f"/tokens/{old['id']}/rotate", token=researcher.token)) == "token_ended"


def test_a_revoked_token_and_a_disabled_user_are_refused_at_once(found: Town) -> None:
    door = found.door
    made = door.write("/tokens", {"name": "gone"}, token=found.people["researcher"].token)
    for _ in range(2):
        reply = door.ask("POST", f"/tokens/{made['id']}/revoke", token=found.people["researcher"].token)
        assert reply.json()["revoked"] is True
    assert code(door.ask("GET", "/runs", token=made["token"])) == "token_refused"
    secret = door.user("leaver", "researcher", org=found.people["admin"].person.org)
    user = next(u["id"] for u in door.ask("GET", "/users").json()["users"] if u["name"] == "leaver")
    change = {"disabled": True}
    assert door.ask("PATCH", f"/users/{user}", token=found.people["admin"].token, json=change).json()["disabled"]
    assert code(door.ask("GET", "/runs", token=secret)) == "token_refused"
    assert door.ask("PATCH", f"/users/{user}", json={"disabled": False}).status_code == 200
    assert door.ask("GET", "/runs", token=secret).status_code == 200


def test_tokens_are_listed_without_secrets_and_say_when_they_were_used(found: Town) -> None:
    door, researcher = found.door, found.people["researcher"]
    made = door.write("/tokens", {"name": "shown"}, token=researcher.token)
    before = {row["id"]: row for row in door.ask("GET", "/tokens", token=researcher.token).json()["tokens"]}
    assert before[made["id"]]["used_at"] is None
    assert door.ask("GET", "/runs", token=made["token"]).status_code == 200
    reply = door.ask("GET", "/tokens", token=researcher.token)
    after = {row["id"]: row for row in reply.json()["tokens"]}
    assert after[made["id"]]["used_at"] is not None
    assert made["token"] not in reply.text and "hash" not in reply.text


def test_d13_a_model_is_its_author_s(found: Town) -> None:
    """Read, deleted or downloaded by nobody else; a colleague without a role over it is nobody else's friend either."""
    door, author = found.door, found.people["researcher"]
    run, blob, brought = (author.owned[name] for name in ("run", "digest", "brought"))
    models = door.ask("GET", f"/runs/{run}/models", token=author.token).json()["models"]
    for token in (found.stranger.token, door.user("colleague", "researcher", org=author.person.org), door.token):
        for path in (f"/runs/{run}", f"/runs/{run}/models", f"/runs/{run}/models/0", f"/runs/{run}/rounds"):
            assert code(door.ask("GET", path, token=token)) == "run_unknown"
        assert code(door.ask("POST", f"/runs/{run}/cancel", token=token)) == "run_unknown"
        assert door.ask("DELETE", f"/runs/{run}", token=token).status_code in (404, 405)
        assert code(door.ask("GET", f"/blobs/{blob}", token=token)) == "blob_unknown"
        assert code(door.ask("GET", f"/blobs/{brought}", token=token)) == "blob_unknown"
    assert door.ask("GET", f"/blobs/{models[0]['blob']}", token=author.token).status_code == 200
    assert door.ask("GET", f"/blobs/{brought}", token=author.token).status_code == 200
    for path in ("cancel", "pause"):
        assert door.signed(found.node, "POST", f"/runs/{run}/{path}").status_code == 401
    assert door.ask("GET", f"/runs/{run}", token=author.token).json()["status"] == "draft"


def test_d13_a_run_cannot_be_submitted_with_another_s_blob(found: Town) -> None:
    """Whoever learns a digest gets the bytes by that no more than by asking for them."""
    door, mine, theirs = found.door, found.people["researcher"], found.stranger
    view = door.ask("GET", f"/runs/{theirs.owned['run']}", token=theirs.token).json()
    body = {"spec": view["spec"], "plan": view["plan"], "plan_blob": theirs.owned["digest"]}
    body |= {"parameters": theirs.owned["digest"], "manifest": {"tensors": [_tensor()], "metrics": {}}}
    headers = {"Idempotency-Key": secrets.token_hex(8)}
    reply = door.ask("POST", "/runs", token=mine.token, json=body, headers=headers)
    assert (reply.status_code, code(reply)) == (404, "blob_unknown")


def _tensor() -> dict[str, Any]:
    return {"name": "w", "shape": [1], "dtype": "F32", "kind": "parameter", "module": "Linear"}


@pytest.mark.parametrize("more", ["roles", "org", "org_id", "disabled", "id", "approved", "balance", "kind", "hash"])
def test_case_52_a_field_that_is_not_the_message_s_is_refused_and_gives_nothing(more: str, found: Town) -> None:
    door, researcher = found.door, found.people["researcher"]
    value: Any = ["admin"] if more == "roles" else True
    bodies = {
        "/tokens": {"name": "x", more: value},
        f"/tokens/{researcher.owned['token']}/rotate": {more: value},
        "/join-tokens": {more: value},
    }
    before, audited = rows(door), roles_in_table(researcher, door)
    for path, body in bodies.items():
        token = found.people["node_owner"].token if path == "/join-tokens" else researcher.token
        reply = door.ask("POST", path, token=token, json=body)
        assert (reply.status_code, code(reply)) == (400, "message_malformed"), (path, more)
    for body in ({"name": "new", more: value}, {"owner_id": researcher.person.id}):
        reply = door.ask("PATCH", f"/users/{researcher.person.id}", token=found.people["admin"].token, json=body)
        assert (reply.status_code, code(reply)) == (400, "message_malformed")
    assert code(door.ask("PATCH", f"/users/{researcher.person.id}", token=researcher.token, json={})) == "role_needed"
    assert rows(door) == before and roles_in_table(researcher, door) == audited == ["researcher"]


def test_case_52_an_admin_gives_roles_in_their_organisation_alone(found: Town) -> None:
    door, admin = found.door, found.people["admin"]
    headers = {"Idempotency-Key": secrets.token_hex(8)}
    body = {"name": "mole", "roles": ["admin"], "org": found.stranger.person.org}
    assert code(door.ask("POST", "/users", token=admin.token, json=body, headers=headers)) == "org_unknown"
    for user in (found.stranger.person.id, found.people["operator"].person.id, "us_0000"):
        reply = door.ask("PATCH", f"/users/{user}", token=admin.token, json={"roles": ["auditor"]})
        assert code(reply) == "user_unknown"
    body = {"name": "boss", "roles": ["operator"]}
    assert code(door.ask("POST", "/users", token=door.token, json=body, headers=headers)) == "message_malformed"


SQL = ["' OR 1=1--", "x'; DROP TABLE users;--", "%", "_", '" OR ""="', "\\'; --", "1 UNION SELECT hash FROM api_tokens"]


@pytest.mark.parametrize("text", SQL)
def test_case_42_sql_in_names_ids_and_filters_is_refused_or_taken_literally(text: str, found: Town) -> None:
    door, before = found.door, rows(found.door)
    headers = {"Idempotency-Key": secrets.token_hex(8)}
    for path, body in (
        ("/orgs", {"name": text}),
        ("/users", {"name": text, "roles": ["admin"]}),
        ("/tokens", {"name": text}),
        ("/tokens", {"name": "x", "user": text}),
        ("/tokens", {"name": "x", "actions": [text]}),
        ("/users", {"name": "x", "roles": ["admin"], "org": text}),
        ("/join-tokens", {"name": text + "'"}),
    ):
        reply = door.ask("POST", path, json=body, headers=headers)
        assert (reply.status_code, code(reply)) == (400, "message_malformed"), (path, text)
    for path in ("/runs/{}", "/runs/{}/models", "/nodes/{}/revoke", "/tokens/{}/revoke"):
        method = "POST" if path.endswith("revoke") else "GET"
        quoted = "".join(f"%{byte:02x}" for byte in text.encode())
        assert door.ask(method, path.format(quoted)).status_code == 404, path
    for query in ("after", "limit"):
        assert door.ask("GET", "/audit", params={query: text}).status_code in (400, 422)
    after = rows(door)
    assert {name: count for name, count in after.items() if name not in ("audit", "idempotency")} == {
        name: count for name, count in before.items() if name not in ("audit", "idempotency")
    }


def test_case_42_a_name_with_wildcards_from_a_login_is_literal(found: Town) -> None:
    with found.door.parts.store.transaction("t") as tx:
        first = enter(tx, Entrant("https://op.example", "s-1", "50_off", "", ()))
        other = enter(tx, Entrant("https://op.example", "s-2", "50xoff", "", ()))
        third = enter(tx, Entrant("https://op.example", "s-3", "50_off", "", ()))
        assert [user_view(tx, user).name for user in (first, other, third)] == ["50_off", "50xoff", "50_off-2"]


def test_a_login_is_the_user_of_its_subject_and_never_one_that_has_its_name(found: Town) -> None:
    with found.door.parts.store.transaction("t") as tx:
        mallory = enter(tx, Entrant("https://op.example", "s-9", "admin", "clinic", ("researcher",)))
        view = user_view(tx, mallory)
        assert (view.name, view.org, view.roles) == ("admin-2", "clinic", ("researcher",))
        assert enter(tx, Entrant("https://op.example", "s-9", "renamed", "clinic", ("auditor",))) == mallory
        assert user_view(tx, mallory).roles == ("auditor",)
        assert enter(tx, Entrant("https://other.example", "s-9", "admin", "", ())) != mallory
        tx.execute(update(users).where(users.c.id == mallory).values(disabled_at=1.0))
        with pytest.raises(AccessError) as refusal:
            enter(tx, Entrant("https://op.example", "s-9", "admin", "clinic", ("admin",)))
    assert refusal.value.code == "login_refused"


def test_case_53_a_failed_authentication_changes_nothing_but_the_record_of_it(found: Town) -> None:
    door, before = found.door, rows(found.door)
    narrow = narrowed(found.people["researcher"], door, "runs.read").token
    before = rows(door)
    wrong = ("fdp_" + "0" * 48, "x", "fdp_" + "'" * 48)
    calls: list[tuple[str, str, Any]] = [
        ("POST", "/orgs", {"name": "evil"}),
        ("POST", "/users", {"name": "evil", "roles": ["admin"]}),
        ("POST", "/tokens", {"name": "evil"}),
        ("POST", "/join-tokens", None),
        ("POST", "/runs", {}),
        ("PUT", f"/blobs/{'0' * 64}", None),
        ("POST", "/uploads", {"digest": "0" * 64, "size": 1}),
        ("POST", f"/nodes/{found.people['node_owner'].owned['node']}/revoke", None),
        ("PATCH", f"/users/{found.people['researcher'].person.id}", {"roles": ["admin"]}),
    ]
    for method, path, body in calls:
        for secret in wrong:
            headers = {"Authorization": f"Bearer {secret}", "Idempotency-Key": secrets.token_hex(8)}
            content = b"" if body is None else json.dumps(body).encode()
            reply = door.client.request(method, door.url + "/api/v1" + path, headers=headers, content=content)
            assert reply.status_code in (401, 429), (path, secret)
        assert door.ask(method, path, token=narrow, json=body).status_code == 403
    unsigned = door.client.post(door.url + "/api/v1/node/hello", content=b"{}")
    assert unsigned.status_code == 401
    after = rows(door)
    changed = {name for name in after if after[name] != before[name]}
    assert changed <= {"audit"}, changed


def test_refusals_stand_in_the_audit_log_and_are_bounded(tmp_path: Path) -> None:
    with opened(tmp_path) as door:
        before = refused(door)
        for _ in range(30):
            assert door.ask("GET", "/runs", token="fdp_" + "0" * 48).status_code == 401
        assert refused(door) == before + 1
        with door.parts.store.reading() as tx:
            last = tx.execute(select(audit.c.body).order_by(audit.c.seq.desc())).scalars().first()
        said = json.loads(str(last))
        assert (said["actor"], said["action"], said["outcome"]) == ("anyone", "request.refuse", "token_refused")
        assert said["object"] == "GET /api/v1/runs"


def test_case_46_line_breaks_cannot_forge_a_line_and_secrets_are_in_no_log_and_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    canary = "fdp_" + "c0ffee" * 8
    with opened(tmp_path) as door, caplog.at_level("DEBUG"):
        node, replies = door.enrol("clinic-a"), []
        for value in ("x\r\nFORGED", "x%0d%0aFORGED", "x\u2028FORGED", "\x1b[2JFORGED"):
            quoted = "".join(f"%{byte:02x}" for byte in value.encode())
            replies += [door.ask("GET", f"/runs/{quoted}"), door.ask("GET", f"/blobs/{quoted}")]
            replies.append(door.ask("POST", "/tokens", json={"name": value}))
            header = "".join(letter for letter in value if letter >= " ").encode()  # HTTP itself refuses the others
            replies.append(door.ask("GET", "/runs", headers={"X-Request-Id": header}))
        raw = f"GET /api/v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {canary}\r\n\r\n".encode()
        door.raw(raw)
        replies.append(door.ask("GET", "/runs", token=canary))
        replies.append(door.ask("POST", "/tokens", token=canary, json={"name": canary}))
        made = door.write("/tokens", {"name": "kept"})["token"]
        joined = door.ask("POST", "/join-tokens").json()["token"]
        body = json.dumps({"token": canary, "name": "n", "public_key": "A" * 43 + "="}).encode()
        replies.append(door.signed(node, "POST", "/node/join", body))
        with door.parts.store.reading() as tx:
            found = entries(tx, 0, 1000, None)
        texts = [str(entry.text) for entry in found]
    out = capfd.readouterr()
    logged = [*caplog.messages, out.out, out.err]
    for line in caplog.messages:
        assert "\nFORGED" not in line and "\r" not in line and "\u2028" not in line and "\x1b" not in line
    for secret in (canary, made, joined, door.token):
        assert not [text for text in (*logged, *texts) if secret in text]
        assert not [reply.text for reply in replies if secret in reply.text]
    assert all(text.isprintable() for text in texts)
    assert verify(found).broken is None


def test_what_people_do_stands_in_the_audit_log(tmp_path: Path) -> None:
    with opened(tmp_path) as door:
        org = door.write("/orgs", {"name": "clinic"})["id"]
        door.user("ana", "researcher", org=org)
        door.enrol("clinic-a")
        node = door.ask("GET", "/nodes").json()["nodes"][0]["id"]
        door.ask("POST", f"/nodes/{node}/revoke")
        page = door.ask("GET", "/audit").json()
    acts = [json.loads(entry["text"])["action"] for entry in page["entries"]]
    expected = ["users.create", "tokens.create", "orgs.create", "users.create", "tokens.create"]
    assert acts == [*expected, "nodes.invite", "nodes.join", "nodes.revoke"]
    assert page["head"]["seq"] == len(acts)


def test_an_auditor_reads_their_organisation_s_affairs_and_verifies_the_whole_chain(found: Town) -> None:
    door, auditor = found.door, found.people["auditor"]
    page = door.ask("GET", "/audit", params={"limit": 1000}, token=auditor.token).json()
    bodies = [json.loads(entry["text"]) for entry in page["entries"] if entry["text"] is not None]
    assert {body["org"] for body in bodies} == {auditor.person.org}
    assert len(bodies) < len(page["entries"])
    with door.parts.store.reading() as tx:
        own = entries(tx, 0, 1000, auditor.person.org)
    assert verify(own).broken is None


def test_an_environment_without_a_umask_leaks_nothing(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with opened(tmp_path / "open"):
            assert stat.S_IMODE((tmp_path / "open" / ADMIN_TOKEN).stat().st_mode) == 0o600
    finally:
        os.umask(before)
