"""What kernel ``graph`` runs, and how: one list of models, losses and options, for a test and for a page of the docs.

``python -m tests.generality`` writes the table into docs/reference/kernels.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from foedus.data.dataset import Columns
from foedus.local.plan import TrainingPlan

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "kernels.md"
BEGIN, END = "<!-- the table of tests/generality.py -->", "<!-- its end -->"

PADDED, WHOLE, EAGER = "padded", "whole", "kernel `eager`"
STACKED, ALONE = "stacks, or one at a time", "one at a time; channels first or last"
CONTROL = "data-dependent control flow"

CLASSES, FEATURES, WORDS, LENGTH = 4, 12, 20, 6
SIZES = (3, 5, 8, 12, 14, 18, 20, 23, 27, 30)
"""Examples of the clients, in turn: with batches of 8 some are full, some are not, and none has a single row."""


@dataclass(frozen=True)
class Case:
    """A plan, its data and options; how the graph runs batches and clients, or a part of the reason why it does not."""

    name: str
    model: Callable[[], nn.Module]
    loss: Callable[[Any, Tensor], Tensor]
    mode: str = PADDED
    data: str = "vectors"
    reason: str = ""
    clients: str = STACKED
    factored: bool = False
    local: Mapping[str, float] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plan(self) -> TrainingPlan:
        """The plan, as a notebook would write it."""
        return TrainingPlan(self.model, self.loss, {}, {}, PREPARE[self.data])


def clients(place: int) -> Columns:
    """The columns of the client at ``place``: the same rows as vectors, images, words, times and several targets."""
    rng = torch.Generator().manual_seed(place)
    rows = SIZES[place % len(SIZES)]
    vectors = torch.randn(rows, FEATURES, generator=rng)
    truth = torch.randn(FEATURES, CLASSES, generator=torch.Generator().manual_seed(99))
    scores = vectors @ truth + 0.3 * torch.randn(rows, CLASSES, generator=rng)
    return {
        "vectors": vectors,
        "images": torch.cat([vectors, vectors.flip(1), vectors[:, :12]], 1).view(rows, 1, 6, 6),
        "words": torch.randint(WORDS, (rows, LENGTH), generator=rng),
        "label": scores.argmax(1),
        "scores": scores / 4,
        "time": torch.rand(rows, generator=rng) * 10,
        "event": (torch.rand(rows, generator=rng) < 0.7).float(),
    }


PREPARE: Mapping[str, Callable[[Mapping[str, Tensor]], tuple[Any, Any]]] = {
    "vectors": lambda columns: (columns["vectors"], columns["label"]),
    "images": lambda columns: (columns["images"], columns["label"]),
    "words": lambda columns: (columns["words"], columns["label"]),
    "next word": lambda columns: (columns["words"][:, :-1], columns["words"][:, 1:]),
    "scores": lambda columns: (columns["vectors"], columns["scores"]),
    "named": lambda columns: (
        {"vectors": columns["vectors"], "words": columns["words"]},
        {"label": columns["label"], "scores": columns["scores"]},
    ),
    "survival": lambda columns: (columns["vectors"], torch.stack([columns["time"], columns["event"]], 1)),
}


def mlp(outputs: int = CLASSES) -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, outputs))


def cnn(*norm: nn.Module) -> nn.Module:
    first = [nn.Conv2d(1, 8, 3, padding=1), *norm, nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*first, nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, CLASSES))


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, CLASSES))


def with_middle(middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 16), middle, nn.ReLU(), nn.Linear(16, CLASSES))


class Recurrent(nn.Module):
    """Rows of an image, read one after another."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.layer = kind(6, 8, batch_first=True, **options)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layer(images[:, 0])[0][:, -1])


class Attentive(nn.Module):
    """A transformer's layer over the rows of an image."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(6, 2, 12, dropout=dropout, batch_first=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layer(images[:, 0]).mean(1))


class Words(nn.Module):
    """The mean of the words' vectors."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, 8, **options), nn.Linear(8, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.words(words).mean(1))


class Tied(nn.Module):
    """The next word, with one matrix for words that come in and go out."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(WORDS, 8), nn.Linear(8, WORDS, bias=False)
        self.out.weight = self.words.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.out(torch.tanh(self.words(words)))


class Adapted(nn.Module):
    """A frozen layer with a trained low-rank addition (LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685)."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.head = nn.Linear(FEATURES, 16), nn.Linear(16, CLASSES)
        for parameter in self.base.parameters():
            parameter.requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(2, FEATURES) * 0.1), nn.Parameter(torch.zeros(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.base(x) + x @ self.down.T @ self.up.T))


