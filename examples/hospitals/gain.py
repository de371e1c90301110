"""What each hospital gained: the accuracy of the common model, and of one that it trained alone.

    python gain.py run tested-cleveland tested-hungarian …

The first folder is that of the run of all; the others are of evaluations, by all hospitals, of what each of them
trained alone: a folder's name ends in the hospital's.
"""

import json
import sys
from pathlib import Path

Tested = dict[str, tuple[float, float]]
"""For each hospital how many patients a model was tested on there, and the share of them that it told rightly."""


def tested(folder: Path) -> Tested:
    """How the model of a run was tested last."""
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").open()]
    phases = [phase for record in rounds for phase in record["phases"] if phase["phase"] == "test"]
    receipts = [receipt for receipt in phases[-1]["receipts"] if not receipt["failure"]]
    return {each["client"]: (each["weights"]["examples"], each["metrics"]["accuracy"]) for each in receipts}


def of_all(found: Tested) -> float:
    """The share of all patients who were told rightly."""
    return sum(count * share for count, share in found.values()) / sum(count for count, _ in found.values())


def table(together: Path, alone: list[Path]) -> list[str]:
    """The lines of a table, with the accuracy on each hospital's own patients and on those of all."""
    common = tested(together)
    lines = [f"{'':12} {'':8} {'own patients':^18} {'all patients':^18}".rstrip()]
    lines.append(
        f"{'hospital':12} {'patients':>8} {'alone':>8} {'together':>9} {'alone':>8} {'together':>9} {'gain':>6}"
    )
    for folder in alone:
        site = folder.name.rpartition("-")[2]
        own = tested(folder)
        shares = (own[site][1], common[site][1], of_all(own), of_all(common))
        cells = [f"{share:>{width}.1%}" for share, width in zip(shares, (8, 9, 8, 9), strict=True)]
        lines.append(f"{site:12} {common[site][0]:>8.0f} {' '.join(cells)} {100 * (shares[3] - shares[2]):>+6.1f}")
    return lines


if __name__ == "__main__":
    print("\n".join(table(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])))
