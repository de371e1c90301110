"""LEAF's JSON: FEMNIST, Shakespeare, Synthetic and others, as LEAF's scripts write them.

Caldas et al., LEAF: A Benchmark for Federated Settings, 2018 (https://arxiv.org/abs/1812.01097). Each file has
``users``, ``num_samples`` and ``user_data``: user → ``x`` and ``y``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foedus.data.dataset import Columns, check_columns
from foedus.data.population import Federation, OnDemand
from foedus.data.sources.source import Request, Source, check_size, client_names, missing, required_folder, unreadable
from foedus.domain.errors import DataError

LAYOUT = "LEAF's preprocess.sh writes `train/*.json` and `test/*.json`; `[data] folder` is the folder of both."


def read(request: Request) -> Federation:
    """The users of ``train/*.json`` as clients, and all examples of ``test/*.json`` as the test part.

    ``x`` is float32 ``[n, …]`` or, of texts, their characters' code points ``[n, length]``; ``y`` alike, int64 where
    all are whole numbers.

    Raises:
        DataError: ``dataset_missing``, ``dataset_unreadable``, ``dataset_too_large``, ``dataset_not_numeric``.
    """
    folder = required_folder(request, LAYOUT)
    users = _users(request, folder / "train")
    keys = sorted(users)
    names, places = client_names(keys)
    clients = OnDemand(names, lambda place: users[keys[places[place]]])
    if not request.test:
        return Federation(clients)
    tested = list(_users(request, folder / "test").values())
    return Federation(clients, {name: torch.cat([columns[name] for columns in tested]) for name in ("x", "y")})


def _users(request: Request, folder: Path) -> dict[str, Columns]:
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        raise missing(request.name, f"{folder}/*.json", LAYOUT)
    check_size(sum(file.stat().st_size for file in files), f"The folder {folder.name}")
    users: dict[str, Columns] = {}
    for file in files:
        users.update(_of_file(file))
    return users


def _of_file(file: Path) -> dict[str, Columns]:
    try:
        content = json.loads(file.read_bytes())
        data: Mapping[str, Any] = content["user_data"]
        found = {str(user): (data[user]["x"], data[user]["y"]) for user in content["users"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise unreadable(file, f"It is not a file of LEAF: {type(error).__name__}.") from error
    return {user: _columns(file, x, y) for user, (x, y) in found.items() if x}


def _columns(file: Path, x: Sequence[Any], y: Sequence[Any]) -> Columns:
    columns = {"x": _tensor(file, x), "y": _tensor(file, y)}
    if columns["y"].is_floating_point() and bool((columns["y"] == columns["y"].round()).all()):
        columns["y"] = columns["y"].long()
    check_columns(columns)
    return columns


def _tensor(file: Path, values: Sequence[Any]) -> Tensor:
    try:
        if all(isinstance(value, str) for value in values):
            return torch.tensor([[ord(letter) for letter in value] for value in values])
        return torch.tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise DataError(
            "dataset_not_numeric",
            f"The file {file.name} has examples that are neither numbers nor texts of one length.",
            "",
            "Encode them as numbers.",
        ) from error


SOURCE = Source(read)
