"""Sends events to webhooks: at least once, in order for each webhook, with rests that grow, and then as dead letters.

What is to be sent are rows, written in the transaction of the step itself, so nothing is lost with a process. A webhook
is claimed for a while by one sender, of whatever process; an event that was sent and could not be noted as sent is
sent again, under the same id.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
from sqlalchemy import Connection, Row, delete, func, or_, select, update

import foedus
from foedus.coordinator.bells import Bells
from foedus.coordinator.outbound import Resolve, resolve, send
from foedus.coordinator.telling import OUTBOX
from foedus.coordinator.webhook_settings import WebhookSettings
from foedus.coordinator.webhooks import signature
from foedus.domain.errors import FoedusError
from foedus.store.lifecycle import deliveries, webhooks
from foedus.store.unit_of_work import Store
from foedus.wire.http import printable

CLAIM = 20.0
"""Seconds for which a webhook is claimed without a sign of its sender."""

RECHECK, LONGEST = 30.0, 3600.0
"""Seconds after which the outbox is looked at though no bell rang; the longest rest after a failure."""

SENDERS = 4
log = logging.getLogger("foedus.coordinator")


class Outbox:
    """Sends what is due, until it is stopped."""

    def __init__(self, store: Store, bells: Bells, settings: WebhookSettings, resolving: Resolve = resolve) -> None:
        self._store = store
        self._bells = bells
        self._settings = settings
        self._resolving = resolving
        self._name = secrets.token_hex(8)
        self._rung = threading.Event()
        self._pool = ThreadPoolExecutor(SENDERS, "webhooks")
        self._at_work: dict[str, Future[None]] = {}
        self._manager = threading.Thread(target=self._manage, name="outbox", daemon=True)

    def start(self) -> None:
        """Begin, with what earlier processes left."""
        self._manager.start()

    def stop(self) -> None:
        """End after what is being sent; what waits is sent by the next process."""
        self._rung.set()
        self._manager.join(CLAIM)
        self._pool.shutdown(cancel_futures=True)

    def _manage(self) -> None:
        with self._bells.listening(OUTBOX, self._rung.set):
            while not self._bells.closed:
                self._rung.clear()
                rest = RECHECK
                try:
                    rest = min(rest, self._begin_due())
                except FoedusError as error:
                    log.error("the outbox cannot be looked at: %s", error)
                if not self._bells.closed:
                    self._rung.wait(rest)

    def _begin_due(self) -> float:
        """Set senders to work; seconds until more is due."""
        self._at_work = {webhook: work for webhook, work in self._at_work.items() if not work.done()}
        now = time.time()
        with self._store.reading() as tx:
            waiting = {row.webhook_id: self._due(row) for row in tx.execute(_first_pending())}
        for webhook, due in waiting.items():
            if due <= now and webhook not in self._at_work:
                self._at_work[webhook] = self._pool.submit(self._serve, webhook)
        return min((due - now for due in waiting.values() if due > now), default=RECHECK)

    def _due(self, row: Row[Any]) -> float:
        """When a webhook's next event may be sent: not while another sender has claimed it."""
        claimed = row.claimed_until if row.claim not in (None, self._name) else 0.0
        return float(max(row.next_at, claimed))

    def _serve(self, webhook: str) -> None:
        try:
            with self._store.transaction("claim_webhook") as tx:
                mine = self._claim(tx, webhook)
            while mine and not self._bells.closed and self._send_next(webhook):
                pass
            with self._store.transaction("leave_webhook") as tx:
                here = (webhooks.c.id == webhook, webhooks.c.claim == self._name)
                tx.execute(update(webhooks).where(*here).values(claim=None, claimed_until=None))
        except FoedusError as error:
            log.error("webhook %s cannot be served: %s", webhook, error)
        except Exception:
            log.exception("webhook %s cannot be served", webhook)
        finally:
            self._rung.set()

    def _claim(self, tx: Connection, webhook: str) -> bool:
        now = time.time()
        free = or_(webhooks.c.claim.is_(None), webhooks.c.claim == self._name, webhooks.c.claimed_until < now)
        claimed = {"claim": self._name, "claimed_until": now + CLAIM}
        return tx.execute(update(webhooks).where(webhooks.c.id == webhook, free).values(**claimed)).rowcount == 1

    def _send_next(self, webhook: str) -> bool:
        """Send the first event that waits, if it is due; whether the next one may follow at once."""
        with self._store.reading() as tx:
            hook = tx.execute(select(webhooks).where(webhooks.c.id == webhook)).one_or_none()
            waiting = select(deliveries).where(deliveries.c.webhook_id == webhook, deliveries.c.status == "pending")
            row = tx.execute(waiting.order_by(deliveries.c.number).limit(1)).one_or_none()
        if hook is None or row is None or row.next_at > time.time():
            return False
        failure = self._post(hook, row)
        here = (deliveries.c.webhook_id == webhook, deliveries.c.number == row.number)
        with self._store.transaction("delivered") as tx:
            if not self._claim(tx, webhook):
                return False
            if not failure:
                tx.execute(delete(deliveries).where(*here))
                counted = webhooks.c.delivered + 1
                tx.execute(update(webhooks).where(webhooks.c.id == webhook).values(delivered=counted))
                return True
            tried = row.attempts + 1
            dead: bool = tried >= self._settings.attempts
            values: dict[str, Any] = {"attempts": tried, "error": failure, "status": "dead" if dead else "pending"}
            rest = min(LONGEST, self._settings.backoff * 2.0**row.attempts)
            tx.execute(update(deliveries).where(*here).values(**values, next_at=time.time() + rest))
        return dead

    def _post(self, hook: Row[Any], row: Row[Any]) -> str:
        """Why an event could not be delivered; empty where it was."""
        body = json.dumps(row.body, separators=(",", ":")).encode()
        identity, now = f"{hook.id}.{row.number}", int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"foedus/{foedus.__version__}",
            "webhook-id": identity,
            "webhook-timestamp": str(now),
            "webhook-signature": signature(hook.secret, identity, now, body),
        }
        try:
            request = httpx.Request("POST", hook.url, content=body, headers=headers)
            status = send(self._settings.rules, request, self._resolving).status
        except FoedusError as error:
            return printable(f"{error.code}: {error}", 500)
        except httpx.InvalidURL:
            return "url_malformed: the URL is none"
        if 300 <= status < 400:
            return f"redirected: it answered {status}, and redirects are not followed"
        return "" if 200 <= status < 300 else f"refused: it answered {status}"


def _first_pending() -> Any:
    """Of each webhook, when the event that is its next one is due."""
    pending = deliveries.c.status == "pending"
    first = select(deliveries.c.webhook_id, func.min(deliveries.c.number).label("number")).where(pending)
    grouped = first.group_by(deliveries.c.webhook_id).subquery()
    same = (deliveries.c.webhook_id == grouped.c.webhook_id) & (deliveries.c.number == grouped.c.number)
    columns = (deliveries.c.webhook_id, deliveries.c.next_at, webhooks.c.claim, webhooks.c.claimed_until)
    joined = deliveries.join(grouped, same).join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
    return select(*columns).select_from(joined)
