"""What the site needs beside Sphinx: comments as documentation, and notebooks."""

import ast
import inspect
import io
import json
import re
import sys
import tokenize
from typing import Any

import jax.typing
import numpy.typing as np_typing
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.typing import stringify_annotation

import wpl_jax


class NotebookParser(MystParser):
    """Reads a notebook as a page: its text, and its code in blocks."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: Any) -> None:
        """Turns the cells into Markdown, and parses that."""
        cells = json.loads(inputstring)["cells"]
        super().parse("\n\n".join(map(_to_markdown, cells)), document)


def _to_markdown(cell: dict[str, Any]) -> str:
    text = "".join(cell["source"])
    return text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"


def comments(code: str) -> dict[tuple[str, str], str]:
    """Comments about public constants and fields, by the names of class and field.

    They stand behind the line, those of a constant also above it.
    Fields that the section ``Attributes:`` of their class describes are left out.

    Args:
      code: Of a module.
    """
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    by_line = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokens
        if token.type == tokenize.COMMENT
    }
    found = {}
    module = ast.parse(code)
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    for owner, body in [("", module.body)] + [(c.name, c.body) for c in classes]:
        for node in body:
            target = node.targets[0] if isinstance(node, ast.Assign) else node
            target = target.target if isinstance(node, ast.AnnAssign) else target
            if not isinstance(target, ast.Name) or target.id.startswith("_"):
                continue
            if node.end_lineno in by_line:
                found[owner, target.id] = by_line[node.end_lineno]
            elif not owner:
                found[owner, target.id] = _above(by_line, node.lineno)
    for owner in classes:
        for name in re.findall(r"^ *(\w+): ", _attributes(owner), re.MULTILINE):
            found.pop((owner.name, name), None)
    return found


def _above(by_line: dict[int, str], line: int) -> str:
    """The comment in the lines directly above one."""
    first = line
    while first - 1 in by_line:
        first -= 1
    return " ".join(by_line[number] for number in range(first, line))


def _attributes(owner: ast.ClassDef) -> str:
    """The section of a docstring that describes attributes."""
    return (ast.get_docstring(owner) or "").partition("Attributes:\n")[2]


def _analyze(self: ModuleAnalyzer) -> None:
    """Reads a module, and its comments as documentation."""
    if self._analyzed:  # Sphinx asks again for each name that it documents.
        return
    _read_module(self)
    for key, comment in comments(self.code).items():
        if comment:
            self.attr_docs.setdefault(key, [comment, ""])
    for found in vars(sys.modules[self.modname]).values():
        if inspect.isclass(found) and found.__module__ == self.modname:
            for field in getattr(found, "_fields", ()):
                getattr(found, field).__doc__ = None  # "Alias for field number 0"


_read_module = ModuleAnalyzer.analyze
# Of the first line about a value Napoleon takes what precedes a colon for its type.
_COLON = "\N{RATIO}"


def _without_colons(app, what, name, found, options, lines):
    """Hides the colons of the first line about a value."""
    del app, name, found, options
    if what in ("attribute", "data", "property") and lines:
        lines[0] = lines[0].replace(":", _COLON)


def _with_colons(app, what, name, found, options, lines):
    """Puts the colons back."""
    del app, what, name, found, options
    lines[:] = [line.replace(_COLON, ":") for line in lines]


def _signature(app, what, name, found, options, signature, result):
    """Protocols are not called, and long unions of types have names."""
    del options
    types = app.env.current_document.autodoc_annotations.get(name, {})
    for argument, text in types.items():
        for union in (jax.typing.ArrayLike, np_typing.ArrayLike):
            text = text.replace(stringify_annotation(union, "smart"), "ArrayLike")
        types[argument] = text
    is_protocol = what == "class" and getattr(found, "_is_protocol", False)
    return ("", None) if is_protocol else (signature, result)


def _indented_is_literal(app, what, name, found, options, lines):
    """Indented paragraphs of docstrings are formulas or code, without a mark."""
    del app, what, name, found, options
    indents = [len(line) - len(line.lstrip()) for line in lines]
    for i in range(len(lines) - 1, 1, -1):
        before, blank, line = lines[i - 2 : i + 1]
        is_block = before.strip() and not blank.strip() and line.strip()
        if is_block and indents[i] >= indents[i - 2] + 4 and before[-2:] != "::":
            lines[i:i] = [indents[i - 2] * " " + "::", ""]


def _public_name(app, env, node, content):
    """A name of a module that ``wpl_jax`` exports is documented there."""
    name = node["reftarget"].rpartition(".")[2]
    if node.get("refdomain") != "py" or name not in wpl_jax.__all__:
        return None
    return env.get_domain("py").resolve_xref(
        env, node["refdoc"], app.builder, "obj", f"wpl_jax.{name}", node, content
    )


def setup(app: Sphinx) -> dict[str, Any]:
    """Adds both to Sphinx."""
    ModuleAnalyzer.analyze = _analyze
    app.add_source_parser(NotebookParser)
    app.connect("autodoc-process-signature", _signature)
    app.connect("missing-reference", _public_name)
    # Before the sections of docstrings are read.
    app.connect("autodoc-process-docstring", _indented_is_literal, priority=400)
    app.connect("autodoc-process-docstring", _without_colons, priority=400)
    app.connect("autodoc-process-docstring", _with_colons, priority=600)
    return {"parallel_read_safe": True}
