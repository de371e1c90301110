"""H14: a run waits while its clients' nodes are asked for the columns of their tables, and begins with what is made."""

from __future__ import annotations

from typing import Any

import pytest

from foedus.coordinator import aligning, runs, steering, submitting
from foedus.coordinator.bells import RUNS
from foedus.coordinator.blob_access import check_readable
from foedus.coordinator.retention import collect
from foedus.coordinator.run_rows import find_run
from foedus.data.align import Alignment, parse_alignment
from foedus.data.loading_plan import ColumnTable, LoadingPlan
from foedus.store.aligning import schemas
from foedus.store.tables import events
from foedus.wire.messages import Parameters, SchemaAsk, SchemaColumn, SubmitRun, TellSchema
from tests.unit.coordinator.scene import ADA, CLIENTS, PLAN, Scene, refusal, until

TABLES = {
    "alpha": {"age": (), "ward": ("north", "south"), "label": ()},
    "beta": {"age": (), "ward": ("north", "west"), "weight": (), "label": ()},
    "gamma": {"smoker": ("no", "yes"), "label": ()},
}


@pytest.fixture(autouse=True)
def _names(scene: Scene) -> None:
    assert tuple(TABLES) == CLIENTS


def aligned_by(scene: Scene, **align: Any) -> SubmitRun:
    """The command of a run that aligns tables, and brings no model."""
    command = scene.command(parameters=None, manifest=None)
    data = {**command.spec["data"], "align": align}
    return command.model_copy(update={"spec": {**command.spec, "data": data}})


def submit(scene: Scene, command: SubmitRun) -> str:
    submission = submitting.prepare(scene.live.artifacts, command)
    with scene.live.store.transaction("submit") as tx:
        run = submitting.submit(tx, submission, ADA).id
    scene.live.bells.ring(RUNS)
    return run


def asked(scene: Scene, client: str) -> tuple[SchemaAsk, ...]:
    work = scene.poll(client, held=())
    return () if work is None else work.schemas


def tell(scene: Scene, run: str, client: str, columns: dict[str, tuple[str, ...]] | None = None, **more: Any) -> bool:
    table = TABLES[client] if columns is None else columns
    said = {name: SchemaColumn(classes=classes, whole=bool(classes)) for name, classes in table.items()}
    command = TellSchema(run=run, client=client, columns={} if more else said, **more)
    return aligning.hear(scene.live, scene.node_of[client], command).counted


def parameters(scene: Scene) -> Parameters:
    command = scene.command()
    assert command.parameters is not None and command.manifest is not None
    return Parameters(parameters=command.parameters, manifest=command.manifest)


def give(scene: Scene, run: str) -> None:
    with scene.live.store.reading() as tx:
        row = find_run(tx, run)
    start = submitting.prepare_start(scene.live, row, parameters(scene))
    with scene.live.store.transaction("parameters") as tx:
        submitting.give_parameters(tx, run, start, scene.live.artifacts)
    scene.live.bells.ring(RUNS)


def alignment_of(scene: Scene, run: str) -> Alignment:
    digest = scene.show(run).alignment
    assert digest is not None
    return parse_alignment(scene.live.artifacts.path(digest).read_bytes())


