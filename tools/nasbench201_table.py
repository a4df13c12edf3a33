"""Makes ``wpl_jax/evaluation/nasbench201.npz`` of a CSV file of its figures.

    python tools/nasbench201_table.py nasbench201.csv

The CSV file has the figures of NATS-Bench (Dong et al., 2021) and NAS-Bench-201 (Dong
and Yang, 2020), in the order of the benchmark's indices: ``arch``, the string of an
architecture; ``params_M_c10``, millions of parameters; ``n_seeds``; and for ``c10``,
``c100`` and ``in16`` accuracies and seconds, which this file renames. A mean over
validation and test (``valtest``) follows from the two and is left out. FLOPs are
computed, since the benchmark's network is known.
"""

import csv
import itertools
import sys
from pathlib import Path

import numpy as np

from wpl_jax.evaluation.table import NASBENCH201
from wpl_jax.spaces.nasbench201_architectures import OPERATIONS, from_string

DATA_SETS = {"c10": "cifar10", "c100": "cifar100", "in16": "imagenet16_120"}
ENDS = {
    "valid": ("valid", 3),
    "test": ("test", 3),
    "train_s": ("seconds", 1),
    "valid_12ep": ("valid_12_epochs", 3),
    "test_12ep": ("test_12_epochs", 3),
}
CELLS = 5  # of each of three stages
STAGES = ((16, 32 * 32), (32, 16 * 16), (64, 8 * 8))  # channels, pixels


def count_flops(choice: np.ndarray) -> int:
    """Multiplications with their additions of a network for CIFAR-10.

    Counted are convolutions and the classifier with its bias, as in the benchmark: of
    two 1x1 convolutions 15.64737 million.
    """
    total = 3 * 3 * 3 * 16 * STAGES[0][1]
    for (before, _), (channels, pixels) in itertools.pairwise(STAGES):
        # Of a residual block: 3x3 and 3x3, and 1x1 beside them.
        total += (9 * before + 9 * channels + before) * channels * pixels
    for kernel, name in ((1, "nor_conv_1x1"), (9, "nor_conv_3x3")):
        edges = np.count_nonzero(choice == OPERATIONS.index(name))
        total += edges * sum(CELLS * kernel * c * c * pixels for c, pixels in STAGES)
    return total + STAGES[-1][0] * 10 + 10


def main(source: str) -> None:
    """Writes the file."""
    with Path(source).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(len(rows)))
    choices = np.array([from_string(row["arch"]) for row in rows])
    columns = {"parameters": ("params_M_c10", 1_000_000, 0), "seeds": ("n_seeds", 1, 0)}
    for short, data_set in DATA_SETS.items():
        for end, (name, decimals) in ENDS.items():
            if (column := f"{short}_{end}") in rows[0]:
                columns[f"{data_set}_{name}"] = (column, 10**decimals, decimals)
    values = [
        np.rint([float(row[column]) * scale for row in rows])
        for column, scale, _ in columns.values()
    ]
    values.append(np.array([count_flops(choice) for choice in choices]))
    np.savez_compressed(
        NASBENCH201,
        space=np.array("nasbench201"),
        choices=choices.astype(np.uint8),
        names=np.array([*columns, "flops"]),
        decimals=np.array([*(decimals for *_, decimals in columns.values()), 0]),
        values=np.array(values, np.int32),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
