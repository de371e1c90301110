"""Approval with real coordinator and nodes, also with a coordinator that lies: F1, F2, cases 55 and 57.

The coordinator is made to lie through its own database: it then believes that owners have approved what they have not,
and leases work to their nodes, which is what a coordinator of somebody else's would do.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from foedus.client import runs
from foedus.client.runs import Submission
from foedus.domain.codec import encode_tensors
from foedus.domain.errors import ConflictError
from foedus.domain.plan import PlanBundle
from foedus.engine.prepare import Prepared
from foedus.node.owner import approve, distrust_author, identity, list_plans, reject, trust_author
from foedus.node.scope import Scope
from foedus.node.vault import Vault
from foedus.wire.plan_signature import sign_plan
from foedus.wire.public_keys import public_key
from tests.federation import LocalFederation, start_federation, until
from tests.load import stretched
from tests.plans import DIGITS, prepared

CLIENTS = ("c0000", "c0001", "c0002")
PARTS = {"name": "iid", "clients": 3}
ROOM = {"data": {"name": "digits", "tags": ["digits"], "held_out": 0.2, "partition": PARTS}, "test": {"ratio": 0.0}}
ONE = {"cohort": {"size": 1}}
AUTHOR = bytes(range(32))


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Three nodes; a run asks all of them."""
    folder = tmp_path_factory.mktemp("approval")
    with start_federation(folder, ready(folder)) as running:
        until("all nodes have greeted", lambda: count(running, "SELECT count(*) FROM datasets") == 3)
        yield running


def ready(folder: Path, plan: str = DIGITS, **changes: Any) -> Prepared:
    return prepared(folder, plan, **{"cohort": {"size": 3}, "rounds": 1, **ROOM, **changes})


def send(federation: LocalFederation, run: Prepared, bundle: PlanBundle | None = None, **more: Any) -> str:
    submission = Submission(run.spec, bundle or run.bundle, encode_tensors(run.model), run.manifest)
    with federation.connection() as connection:
        return runs.submit(connection, Submission(**{**vars(submission), **more})).id


def cancel(federation: LocalFederation, run: str) -> None:
    """End a run, unless it has failed by itself meanwhile."""
    with federation.connection() as connection, suppress(ConflictError):
        runs.cancel(connection, run)


def database(federation: LocalFederation) -> sqlite3.Connection:
    path = next((federation.folder / "coordinator").glob("*.db"))
    return sqlite3.connect(path, timeout=30, isolation_level=None)


def count(federation: LocalFederation, query: str) -> int:
    with closing(database(federation)) as db:
        return int(db.execute(query).fetchone()[0])


def lie(federation: LocalFederation, digest: str) -> None:
    """Have the coordinator believe that every owner has approved this."""
    with closing(database(federation)) as db:
        for client in CLIENTS:
            node = identity(federation.home(client)).node
            db.execute(
                "INSERT OR REPLACE INTO approvals (node_id, digest, state, note) VALUES (?, ?, 'approved', '')",
                (node, digest),
            )


def refusals(federation: LocalFederation, run: str) -> dict[str, dict[str, Any]]:
    """What the nodes said, when all of them have: each node's receipt in the coordinator's database."""
    query = "SELECT client, receipt, `update` FROM assignments WHERE run_id = ? AND attempt = 0 AND status = 'failed'"

    def told() -> list[Any]:
        with closing(database(federation)) as db:
            return db.execute(query, (run,)).fetchall()

    until(f"three nodes refuse {run}", lambda: len(told()) == 3)
    return {client: {"said": str(receipt), "update": sent} for client, receipt, sent in told()}


def check_refused(federation: LocalFederation, run: str, code: str) -> None:
    """Every node refuses with this code, names itself, and sends nothing else."""
    said = refusals(federation, run)
    cancel(federation, run)
    for client in CLIENTS:
        assert f"{code}: " in said[client]["said"]
        assert f"node-{client}" in said[client]["said"], "a refusal names the node"
        assert said[client]["update"] is None
        assert str(federation.folder) not in said[client]["said"]
        with Vault(federation.home(client)) as vault:  # which is written when the coordinator has been told
            until(
                "it stands in the log",
                lambda v=vault: any(line.subject == run and line.event == "refused" for line in v.audit()),
            )


def seen(federation: LocalFederation, digest: str) -> None:
    for client in CLIENTS:
        home = federation.home(client)
        until(f"{client} sees the plan", lambda h=home: digest in {plan.digest for plan in list_plans(h)})


def decided(federation: LocalFederation, run: str) -> dict[str, tuple[str, str]]:
    """The status query: node → what its owner decided, and the note."""
    return {each.node: (each.approval, each.note) for each in federation.show(run).clients}


