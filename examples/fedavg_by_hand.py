"""FedAvg by hand: Algorithm 1 of McMahan et al. (AISTATS 2017, https://arxiv.org/abs/1602.05629), line by line.

    python examples/fedavg_by_hand.py

From foedus come the data of the clients, the order of their batches and the initial parameters, and nothing else.
A test holds that `foedus simulate examples/digits/run.toml --kernel eager` ends with the same bits. The paper's
letters: K clients, a fraction of them per round (here all), E local epochs, B the batch size, eta the learning rate;
client k has n_k examples. As in foedus, a client sends what it changed, w - w_k, and not w_k.
"""

from pathlib import Path

import torch
from torch import nn

from foedus.data.batching import batches
from foedus.data.dataset import ClientData
from foedus.domain.tree import model_digest
from foedus.engine.prepare import prepare
from foedus.engine.simulate import client_data

ROUNDS, E, B, ETA, SEED = 20, 1, 10, 0.1, 1
RUN = Path(__file__).parent / "digits" / "run.toml"


def client_update(model: nn.Module, k: str, data: ClientData, w: list[torch.Tensor], t: int) -> list[torch.Tensor]:
    """ClientUpdate(k, w): run on client k."""
    parameters = list(model.parameters())
    with torch.no_grad():
        for parameter, start in zip(parameters, w, strict=True):
            parameter.copy_(start)
    for i in range((t - 1) * E, t * E):  # for each local epoch i from 1 to E
        for b in batches(len(data.train), B, SEED, k, i):  # for batch b in B
            x, y = data.train.inputs[b], data.train.targets[b]
            loss = nn.functional.cross_entropy(model(x), y)
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.sub_(gradient, alpha=ETA)  # w <- w - eta * gradient of l(w; b)
    return [start - parameter.detach() for start, parameter in zip(w, parameters, strict=True)]


def server(model: nn.Module, clients: dict[str, ClientData]) -> list[torch.Tensor]:
    """Server executes: initialise w_0, then for each round t ask every client and average what they send."""
    w = [parameter.detach().clone() for parameter in model.parameters()]
    for t in range(1, ROUNDS + 1):
        total = [torch.zeros_like(tensor) for tensor in w]
        n = 0.0
        for k in sorted(clients):  # for each client k in S_t, in parallel
            n_k = float(len(clients[k].train))
            for into, change in zip(total, client_update(model, k, clients[k], w, t), strict=True):
                into.add_(change, alpha=n_k)
            n += n_k
        w = [start - into / n for start, into in zip(w, total, strict=True)]  # w <- sum over k of n_k/n * w_k
    return w


def main() -> str:
    """Train, and return the model's digest."""
    torch.set_num_threads(1)
    prepared = prepare(RUN)
    model = prepared.plan.model()
    model.load_state_dict(prepared.model)
    w = server(model, client_data(prepared))
    names = [name for name, _ in model.named_parameters()]
    return model_digest(dict(zip(names, w, strict=True)))


if __name__ == "__main__":
    print(main())
