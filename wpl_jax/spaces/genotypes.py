"""Cells in the notation of DARTS, and published cells by name.

Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search" (ICLR 2019), and its
code. A cell has two inputs, which are its states 0 and 1, and nodes, which are the
states from 2 on. A node is the sum of two operations on earlier states, and the cell
returns the concatenation of some nodes.
"""

import ast
from typing import Any, NamedTuple

from wpl_jax.errors import UserError, shorten

Cell = tuple[tuple[str, int], ...]


class Genotype(NamedTuple):
    """A normal cell and a reduction cell.

    The operations of a cell are in the order of its nodes, two for each, as pairs of a
    name and the state that it is applied to.
    """

    normal: Cell
    normal_concat: tuple[int, ...]
    reduce: Cell
    reduce_concat: tuple[int, ...]

    def __str__(self) -> str:
        """The genotype as published code writes it; :func:`parse` reads it.

        Examples:
          >>> str(parse("DARTS_V2"))[:55]
          "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', "
        """
        values = (f"{name}={list(value)}" for name, value in self._asdict().items())
        return f"Genotype({', '.join(values)})"


def parse(text: str) -> Genotype:
    """Reads a genotype.

    Args:
      text: The name of a published one (:data:`PUBLISHED`), or
        ``Genotype(normal=[("sep_conv_3x3", 0), ...], normal_concat=range(2, 6), ...)``.

    Raises:
      UserError: If it is neither.

    Examples:
      >>> parse("DARTS_V1").reduce[:2]
      (('max_pool_3x3', 0), ('max_pool_3x3', 1))
      >>> cell = "[('skip_connect', 0), ('max_pool_3x3', 1)]"
      >>> whole = "normal_concat=[2], reduce_concat=range(2, 3)"
      >>> parse(f"Genotype(normal={cell}, reduce={cell}, {whole})").reduce_concat
      (2,)
    """
    if text.strip() in PUBLISHED:
        return PUBLISHED[text.strip()]
    try:
        return _parse(text)
    except (ValueError, SyntaxError, TypeError, RecursionError) as error:
        raise UserError(
            f"{shorten(text)} is no genotype ({error}). Give one like {_EXAMPLE}, or "
            f"the name of a published one: {', '.join(PUBLISHED)}."
        ) from error


_EXAMPLE = (
    'Genotype(normal=[("sep_conv_3x3", 0), ("skip_connect", 1)], normal_concat=[2], '
    'reduce=[("max_pool_3x3", 0), ("max_pool_3x3", 1)], reduce_concat=[2])'
)


