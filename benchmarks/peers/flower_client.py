"""What :mod:`benchmarks.peers.flower` runs for a client; a module of its own, which Ray pickles by its name."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict  # type: ignore[import-not-found]
from flwr.clientapp import ClientApp  # type: ignore[import-not-found]
from torch import nn

from benchmarks.exported import Exported, read
from benchmarks.peers.network import loaded, train

FOLDER = Path(os.environ["BENCH_JOB"])

client_app = ClientApp()


@functools.cache
def ready() -> tuple[Exported, nn.Module]:
    """The job and a network, once per actor."""
    torch.set_num_threads(1)
    data = read(FOLDER)
    return data, loaded(data)


@client_app.train()  # type: ignore[untyped-decorator]
def train_client(message: Message, context: object) -> Message:
    """One client's local epoch."""
    data, network = ready()
    config = message.content["config"]
    rows = data.order(config["round"], config["place"])
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    train(data, network, rows)
    metrics = MetricRecord({"num-examples": len(rows)})
    content = RecordDict({"arrays": ArrayRecord(network.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)