def test_f1_a_plan_runs_when_it_is_approved_and_never_before(federation: LocalFederation, tmp_path: Path) -> None:
    """Unknown, pending and rejected plans are refused though the coordinator says that they are approved."""
    run = ready(tmp_path, "# f1\n" + DIGITS)
    digest = run.bundle.digest
    lie(federation, digest)
    check_refused(federation, send(federation, run), "plan_not_registered")
    with closing(database(federation)) as db:
        db.execute("DELETE FROM approvals WHERE digest = ?", (digest,))
    waiting = send(federation, run)
    seen(federation, digest)
    until("pending is told", lambda: {state for state, _ in decided(federation, waiting).values()} == {"pending"})
    cancel(federation, waiting)
    lie(federation, digest)
    check_refused(federation, send(federation, run), "plan_not_approved")
    for client in CLIENTS:
        reject(federation.home(client), digest, "not now")
    no = f"SELECT count(*) FROM approvals WHERE digest = '{digest}' AND state = 'rejected'"
    until("no has arrived", lambda: count(federation, no) == len(CLIENTS))  # else the run begins, on the lie, and fails
    waiting = send(federation, run)
    until("no is told", lambda: set(decided(federation, waiting).values()) == {("rejected", "not now")})
    cancel(federation, waiting)
    lie(federation, digest)
    check_refused(federation, send(federation, run), "plan_not_approved")
    for client in CLIENTS:
        approve(federation.home(client), digest)
    assert federation.finish(send(federation, ready(tmp_path, "# f1\n" + DIGITS, **ONE))).status == "completed"


def test_case_55_another_byte_is_another_plan_whatever_the_coordinator_calls_it(
    federation: LocalFederation, tmp_path: Path
) -> None:
    """H is approved; H' is one byte, a space, a comment, a homoglyph, one more file or another configuration away."""
    run = ready(tmp_path, "# case 55\n" + DIGITS, rounds=2)
    one = ready(tmp_path, "# case 55\n" + DIGITS, rounds=2, **ONE)
    honest = send(federation, one)
    seen(federation, run.bundle.digest)
    approve(federation.home("c0001"), run.bundle.digest)
    whole = federation.finish(honest)
    assert whole.status == "completed"
    text = run.bundle.files["plan.py"]
    changed = {
        "one byte": {"plan.py": text.replace(b"32", b"33", 1)},
        "whitespace": {"plan.py": text + b"\n"},
        "comment": {"plan.py": text + b"# no more\n"},
        "homoglyph": {"plan.py": text.replace(b"case", "c\u0430se".encode(), 1)},
        "extra file": {"plan.py": text, "more.py": b""},
        "lock": {"plan.py": text, "lock": b"torch==1.0\n"},
        "options": {"plan.py": text, "options.json": b"{}"},
    }
    others = [PlanBundle(files, "plan.py") for files in changed.values()]
    assert len({run.bundle.digest, *(other.digest for other in others)}) == 8
    for other in others:
        lie(federation, other.digest)
    for sent in [send(federation, run, other) for other in others]:
        check_refused(federation, sent, "plan_not_registered")
    assert [plan.digest for plan in list_plans(federation.home("c0000"))].count(run.bundle.digest) == 1
    # It says H, and has the bytes of H': what runs is what was checked, so the result is H's.
    evil = PlanBundle(
        {"plan.py": text.replace(b"cross_entropy(output, target)", b"cross_entropy(-output, target)")}, "plan.py"
    )
    assert evil.digest != run.bundle.digest
    draft = runs_draft(federation, one, evil, run.bundle.digest)
    assert federation.finish(draft).model_digest == whole.model_digest
    # It offers H'' with the bytes of H': the node finds that they are not, and rejects it.
    false = "f" * 64
    offered = runs_draft(federation, run, evil, false)
    seen(federation, false)
    for client in CLIENTS:
        (entry,) = (plan for plan in list_plans(federation.home(client)) if plan.digest == false)
        assert (entry.state, entry.note) == ("rejected", "The files offered are not those of this digest.")
    cancel(federation, offered)


def runs_draft(federation: LocalFederation, run: Prepared, bundle: PlanBundle, digest: str) -> str:
    """A run of a plan that the coordinator calls by another's digest."""
    submission = Submission(run.spec, bundle, encode_tensors(run.model), run.manifest)
    with federation.connection() as connection:
        draft = runs.submit(connection, submission, draft=True).id
        with closing(database(federation)) as db:
            db.execute("UPDATE runs SET plan = ? WHERE id = ?", (digest, draft))
        runs.start(connection, draft)
    return draft


def test_f2_a_plan_is_one_however_often_it_is_submitted_and_its_owners_answers_are_listed_by_node(
    federation: LocalFederation, tmp_path: Path
) -> None:
    run = ready(tmp_path, "# f2\n" + DIGITS)
    digest = run.bundle.digest
    first, second = send(federation, run), send(federation, run)
    seen(federation, digest)
    approve(federation.home("c0000"), digest, "read it")
    reject(federation.home("c0002"), digest, "too wide")
    listed = {
        "node-c0000": ("approved", "read it"),
        "node-c0001": ("pending", ""),
        "node-c0002": ("rejected", "too wide"),
    }
    until("all answers are there", lambda: decided(federation, first) == decided(federation, second) == listed)
    for client in CLIENTS:
        assert [plan.digest for plan in list_plans(federation.home(client))].count(digest) == 1
    for run_id in (first, second):
        cancel(federation, run_id)