def test_h14_the_run_waits_for_the_schemas_unites_them_and_begins_with_the_parameters_that_are_made_then(
    scene: Scene,
) -> None:
    run = submit(scene, aligned_by(scene))
    assert [ask.client for ask in asked(scene, "beta")] == ["beta"]
    assert asked(scene, "beta")[0] == SchemaAsk(run=run, client="beta", plan=PLAN.digest, strategy="fedavg")
    assert tell(scene, run, "beta") and tell(scene, run, "beta"), "told twice, it is noted once"
    assert asked(scene, "beta") == ()
    view = scene.show(run)
    assert (view.status, view.model_digest, view.round, view.alignment) == ("waiting", "", 0, None)
    assert "alpha: the node node-alpha has to tell the columns of its table" in view.waiting_for
    assert "beta" not in view.waiting_for
    assert tell(scene, run, "gamma") and tell(scene, run, "alpha")
    found = alignment_of(scene, run)
    with scene.live.store.reading() as tx:
        assert tx.execute(schemas.select()).all() == [], "what each site told is kept no longer"
    assert sorted(found.plan.columns) == ["age", "label", "smoker", "ward", "weight"]
    assert found.plan.columns["ward"].classes == {"north": 0.0, "south": 1.0, "west": 2.0}
    assert all(found.plan.columns[name].absent == "missing" for name in ("age", "smoker", "ward", "weight"))
    assert found.plan.columns["label"].absent == "refuse" and found.label == "label"
    assert f"foedus run align {run}" in scene.show(run).waiting_for
    assert scene.poll("alpha") is None, "nothing runs before the parameters are there"
    give(scene, run)
    give(scene, run)
    ask = scene.take("alpha")
    assert ask.alignment == scene.show(run).alignment
    with scene.live.store.reading() as tx:
        check_readable(tx, scene.node_of["alpha"], ask.alignment or "")
        check_readable(tx, ADA, ask.alignment or "")
    scene.contribute(ask)
    collect(scene.live.store, scene.live.artifacts, 0.0)
    assert alignment_of(scene, run) == found, "it is needed"
    scene.play(run, CLIENTS)
    view = scene.show(run)
    assert (view.status, view.model_digest) == ("completed", scene.expected(CLIENTS))
    with scene.live.store.reading() as tx:
        told = [row.kind for row in tx.execute(events.select().where(events.c.run_id == run).order_by(events.c.number))]
    assert told[:3] == ["run_waiting", "run_aligned", "run_started"]


def test_what_small_messages_have_room_for_brings_the_alignment_as_well(scene: Scene) -> None:
    run = submit(scene, aligned_by(scene, client="alpha"))
    assert asked(scene, "beta") == () and asked(scene, "gamma") == ()
    assert tell(scene, run, "alpha")
    assert sorted(alignment_of(scene, run).plan.columns) == ["age", "label", "ward"]
    give(scene, run)
    until(lambda: bool(getattr(scene.poll("beta"), "assignments", ())))
    work = scene.poll("gamma", held=())
    assert work is not None and work.assignments[0].alignment in work.blobs


def test_a_schema_that_is_kept_is_asked_for_again_when_its_owner_has_changed_something(scene: Scene) -> None:
    run = submit(scene, aligned_by(scene, clients=1))
    assert not tell(scene, run, "alpha", code="policy_refused", reason="leave.schema")
    assert asked(scene, "alpha") == ()
    assert "alpha: the node node-alpha keeps its schema (policy_refused: leave.schema)" in scene.show(run).waiting_for
    scene.hello("alpha")
    assert [ask.run for ask in asked(scene, "alpha")] == [run]
    assert tell(scene, run, "alpha")
    assert alignment_of(scene, run).plan.columns.keys() == TABLES["alpha"].keys(), "one is enough, as was asked"
    assert asked(scene, "beta") == ()
    assert not tell(scene, run, "beta"), "it comes too late, and changes nothing"
    assert alignment_of(scene, run).plan.columns.keys() == TABLES["alpha"].keys()


def test_nobody_is_asked_whose_owner_has_not_approved_the_plan_and_no_other_is_heard(scene: Scene) -> None:
    run = submit(scene, aligned_by(scene))
    for state in (None, "pending", "rejected"):
        scene.hello("alpha", state=state)
        assert asked(scene, "alpha") == ()
        assert refusal(lambda: tell(scene, run, "alpha")).code == "run_unknown"
    other = TellSchema(run=run, client="beta", columns={"label": SchemaColumn()})
    assert refusal(lambda: aligning.hear(scene.live, scene.node_of["gamma"], other)).code == "run_unknown"
    scene.enrol("delta", tags=("other",))
    foreign = TellSchema(run=run, client="delta", columns={"label": SchemaColumn()})
    assert refusal(lambda: aligning.hear(scene.live, scene.node_of["delta"], foreign)).code == "run_unknown"
    assert "alpha: the owner of node-alpha has rejected plan" in scene.show(run).waiting_for


