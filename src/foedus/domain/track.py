"""The table ``[track]`` of run.toml: which experiment trackers are told of each round."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from foedus.domain.table import Table, Text


class WandbTable(Table):
    """Weights & Biases: the ``project``, and whether anything leaves this machine (``offline``: nothing does)."""

    project: Text = "foedus"
    mode: Literal["offline", "online"] = "offline"
    folder: Text = "."


class MlflowTable(Table):
    """MLflow: a tracking server's ``uri`` or a folder, and the ``experiment``. Text alone is the URI."""

    uri: Text
    experiment: Text = "foedus"

    @model_validator(mode="before")
    @classmethod
    def _uri_alone(cls, value: Any) -> Any:
        return {"uri": value} if isinstance(value, str) else value


class TrackTable(Table):
    """Trackers by name. Folders are relative to the current one, as ``runs`` is."""

    tensorboard: Text | None = None
    mlflow: MlflowTable | None = None
    wandb: WandbTable | None = None
