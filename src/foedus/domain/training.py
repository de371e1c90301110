"""Training arguments: what a client does between two messages, as ``[strategy.local]`` of run.toml says it.

Checked where the run is written, by the coordinator, and by a node before it does anything else; free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from foedus.domain.errors import ConfigError
from foedus.domain.rates import RateTable
from foedus.domain.table import Amount, Decay, PositiveInt, Rate, Table, Text, validate

STEPS, OWN = "steps", "own"
"""Titles by which the two tables that ``[strategy.local]`` may be are told apart."""


class LocalOptions(Table):
    """What a client does between two messages: ``epochs`` over its examples in batches of ``batch_size``.

    ``num_updates`` steps in place of the epochs, where given: the same for every client, however many examples it has.
    ``batch_maxnum``: the most batches of an epoch. ``dry_run``: one batch, whatever else is said.
    ``momentum`` is SGD's; ``beta1``, ``beta2`` and ``epsilon`` are Adam's, whose ``weight_decay`` is decoupled (AdamW).
    ``clip`` bounds the norm of each batch's gradient. ``lr_schedule`` changes ``lr`` over rounds or steps. With
    ``keep_optimizer`` the optimizer's moments go on from the client's round before, and are not begun anew.
    ``personal``: patterns of tensors (``head.*``) that stay with the client. ``log_interval``: every so many steps a
    client says how its training goes.
    """

    model_config = ConfigDict(title=STEPS)

    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: Rate
    lr_schedule: RateTable | None = None
    keep_optimizer: bool = False
    momentum: Decay = 0.0
    weight_decay: Amount = 0.0
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    epsilon: Rate = 1e-8
    clip: Rate | None = None
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 1
    num_updates: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 10
    batch_maxnum: PositiveInt | None = None
    dry_run: bool = False
    log_interval: PositiveInt = 10
    personal: Annotated[list[Text], Field(max_length=1000)] = Field(default_factory=list)

    def epoch(self, examples: int) -> int:
        """The batches of an epoch over so many examples.

        >>> LocalOptions(lr=0.1).epoch(25), LocalOptions(lr=0.1, batch_maxnum=2).epoch(25)
        (3, 2)
        """
        return min(-(-examples // self.batch_size), self.batch_maxnum or examples)

    def updates(self, examples: int) -> int:
        """The steps that a client with so many examples takes between two messages.

        >>> options = LocalOptions(lr=0.1, epochs=2)
        >>> options.updates(25), options.model_copy(update={"num_updates": 100}).updates(25)
        (6, 100)
        """
        return 1 if self.dry_run else self.num_updates or self.epochs * self.epoch(examples)

    def seen(self, examples: int) -> int:
        """The examples that such a client works on in these steps, each as often as it is seen.

        >>> LocalOptions(lr=0.1, num_updates=4).seen(25), LocalOptions(lr=0.1, batch_maxnum=2).seen(25)
        (35, 20)
        """
        batches = self.epoch(examples)
        epochs, more = divmod(self.updates(examples), batches)
        return epochs * min(batches * self.batch_size, examples) + min(more * self.batch_size, examples)


class OwnOptions(Table):
    """The same table for a plan that does its own training: its ``options``, which only the plan knows."""

    model_config = ConfigDict(title=OWN)

    options: dict[str, Any] = Field(default_factory=dict, max_length=1000)
    personal: ClassVar[list[str]] = []
    log_interval: ClassVar[int] = 1

    def seen(self, examples: int) -> int:
        """The examples that a client works on: each once, as far as anybody but the plan knows."""
        return examples


def _title(table: Any) -> str:
    """A table with nothing, or nothing but ``options``, is for a plan that does its own training."""
    return OWN if isinstance(table, OwnOptions) or (isinstance(table, Mapping) and set(table) <= {"options"}) else STEPS


LocalTable = Annotated[Annotated[LocalOptions, Tag(STEPS)] | Annotated[OwnOptions, Tag(OWN)], Discriminator(_title)]
"""``[strategy.local]``: what a client does, by the platform's steps or by the plan's own training."""


class _Arguments(Table):
    """The options of a strategy, as far as they are training arguments."""

    local: LocalTable


def check_arguments(options: Mapping[str, Any]) -> None:
    """Refuse the options of a strategy whose training arguments are unknown, or of another type.

    Raises:
        ConfigError: ``arguments_refused``, which names the argument.

    >>> check_arguments({"local": {"lr": 0.1}})
    """
    try:
        validate(_Arguments, {"local": options.get("local", {})}, "The run's training")
    except ConfigError as error:
        raise ConfigError("arguments_refused", error.what, "", "Correct the keys named; submit the run anew.") from None
