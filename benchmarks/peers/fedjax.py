"""FedJAX on a job: its federated averaging on its default backend.

It fills a last batch that is not full by beginning again (25 examples in batches of 10 are 10, 10 and 10), so where
clients' sizes are no multiple of the batch it trains on more examples than every other runner.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax  # type: ignore[import-not-found]
import jax.numpy as jnp  # type: ignore[import-not-found]

from benchmarks.definitions import Job
from benchmarks.exported import Clock, read, report

jax.tree_map = jax.tree_util.tree_map  # FedJAX calls it by a name that jax no longer has

import fedjax  # type: ignore[import-not-found]  # noqa: E402

Array = Any
Parameters = list[Array]


def logits(job: Job, parameters: Parameters, inputs: Array) -> Array:
    """The job's network, with weights as PyTorch keeps them."""
    pairs = list(zip(parameters[::2], parameters[1::2], strict=True))
    if job.convolutions:
        inputs = inputs.reshape(-1, 1, 28, 28)
        for weight, bias in pairs[:2]:
            inputs = jax.nn.relu(jax.lax.conv_general_dilated(inputs, weight, (1, 1), "SAME") + bias[:, None, None])
            n, channels, height, width = inputs.shape
            inputs = inputs.reshape(n, channels, height // 2, 2, width // 2, 2).max((3, 5))
        inputs, pairs = inputs.reshape(len(inputs), -1), pairs[2:]
    for weight, bias in pairs[:-1]:
        inputs = jax.nn.relu(inputs @ weight.T + bias)
    weight, bias = pairs[-1]
    return inputs @ weight.T + bias


def main(folder: str, out: str) -> None:
    """Run, and report."""
    data, clock = read(Path(folder)), Clock()
    job = data.job

    def gradient(parameters: Parameters, batch: dict[str, Array], rng: Array) -> Parameters:
        def mean_loss(parameters: Parameters) -> Array:
            scores = jax.nn.log_softmax(logits(job, parameters, batch["x"]))
            return -jnp.take_along_axis(scores, batch["y"][:, None], 1).mean()

        found: Parameters = jax.grad(mean_loss)(parameters)
        return found

    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        gradient,
        fedjax.optimizers.sgd(job.lr),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(batch_size=job.batch, num_epochs=1, skip_shuffle=True),
    )
    state = algorithm.init([jnp.asarray(array) for array in data.parameters.values()])
    key = jax.random.PRNGKey(0)
    clock.start()
    for at in range(job.rounds):
        orders = [data.order(at, place) for place in range(job.cohort)]
        clients = [fedjax.ClientDataset({"x": data.inputs[rows], "y": data.targets[rows]}) for rows in orders]
        state, _ = algorithm.apply(state, [(place, client, key) for place, client in enumerate(clients)])
        jax.block_until_ready(state.params)
        clock.round()
    report(Path(out), clock, {name: state.params[at] for at, name in enumerate(data.parameters)}, "more examples")


if __name__ == "__main__":
    main(*sys.argv[1:])
