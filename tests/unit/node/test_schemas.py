"""What a node tells of its tables to a run that aligns them: names its owner lets leave, and nothing else."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from foedus.data.align import Alignment, schema_of, unite
from foedus.data.files import write_columns
from foedus.data.loading_plan import ColumnTable, LoadingPlan
from foedus.domain.codec import decode
from foedus.domain.errors import ConfigError, DataError, IntegrityError, NotFoundError, TooLargeError
from foedus.domain.tree import flatten
from foedus.local.kinds import begin, load_plan
from foedus.node import drafting
from foedus.node.datasets import Terms, add_dataset, restate
from foedus.node.drafting import schema
from foedus.node.frames import Order
from foedus.node.noticing import Changed, see
from foedus.node.owner import approve, init, list_datasets, reject
from foedus.node.session import session_of
from foedus.node.vault import Dataset, Vault
from foedus.wire.messages import SchemaAsk, SchemaHeard, Work
from tests.unit.client.peer import Answer, Peer, Request, problem, serving
from tests.unit.node.support import OPTIONS, PLAN, SEED, Desk, assignment, bundle_of, children
from tests.unit.node.test_agent import IDLE, Node, living, said, until

STAYS = "age,ward,label\n61,north,yes\n48,south,no\n?,north,yes\n70,south,no\n33,north,no\n52,north,yes\n"
LETS = "[leave]\nschema = true\n"
NUMBERS: dict[str, Any] = {"classes": [], "whole": False}
CLASSES = {
    "age": NUMBERS,
    "label": {"classes": ["no", "yes"], "whole": True},
    "ward": {"classes": ["north", "south"], "whole": True},
}
TABLES = f"""{PLAN}

def model(schema):
    return nn.Linear(len(schema["inputs"]), schema["classes"][schema["label"]])

def prepare(columns, schema):
    import torch
    return torch.stack([columns[name].float() for name in schema["inputs"]], 1), columns[schema["label"]]
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node that offers a table with texts as `clinic`, and has a plan that is approved."""
    with serving(Peer()) as peer, living(tmp_path, peer) as running:
        peer.answers["POST /node/schemas"] = said(SchemaHeard(run="r_1", counted=True))
        (tmp_path / "stays.csv").write_text(STAYS)
        add_dataset(running.home, tmp_path / "stays.csv", "clinic", ["stays"], Terms(texts=True))
        running.know(bundle_of(), "pending")
        approve(running.home, bundle_of().digest)
        until(lambda: running.greetings() and running.approvals() == {bundle_of().digest: "approved"})
        yield running
    assert running.error == []


def rule(node: Node, text: str) -> None:
    """Have the owner's policy say this, and the node notice."""
    greeted, before = len(node.greetings()), node.home / "usual.toml"
    policy = node.home / "policy.toml"
    if not before.exists():
        before.write_text(policy.read_text() if policy.is_file() else "")
    policy.write_text(before.read_text() + text)
    until(lambda: len(node.greetings()) > greeted)


def ask(client: str = "clinic", **changed: str) -> SchemaAsk:
    return SchemaAsk(**{"run": "r_1", "client": client, "plan": bundle_of().digest, "strategy": "fedavg", **changed})


def polled(node: Node) -> None:
    """Wait until it has polled again, and knows that it has told what it told."""
    before = len(node.peer.asked("POST", "/node/poll"))
    until(lambda: len(node.peer.asked("POST", "/node/poll")) > before + 1)


def asked(node: Node, *asks: SchemaAsk) -> list[dict[str, Any]]:
    """What the node says to these."""
    polled(node)
    before = len(node.peer.asked("POST", "/node/schemas"))
    node.peer.answers["POST /node/poll"] = [said(Work(schemas=asks)), IDLE]
    until(lambda: len(node.peer.asked("POST", "/node/schemas")) == before + len(asks))
    return [request.json() for request in node.peer.asked("POST", "/node/schemas")[before:]]


def lines(node: Node, event: str) -> list[dict[str, Any]]:
    with Vault(node.home) as vault:
        return [dict(line.facts) for line in vault.audit() if line.event == event]


