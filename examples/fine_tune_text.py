"""Fine-tunes a small language model, and measures what it forgets.

    python -m examples.fine_tune_text --out=runs/fine_tune_text
    python -m examples.fine_tune_text --out=runs/short --short
    python -m examples.fine_tune_text --out=runs/gemma --model=Gemma3_270M+LoRA

A transformer of 0.6 million weights reads characters. It learns the language reference
of Python (266,000 characters, from the topics of ``help()``). It is then fine-tuned on
other topics: the types of the library, its formats and its debugger (108,000). All its
weights are fine-tuned, or adapters (LoRA; Hu et al., 2021). The losses of both texts
are measured on paragraphs that are in no training. Compared are

- ``EWC``: the penalty with the exact Fisher of the first text, at several alphas;
- ``L2``: the same with a Fisher of ones;
- ``stop earlier``: no penalty, and fewer steps;
- ``rehearsal``: no penalty, and a quarter of each batch from the first text.

The topics of the second text are those that describe types and tools of the library
and not the language, so it has another subject in the same style.

``--short`` has one seed and more alphas. ``--layers=5`` makes a model of a million
weights; every field of :class:`Sizes` is such a flag. ``--model`` fine-tunes a model
that has weights already (:mod:`examples.public_models`) instead of training one.
"""

import argparse
import csv
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import wpl_jax
from examples import public_models
from examples.continual_metrics import mean_and_error

# Topics of the text for fine-tuning.
SECOND = ("debugger", "dict", "formatstrings", "string-methods", "typesmapping")
SECOND += ("typesseq", "typesseq-mutable")
CHARACTERS = "".join(map(chr, range(32, 127))) + "\n"
HELD_OUT = 10  # of as many paragraphs one
LEVELS = (0.5, 0.75, 0.9)  # shares of what fine-tuning learns without a penalty


class Sizes(NamedTuple):
    """How much is computed."""

    width: int = 128
    layers: int = 3
    heads: int = 4
    length: int = 64  # characters that are read
    batch: int = 8
    first_steps: int = 1_500
    second_steps: int = 120
    parts: int = 4  # of the fine-tuning; losses are measured after each
    held_out: int = 96  # sequences on which a loss is measured
    remembered: int = 256  # sequences from which a Fisher is estimated
    streamed: int = 0  # of them in a batch of an iterator; 0: all are one array
    chunk: int = 32  # sequences that an estimator differentiates at a time
    rank: int = 8  # of LoRA


class Setting(NamedTuple):
    """Which parameters are fine-tuned, how fast, and the strengths that are tried."""

    trained: Any
    learning_rate: float
    alphas: tuple[float, ...]
    anchor_dtype: Any = None  # as in with_plasticity
    fisher_dtype: Any = None


SETTINGS = {
    "all weights": Setting(nnx.Param, 5e-4, (10.0, 50.0, 250.0)),
    "LoRA": Setting(nnx.LoRAParam, 2e-3, (3.0, 20.0, 150.0)),
}
SHORT_ALPHAS = {
    "all weights": (2.0, 10.0, 50.0, 250.0, 1250.0),
    "LoRA": (0.5, 3.0, 20.0, 150.0, 1000.0),
}
FIRST_RATE = 3e-3  # the largest, of a cosine schedule


# The texts.


class Text(NamedTuple):
    """Numbers of characters, or of other tokens."""

    train: np.ndarray  # int32[n]
    held_out: np.ndarray  # int32[m]


def encode(text: str) -> np.ndarray:
    """Numbers of characters, ``int32[n]``; all that are not in ASCII are "?"."""
    number = {character: i for i, character in enumerate(CHARACTERS)}
    return np.array([number.get(c, number["?"]) for c in text], np.int32)


