"""Figures and the report page: one HTML file that stands on its own."""

import html
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template
from typing import IO, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from wpl_jax.runs.console import shown
from wpl_jax.runs.run_files import make_folder, write_atomically

# Wong, "Points of view: Color blindness", Nature Methods 2011; the last three are not.
COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#882255", "#999933", "#888888"),
)

_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto;
       padding: 0 1rem; color: #222; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.8rem;
        display: block; overflow-x: auto; }
th, td { padding: 0.25rem 0.45rem; text-align: right; border-bottom: 1px solid #ddd; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #888; vertical-align: bottom; }
figure { margin: 1.5rem 0; overflow-x: auto; }
figure svg { max-width: 100%; height: auto; }
figcaption { color: #555; font-size: 0.9rem; }
.warning { border-left: 4px solid #D55E00; padding-left: 0.7rem; }
.interactive .canvas { position: relative; }
.interactive canvas { width: 100%; height: 26rem; cursor: crosshair; }
.interactive label { margin-right: 1rem; } .interactive span { margin-left: 0.3rem; }
#children-tip { position: absolute; background: #fffffff2; border: 1px solid #888;
                padding: 0.3rem 0.5rem; font-size: 0.8rem; pointer-events: none;
                white-space: nowrap; }
#children-tip.wide { columns: 2; }
pre { background: #f5f5f5; padding: 0.7rem; font-size: 0.8rem;
      white-space: pre-wrap; overflow-wrap: anywhere; }
</style>
<h1>$title</h1>
$body
</html>
""")


_LEAST_REM = 3.6  # width of a figure on the page, for each of its inches
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def _escaped(text: str) -> str:
    """A text for a page, whatever is in it."""
    return html.escape(shown(text))


class Page:
    """A report in the making: paragraphs, tables and figures in order."""

    def __init__(self, title: str, workdir: Path):
        """Starts a page; its figures also go to ``workdir/figures``."""
        self._title, self._workdir = title, workdir
        self._parts: list[str] = []

    def heading(self, text: str) -> None:
        """Adds a section's heading."""
        self._parts.append(f"<h2>{_escaped(text)}</h2>")

    def text(self, *paragraphs: str) -> None:
        """Adds paragraphs of plain text."""
        self._parts.extend(f"<p>{_escaped(text)}</p>" for text in paragraphs)

    def warning(self, text: str) -> None:
        """Adds a paragraph that stands out; nothing for an empty text."""
        if text:
            self._parts.append(f'<p class="warning">{_escaped(text)}</p>')

    def code(self, text: str) -> None:
        """Adds a block of preformatted text."""
        self._parts.append(f"<pre>{_escaped(text)}</pre>")

    def configuration(self, config: Any) -> None:
        """Adds a section with a configuration, which a click unfolds."""
        text = json.dumps(config, indent=1, sort_keys=True)
        self.heading("Configuration")
        count = f"{text.count(chr(10)) + 1:,} lines"
        self._parts.append(f"<details><summary>{count}</summary>")
        self.code(text)
        self._parts.append("</details>")

    def raw(self, markup: str) -> None:
        """Adds HTML as it is; what is in it from outside has to be escaped."""
        self._parts.append(markup)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Adds a table of text cells."""

        def row(cells: Sequence[str], tag: str) -> str:
            inner = "".join(f"<{tag}>{_escaped(cell)}</{tag}>" for cell in cells)
            return f"<tr>{inner}</tr>"

        body = "\n".join(row(cells, "td") for cells in rows)
        self._parts.append(f"<table>\n{row(header, 'th')}\n{body}\n</table>")

    def figure(self, figure: Figure, name: str, caption: str) -> None:
        """Adds a figure, and saves it as ``figures/NAME.png`` and ``.svg``."""
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"a figure's name is {name!r}, expected letters, digits, _ and -: it "
                "is that of a file"
            )
        folder = make_folder(self._workdir / "figures")
        png, svg = io.BytesIO(), io.StringIO()
        save(figure, png, format="png", dpi=150, metadata={"Software": None})
        write_atomically(folder / f"{name}.png", png.getvalue())
        # The salt makes the ids in the file, and so the file, reproducible.
        with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
            save(figure, svg, format="svg", metadata={"Date": None})
        write_atomically(folder / f"{name}.svg", svg.getvalue())
        # Inline, all figures share one namespace of ids.
        inline = svg.getvalue()[svg.getvalue().index("<svg") :]
        inline = re.sub(
            "<[^>]+>",
            lambda tag: re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", tag[0]),
            inline,
        )
        # In a narrow window the figure scrolls, so that its labels can be read.
        least = f"min-width: {_LEAST_REM * figure.get_figwidth():.1f}rem"
        self._parts.append(
            f'<figure><div style="{least}">{inline}</div>'
            f"<figcaption>{_escaped(caption)}</figcaption></figure>"
        )

    def write(self, path: Path) -> None:
        """Writes the page."""
        write_atomically(
            path,
            _PAGE.substitute(title=_escaped(self._title), body="\n".join(self._parts)),
        )


def save(figure: Figure, file: IO, **options: Any) -> None:
    """Draws a figure; only labels of ticks may be formulas, all other text is plain.

    Args:
      figure: The figure.
      file: Where it is written to.
      **options: As of matplotlib's ``savefig``.
    """
    make_plain(figure)
    figure.savefig(file, **options)


def make_plain(figure: Figure) -> None:
    """Turns all text of a figure into plain text, except labels of ticks."""
    of_ticks = {
        label
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for label in (
            *axis.get_ticklabels(),
            *axis.get_ticklabels(minor=True),
            axis.get_offset_text(),
        )
    }
    for text in figure.findobj(Text):
        if text not in of_ticks:
            text.set_parse_math(False)
            text.set_text(shown(text.get_text()))


def new_figure(width: float = 8.0, height: float = 4.5) -> Figure:
    """A figure of that many inches, laid out to fit its labels."""
    return Figure(figsize=(width, height), layout="constrained")


def band(
    ax: Axes, x: np.ndarray, values: np.ndarray, color: str, label: str, style="-"
) -> None:
    """Mean over seeds, the first axis, with a band of one standard deviation."""
    mean, deviation = values.mean(0), values.std(0)
    ax.plot(x, mean, style, color=color, label=label)
    ax.fill_between(
        x, mean - deviation, mean + deviation, color=color, alpha=0.15, lw=0
    )