def _parse(text: str) -> Genotype:
    call = ast.parse(text.strip(), mode="eval").body
    if not isinstance(call, ast.Call) or getattr(call.func, "id", "") != "Genotype":
        raise ValueError("it is not Genotype(...)")
    given: dict[str, Any] = {word.arg or "": word.value for word in call.keywords}
    if call.args or set(given) != set(Genotype._fields):
        raise ValueError(f"it has not the fields {', '.join(Genotype._fields)} by name")
    normal, reduce = (_cell(name, given[name]) for name in ("normal", "reduce"))
    return Genotype(
        normal,
        _concat("normal_concat", given["normal_concat"], len(normal) // 2),
        reduce,
        _concat("reduce_concat", given["reduce_concat"], len(reduce) // 2),
    )


def _cell(name: str, value: ast.expr) -> Cell:
    found = []
    for number, pair in enumerate(ast.literal_eval(value)):
        operation, state = pair
        if not isinstance(operation, str) or not isinstance(state, int):
            raise ValueError(f"{name} has {pair!r}, expected a name and a state")
        if not 0 <= state < number // 2 + 2:
            raise ValueError(f"{name} has {pair!r} before state {state} is computed")
        found.append((operation, state))
    if not found or len(found) % 2:
        raise ValueError(f"{name} has {len(found)} operations, expected two a node")
    return tuple(found)


def _concat(name: str, value: ast.expr, nodes: int) -> tuple[int, ...]:
    if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "range":
        found = tuple(range(*map(ast.literal_eval, value.args)))
    else:
        found = tuple(ast.literal_eval(value))
    if not found or not set(found) <= set(range(2, nodes + 2)):
        raise ValueError(f"{name} is {found}, expected nodes of 2 to {nodes + 1}")
    return found


# NASNet-A, AmoebaNet-A, DARTS: the code of DARTS. PC-DARTS: the code of GAEA (Li et
# al., ICLR 2021). GDAS: the code of Dong and Yang (CVPR 2019). SNAS: Xie et al. (ICLR
# 2019), and ENAS (Pham et al., 2018), as later work writes them in this notation. GAEA:
# as later work lists it; the authors' code has no list.
_TEXTS = {
    "NASNet": """Genotype(
        normal=[("sep_conv_5x5", 1), ("sep_conv_3x3", 0), ("sep_conv_5x5", 0),
            ("sep_conv_3x3", 0), ("avg_pool_3x3", 1), ("skip_connect", 0),
            ("avg_pool_3x3", 0), ("avg_pool_3x3", 0), ("sep_conv_3x3", 1),
            ("skip_connect", 1)],
        normal_concat=[2, 3, 4, 5, 6],
        reduce=[("sep_conv_5x5", 1), ("sep_conv_7x7", 0), ("max_pool_3x3", 1),
            ("sep_conv_7x7", 0), ("avg_pool_3x3", 1), ("sep_conv_5x5", 0),
            ("skip_connect", 3), ("avg_pool_3x3", 2), ("sep_conv_3x3", 2),
            ("max_pool_3x3", 1)],
        reduce_concat=[4, 5, 6])""",
    "AmoebaNet": """Genotype(
        normal=[("avg_pool_3x3", 0), ("max_pool_3x3", 1), ("sep_conv_3x3", 0),
            ("sep_conv_5x5", 2), ("sep_conv_3x3", 0), ("avg_pool_3x3", 3),
            ("sep_conv_3x3", 1), ("skip_connect", 1), ("skip_connect", 0),
            ("avg_pool_3x3", 1)],
        normal_concat=[4, 5, 6],
        reduce=[("avg_pool_3x3", 0), ("sep_conv_3x3", 1), ("max_pool_3x3", 0),
            ("sep_conv_7x7", 2), ("sep_conv_7x7", 0), ("avg_pool_3x3", 1),
            ("max_pool_3x3", 0), ("max_pool_3x3", 1), ("conv_7x1_1x7", 0),
            ("sep_conv_3x3", 5)],
        reduce_concat=[3, 4, 6])""",
    "ENAS": """Genotype(
        normal=[("sep_conv_3x3", 1), ("skip_connect", 1), ("sep_conv_5x5", 1),
            ("skip_connect", 0), ("avg_pool_3x3", 0), ("sep_conv_3x3", 1),
            ("sep_conv_3x3", 0), ("avg_pool_3x3", 1), ("sep_conv_5x5", 1),
            ("avg_pool_3x3", 0)],
        normal_concat=[2, 3, 4, 5, 6],
        reduce=[("sep_conv_5x5", 0), ("avg_pool_3x3", 1), ("sep_conv_3x3", 1),
            ("avg_pool_3x3", 1), ("avg_pool_3x3", 1), ("sep_conv_3x3", 1),
            ("sep_conv_5x5", 4), ("avg_pool_3x3", 1), ("sep_conv_3x3", 5),
            ("sep_conv_5x5", 0)],
        reduce_concat=[2, 3, 6])""",
    "DARTS_V1": """Genotype(
        normal=[("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 0),
            ("sep_conv_3x3", 1), ("skip_connect", 0), ("sep_conv_3x3", 1),
            ("sep_conv_3x3", 0), ("skip_connect", 2)],
        normal_concat=range(2, 6),
        reduce=[("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2),
            ("max_pool_3x3", 0), ("max_pool_3x3", 0), ("skip_connect", 2),
            ("skip_connect", 2), ("avg_pool_3x3", 0)],
        reduce_concat=range(2, 6))""",
    "DARTS_V2": """Genotype(
        normal=[("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0),
            ("sep_conv_3x3", 1), ("sep_conv_3x3", 1), ("skip_connect", 0),
            ("skip_connect", 0), ("dil_conv_3x3", 2)],
        normal_concat=range(2, 6),
        reduce=[("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2),
            ("max_pool_3x3", 1), ("max_pool_3x3", 0), ("skip_connect", 2),
            ("skip_connect", 2), ("max_pool_3x3", 1)],
        reduce_concat=range(2, 6))""",
    "SNAS": """Genotype(
        normal=[("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("skip_connect", 0),
            ("dil_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 1),
            ("skip_connect", 0), ("sep_conv_3x3", 1)],
        normal_concat=range(2, 6),
        reduce=[("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2),
            ("max_pool_3x3", 1), ("max_pool_3x3", 1), ("skip_connect", 2),
            ("dil_conv_5x5", 2), ("max_pool_3x3", 0)],
        reduce_concat=range(2, 6))""",
    "GDAS": """Genotype(
        normal=[("skip_connect", 0), ("skip_connect", 1), ("skip_connect", 0),
            ("sep_conv_5x5", 2), ("sep_conv_3x3", 3), ("skip_connect", 0),
            ("sep_conv_5x5", 4), ("sep_conv_3x3", 3)],
        normal_concat=range(2, 6),
        reduce=[("sep_conv_5x5", 0), ("sep_conv_3x3", 1), ("sep_conv_5x5", 2),
            ("sep_conv_5x5", 1), ("dil_conv_5x5", 2), ("sep_conv_3x3", 1),
            ("sep_conv_5x5", 0), ("sep_conv_5x5", 2)],
        reduce_concat=range(2, 6))""",
    "PC_DARTS": """Genotype(
        normal=[("sep_conv_3x3", 1), ("skip_connect", 0), ("sep_conv_3x3", 0),
            ("dil_conv_3x3", 1), ("sep_conv_5x5", 0), ("sep_conv_3x3", 1),
            ("avg_pool_3x3", 0), ("dil_conv_3x3", 1)],
        normal_concat=range(2, 6),
        reduce=[("sep_conv_5x5", 1), ("max_pool_3x3", 0), ("sep_conv_5x5", 1),
            ("sep_conv_5x5", 2), ("sep_conv_3x3", 0), ("sep_conv_3x3", 3),
            ("sep_conv_3x3", 1), ("sep_conv_3x3", 2)],
        reduce_concat=range(2, 6))""",
    "PC_DARTS_ImageNet": """Genotype(
        normal=[("skip_connect", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 0),
            ("skip_connect", 1), ("sep_conv_3x3", 1), ("sep_conv_3x3", 3),
            ("sep_conv_3x3", 1), ("dil_conv_5x5", 4)],
        normal_concat=range(2, 6),
        reduce=[("sep_conv_3x3", 0), ("skip_connect", 1), ("dil_conv_5x5", 2),
            ("max_pool_3x3", 1), ("sep_conv_3x3", 2), ("sep_conv_3x3", 1),
            ("sep_conv_5x5", 0), ("sep_conv_3x3", 3)],
        reduce_concat=range(2, 6))""",
    "GAEA_PC_DARTS": """Genotype(
        normal=[("skip_connect", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 1),
            ("skip_connect", 2), ("skip_connect", 2), ("sep_conv_3x3", 1),
            ("sep_conv_3x3", 0), ("dil_conv_3x3", 4)],
        normal_concat=range(2, 6),
        reduce=[("max_pool_3x3", 0), ("max_pool_3x3", 1), ("sep_conv_5x5", 0),
            ("sep_conv_5x5", 2), ("sep_conv_5x5", 2), ("dil_conv_5x5", 1),
            ("sep_conv_5x5", 4), ("sep_conv_3x3", 1)],
        reduce_concat=range(2, 6))""",
}

# By name.
PUBLISHED: dict[str, Genotype] = {name: _parse(text) for name, text in _TEXTS.items()}