def test_f2_case_57_an_approval_that_is_revoked_ends_the_work_that_goes_on_and_the_researcher_is_told_by_whom(
    federation: LocalFederation, tmp_path: Path
) -> None:
    slow = DIGITS.replace(
        "    return nn.functional.cross", "    import time; time.sleep(0.3)\n    return nn.functional.cross"
    )
    run = ready(tmp_path, "# case 57\n" + slow, cohort={"size": 3, "minimum": 2}, strategy=long_rounds())
    name = send(federation, run)
    federation.approve_all(run.bundle.digest)
    until("all work", lambda: [c.status for c in federation.show(name).clients].count("working") == 3)
    began = time.monotonic()
    reject(federation.home("c0001"), run.bundle.digest, "a mistake")
    until("it is told", lambda: decided(federation, name)["node-c0001"] == ("rejected", "a mistake"))
    query = "SELECT receipt FROM assignments WHERE run_id = ? AND client = 'c0001' AND status = 'failed'"

    def told() -> str:
        with closing(database(federation)) as db:
            return "".join(str(row) for row in db.execute(query, (name,)))

    until("its work has ended", told)
    assert time.monotonic() - began < stretched(30.0), "case 57 allows half a minute"
    assert "plan_revoked: " in told() and "node-c0001" in told()
    assert [c.status for c in federation.show(name).clients].count("working") == 2, "the others go on"
    cancel(federation, name)
    again = send(federation, ready(tmp_path, "# case 57\n" + slow))
    until("the next run waits", lambda: "node-c0001" in federation.show(again).waiting_for)
    assert "a mistake" in federation.show(again).waiting_for
    cancel(federation, again)


def long_rounds() -> dict[str, Any]:
    return {"name": "fedavg", "local": {"lr": 0.1, "batch_size": 10, "epochs": 50}}


def test_case_58_the_signer_s_key_decides_and_not_what_the_coordinator_says_of_them(
    federation: LocalFederation, tmp_path: Path
) -> None:
    """A trusted author's signature approves, within bounds; a stranger's, and one of another plan, do not."""
    for client in CLIENTS:
        trust_author(federation.home(client), "ada", public_key(AUTHOR), Scope(rounds=1 if client == "c0002" else None))
    run = ready(tmp_path, "# signed\n" + DIGITS, rounds=2, cohort={"size": 3, "minimum": 2})
    name = send(federation, run, signed=sign_plan(AUTHOR, run.bundle.digest))
    assert federation.finish(name).status == "completed"
    with federation.connection() as connection:
        first, second = (record.phases[0] for record in runs.rounds(connection, name).rounds)
    assert not any(receipt.failure for receipt in first.receipts)
    failures = {receipt.client: receipt.failure for receipt in second.receipts if receipt.failure}
    assert list(failures) == ["c0002"]
    assert failures["c0002"].startswith("approval_rounds: ")
    (entry,) = (plan for plan in list_plans(federation.home("c0000")) if plan.digest == run.bundle.digest)
    assert (entry.state, entry.note) == ("approved", "signed by ada")
    of_another = sign_plan(AUTHOR, run.bundle.digest).model_dump_json()
    by_stranger = {
        text: sign_plan(bytes(32), ready(tmp_path, text + DIGITS).bundle.digest) for text in ("# s\n", "# t\n")
    }
    for text, signature in by_stranger.items():
        false = ready(tmp_path, text + DIGITS)
        with federation.connection() as connection:
            submission = Submission(false.spec, false.bundle, encode_tensors(false.model), false.manifest, signature)
            draft = runs.submit(connection, submission, draft=True).id
            with closing(database(federation)) as db:
                db.execute("UPDATE runs SET author = 'ada' WHERE id = ?", (draft,))
                if text == "# t\n":
                    db.execute("UPDATE runs SET plan_signature = ? WHERE id = ?", (of_another, draft))
            runs.start(connection, draft)
        seen(federation, false.bundle.digest)
        for client in CLIENTS:
            (entry,) = (plan for plan in list_plans(federation.home(client)) if plan.digest == false.bundle.digest)
            assert (entry.author, entry.state) == ("ada", "pending")
        cancel(federation, draft)
    for client in CLIENTS:
        distrust_author(federation.home(client), "ada")
    waiting = send(federation, run, signed=sign_plan(AUTHOR, run.bundle.digest))
    until(
        "all have taken it back", lambda: {state for state, _ in decided(federation, waiting).values()} == {"rejected"}
    )
    cancel(federation, waiting)