class Branches(nn.Module):
    """Two branches: ``unused`` gets no gradient; without it, which of them is taken depends on the data."""

    def __init__(self, choose: Callable[[Tensor], bool | Tensor]) -> None:
        super().__init__()
        self.one, self.two, self._choose = nn.Linear(FEATURES, CLASSES), nn.Linear(FEATURES, CLASSES), choose

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) if self._choose(x) else self.two(x)


class Several(nn.Module):
    """Two outputs of one body."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes, self.size = nn.Linear(FEATURES, 16), nn.Linear(16, CLASSES), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.tanh(self.body(x))
        return {"classes": self.classes(hidden), "size": self.size(hidden)}


class Named(nn.Module):
    """Vectors and words together, each with an answer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.body, self.head = nn.Embedding(WORDS, 8), nn.Linear(FEATURES, 8), nn.Linear(16, CLASSES)

    def forward(self, vectors: Tensor, words: Tensor) -> Tensor:
        return self.head(torch.cat([torch.tanh(self.body(vectors)), self.words(words).mean(1)], 1))


class Again(nn.Module):
    """One layer, used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.head = nn.Linear(FEATURES, 16), nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(3):
            x = x + torch.tanh(self.layer(x))
        return self.head(x)


class Positive(nn.Module):
    """The mean over those features that are positive: the shape depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(FEATURES, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layer(x)
        return self.head(hidden) + hidden[hidden > 0].mean()


def frozen(model: nn.Module, *layers: int) -> nn.Module:
    for layer in layers:
        for parameter in model[layer].parameters():  # type: ignore[index]
            parameter.requires_grad_(False)
    return model


def words_loss(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output.flatten(0, 1), target.flatten())


def several_loss(output: Mapping[str, Tensor], target: Tensor) -> Tensor:
    return functional.cross_entropy(output["classes"], target) + 0.1 * output["size"].square().mean()


def named_loss(output: Tensor, target: Mapping[str, Tensor]) -> Tensor:
    return functional.cross_entropy(output, target["label"]) + functional.mse_loss(output, target["scores"])


def sum_loss(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output, target, reduction="sum") / 8


def weighted_loss(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output, target, weight=torch.tensor([1.0, 2.0, 3.0, 4.0]))


def focal_loss(output: Tensor, target: Tensor) -> Tensor:
    log = functional.log_softmax(output, 1).gather(1, target[:, None])[:, 0]
    return -((1 - log.exp()).square() * log).mean()


def pairwise_loss(output: Tensor, target: Tensor) -> Tensor:
    """Rows of one class near each other, rows of different classes apart."""
    distances = (output[:, None] - output[None]).square().sum(2)
    alike = (target[:, None] == target[None]).float()
    return (alike * distances + (1 - alike) * torch.relu(2 - distances)).mean()


def cox_loss(output: Tensor, target: Tensor) -> Tensor:
    """Cox's partial likelihood (1972): each event against all who were still at risk."""
    risk, time, event = output[:, 0], target[:, 0], target[:, 1]
    at_risk = (time[None] >= time[:, None]).float()
    against = (at_risk * (risk - risk.max()).exp()[None]).sum(1).log() + risk.max()
    return ((against - risk) * event).sum() / event.sum().clamp(min=1)


def branching_loss(output: Tensor, target: Tensor) -> Tensor:
    loss = functional.cross_entropy(output, target)
    return loss if loss > 1.3 else 0.5 * loss


rows = functional.cross_entropy

MODELS = (
    Case("multilayer perceptron", mlp, rows),
    Case("convolutions and pooling", cnn, rows, PADDED, "images", clients=ALONE),
    Case(
        "depthwise convolution",
        lambda: cnn(nn.Conv2d(8, 8, 3, padding=1, groups=8)),
        rows,
        PADDED,
        "images",
        clients=ALONE,
    ),
    Case(
        "batch normalization after a convolution", lambda: cnn(nn.BatchNorm2d(8)), rows, WHOLE, "images", clients=ALONE
    ),
    Case("batch normalization", lambda: with_middle(nn.BatchNorm1d(16)), rows, WHOLE),
    Case("group normalization", lambda: cnn(nn.GroupNorm(2, 8)), rows, PADDED, "images", clients=ALONE),
    Case("layer normalization", lambda: with_middle(nn.LayerNorm(16)), rows),
    Case("dropout", lambda: with_middle(nn.Dropout(0.3)), rows, WHOLE),
    Case("LSTM", lambda: Recurrent(nn.LSTM), rows, data="images"),
    Case("GRU", lambda: Recurrent(nn.GRU), rows, data="images"),
    Case(
        "recurrent, two layers with dropout",
        lambda: Recurrent(nn.GRU, num_layers=2, dropout=0.2),
        rows,
        WHOLE,
        "images",
    ),
    Case("transformer layer", lambda: Attentive(0.0), rows, data="images"),
    Case("transformer layer with dropout", lambda: Attentive(0.1), rows, EAGER, "images", "its first steps differ"),
    Case("embedding (integer inputs)", Words, rows, data="words"),
    Case("embedding with a padding word", lambda: Words(padding_idx=0), rows, data="words"),
    Case("tied weights", Tied, words_loss, data="next word"),
    Case("LoRA adapters on a frozen base", Adapted, rows),
    Case("frozen layer", lambda: frozen(mlp(), 0), rows),
    Case("branch that is never taken", lambda: Branches(lambda x: True), rows),
    Case("one layer used again and again", Again, rows),
    Case("several outputs", Several, several_loss),
    Case("several inputs and targets, by name", Named, named_loss, data="named"),
    Case("wide layers, few examples", wide, rows, factored=True),
    Case("branch by the data, in the model", lambda: Branches(lambda x: x.mean() > 0), rows, EAGER, reason=CONTROL),
    Case("shape by the data", Positive, rows, EAGER),
)
LOSSES = (
    Case("mean of rows: cross-entropy", mlp, rows),
    Case("mean of rows: smoothed labels", mlp, nn.CrossEntropyLoss(label_smoothing=0.1)),
    Case("mean of rows: focal", mlp, focal_loss),
    Case("mean of rows: squared error", mlp, functional.mse_loss, data="scores"),
    Case("mean of rows: Huber", mlp, functional.huber_loss, data="scores"),
    Case("mean of rows: several labels", mlp, nn.MultiLabelSoftMarginLoss(), data="scores"),
    Case("sum of rows", mlp, sum_loss, WHOLE),
    Case("classes with weights", mlp, weighted_loss, WHOLE),
    Case("rows in pairs", mlp, pairwise_loss, WHOLE),
    Case("survival: Cox's partial likelihood", lambda: mlp(1), cox_loss, WHOLE, "survival"),
    Case("branch by the data, in the loss", mlp, branching_loss, EAGER, reason=CONTROL),
)
OPTIONS = (
    Case("clients' SGD with momentum", mlp, rows, local={"momentum": 0.9}),
    Case("clients' SGD with weight decay", mlp, rows, local={"weight_decay": 0.01}),
    Case(
        "both, over a batch-normalized model",
        lambda: with_middle(nn.BatchNorm1d(16)),
        rows,
        WHOLE,
        local={"momentum": 0.5, "weight_decay": 0.01},
    ),
    Case("several epochs", mlp, rows, local={"epochs": 3}),
    Case("a number of updates for all", mlp, rows, local={"num_updates": 7}),
    Case("one batch of everything", mlp, rows, factored=True, local={"batch_size": 1000}),
    Case("batches of one row", mlp, rows, local={"batch_size": 1}),
    *(
        Case(f"server optimizer {name}", mlp, rows, server={"optimizer": name, "lr": 0.1})
        for name in ("adagrad", "adam", "yogi")
    ),
)
CASES = (*MODELS, *LOSSES, *OPTIONS)


def table() -> str:
    """The list as the page shows it."""
    lines = [BEGIN]
    for title, cases in (("model", MODELS), ("loss", LOSSES), ("options", OPTIONS)):
        lines += ["", f"| {title} | batches | clients |", "|---|---|---|"]
        lines += [f"| {case.name} | {' | '.join(_cells(case))} |" for case in cases]
    return "\n".join([*lines, "", END])


def _cells(case: Case) -> tuple[str, str]:
    if case.mode == EAGER:
        return EAGER, case.reason
    return case.mode, f"{case.clients}; weights as factors" if case.factored else case.clients


def written() -> str:
    """The page with the table as it is now."""
    page = PAGE.read_text()
    return page[: page.index(BEGIN)] + table() + page[page.index(END) + len(END) :]


if __name__ == "__main__":
    PAGE.write_text(written())
