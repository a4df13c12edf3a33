"""Networks written out as Flax source, in two dialects: NNX and Linen."""

import re
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

from wpl_jax.spaces.network import (
    BatchNorm,
    Block,
    Conv,
    Dense,
    Layer,
    Network,
    Parameter,
    Several,
    Use,
)

_WIDTH = 88  # letters of a line, as formatters have it


class Dialect(NamedTuple):
    """How one of Flax's interfaces is written.

    Attributes:
      name: ``"nnx"`` or ``"linen"``.
      imported: The line that imports it.
      module: Its name in the source.
      argument: What stands for an argument of a block in its constructor.
      norm: The further argument of a call of a batch normalization.
      train: The further argument of a call of another block.
      helpers: By the class of a layer, a function that makes it.
      usage: Lines of the docstring.
      load: The function that reads the weights.
    """

    name: str
    imported: str
    module: str
    argument: str
    norm: str
    train: str
    helpers: dict[Any, str]
    usage: str
    load: str


_READ = '''def read_weights(folder):
    """The arrays of weights.safetensors, by name."""
    content = (pathlib.Path(folder) / "weights.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    arrays = {}
    for name, about in header.items():
        first, end = (start + offset for offset in about["data_offsets"])
        array = np.frombuffer(content[first:end], np.float32)
        arrays[name] = jnp.asarray(array.reshape(about["shape"]))
    return arrays
'''

NNX = Dialect(
    name="nnx",
    imported="from flax import nnx",
    module="nnx",
    argument="",
    norm="",
    train="",
    helpers={
        Conv: """def conv(
    inputs, outputs, size, stride=1, groups=1, dilation=1, *, rngs
):
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        stride,
        padding=dilation * (size // 2),
        kernel_dilation=dilation,
        feature_group_count=groups,
        use_bias=False,
        kernel_init=INIT,
        rngs=rngs,
    )
""",
        BatchNorm: """def batch_norm(channels, affine=True, *, rngs):
    return nnx.BatchNorm(
        channels,
        use_scale=affine,
        use_bias=affine,
        use_fast_variance=False,
        rngs=rngs,
    )
""",
        Dense: """def dense(inputs, outputs, bias=True, *, rngs):
    return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=INIT, rngs=rngs)
""",
        Parameter: """def parameter(init, shape, *, rngs):
    return nnx.Param(init(rngs.params(), shape))
""",
    },
    usage="""model = load()  # For predictions; model.train() for training.
scores = model(prepare({inputs}))""",
    load='''def load(folder=HERE):
    """The network with the weights that were found."""
    model, weights = Network(rngs=nnx.Rngs(0)), read_weights(folder)
    state = nnx.state(model)
    for path, variable in nnx.to_flat_state(state):
        variable[...] = weights[".".join(map(str, path))]
    nnx.update(model, state)
    model.eval()
    return model
''',
)

LINEN = Dialect(
    name="linen",
    imported="from flax import linen as nn",
    module="nn",
    argument="self.",
    norm=", not train",
    train=", train",
    helpers={
        Conv: """def conv(inputs, outputs, size, stride=1, groups=1, dilation=1):
    return nn.Conv(
        outputs,
        (size, size),
        stride,
        padding=dilation * (size // 2),
        kernel_dilation=dilation,
        feature_group_count=groups,
        use_bias=False,
        kernel_init=INIT,
    )
""",
        BatchNorm: """def batch_norm(channels, affine=True):
    return nn.BatchNorm(
        use_scale=affine, use_bias=affine, use_fast_variance=False
    )
""",
        Dense: """def dense(inputs, outputs, bias=True):
    return nn.Dense(outputs, use_bias=bias, kernel_init=INIT)
""",
    },
    usage="""model, variables = load()
scores = model.apply(variables, prepare({inputs}))
# For training: model.apply(..., train=True, mutable=["batch_stats"])""",
    load='''def load(folder=HERE):
    """The network, and its variables with the weights that were found."""
    variables = {"params": {}, "batch_stats": {}}
    for name, array in read_weights(folder).items():
        *path, leaf = re.sub(r"\\.(\\d+)", r"_\\1", name).split(".")
        kind = "batch_stats" if leaf in ("mean", "var") else "params"
        tree = variables[kind]
        for part in path:
            tree = tree.setdefault(part, {})
        tree[leaf] = array
    return Network(), variables
''',
)

DIALECTS = {dialect.name: dialect for dialect in (NNX, LINEN)}


