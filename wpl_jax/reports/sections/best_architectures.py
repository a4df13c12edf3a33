"""Pictures of the best architectures, and of the best child over the epochs."""

import shutil
import subprocess
from pathlib import Path

from wpl_jax.reports.drawing import animate, colors_of, draw, size, to_dot
from wpl_jax.reports.page import Page, new_figure
from wpl_jax.reports.sections.section import Report, Section
from wpl_jax.runs.run_files import write_atomically
from wpl_jax.supernet import Graph


def _show(page: Page, report: Report) -> None:
    page.heading("The best architectures")
    figures = report.workdir / "figures"
    best = {
        arm: min(seeds, key=lambda s: s.results["valid_error"])
        for arm, seeds in report.arms.items()
    }
    graphs = {
        arm: one.space.graphs(one.results["architecture"]) for arm, one in best.items()
    }
    arm, seeds = next(iter(report.arms.items()))
    rows = seeds[0].metrics
    of_epochs = [seeds[0].space.graphs(row["children/best"]) for row in rows]
    colors = colors_of(
        g for found in (*graphs.values(), *of_epochs) for g in found.values()
    )
    for each, found in graphs.items():
        for cell, graph in found.items():
            name = f"{cell}_{each}"
            figure = new_figure(*size(graph))
            draw(graph, figure.subplots(), colors)
            page.figure(
                figure,
                name,
                f"{each}, {cell}: {report.error_name} "
                f"{best[each].results['valid_error']:.1f} on the validation data of "
                "the selection, with the shared weights. The best of all seeds.",
            )
            _graphviz(graph, figures / name)
    for cell in of_epochs[0]:
        animate(
            [found[cell] for found in of_epochs],
            [f"best of epoch {row['step'] + 1}" for row in rows],
            figures / f"{cell}_over_epochs.gif",
            colors,
        )
    page.text(
        f"figures/*_over_epochs.gif show the best child of each epoch of {arm}, seed "
        f"{seeds[0].seed}. figures/*.dot are the pictures above for Graphviz."
    )


def _graphviz(graph: Graph, path: Path) -> None:
    """The picture in Graphviz's language, and drawn by it where it is installed."""
    text = to_dot(graph).encode(errors="backslashreplace")
    write_atomically(path.with_suffix(".dot"), text)
    if shutil.which("dot"):
        command = ["dot", "-Tsvg"]  # Not with the path, which may look like a flag.
        drawn = subprocess.run(command, check=False, input=text, stdout=subprocess.PIPE)
        if drawn.returncode == 0:  # A broken Graphviz is no loss.
            write_atomically(Path(f"{path}_graphviz.svg"), drawn.stdout)


SECTION = Section(_show)
