"""Webhooks of runs: made, listed, removed, and their dead letters sent anew. What sends them is the outbox."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from typing import Any

import httpx
from sqlalchemy import Connection, Row, delete, func, insert, select, update

from foedus.coordinator.outbound import Resolve, judge, resolve
from foedus.coordinator.run_rows import find_run
from foedus.coordinator.telling import OUTBOX
from foedus.coordinator.webhook_settings import WebhookSettings
from foedus.domain.errors import ConfigError, ConflictError, NotFoundError
from foedus.store.lifecycle import deliveries, webhooks
from foedus.store.unit_of_work import notice
from foedus.wire.events import DeadLetter, NewWebhook, Webhook, WebhookList, WebhookView

PER_RUN, SHOWN = 20, 100
"""Webhooks that a run may have; dead letters that are shown of each."""


def check_target(url: str, settings: WebhookSettings, resolving: Resolve = resolve) -> None:
    """Refuse a URL to which no request would be sent. What it leads to is judged again whenever one is.

    Raises:
        ConfigError: ``url_malformed``. ForbiddenError: ``target_refused``. UnreachableError: ``target_unreachable``.
    """
    try:
        target = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError("url_malformed", "That is no URL.", str(error), "Give an https:// URL.") from error
    judge(settings.rules, target, resolving)


def create(tx: Connection, run: str, command: NewWebhook, author: str) -> Webhook:
    """Have a run's events, from now on, sent to a URL that was checked.

    Raises:
        NotFoundError: ``run_unknown``. ConflictError: ``webhooks_too_many``.
    """
    find_run(tx, run)
    here = select(func.count()).select_from(webhooks).where(webhooks.c.run_id == run)
    if tx.execute(here).scalar_one() >= PER_RUN:
        raise ConflictError(
            "webhooks_too_many", f"The run has {PER_RUN} webhooks.", "", "Remove one: `foedus run webhook remove`."
        )
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
    row = {"id": f"wh_{secrets.token_hex(10)}", "run_id": run, "url": command.url, "secret": secret}
    tx.execute(insert(webhooks).values(**row, created_by=author, created_at=time.time()))
    return Webhook(id=row["id"], run=run, url=command.url, secret=secret)


def listed(tx: Connection, run: str) -> WebhookList:
    """The webhooks of a run, the oldest first.

    Raises:
        NotFoundError: ``run_unknown``.
    """
    find_run(tx, run)
    rows = tx.execute(select(webhooks).where(webhooks.c.run_id == run).order_by(webhooks.c.created_at)).all()
    return WebhookList(webhooks=tuple(_view(tx, row) for row in rows))


def remove(tx: Connection, run: str, webhook: str) -> WebhookView:
    """Send nothing more; what waited is forgotten.

    Raises:
        NotFoundError: ``run_unknown``, ``webhook_unknown``.
    """
    view = _view(tx, _find(tx, run, webhook))
    tx.execute(delete(deliveries).where(deliveries.c.webhook_id == webhook))
    tx.execute(delete(webhooks).where(webhooks.c.id == webhook))
    return view


def revive(tx: Connection, run: str, webhook: str) -> WebhookView:
    """Send the dead letters anew, before whatever else waits, in the order of their numbers.

    Raises:
        NotFoundError: ``run_unknown``, ``webhook_unknown``.
    """
    row = _find(tx, run, webhook)
    values = {"status": "pending", "attempts": 0, "next_at": time.time(), "error": ""}
    tx.execute(update(deliveries).where(deliveries.c.webhook_id == webhook).values(**values))
    notice(tx, OUTBOX)
    return _view(tx, row)


def signature(secret: str, identity: str, timestamp: int, body: bytes) -> str:
    """The header ``webhook-signature`` (https://www.standardwebhooks.com).

    >>> secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    >>> signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"{identity}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(mac.digest()).decode()}"


def _find(tx: Connection, run: str, webhook: str) -> Row[Any]:
    find_run(tx, run)
    row = tx.execute(select(webhooks).where(webhooks.c.id == webhook, webhooks.c.run_id == run)).one_or_none()
    if row is None:
        raise NotFoundError(
            "webhook_unknown", "The run has no such webhook.", "", "`foedus run webhook list` shows them."
        )
    return row


def _view(tx: Connection, row: Row[Any]) -> WebhookView:
    mine = select(deliveries).where(deliveries.c.webhook_id == row.id).order_by(deliveries.c.number)
    waiting = select(func.count()).select_from(deliveries)
    pending = (deliveries.c.webhook_id == row.id, deliveries.c.status == "pending")
    letters = tx.execute(mine.where(deliveries.c.status == "dead").limit(SHOWN)).all()
    next_one = tx.execute(mine.where(deliveries.c.status == "pending").limit(1)).one_or_none()
    return WebhookView(
        id=row.id,
        run=row.run_id,
        url=row.url,
        pending=tx.execute(waiting.where(*pending)).scalar_one(),
        delivered=row.delivered,
        dead=tuple(
            DeadLetter(event=one.number, kind=one.body["kind"], attempts=one.attempts, error=one.error)
            for one in letters
        ),
        error=next_one.error if next_one is not None else "",
    )
