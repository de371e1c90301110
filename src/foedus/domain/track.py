"""The table ``[track]`` of run.toml: which experiment trackers are told of each round."""

from __future__ import annotations

from typing import Literal

from foedus.domain.table import Table, Text


class WandbTable(Table):
    """Weights & Biases: the ``project``, and whether anything leaves this machine (``offline``: nothing does)."""

    project: Text = "foedus"
    mode: Literal["offline", "online"] = "offline"
    folder: Text = "."


class MlflowTable(Table):
    """MLflow: a tracking server's ``uri`` or a folder, and the ``experiment``."""

    uri: Text
    experiment: Text = "foedus"


class TrackTable(Table):
    """Trackers by name. Folders are relative to the current one, as ``runs`` is; ``mlflow`` may be a URI alone."""

    tensorboard: Text | None = None
    mlflow: MlflowTable | Text | None = None
    wandb: WandbTable | None = None