def test_h14_a_schema_leaves_only_where_the_policy_says_so_and_a_changed_policy_is_told(
    node: Node, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "clinic.db")) as db:
        db.execute("CREATE TABLE stays (days INTEGER, ward TEXT)")
        db.executemany("INSERT INTO stays VALUES (?, ?)", [(3, "west"), (5, "east"), (5, "west")])
        db.commit()
    (tmp_path / "query.toml").write_text(f"url = 'sqlite:///{tmp_path}/clinic.db'\nquery = 'SELECT * FROM stays'\n")
    add_dataset(node.home, tmp_path / "query.toml", "hospice", ["query"], Terms(texts=True))
    (kept,) = asked(node, ask())
    assert (kept["columns"], kept["code"]) == ({}, "policy_refused")
    assert "`leave.schema`" in kept["reason"]
    assert lines(node, "schema_refused") == [
        {"run": "r_1", "client": "clinic", "plan": bundle_of().digest, "code": "policy_refused"}
    ]
    rule(node, LETS)
    clinic, hospice = asked(node, ask(), ask("hospice", run="r_2"))
    assert clinic == {"run": "r_1", "client": "clinic", "columns": CLASSES, "code": "", "reason": ""}
    assert hospice["columns"] == {"days": NUMBERS, "ward": {"classes": ["east", "west"], "whole": True}}
    usual = {"plan": bundle_of().digest}
    assert lines(node, "schema_told") == [
        {"run": "r_1", "client": "clinic", "columns": 3, **usual},
        {"run": "r_2", "client": "hospice", "columns": 2, **usual},
    ]
    rule(node, "")
    (kept,) = asked(node, ask())
    assert kept["code"] == "policy_refused"


def test_h14_what_the_owner_did_not_allow_is_refused_by_its_code_and_nothing_is_read(
    node: Node, tmp_path: Path
) -> None:
    other, folder = bundle_of(PLAN + "\n"), tmp_path / "scans"
    folder.mkdir()
    node.know(other, "pending")
    with Vault(node.home) as vault:
        vault.add_dataset(Dataset("scans", folder, ("scans",), 9, ("image",), 0.0, kind="images"))
    rule(node, LETS)
    pending, foreign, images, unknown = asked(
        node, ask(plan=other.digest), ask("elsewhere"), ask("scans"), ask("c0000", plan="0" * 64)
    )
    codes = [each["code"] for each in (pending, foreign, images, unknown)]
    assert codes == ["plan_not_approved", "dataset_missing", "align_refused", "plan_not_registered"]
    rule(node, f"{LETS}[allow]\nexamples = 7\n")
    (small,) = asked(node, ask())
    rule(node, f"{LETS}[allow]\nstrategies = ['fedprox']\n")
    (strategy,) = asked(node, ask())
    assert [small["code"], strategy["code"]] == ["policy_refused"] * 2
    assert "`allow.examples`" in small["reason"] and "`allow.strategies`" in strategy["reason"]
    reject(node.home, bundle_of().digest)
    (revoked,) = asked(node, ask())
    assert revoked["code"] == "plan_revoked"
    assert len(lines(node, "schema_refused")) == 7 and lines(node, "schema_told") == []
    assert str(tmp_path) not in str([request.body for request in node.peer.asked("POST", "/node/schemas")])
    assert children() == []


def test_h14_a_table_that_takes_long_to_read_stops_nothing_is_read_once_and_can_still_be_refused(
    node: Node, tmp_path: Path
) -> None:
    """It is a pipe, which has nothing to read until somebody writes."""
    (tmp_path / "stays.csv").unlink()
    os.mkfifo(tmp_path / "stays.csv")
    rule(node, LETS)
    node.peer.answers["POST /node/poll"] = said(Work(schemas=(ask(),)))
    until(children)
    polled(node)
    assert len(children()) == 1 and node.peer.asked("POST", "/node/schemas") == []
    node.peer.answers["POST /node/poll"] = IDLE
    children()[0].kill()
    (died,) = until(lambda: node.peer.asked("POST", "/node/schemas"))
    assert died.json()["code"] == "dataset_unreadable"
    polled(node)
    node.peer.answers["POST /node/poll"] = [said(Work(schemas=(ask(),))), IDLE]
    until(children)
    reject(node.home, bundle_of().digest)
    (tmp_path / "stays.csv").write_text(STAYS)
    (refused,) = until(lambda: node.peer.asked("POST", "/node/schemas")[1:])
    assert refused.json()["code"] == "plan_revoked", "what was read stays here"
    polled(node)
    approve(node.home, bundle_of().digest)
    node.peer.answers["POST /node/poll"] = [said(Work(schemas=(ask(),))), IDLE]
    until(children)
    node.stop.set()
    until(lambda: children() == [])