def read_texts(encode: Callable[[str], Sequence[int]] = encode) -> tuple[Text, Text]:
    """Both texts; a paragraph that several topics share is kept once.

    Args:
      encode: Tokens of a text.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    own: dict[str, list[str]] = {}
    for topic in sorted(topics, key=lambda topic: (len(topics[topic]), topic)):
        found = {p.strip(): p for p in topics[topic].split("\n\n") if p.strip()}
        own[topic] = [found[p] for p in found if p not in seen]
        seen.update(found)
    first = [p for topic in sorted(own) if topic not in SECOND for p in own[topic]]
    second = [p for topic in SECOND for p in own[topic]]
    return _text(first, encode), _text(second, encode)


def _text(paragraphs: list[str], encode: Callable[[str], Sequence[int]]) -> Text:
    parts: tuple[list[str], list[str]] = ([], [])
    for number, paragraph in enumerate(paragraphs):
        parts[number % HELD_OUT == 0].append(paragraph)
    train, held_out = ("\n\n".join(part) for part in parts)
    return Text(*(np.asarray(encode(t), np.int32) for t in (train, held_out)))


def windows(text: np.ndarray, places: np.ndarray, length: int) -> np.ndarray:
    """Sequences of one character more than are read, ``int32[..., length + 1]``."""
    return text[places[..., None] + np.arange(length + 1)]


def draw(
    seed: Any, text: np.ndarray, shape: tuple[int, ...], length: int
) -> np.ndarray:
    """Random sequences of a text, ``int32[*shape, length + 1]``."""
    places = np.random.default_rng(seed).integers(len(text) - length, size=shape)
    return windows(text, places, length)


def spread(text: np.ndarray, count: int, length: int) -> np.ndarray:
    """Sequences at equal distances, ``int32[count, length + 1]``."""
    places = np.linspace(0, len(text) - length - 1, count).astype(int)
    return windows(text, places, length)


# The model.


class Block(nnx.Module):
    """Attention to earlier characters and a layer of two products."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
        self.heads = heads
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.attend = nnx.Linear(width, 3 * width, rngs=rngs)
        self.attended = nnx.Linear(width, width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x):
        """``[..., length, width]`` to the same."""
        parts = self.attend(self.norms[0](x))
        heads = parts.reshape(*x.shape[:-1], 3 * self.heads, -1)
        query, key, value = jnp.split(heads, 3, -2)
        scores = jnp.einsum("...qhd,...khd->...hqk", query, key)
        scores = scores / jnp.sqrt(query.shape[-1])
        earlier = jnp.tril(jnp.ones((x.shape[-2],) * 2, bool))
        attention = jax.nn.softmax(jnp.where(earlier, scores, -1e9))
        found = jnp.einsum("...hqk,...khd->...qhd", attention, value)
        x = x + self.attended(found.reshape(x.shape))
        return x + self.down(jax.nn.gelu(self.up(self.norms[1](x))))


class Transformer(nnx.Module):
    """A language model."""

    def __init__(self, tokens: int, sizes: Sizes, rngs: nnx.Rngs):
        self.tokens = nnx.Embed(tokens, sizes.width, rngs=rngs)
        self.places = nnx.Embed(sizes.length, sizes.width, rngs=rngs)
        self.blocks = nnx.List(
            [Block(sizes.width, sizes.heads, rngs) for _ in range(sizes.layers)]
        )
        self.norm = nnx.LayerNorm(sizes.width, rngs=rngs)
        self.out = nnx.Linear(sizes.width, tokens, rngs=rngs)

    def __call__(self, tokens):
        """Tokens ``int32[..., n]`` to logits ``[..., n, tokens]``."""
        x = self.tokens(tokens) + self.places(jnp.arange(tokens.shape[-1]))
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x))


def build_model(tokens: int, sizes: Sizes, seed: int) -> nnx.Module:
    """The model that learns the first text and is then fine-tuned."""
    return Transformer(tokens, sizes, nnx.Rngs(seed))


def add_adapters(model: nnx.Module, rank: int, seed: int) -> nnx.Module:
    """The model with LoRA around every ``nnx.Linear``; it is changed in place."""
    rngs = nnx.Rngs(seed)
    for _, module in list(nnx.iter_modules(model)):
        for name, layer in list(vars(module).items()):
            if isinstance(layer, nnx.Linear):
                sides = layer.in_features, rank, layer.out_features
                setattr(module, name, nnx.LoRA(*sides, base_module=layer, rngs=rngs))
    return model


def logits(model: nnx.Module, sequence: Any) -> jax.Array:
    """Of every next character, ``[..., length, characters]``."""
    return model(sequence[..., :-1])  # type: ignore[operator]


def loss(model: nnx.Module, sequence: Any) -> jax.Array:
    """Mean cross-entropy of the next characters, in nats a character."""
    each = optax.softmax_cross_entropy_with_integer_labels(
        logits(model, sequence), sequence[..., 1:]
    )
    return jnp.mean(each)


# Training.