def test_tables_that_do_not_go_together_fail_the_run_and_are_asked_for_anew_when_it_is_tried_again(
    scene: Scene,
) -> None:
    run = submit(scene, aligned_by(scene))
    tell(scene, run, "alpha")
    tell(scene, run, "beta")
    tell(scene, run, "gamma", {"ward": (), "label": ()})
    view = scene.show(run)
    assert view.status == "failed" and "numbers at one site and texts at another" in view.reason
    with scene.live.store.transaction("retry") as tx:
        steering.retry(tx, scene.live.artifacts, run)
    assert all(asked(scene, client) for client in CLIENTS)
    for client in CLIENTS:
        tell(scene, run, client)
    assert scene.show(run).alignment is not None


@pytest.mark.parametrize("rest", [steering.pause, steering.cancel])
def test_a_run_that_rests_asks_nobody(scene: Scene, rest: Any) -> None:
    run = submit(scene, aligned_by(scene))
    with scene.live.store.transaction("rest") as tx:
        rest(tx, run)
    assert asked(scene, "alpha") == ()
    assert not tell(scene, run, "alpha")
    with scene.live.store.reading() as tx:
        assert runs.show(tx, run).round == 0


def test_parameters_are_taken_once_and_not_before_the_tables_are_aligned(scene: Scene) -> None:
    run = submit(scene, aligned_by(scene, client="alpha"))
    assert refusal(lambda: give(scene, run)).code == "run_not_aligned"
    tell(scene, run, "alpha")
    give(scene, run)
    with scene.live.store.transaction("other") as tx:
        other = submitting.Start(model="f" * 64)
        assert (
            refusal(lambda: submitting.give_parameters(tx, run, other, scene.live.artifacts)).code == "parameters_there"
        )
    done = submit(scene, aligned_by(scene, client="alpha"))
    tell(scene, done, "alpha")
    with scene.live.store.transaction("cancel") as tx:
        steering.cancel(tx, done)
    assert refusal(lambda: give(scene, done)).code == "run_state"


def test_a_run_brings_its_model_or_has_its_tables_aligned_and_nothing_between(scene: Scene) -> None:
    whole, waits = scene.command(), aligned_by(scene)
    plan = LoadingPlan(name="aligned", columns={"label": ColumnTable(classes={})})
    blob = scene.live.artifacts.put_bytes(Alignment(label="label", plan=plan).to_bytes())
    given = {**waits.spec, "data": {**waits.spec["data"], "align": {"loading": "stays.toml"}}}
    model = {"parameters": whole.parameters, "manifest": whole.manifest}
    for changes in (
        {"parameters": None},
        {"manifest": None},
        {"parameters": None, "manifest": None},
        {"alignment": blob},
        {"spec": waits.spec},
        {"spec": given},
        {"spec": given, "parameters": None, "manifest": None},
        {"spec": given, "parameters": None, "manifest": None, "alignment": blob},
    ):
        command = whole.model_copy(update=changes)
        code = refusal(lambda command=command: submitting.prepare(scene.live.artifacts, command)).code  # type: ignore[misc]
        assert code == "parameters_refused", changes
    spoiled = scene.live.artifacts.put_bytes(b'{"label": "label"}')
    bad = whole.model_copy(update={"spec": given, "alignment": spoiled})
    assert refusal(lambda: submitting.prepare(scene.live.artifacts, bad)).code == "config_refused"
    run = submit(scene, whole.model_copy(update={"spec": given, "alignment": blob, **model}))
    ask = scene.take("alpha")
    assert ask.alignment == blob
    scene.contribute(ask)
    scene.play(run, CLIENTS)
    assert scene.show(run).status == "completed"


def test_a_draft_asks_when_it_is_started(scene: Scene) -> None:
    run = submit(scene, aligned_by(scene).model_copy(update={"draft": True}))
    assert asked(scene, "alpha") == ()
    with scene.live.store.transaction("start") as tx:
        steering.start(tx, run)
    assert [ask.run for ask in asked(scene, "alpha")] == [run]
