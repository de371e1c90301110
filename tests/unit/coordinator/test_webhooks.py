"""Webhooks: signed, in order, at least once, and dead letters after so many tries; requests go only where they may."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from foedus.coordinator import steering, webhooks
from foedus.coordinator.outbox import Outbox
from foedus.coordinator.webhook_settings import WebhookSettings
from foedus.coordinator.webhooks import signature
from foedus.wire.events import NewWebhook, Webhook, WebhookView
from tests.receiver import Receiver, receiving
from tests.unit.coordinator.scene import Scene, refusal, until

LOCAL = WebhookSettings(hosts=("127.0.0.1",), attempts=3, backoff=0.05)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, size=1)
    yield made
    made.live.bells.close()
    made.live.store.close()


def hook(scene: Scene, run: str, url: str) -> Webhook:
    with scene.live.store.transaction("create_webhook") as tx:
        return webhooks.create(tx, run, NewWebhook(url=url), "ada")


def look(scene: Scene, run: str) -> WebhookView:
    with scene.live.store.reading() as tx:
        (view,) = webhooks.listed(tx, run).webhooks
    return view


def steer(scene: Scene, run: str, *moves: str) -> None:
    for move in moves:
        with scene.live.store.transaction("steer") as tx:
            getattr(steering, move)(tx, run)


@contextmanager
def sending(scene: Scene, settings: WebhookSettings = LOCAL) -> Iterator[Outbox]:
    outbox = Outbox(scene.live.store, scene.live.bells, settings)
    outbox.start()
    try:
        yield outbox
    finally:
        scene.live.bells.close()
        outbox.stop()


def test_events_are_signed_and_come_in_their_order(scene: Scene, receiver: Receiver) -> None:
    run = scene.submit()
    made = hook(scene, run, receiver.url)
    with sending(scene):
        steer(scene, run, "pause", "resume", "cancel")
        until(lambda: len(receiver.came) == 3)
        until(lambda: look(scene, run).delivered == 3)
    assert receiver.kinds == ["run_paused", "run_resumed", "run_cancelled"]
    assert receiver.ids == [f"{made.id}.{number}" for number in (2, 3, 4)]
    headers, body = receiver.came[0]
    said = int(headers["webhook-timestamp"])
    assert abs(time.time() - said) < 60
    assert headers["webhook-signature"] == signature(made.secret, f"{made.id}.2", said, body)
    assert headers["webhook-signature"] != signature(made.secret, f"{made.id}.2", said + 1, body)
    assert look(scene, run).pending == 0 and look(scene, run).dead == ()
    assert made.secret not in look(scene, run).model_dump_json()


def test_case_30_a_receiver_that_is_down_gets_everything_later_in_order(scene: Scene, receiver: Receiver) -> None:
    run = scene.submit()
    hook(scene, run, receiver.url)
    receiver.answers = [500, 503, 200]
    with sending(scene):
        steer(scene, run, "pause", "resume")
        until(lambda: look(scene, run).delivered == 2)
    assert receiver.kinds == ["run_paused"] * 3 + ["run_resumed"]
    assert len(set(receiver.ids)) == 2, "what is sent again has the id that it had"


def test_case_30_what_nobody_takes_becomes_a_dead_letter_and_can_be_sent_anew(scene: Scene, receiver: Receiver) -> None:
    run = scene.submit()
    made = hook(scene, run, receiver.url)
    receiver.answers = [302, 500, 400, 200]
    with sending(scene):
        steer(scene, run, "pause", "resume")
        until(lambda: look(scene, run).delivered == 1)
        (letter,) = look(scene, run).dead
        assert (letter.event, letter.kind, letter.attempts) == (2, "run_paused", 3)
        assert letter.error == "refused: it answered 400"
        assert receiver.kinds == ["run_paused"] * 3 + ["run_resumed"]
        with scene.live.store.transaction("retry_webhook") as tx:
            assert webhooks.revive(tx, run, made.id).pending == 1
        until(lambda: look(scene, run).delivered == 2)
    assert receiver.kinds[-1] == "run_paused" and receiver.ids[-1] == receiver.ids[0]


def test_a_webhook_that_another_process_serves_is_left_to_it_until_it_is_silent(
    scene: Scene, receiver: Receiver
) -> None:
    run = scene.submit()
    made, until_then = hook(scene, run, receiver.url), time.time() + 0.5
    with scene.live.store.transaction("claim_webhook") as tx:
        tx.execute(webhooks.webhooks.update().values(claim="another", claimed_until=until_then))
    with sending(scene):
        steer(scene, run, "pause", "resume")
        until(lambda: look(scene, run).delivered == 2)
    assert receiver.ids == [f"{made.id}.2", f"{made.id}.3"]
    assert all(int(headers["webhook-timestamp"]) >= int(until_then) for headers, _ in receiver.came)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/hook",
        "http://127.0.0.1:9/hook",
        "https://localhost/hook",
        "https://10.0.0.7/hook",
        "https://192.168.1.1/hook",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/hook",
        "https://[::ffff:10.0.0.1]/hook",
        "https://[fd00::1]/hook",
        "http://93.184.216.34/hook",
        "file:///etc/passwd",
        "ftp://93.184.216.34/hook",
        "https://user:secret@93.184.216.34/hook",
        "gopher://93.184.216.34/",
    ],
)
def test_case_45_a_webhook_that_leads_inside_is_refused(url: str) -> None:
    assert refusal(lambda: webhooks.check_target(url, WebhookSettings())).code == "target_refused"


def test_case_45_named_hosts_may_be_private_but_never_where_clouds_keep_secrets() -> None:
    settings = WebhookSettings(hosts=("hooks.example", "127.0.0.1"))
    webhooks.check_target("https://hooks.example/a", settings, lambda host, port: ["10.0.0.7"])
    webhooks.check_target("http://127.0.0.1:8000/a", settings)
    for address in ("169.254.169.254", "fe80::1"):
        url, there = "https://hooks.example/a", [address]
        found = refusal(lambda url=url, there=there: webhooks.check_target(url, settings, lambda host, port: there))  # type: ignore[misc]
        assert found.code == "target_refused"
    assert refusal(lambda: webhooks.check_target("http://hooks.example/a", settings)).code == "target_refused"


def test_case_45_a_name_that_leads_elsewhere_later_is_refused_then(scene: Scene, receiver: Receiver) -> None:
    """DNS rebinding: public when the webhook is made, this machine when an event is sent."""
    port = httpx.URL(receiver.url).port
    url = f"https://rebound.example:{port}/hook"
    webhooks.check_target(url, LOCAL, lambda host, port: ["93.184.216.34"])
    run = scene.submit()
    hook(scene, run, url)
    outbox = Outbox(scene.live.store, scene.live.bells, LOCAL, lambda host, port: ["127.0.0.1"])
    outbox.start()
    steer(scene, run, "pause")
    until(lambda: bool(look(scene, run).dead))
    scene.live.bells.close()
    outbox.stop()
    assert look(scene, run).dead[0].error.startswith("target_refused") and receiver.came == []


def test_a_run_has_so_many_webhooks_and_a_removed_one_hears_nothing(scene: Scene, receiver: Receiver) -> None:
    run = scene.submit()
    made = [hook(scene, run, receiver.url) for _ in range(webhooks.PER_RUN)]
    assert refusal(lambda: hook(scene, run, receiver.url)).code == "webhooks_too_many"
    for one in made:
        with scene.live.store.transaction("remove_webhook") as tx:
            webhooks.remove(tx, run, one.id)
    with sending(scene):
        steer(scene, run, "pause")
    assert receiver.came == []
    for use in (webhooks.remove, webhooks.revive):
        with scene.live.store.transaction("steer") as tx:
            assert refusal(lambda use=use, tx=tx: use(tx, run, made[0].id)).code == "webhook_unknown"  # type: ignore[misc]