@functools.partial(jax.jit, static_argnames=("tx", "graph"))
def fit(tx: Any, graph: Any, state: Any, rest: Any, sequences: Any, judged: Any) -> Any:
    """Trains, and measures losses after each part of the training.

    Args:
      tx: The optimizer; alpha is in its state, so all strengths use one program.
      graph: Of the model, from ``nnx.split``.
      state: Trained parameters and the state of the optimizer.
      rest: What is not trained.
      sequences: ``int32[parts, steps, batch, length + 1]``.
      judged: Texts whose loss is measured, ``int32[texts, count, length + 1]``.

    Returns:
      The state, and losses ``float32[parts, texts]``.
    """

    def of(params, sequences):
        return loss(nnx.merge(graph, params, rest), sequences)

    def step(state, batch):
        params, opt_state = state
        updates, opt_state = tx.update(jax.grad(of)(params, batch), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    def part(state, sequences):
        state, _ = jax.lax.scan(step, state, sequences)
        return state, jax.lax.map(functools.partial(of, state[0]), judged)

    return jax.lax.scan(part, state, sequences)


@functools.lru_cache
def optimizer(setting: Setting) -> optax.GradientTransformationExtraArgs:
    """Adam under the penalty; one object for each setting, for one program."""
    return wpl_jax.with_plasticity(
        optax.adam,
        alpha=0.0,
        learning_rate=setting.learning_rate,
        anchor_dtype=setting.anchor_dtype,
        fisher_dtype=setting.fisher_dtype,
    )


def ones(function: Any, params: Any, examples: Any) -> Any:
    """All weights are equally important."""
    del function, examples
    return jax.tree.map(jnp.ones_like, params)


class Run(NamedTuple):
    """What one fine-tuning did."""

    trained: str  # a key of SETTINGS
    method: str
    alpha: float
    seed: int
    losses: np.ndarray  # float64[1 + parts, 2]; of both texts, from before on


class Pretrained(NamedTuple):
    """A model of the first text, and what all fine-tunings of one seed share."""

    seed: int
    sizes: Sizes
    texts: tuple[Text, Text]
    model: nnx.Module
    judged: np.ndarray  # int32[2, count, length + 1]


def pretrain(texts: tuple[Text, Text], seed: int, sizes: Sizes) -> Pretrained:
    """Trains a model on the first text."""
    before = unchanged(build_model(len(CHARACTERS), sizes, seed), texts, seed, sizes)
    model, judged = before.model, before.judged
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, FIRST_RATE, min(100, sizes.first_steps - 1), sizes.first_steps
    )
    tx = optax.adam(schedule)
    shape = (1, sizes.first_steps, sizes.batch)
    sequences = draw([seed, 0], texts[0].train, shape, sizes.length)
    state = params, tx.init(params)
    (params, _), _ = fit(tx, graph, state, rest, sequences, judged)
    return before._replace(model=nnx.merge(graph, params, rest))


def unchanged(
    model: nnx.Module, texts: tuple[Text, Text], seed: int, sizes: Sizes
) -> Pretrained:
    """A model as it is, which has learned the first text or more already."""
    judged = np.stack([spread(t.held_out, sizes.held_out, sizes.length) for t in texts])
    return Pretrained(seed, sizes, texts, model, judged)


def can_be_adapted(model: nnx.Module) -> bool:
    """Whether :func:`add_adapters` finds a layer."""
    return any(isinstance(module, nnx.Linear) for _, module in nnx.iter_modules(model))


