"""FedLab on a job: its ``StandalonePipeline`` with a serial trainer and its weighted aggregation."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.exported import Clock, Exported, read, report
from benchmarks.peers.network import loaded, plain


def _declare_operators() -> torch.library.Library:
    """Two operators of torchvision, whose common build does not fit torch's for CPUs; FedLab only imports it."""
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    library.define("nms(Tensor dets, Tensor scores, float threshold) -> Tensor")  # type: ignore[no-untyped-call]
    library.define("qnms(Tensor dets, Tensor scores, float threshold) -> Tensor")  # type: ignore[no-untyped-call]
    return library


OPERATORS = _declare_operators()

from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer  # type: ignore[import-not-found]  # noqa: E402
from fedlab.contrib.algorithm.basic_server import SyncServerHandler  # type: ignore[import-not-found]  # noqa: E402
from fedlab.core.standalone import StandalonePipeline  # type: ignore[import-not-found]  # noqa: E402
from fedlab.utils import Aggregators, SerializationTool  # type: ignore[import-not-found]  # noqa: E402


class Clients:
    """The port through which FedLab asks for a client's batches; here a client is an ask, by its number."""

    def __init__(self, data: Exported) -> None:
        self.data = data

    def get_dataloader(self, ask: int, batch_size: int) -> DataLoader[tuple[Tensor, ...]]:
        """The batches of one ask, in order."""
        rows = self.data.order(*divmod(ask, self.data.job.cohort))
        examples = TensorDataset(torch.from_numpy(self.data.inputs[rows]), torch.from_numpy(self.data.targets[rows]))
        return DataLoader(examples, batch_size)


class Trainer(SGDSerialClientTrainer):  # type: ignore[misc]
    """Sends the number of examples along with the parameters."""

    def local_process(self, payload: list[Tensor], id_list: list[int]) -> None:
        """Train those asked."""
        super().local_process(payload, id_list)
        data = self.dataset.data
        for pack, ask in zip(self.cache, id_list, strict=True):
            pack.append(len(data.order(*divmod(ask, data.job.cohort))))


class Server(SyncServerHandler):  # type: ignore[misc]
    """Asks the next cohort, and weights by examples."""

    def sample_clients(self) -> list[int]:
        """The round's asks, by number."""
        size = self.num_clients_per_round
        return list(range(self.round * size, (self.round + 1) * size))

    def global_update(self, buffer: list[list[Tensor]]) -> None:
        """FedLab's own average, with weights."""
        mean = Aggregators.fedavg_aggregate([each[0] for each in buffer], [float(each[1]) for each in buffer])
        SerializationTool.deserialize_model(self._model, mean)


class Pipeline(StandalonePipeline):  # type: ignore[misc]
    """Keeps the times of the rounds where FedLab would evaluate."""

    def __init__(self, server: Server, trainer: Trainer) -> None:
        super().__init__(server, trainer)
        self.clock = Clock()

    def evaluate(self) -> None:
        """A round has ended."""
        self.clock.round()


def main(folder: str, out: str) -> None:
    """Run, and report."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    data = read(Path(folder))
    job = data.job
    server = Server(loaded(data), job.rounds, job.cohort / job.clients)
    trainer = Trainer(loaded(data), job.clients)
    trainer.setup_dataset(Clients(data))
    trainer.setup_optim(1, job.batch, job.lr)
    pipeline = Pipeline(server, trainer)
    pipeline.clock.start()
    pipeline.main()
    report(Path(out), pipeline.clock, plain(server._model))


if __name__ == "__main__":
    main(*sys.argv[1:])