def test_h14_an_answer_of_before_it_was_told_does_not_have_a_schema_told_again(node: Node) -> None:
    """While it is read the node polls; the coordinator asks again, and that arrives when the schema was told."""
    late = []

    def heard() -> list[Request]:
        return node.peer.asked("POST", "/node/schemas")

    def on_its_way(request: Request, answer: Answer) -> Answer:
        if request.path == "/node/schemas":
            node.peer.answers["POST /node/poll"] = IDLE
        elif request.path == "/node/poll" and answer is asks and children():
            until(heard)
            time.sleep(0.5)
            late.append(answer)
        return answer

    rule(node, LETS)
    node.peer.faults = [on_its_way] * 10_000
    node.peer.answers["POST /node/poll"] = asks = said(Work(schemas=(ask(),)))
    until(lambda: late)
    polled(node)
    until(lambda: not children())
    assert (len(heard()), len(lines(node, "schema_told"))) == (1, 1)


def test_h14_what_the_coordinator_does_not_take_stays_and_what_cannot_be_read_is_a_code(
    node: Node, tmp_path: Path
) -> None:
    rule(node, LETS)
    heard = node.peer.answers["POST /node/schemas"]
    assert not isinstance(heard, list)
    too_large = problem(TooLargeError("body_too_large", "The body is too large."))
    gone = problem(NotFoundError("run_unknown", "There is no such run."))
    node.peer.answers["POST /node/schemas"] = [too_large, gone, heard]
    node.peer.answers["POST /node/poll"] = [said(Work(schemas=(ask(),))), IDLE]
    until(lambda: len(node.peer.asked("POST", "/node/schemas")) == 2)
    assert node.peer.asked("POST", "/node/schemas")[1].json()["code"] == "align_refused"
    (tmp_path / "stays.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    (broken,) = asked(node, ask())
    assert broken["code"] == "dataset_unreadable"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    init(tmp_path / "home", "clinic-a")
    return tmp_path / "home"


def told(home: Path, client: str) -> dict[str, Any]:
    return {name: column.model_dump(mode="json") for name, column in schema(home, client).items()}


def test_h14_an_owner_s_own_loading_plan_gives_numbers_and_their_names_alone(home: Path, tmp_path: Path) -> None:
    (tmp_path / "stays.csv").write_text(STAYS)
    (tmp_path / "ward.toml").write_text(
        'name = "ward"\n[columns]\nyears = { from = "age", missing = "mean" }\n'
        'ill = { from = "label", classes = { yes = 1, no = 0 }, type = "int64" }\n'
    )
    add_dataset(home, tmp_path / "stays.csv", "c0", ["b"], Terms(loading=str(tmp_path / "ward.toml")))
    assert told(home, "c0") == {"ill": {"classes": [], "whole": True}, "years": NUMBERS}
    write_columns(tmp_path / "data.npz", {"days": torch.zeros(3), "label": torch.tensor([0, 1, 0])})
    add_dataset(home, tmp_path / "data.npz", "c1", ["a"])
    assert told(home, "c1") == {"days": NUMBERS, "label": {"classes": [], "whole": True}}
    with pytest.raises(NotFoundError):
        schema(home, "c2")


@pytest.mark.parametrize(
    "text",
    [
        f"{'x' * 1001},label\n1,0\n",
        f"age,label\n{'y' * 1001},0\n",
        f"{','.join(f'c{at}' for at in range(10_001))}\n{','.join('1' for _ in range(10_001))}\n",
    ],
    ids=["name", "class", "columns"],
)
def test_h14_a_schema_is_bounded(home: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "stays.csv").write_text(text)
    add_dataset(home, tmp_path / "stays.csv", "c0", [], Terms(texts=True))
    with pytest.raises(ConfigError) as refused:
        schema(home, "c0")
    assert refused.value.code == "align_refused"
    assert "xxx" not in str(refused.value) and "yyy" not in str(refused.value)


def test_h14_a_schema_fits_into_a_message(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stays.csv").write_text(STAYS)
    add_dataset(home, tmp_path / "stays.csv", "c0", [], Terms(texts=True))
    monkeypatch.setattr(drafting, "LIMIT", 100)
    with pytest.raises(ConfigError) as refused:
        schema(home, "c0")
    assert refused.value.code == "align_refused"


def test_h14_a_table_with_texts_is_offered_where_its_owner_says_so(home: Path, tmp_path: Path) -> None:
    (tmp_path / "stays.csv").write_text(STAYS)
    with pytest.raises(DataError) as refused:
        add_dataset(home, tmp_path / "stays.csv", "c0")
    assert refused.value.code == "dataset_not_numeric"
    added = add_dataset(home, tmp_path / "stays.csv", "c0", [], Terms(texts=True, minimum=6))
    assert (added.examples, added.columns) == (6, ("age", "label", "ward"))
    assert added.summary == (
        {"name": "age", "dtype": "number"},
        {"name": "label", "dtype": "text", "classes": 2},
        {"name": "ward", "dtype": "text", "classes": 2},
    )
    (tmp_path / "stays.csv").write_text(f"{STAYS}41,west,no\n")
    restate(home, Changed("c0", str(tmp_path / "stays.csv"), "csv", see(tmp_path / "stays.csv"), "0" * 64))
    (edited,) = list_datasets(home)
    assert (edited.examples, edited.summary[2]) == (7, {"name": "ward", "dtype": "text", "classes": 3})
    for text, code in (("age\n", "dataset_empty"), ("age\n1\n", "too_few_examples")):
        (tmp_path / "few.csv").write_text(text)
        with pytest.raises(DataError) as few:
            add_dataset(home, tmp_path / "few.csv", "c1", ["x"], Terms(texts=True, minimum=2))
        assert few.value.code == code


def alignment(*lacking: str) -> Alignment:
    """Of the table's columns all, with one of the two wards; and some that it lacks."""
    label, ward = ColumnTable(classes={"no": 0.0, "yes": 1.0}), ColumnTable(classes={"north": 0.0})
    columns = {"age": ColumnTable(), "ward": ward, "label": label, **{name: ColumnTable() for name in lacking}}
    drafts = [LoadingPlan(name="site", columns=columns)]
    return Alignment(label="label", plan=unite(drafts, "aligned", "label", lenient=True))


def aligning(desk: Desk, how: Alignment, **changed: Any) -> Order:
    """The desk's order, of the table read by an alignment."""
    (desk.folder / "stays.csv").write_text(STAYS)
    (desk.folder / "alignment").write_bytes(how.to_bytes())
    begun = begin(load_plan(desk.bundle), SEED, OPTIONS, schema_of(how))
    digest = hashlib.sha256(how.to_bytes()).hexdigest()
    order = desk.order(begun.model, alignment=digest, client="clinic", **changed)
    paths = {"dataset": str(desk.folder / "stays.csv"), "alignment": str(desk.folder / "alignment")}
    return order.model_copy(update=paths)


def test_h14_a_session_reads_by_the_alignment_and_its_model_has_that_width(tmp_path: Path) -> None:
    """It comes to what the same numbers come to where a plain plan reads them."""
    desk = Desk(tmp_path / "desk", bundle_of(TABLES))
    order = aligning(desk, alignment("weight"))
    session = session_of(order)
    made = session.work(order, lambda: None)
    plain = TABLES.replace("model(schema)", "model()").replace("(columns, schema)", "(columns)")
    for name, value in (("inputs", '["age", "ward", "weight"]'), ("label", '"label"'), ("classes", '{"label": 2}')):
        plain = plain.replace(f'schema["{name}"]', value)
    other = Desk(tmp_path / "other", bundle_of(plain))
    ages, wards, ill = [61.0, 48.0, 0.0, 70.0, 33.0, 52.0], [0, 1, 0, 1, 0, 0], [1, 0, 1, 0, 0, 1]
    columns = {"age": torch.tensor(ages), "ward": torch.tensor(wards), "label": torch.tensor(ill)}
    write_columns(other.folder / "data.npz", {**columns, "weight": torch.zeros(6)})
    same = other.order(begin(load_plan(other.bundle), SEED, OPTIONS).model, client="clinic")
    assert session_of(same).work(same, lambda: None).update == made.update
    shapes = {name: tuple(each.shape) for name, each in flatten(decode(made.update).tensors).items()}
    assert [shape for name, shape in shapes.items() if name.endswith("weight")] == [(2, 3)]
    with pytest.raises(IntegrityError) as refused:
        session.work(aligning(desk, alignment("height")), lambda: None)
    assert refused.value.code == "run_changed"


def test_h14_the_alignment_is_fetched_and_shown_to_the_work_process_and_what_is_none_fails(
    node: Node, tmp_path: Path
) -> None:
    desk = Desk(tmp_path / "desk", bundle_of(TABLES))
    node.know(desk.bundle)
    order = aligning(desk, alignment("weight"))
    expected = session_of(order).work(order, lambda: None).update

    def bring(path: Path) -> str:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        node.peer.blobs[digest] = path.read_bytes()
        return digest

    usual = {"broadcast": {"model": bring(desk.folder / "model")}, "client": "clinic"}
    node.give(assignment(desk.bundle, alignment=bring(desk.folder / "alignment"), **usual))
    first = node.answer()
    assert first["verb"] == "contribute" and node.peer.blobs[first["update"]] == expected
    (desk.folder / "none").write_text("{}")
    node.give(assignment(desk.bundle, id="a_2", run="r_2", alignment=bring(desk.folder / "none"), **usual))
    assert (node.answer("a_2")["verb"], node.answer("a_2")["code"]) == ("fail", "align_refused")
    assert "weight" not in node.answer("a_2")["reason"]