def fine_tune(
    before: Pretrained, trained: str, setting: Setting | None = None
) -> Iterator[Run]:
    """Fine-tunes a pretrained model by all methods.

    Args:
      before: The model.
      trained: A key of ``SETTINGS``.
      setting: How; None for that of ``SETTINGS``.
    """
    seed, sizes, texts, model, judged = before
    setting = setting or SETTINGS[trained]
    model = nnx.clone(model)
    if trained == "LoRA":
        model = add_adapters(model, sizes.rank, seed)
    tx = optimizer(setting)
    graph, params, rest = nnx.split(model, setting.trained, ...)
    shape = (sizes.parts, sizes.second_steps // sizes.parts, sizes.batch)
    second = draw([seed, 1], texts[1].train, shape, sizes.length)
    first = draw([seed, 2], texts[0].train, shape, sizes.length)
    known = draw([seed, 3], texts[0].train, (sizes.remembered,), sizes.length)
    start = np.array([_loss_of(graph, params, rest, text) for text in judged])

    def run(method, alpha, opt_state, sequences):
        opt_state = wpl_jax.set_alpha(opt_state, alpha)
        _, found = fit(tx, graph, (params, opt_state), rest, sequences, judged)
        losses = np.concatenate([start[None], np.asarray(found, np.float64)])
        return Run(trained, method, alpha, seed, losses)

    yield run("stop earlier", 0.0, tx.init(params), second)
    quarter = sizes.batch // 4
    mixed = np.concatenate([first[..., :quarter, :], second[..., quarter:, :]], -2)
    yield run("rehearsal", 0.0, tx.init(params), mixed)
    key = jax.random.key(seed)
    exact = functools.partial(
        wpl_jax.exact_fisher, samples=2, chunk_size=sizes.chunk, key=key
    )
    for method, estimator in (("EWC", exact), ("L2", ones)):
        of = lambda params, x: logits(nnx.merge(graph, params, rest), x)  # noqa: E731
        _, opt_state = wpl_jax.remember(
            (params, tx.init(params)),
            of,
            batches(known, sizes.streamed),
            estimator=estimator,
        )
        for alpha in setting.alphas:
            yield run(method, alpha, opt_state, second)


def batches(sequences: np.ndarray, size: int) -> np.ndarray | Iterator[np.ndarray]:
    """Batches of ``size`` sequences, one at a time; with 0 all of them as one array."""
    if not size:
        return sequences
    return (sequences[i : i + size] for i in range(0, len(sequences), size))


@functools.partial(jax.jit, static_argnames="graph")
def _loss_of(graph, params, rest, sequences):
    return loss(nnx.merge(graph, params, rest), sequences)


# What came out.


def curves(runs: list[Run]) -> dict[str, np.ndarray]:
    """What each method learned and forgot in one setting with one seed.

    Returns:
      ``float64[points, 2]`` for each method, in nats a character: the decrease of the
      second text's loss and the increase of the first text's. A point is a strength of
      the penalty, or a number of steps without one. The first is the start, (0, 0).
    """
    found: dict[str, list[np.ndarray]] = {}
    for run in runs:
        change = (run.losses - run.losses[0]) * [1, -1]
        points = found.setdefault(run.method, [np.zeros(2)])
        points += list(
            change[1:, ::-1] if run.method == "stop earlier" else change[-1:, ::-1]
        )
    # Without a penalty is the end of every curve of a penalty.
    for method, points in found.items():
        if method in ("EWC", "L2"):
            points.append(found["stop earlier"][-1])
    return {name: np.stack(points) for name, points in found.items()}


def forgotten_at(points: np.ndarray, learned: Any) -> np.ndarray:
    """What is forgotten where so much is learned, along the front of some points.

    Args:
      points: Learned and forgotten, ``float64[points, 2]``.
      learned: ``float64[n]``.

    Returns:
      ``float64[n]``: linear between neighbouring points of the front, which are those
      that no other point is better than. NaN where the points do not reach as far.
    """
    order = points[np.argsort(-points[:, 0], kind="stable")]
    least = np.minimum.accumulate(np.append(np.inf, order[:-1, 1]))
    front = order[order[:, 1] < least][::-1]
    return np.interp(learned, *front.T, right=np.nan)


def trained_in(runs: list[Run]) -> list[str]:
    """The keys of ``SETTINGS`` that some runs have."""
    return [name for name in SETTINGS if any(run.trained == name for run in runs)]


def front_table(runs: list[Run]) -> str:
    """What is forgotten at equal learning, mean and standard error, as Markdown."""
    head = ["trained", "method"]
    head += [f"forgotten at {level:.0%} learned" for level in LEVELS]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for trained in trained_in(runs):
        found: dict[str, list[np.ndarray]] = {}
        for seed in sorted({run.seed for run in runs}):
            own = [run for run in runs if (run.trained, run.seed) == (trained, seed)]
            of_methods = curves(own)
            most = of_methods["stop earlier"][-1, 0]
            for method, points in of_methods.items():
                if method != "rehearsal":  # It is one point.
                    at = forgotten_at(points, np.multiply(LEVELS, most))
                    found.setdefault(method, []).append(at)
        for method, values in found.items():
            cells = [_cell(at) for at in np.transpose(values)]
            lines.append(f"| {' | '.join([trained, method, *cells])} |")
    return "\n".join(lines)


def end_table(runs: list[Run]) -> str:
    """Losses at the end, mean and standard error over seeds, as Markdown."""
    head = ["trained", "method", "alpha", "loss of the first text", "forgotten"]
    head += ["loss of the second text", "learned"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    groups: dict[tuple[str, str, float], list[np.ndarray]] = {}
    for run in runs:
        key = (run.trained, run.method, run.alpha)
        groups.setdefault(key, []).append(run.losses)
    for (trained, method, alpha), losses in groups.items():
        found = np.stack(losses)
        change = found[:, -1] - found[:, 0]
        name = "no penalty" if method == "stop earlier" else method
        cells = [trained, name, f"{alpha:g}" if alpha else ""]
        cells += [_cell(found[:, -1, 0]), _cell(change[:, 0])]
        cells += [_cell(found[:, -1, 1]), _cell(-change[:, 1])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: Any) -> str:
    mean, error = mean_and_error(values)
    return f"{mean:.3f}" if np.isnan(error) else f"{mean:.3f} ± {error:.3f}"


def draw_fronts(runs: list[Run], path: Path) -> None:
    """Draws what is forgotten against what is learned, mean over seeds."""
    from matplotlib.figure import Figure

    figure = Figure((10, 4), layout="constrained")
    kinds = trained_in(runs)
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, trained in zip(panels, kinds, strict=True):
        seeds = sorted({run.seed for run in runs})
        of_seeds = [
            curves([run for run in runs if (run.trained, run.seed) == (trained, seed)])
            for seed in seeds
        ]
        for name in of_seeds[0]:
            mean = np.mean([found[name] for found in of_seeds], 0)
            line = mean[1:] if name == "rehearsal" else mean[np.argsort(mean[:, 0])]
            style = "s" if name == "rehearsal" else ".-"
            axes.plot(*line.T, style, label=name)
        axes.set(title=trained, xlabel="learned: decrease of the second text's loss")
    panels[0].set(ylabel="forgotten: increase of the first text's loss")
    panels[0].legend()
    figure.savefig(path, dpi=150)


def write(runs: list[Run], folder: Path) -> None:
    """Writes all losses, the tables and the figure."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "losses.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((*Run._fields[:4], "part", "first", "second"))
        for run in runs:
            for part, losses in enumerate(run.losses):
                writer.writerow((*run[:4], part, *(f"{x:.5f}" for x in losses)))
    tables = f"{end_table(runs)}\n\n{front_table(runs)}\n"
    (folder / "tables.md").write_text(tables, encoding="utf-8")
    draw_fronts(runs, folder / "fine_tune_text.png")


def main(arguments: list[str] | None = None) -> None:
    """Runs the comparison from the command line."""
    given = _parser().parse_args(arguments)
    seeds = given.seeds or (1 if given.short or given.model else 3)
    sizes = Sizes(*(getattr(given, name) for name in Sizes._fields))
    model, tokens = None, encode
    if given.model:
        model, tokens = public_models.load(given.model, given.checkpoint)
    texts, runs = read_texts(tokens), []
    for seed in range(seeds):
        if model is None:
            before = pretrain(texts, seed, sizes)
        else:
            before = unchanged(model, texts, seed, sizes)
        for trained, setting in SETTINGS.items():
            if trained == "LoRA" and not can_be_adapted(before.model):
                print("LoRA: left out, as the model has no nnx.Linear")
                continue
            for run in fine_tune(before, trained, _changed(setting, trained, given)):
                runs.append(run)
                after = " and ".join(f"{x:.3f}" for x in run.losses[-1])
                print(*run[:4], f"losses {after}", sep=", ", flush=True)
    write(runs, given.out)
    print(end_table(runs), front_table(runs), sep="\n\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seeds", type=int, help="3; with --short or --model 1")
    parser.add_argument("--short", action="store_true", help="one seed, five alphas")
    parser.add_argument("--model", help="a name, or module:factory; not trained first")
    parser.add_argument("--checkpoint", help="what the factory of the model gets")
    parser.add_argument("--alphas", type=float, nargs="+", help="strengths, for all")
    parser.add_argument("--learning_rate", type=float, help="of the fine-tuning")
    parser.add_argument("--anchor_dtype", choices=("bfloat16", "int8"))
    parser.add_argument("--fisher_dtype", choices=("bfloat16", "uint8"))
    for name, value in Sizes()._asdict().items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{value}")
    return parser


def _changed(setting: Setting, trained: str, given: argparse.Namespace) -> Setting:
    alphas = SHORT_ALPHAS[trained] if given.short else setting.alphas
    return setting._replace(
        alphas=tuple(given.alphas or alphas),
        learning_rate=given.learning_rate or setting.learning_rate,
        anchor_dtype=given.anchor_dtype,
        fisher_dtype=given.fisher_dtype,
    )


if __name__ == "__main__":
    main()
