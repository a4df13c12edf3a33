"""Advice in the words of its reader: flags of a command, arguments in Python."""

import ast
import re
from pathlib import Path

import wpl_jax
from wpl_jax.errors import for_caller, on_command_line, option

ROOT = Path(wpl_jax.__file__).parent
# Modules, and packages, that only a command reaches.
OF_COMMANDS = (
    *("jobs", "two_models", "reports", "configs", "devices/processes.py"),
    *("runs/share.py", "runs/machine.py", "data/images/tfds.py"),
    *("evaluation/candidates.py", "evaluation/ensemble.py", "evaluation/latency.py"),
    *("evaluation/rank_disorder.py", "evaluation/rank_files.py"),
    *("evaluation/architectures.py", "evaluation/truth_from_table.py"),
)
# Jobs that a Python function starts as well.
OF_PYTHON = ("python.py", "python_retrain.py", "search_loop.py", "start_from.py")
IN_MESSAGES = re.compile(r"--(?!logdir)[a-z]|\bconfig\.(?!json)[a-z]|config file")


def test_an_option_has_the_name_that_its_reader_gives_it():
    assert (option("workdir"), for_caller("flag", "argument")) == (
        "workdir",
        "argument",
    )
    with on_command_line():
        assert option("workdir") == "--workdir"
        with on_command_line():
            assert for_caller("flag", "argument") == "flag"
        assert option("devices") == "--devices"
    assert option("workdir") == "workdir"


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(OF_COMMANDS) or path.name in OF_PYTHON:
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def texts(tree):
    """Texts outside of docstrings and of what is said for each caller."""
    apart = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            apart.add(node.value)
        called = isinstance(node, ast.Call) and getattr(node.func, "id", None)
        if called == "for_caller":
            apart.update(ast.walk(node))
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and node not in apart:
            yield node


def test_what_python_reaches_names_no_flags():
    found = [
        f"{name}:{node.lineno}: {node.value!r}"
        for name, tree in modules()
        for node in texts(tree)
        if IN_MESSAGES.search(node.value)
    ]
    assert not found, "\n".join(found)
