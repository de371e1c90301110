"""What happens in the life of a run, as one typed event per step; told in order, under numbers without gaps.

The DLR FL Demonstrator's notifications are among them: TRAINING_START is ``run_started``, UPDATE_ROUND_START is
``round_started``, MODEL_TEST_ROUND is ``round_testing``, and TRAINING_FINISHED is ``run_completed``.

==========================================  ======  =====================================================
path                                        by      what
==========================================  ======  =====================================================
GET /runs/{id}/events                       people  server-sent events; ``Last-Event-ID`` goes on
GET /runs/{id}/history?after=&wait=         people  → EventList, after at most ``wait`` seconds
POST /node/runs/{id}/history                node    Follow → EventList, of a run that the node was asked for
POST /runs/{id}/webhooks                    people  NewWebhook → Webhook, with its secret, shown once
GET /runs/{id}/webhooks                     people  → WebhookList, with what could not be delivered
POST /runs/{id}/webhooks/{webhook}/remove   people  → WebhookView
POST /runs/{id}/webhooks/{webhook}/retry    people  → WebhookView: dead letters are sent anew
==========================================  ======  =====================================================

A webhook is signed as https://www.standardwebhooks.com says: ``webhook-signature`` is ``v1,`` and the base64 of
HMAC-SHA256, under the secret, over ``{webhook-id}.{webhook-timestamp}.{body}``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from foedus.wire.messages import Count, Digest, Id, Line, Message, Name

Kind = Literal[
    "run_drafted",
    "run_waiting",
    "run_aligned",
    "run_started",
    "run_paused",
    "run_resumed",
    "run_retried",
    "run_completed",
    "run_failed",
    "run_cancelled",
    "round_started",
    "round_reporting",
    "round_aggregating",
    "round_testing",
    "round_committed",
    "round_abandoned",
    "state_mended",
]

HISTORY = 200
"""Events that one look brings at most."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


class RunEvent(Message):
    """One step. ``id`` counts the run's events from 1; ``model`` is the blob of the model that the step begins with.

    There is none yet where a run's tables are still to be aligned.
    ``status`` and ``reason`` tell of the run; ``round``, ``attempt``, ``phase`` and ``asked`` of a round's beginnings,
    ``metrics``, ``seconds`` and the traffic of its end, where ``model_digest`` is the digest of its model.
    ``run_aligned``: it is fixed how the tables of the clients are read, of whose schemas (``asked``) it was made.
    ``state_mended`` is an alert: a file of the run's state was damaged, and was made again (``reason``: of what).
    """

    id: Count
    kind: Kind
    run: Id
    at: Finite
    model: Digest | None = None
    round: Count = 0
    status: str = ""
    reason: str = ""
    attempt: Count = 0
    phase: str = ""
    asked: tuple[Name, ...] = ()
    contributed: Count = 0
    metrics: dict[str, float] = Field(default_factory=dict)
    seconds: float = 0.0
    bytes_down: Count = 0
    bytes_up: Count = 0
    model_digest: str = ""


class EventList(Message):
    """Events in their order; ``last``: the run has ended, and there are no more."""

    events: Annotated[tuple[RunEvent, ...], Field(max_length=HISTORY)]
    last: bool


class Follow(Message):
    """What happened after the event ``after``; a node waits up to ``wait`` seconds where nothing has."""

    after: Count = 0
    wait: Annotated[float, Field(ge=0, le=30, allow_inf_nan=False)] = 0.0


class NewWebhook(Message):
    """Have every event of a run, from now on, sent to a URL."""

    url: Annotated[str, StringConstraints(min_length=8, max_length=2000, pattern=r"^[\x21-\x7e]+$")]


class Webhook(Message):
    """A webhook as it was made; its secret is shown this once."""

    id: Id
    run: Id
    url: str
    secret: str


class DeadLetter(Message):
    """An event that could not be delivered, and why not the last time."""

    event: Count
    kind: str
    attempts: int
    error: Line


class WebhookView(Message):
    """A webhook as people see it: how many events wait to be sent, were delivered, or are dead letters."""

    id: Id
    run: Id
    url: str
    pending: int
    delivered: int
    dead: tuple[DeadLetter, ...]
    error: str = ""


class WebhookList(Message):
    """The webhooks of a run."""

    webhooks: tuple[WebhookView, ...]
