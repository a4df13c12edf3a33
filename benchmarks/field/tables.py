r"""The tables of the comparison as Markdown, without an empty cell.

    python -m benchmarks.field.tables field.json MORE.json

Files of several runs are put together; a later measurement of a method on a model
replaces an earlier one. A cell has a measurement, the reason why there is none
(``unsupported: ...``, ``stopped after 600 s``, ``missing: ...``), or ``not run``.
"""

import itertools
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.field.compare import EXACT, METHODS, SMALL
from benchmarks.field.models import MODELS

Rows = Iterable[dict[str, Any]]
NOT_RUN = "not run"


def tables(rows: Rows) -> str:
    """One table for each number of weights, one of all, and one of exact Fishers."""
    found: dict[str, dict[str, Any]] = {"empirical": {}, "exact": {}}
    for row in rows:
        if "seconds" in row or row.get("problem"):
            size = _size(row["weights"])
            kind = "exact" if row.get("exact", size == SMALL) else "empirical"
            found[kind][size, row["model"], row["method"]] = row
    sizes = sorted({size for size, _, _ in found["empirical"]})
    parts = [detail(found["empirical"], size, METHODS) for size in sizes]
    if len(sizes) > 1:
        parts.append(overview(found["empirical"], sizes))
    if found["exact"]:
        parts.append(detail(found["exact"], SMALL, EXACT))
    return "\n\n".join(parts)


def detail(found: Any, size: float, methods: tuple[str, ...]) -> str:
    """All methods with models of one size."""
    head = ("model", "weights, examples", "method", "batched gradients")
    head += ("quartiles", "CPU seconds", "MiB", "difference")
    lines = [_line(head), "|" + "---|" * len(head)]
    for model in MODELS:
        own = {m: found.get((size, model, m), {"problem": NOT_RUN}) for m in methods}
        about = next((row for row in own.values() if "weights" in row), None)
        if about is None:
            continue
        label = f"{about['weights']:,}, {about['examples']}"
        for method, row in own.items():
            cells = [model, label, method, *_measured(row)]
            lines.append(_line(cells))
            model = label = ""
    return "\n".join(lines)


def overview(found: Any, sizes: list[float]) -> str:
    """Batched gradients of every method and model, for each number of weights."""
    head = ("model", "method", *(f"{size:.0e} weights" for size in sizes))
    lines = [_line(head), "|" + "---|" * len(head)]
    for model, method in itertools.product(MODELS, METHODS):
        if any(m == model for _, m, _ in found) and not method.startswith("gradient"):
            own = [found.get((s, model, method), {"problem": NOT_RUN}) for s in sizes]
            lines.append(_line([model, method, *map(_short, own)]))
    return "\n".join(lines)


def _size(weights: int) -> float:
    """The power of ten that a number of weights is nearest to."""
    return 10.0 ** round(math.log10(weights))


def _measured(row: dict[str, Any]) -> list[str]:
    if row.get("problem"):
        return [row["problem"], "-", "-", "-", "-"]
    ratio, quartiles, difference = "1", "-", "-"
    if not row["method"].startswith("gradient"):
        ratio = "no gradient to compare"
    if "ratio" in row:
        ratio, quartiles = (
            f"{row['ratio']:.2f}",
            f"{row['low']:.2f} to {row['high']:.2f}",
        )
    if row.get("difference"):
        difference = f"{row['difference']:.0e}"
    seconds, mebibytes = f"{row['seconds']:.4f}", f"{row['mebibytes']:.0f}"
    return [ratio, quartiles, seconds, mebibytes, difference]


def _short(row: dict[str, Any]) -> str:
    ratio, quartiles, *_ = _measured(row)
    return ratio if quartiles == "-" else f"{ratio} ({quartiles})"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(*paths: str) -> None:
    """Prints the tables of some files."""
    files = [json.loads(Path(path).read_text("utf-8")) for path in paths]
    print(tables(row for rows in files for row in rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
