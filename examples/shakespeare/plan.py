"""The next character of a play: a small recurrent network that reads a window and predicts each character after it."""

import torch
from torch import Tensor, nn

LETTERS = 65  # different characters in the file


class Reader(nn.Module):
    """Characters ``[n, length]`` → scores of the next one ``[n, length, letters]``."""

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(LETTERS, 16)
        self.memory = nn.GRU(16, 64, batch_first=True)
        self.scores = nn.Linear(64, LETTERS)

    def forward(self, text: Tensor) -> Tensor:
        """Read, and score what may come next at every place."""
        remembered, _ = self.memory(self.letters(text))
        return self.scores(remembered)


def model() -> nn.Module:
    """The network that everybody trains together. Its initial parameters come from the run's seed."""
    return Reader()


def loss(output: Tensor, target: Tensor) -> Tensor:
    """What training lowers: one number for a batch."""
    return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """The share of characters that are guessed rightly."""
    return (output.argmax(2) == target).float().mean()


metrics = {"accuracy": accuracy}


def prepare(columns: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """From windows of text to what the model reads and what it is to say."""
    text = columns["text"].to(torch.int64)
    return text[:, :-1], text[:, 1:]