def write_source(
    network: Network, dialect: Dialect, about: str, inputs: str, prepare: str
) -> str:
    """The source of a module that imports jax and flax, and not this library.

    Args:
      network: The network.
      dialect: Of the module.
      about: A sentence for its docstring.
      inputs: What ``prepare`` of the module takes, a name.
      prepare: The source of that function.
    """
    usage = textwrap.indent(dialect.usage.format(inputs=inputs), "    ")
    docstring = f'"""{about}\n\n{usage}\n\n{_FILES}\n"""\n'
    standard = ["json", "pathlib", *(["re"] if "re." in dialect.load else [])]
    imports = "".join(f"import {name}\n" for name in standard)
    start = (
        f"{docstring}\n{imports}\nimport jax\nimport jax.numpy as jnp\n"
        f"import numpy as np\n{dialect.imported}\n\n"
        "HERE = pathlib.Path(__file__).resolve().parent\n"
        'ABOUT = json.loads((HERE / "architecture.json").read_text())\n'
        f"INIT = {network.kernel_init}\n"
    )
    used = {type(layer) for block in network.blocks for layer in _layers(block)}
    helpers = [text for kind, text in dialect.helpers.items() if kind in used]
    functions = [text.replace("@flax", dialect.module) for text in network.functions]
    blocks = [_block(block, dialect) for block in network.blocks]
    parts = [start, prepare, *helpers, *functions, *blocks, _READ, dialect.load]
    return "\n\n".join(part.rstrip("\n") + "\n" for part in parts)


_FILES = """The weights are in weights.safetensors. architecture.json has the choices,
the settings and the errors of the network."""


def _layers(block: Block) -> Iterator[Layer]:
    for layer in block.layers.values():
        if isinstance(layer, Several):
            yield from (one for one, _ in layer.items)
        else:
            yield layer


def _block(block: Block, dialect: Dialect) -> str:
    write = _nnx_block if dialect is NNX else _linen_block
    body = block.body.replace("@flax", dialect.module)
    body = body.replace("@norm", dialect.norm).replace("@train", dialect.train)
    return write(block, textwrap.indent(body, " " * 8), dialect)


def _nnx_block(block: Block, body: str, dialect: Dialect) -> str:
    arguments = "".join(
        f"{name}={default}, " if default else f"{name}, "
        for name, default in block.arguments.items()
    )
    return (
        f'class {block.name}(nnx.Module):\n    """{block.about}"""\n\n'
        f"    def __init__(self, {arguments}*, rngs):\n{_setup(block, dialect)}\n"
        f"    def __call__(self, {block.inputs}):\n{body}\n"
    )


def _linen_block(block: Block, body: str, dialect: Dialect) -> str:
    fields = ""
    for name, default in block.arguments.items():
        kind = "bool" if default in ("True", "False") else "int"
        fields += f"    {name}: {kind}{f' = {default}' if default else ''}\n"
    return (
        f'class {block.name}(nn.Module):\n    """{block.about}"""\n\n'
        f"{fields}{chr(10) if fields else ''}"
        f"    def setup(self):\n{_setup(block, dialect)}\n"
        f"    def __call__(self, {block.inputs}, train=False):\n{body}\n"
    )


def _setup(block: Block, dialect: Dialect) -> str:
    lines = ""
    for name, layer in block.layers.items():
        found = f"        self.{name} = {_layer(name, layer, dialect)}"
        lines += _wrapped(found.replace("$", dialect.argument)) + "\n"
    return lines or "        pass  # It has no parameters.\n"


def _layer(name: str, layer: Layer, dialect: Dialect) -> str:
    """The expression that makes a layer."""
    rngs = ["rngs=rngs"] if dialect is NNX else []
    if isinstance(layer, Several):
        return _list(name, layer, dialect)
    if isinstance(layer, Parameter):
        init = "jax.nn.initializers.zeros" if layer.zeros else "INIT"
        if dialect is NNX:
            return f"parameter({init}, {layer.shape}, rngs=rngs)"
        return f'self.param("{name}", {init}, {layer.shape})'
    if isinstance(layer, Use):
        arguments, called = list(layer.arguments), layer.block
    else:
        arguments, called = _given(layer), _HELPERS[type(layer)]
    return f"{called}({', '.join([*map(str, arguments), *rngs])})"


def _list(name: str, layer: Several, dialect: Dialect) -> str:
    """A list of layers, in one line if there is one kind of them."""
    start, end = ("nnx.List([", "])") if dialect is NNX else ("[", "]")
    items = []
    for one, count in layer.items:
        each = _layer(name, one, dialect)
        loop = f"{each} for _ in range({count})"
        if len(layer.items) == 1:
            return f"{start}{loop}{end}"
        items.append(each if count == 1 else f"*({loop})")
    inside = "".join(f"            {item},\n" for item in items)
    return f"{start}\n{inside}        {end}"


_HELPERS: dict[Any, str] = {Conv: "conv", BatchNorm: "batch_norm", Dense: "dense"}


def _given(layer: Any) -> list[Any]:
    """The fields of a layer, without those at the end that have their defaults."""
    values = list(layer)
    defaults = layer._field_defaults
    for field in reversed(layer._fields):
        if field not in defaults or values[-1] != defaults[field]:
            break
        values.pop()
    return values


def _wrapped(line: str) -> str:
    """A line that fits, broken after the bracket that it begins with."""
    if len(line) <= _WIDTH:
        return line
    found = re.match(r"( *)([^(\[]*[(\[])(.*)([)\]])$", line)
    if found is None:
        return line
    indent, head, inside, tail = found.groups()
    return f"{indent}{head}\n{indent}    {inside}\n{indent}{tail}"
