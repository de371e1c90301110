"""Webhooks of runs, as people make and look after them."""

from __future__ import annotations

from foedus.client.http import Connection, identified
from foedus.wire.events import NewWebhook, Webhook, WebhookList, WebhookView


def add(connection: Connection, run: str, url: str) -> Webhook:
    """Have a run's events, from now on, sent to a URL; the secret that signs them is told this once."""
    return connection.post(_path(run), Webhook, NewWebhook(url=url))


def listed(connection: Connection, run: str) -> tuple[WebhookView, ...]:
    """The webhooks of a run, with what could not be delivered."""
    return connection.get(_path(run), WebhookList).webhooks


def remove(connection: Connection, run: str, webhook: str) -> WebhookView:
    """Send nothing more to a webhook."""
    return connection.post(f"{_path(run)}/{identified('webhook', webhook)}/remove", WebhookView)


def retry(connection: Connection, run: str, webhook: str) -> WebhookView:
    """Send a webhook's dead letters anew."""
    return connection.post(f"{_path(run)}/{identified('webhook', webhook)}/retry", WebhookView)


def _path(run: str) -> str:
    return f"/runs/{identified('run', run)}/webhooks"
