"""Schemas of tables that a run asks for before its first round: told where the owner lets them leave, else refused.

A schema says names of columns, and of the classes in them, and no other cell. The plan has to be approved for the
dataset as before every assignment, and ``leave.schema`` of the policy has to say so. They are told one after another,
beside the work that the node does; the tables are read in a process apart (:mod:`foedus.node.drafting`). Free of torch.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterable, Set
from datetime import datetime

from foedus.data.owned import FOLDERS
from foedus.domain.errors import ConfigError, ConflictError, DataError, FoedusError, NotFoundError
from foedus.node import acts
from foedus.node.apart import read_apart
from foedus.node.approval import check_approval
from foedus.node.policy import Request, broken, read_policy, refusal
from foedus.node.reasons import failure_of
from foedus.node.scope import Use
from foedus.node.snapshots import place_of
from foedus.node.transport import Link
from foedus.node.vault import Dataset, Vault
from foedus.wire.messages import SchemaAsk, SchemaHeard, TellSchema

WAITING = 100
"""Schemas that wait to be told at most; what more is asked for comes again."""

RULES = ("allow.strategies", "allow.examples")
"""Rules of the policy on what may be asked for that hold of a schema as they do of work."""

_log = logging.getLogger(__name__)


class Schemas:
    """What a coordinator wants to know of this node's tables, told in the order in which it was asked."""

    def __init__(self, vault: Vault, link: Link) -> None:
        self._vault, self._link = vault, link
        self._waiting: asyncio.Queue[SchemaAsk] = asyncio.Queue()
        self._asked: set[tuple[str, str]] = set()
        self._closed = threading.Event()

    def in_hand(self) -> frozenset[tuple[str, str]]:
        """What was asked for and is not told yet, by run and client."""
        return frozenset(self._asked)

    def take(self, asks: Iterable[SchemaAsk], before: Set[tuple[str, str]]) -> bool:
        """Note what a poll asks for, once for each run and client; whether any of it is new.

        What was in hand ``before`` the poll may have been told since; if the next poll asks for it again, it was not.
        """
        known = self._asked | before
        new = [ask for ask in asks if (ask.run, ask.client) not in known][: WAITING - len(self._asked)]
        for ask in new:
            self._asked.add((ask.run, ask.client))
            self._waiting.put_nowait(ask)
        return bool(new)

    async def tell(self) -> None:
        """Tell them one after another, for ever; what is read when this is cancelled is given up soon."""
        try:
            while True:
                ask = await self._waiting.get()
                try:
                    await self._tell(ask)
                except Exception:
                    _log.exception("the schema of %s could not be told", ask.client)
                self._asked.discard((ask.run, ask.client))
        finally:
            self._closed.set()

    async def _tell(self, ask: SchemaAsk) -> None:
        try:
            _check(self._vault, ask)
            said = await asyncio.to_thread(self._read, ask)
            made = TellSchema(run=ask.run, client=ask.client, columns=json.loads(said))
            _check(self._vault, ask)  # the owner may have decided otherwise while it was read
            await acts.schema_told(self._vault, ask, len(made.columns))
        except Exception as error:
            await self._refuse(ask, error)
            return
        try:
            await self._send(made)
        except FoedusError as error:
            await self._refuse(ask, unaligned(f"The coordinator did not take it: {error.code}."))

    async def _refuse(self, ask: SchemaAsk, error: Exception) -> None:
        said = failure_of(error)
        _log.warning("the schema of %s stays here: %s: %s\n%s", ask.client, said.code, said.reason, said.detail)
        try:
            await acts.schema_refused(self._vault, ask, said.code, said.reason)
        except FoedusError as unwritten:  # it stays here all the same
            _log.error("%s", unwritten)
        try:
            await self._send(TellSchema(run=ask.run, client=ask.client, code=said.code, reason=said.reason))
        except FoedusError as refused:
            _log.warning("that it stays here was refused: %s", refused)

    async def _send(self, message: TellSchema) -> None:
        try:
            await self._link.retried(lambda: self._link.post("/node/schemas", message, SchemaHeard))
        except (ConflictError, NotFoundError) as error:
            _log.info("the schema of %s is not awaited any more: %s", message.client, error.code)

    def _read(self, ask: SchemaAsk) -> str:
        dataset = _dataset(self._vault, ask.client)
        check_table(dataset)
        place, reading = place_of(self._vault.home, ask.run, dataset, self._going_on)
        word = json.dumps([dataset.client, str(place), reading.kind])
        return read_apart("foedus.node.drafting", self._vault.home, word, self._going_on)

    def _going_on(self) -> None:
        if self._closed.is_set():
            raise DataError("dataset_unreadable", "The dataset is not read to its end: the node ends.")


def check_table(dataset: Dataset) -> None:
    """Refuse what is no table: folders, and so code of an owner's own.

    Raises:
        ConfigError: ``align_refused``.
    """
    if dataset.kind in FOLDERS or dataset.path.is_dir():
        raise unaligned("It is a folder, and only tables have columns that can be aligned.")


def unaligned(why: str) -> ConfigError:
    """What is said of a dataset that has no schema to tell."""
    fix = "Offer a table, or leave it out of runs that align tables."
    return ConfigError("align_refused", "This dataset cannot be aligned.", why, fix)


def _check(vault: Vault, ask: SchemaAsk) -> None:
    """What the owner decided of the plan, and then the policy; both are read anew each time.

    Raises:
        ForbiddenError: as :func:`foedus.node.approval.check_approval`; ``policy_refused``.
        DataError: ``dataset_missing``. ConfigError: where the policy is malformed.
    """
    policy = read_policy(vault.home)
    check_approval(vault, policy, ask.plan, Use(ask.client, ask.strategy, 1, policy.sandbox != "off"))
    if not policy.leave.schemas:
        raise refusal("leave.schema", "The names of a table's columns stay on the node.")
    examples = _dataset(vault, ask.client).examples
    for rule, why in broken(policy, Request(ask.strategy, {}, 1, examples), datetime.now().astimezone()):
        if rule in RULES:
            raise refusal(rule, why)


def _dataset(vault: Vault, client: str) -> Dataset:
    dataset = next((each for each in vault.datasets() if each.client == client), None)
    if dataset is None:
        raise DataError("dataset_missing", f"The node offers no dataset {client}.")
    return dataset
