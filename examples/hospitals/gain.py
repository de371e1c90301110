"""What each hospital gained: the accuracy of the federation's model on its own patients, and of a model of its own.

    python gain.py federation/run alone/cleveland alone/hungarian …

The first folder is that of the run of all, the others are of runs of one hospital each.
"""

import json
import sys
from pathlib import Path


def tested(folder: Path) -> dict[str, tuple[float, float]]:
    """For each client its number of patients tested on and the accuracy among them, when the model was last tested."""
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").open()]
    phases = [phase for record in rounds for phase in record["phases"] if phase["phase"] == "test"]
    receipts = [receipt for receipt in phases[-1]["receipts"] if not receipt["failure"]]
    return {each["client"]: (each["weights"]["examples"], each["metrics"]["accuracy"]) for each in receipts}


def table(together: Path, alone: list[Path]) -> list[str]:
    """The lines of a table: a hospital, its patients tested on, alone, together, and the difference in points."""
    federated = tested(together)
    own = {client: found for folder in alone for client, (_, found) in tested(folder).items()}
    lines = [f"{'hospital':<12} {'patients':>8} {'alone':>8} {'together':>8} {'gain':>6}"]
    for client, (patients, found) in sorted(federated.items()):
        gain = 100 * (found - own[client])
        lines.append(f"{client:<12} {patients:>8.0f} {own[client]:>8.1%} {found:>8.1%} {gain:>+6.1f}")
    patients = sum(count for count, _ in federated.values())
    together_mean = sum(count * found for count, found in federated.values()) / patients
    alone_mean = sum(count * own[client] for client, (count, _) in federated.items()) / patients
    gain = 100 * (together_mean - alone_mean)
    return [*lines, f"{'all':<12} {patients:>8.0f} {alone_mean:>8.1%} {together_mean:>8.1%} {gain:>+6.1f}"]


if __name__ == "__main__":
    print("\n".join(table(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])))
