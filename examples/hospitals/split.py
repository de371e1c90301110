"""Write a hospital's table with one more column, ``part``: which patients are trained on, and which tested on.

    python split.py processed.cleveland.data cleveland.csv

The split is the published one: of the patients with no missing value in the first ten columns, scikit-learn's, with a
third to test on, and as many ill ones in both parts where there are more than two of each. The others have no part.
"""

import csv
import sys
from collections import Counter
from pathlib import Path

from sklearn.model_selection import train_test_split

MEASURED = 10
"""Columns that all hospitals measure; three more are left out, and the last one is the diagnosis: 0 is healthy."""


def split(source: Path, target: Path) -> None:
    """Copy ``source`` to ``target``, with the part of each row behind it."""
    with source.open(newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    complete = [at for at, row in enumerate(rows) if "?" not in row[:MEASURED]]
    ill = [float(rows[at][-1]) > 0 for at in complete]
    counts = Counter(ill)
    stratify = ill if len(counts) > 1 and min(counts.values()) > 2 else None
    _, test = train_test_split(range(len(complete)), test_size=0.34, random_state=43, stratify=stratify)
    parts = dict.fromkeys(complete, "train") | {complete[place]: "test" for place in test}
    with target.open("w", newline="") as file:
        csv.writer(file).writerows([*row, parts.get(at, "")] for at, row in enumerate(rows))


if __name__ == "__main__":
    split(Path(sys.argv[1]), Path(sys.argv[2]))
