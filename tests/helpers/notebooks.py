"""Notebooks of the documentation, as their cells of code."""

import json
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


class Cell(NamedTuple):
    """A cell of code."""

    code: str
    tags: tuple[str, ...]  # "parameters": sizes, which a test may replace
    ran: bool  # whether outputs or a number are left of a run


def read(path: Path) -> list[Cell]:
    """The cells of code of a notebook."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return [
        Cell(
            "".join(cell["source"]),
            tuple(cell["metadata"].get("tags", ())),
            bool(cell["outputs"]) or cell["execution_count"] is not None,
        )
        for cell in cells
        if cell["cell_type"] == "code"
    ]
