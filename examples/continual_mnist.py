"""Five tasks in a row on MNIST: what each penalty keeps, and where none helps.

    python -m examples.continual_mnist --data=PATH/mnist.npz --out=runs/continual_mnist

Three settings (van de Ven et al., "Three types of incremental learning", 2022):

- ``permuted``: every task has all ten digits, with its own order of the pixels;
- ``split, task given``: every task has two digits and a head of its own;
- ``split, one head``: every task has two digits, and one head tells all ten apart.

A network learns one task after the other. After each, the importance of its weights is
estimated and the anchor of the penalty moves to them. The strength alpha of each method
is the one with the best average accuracy on validation images, with a seed that is in
no table. All seeds, tasks and strengths of a method use one compiled program.
"""

import argparse
import csv
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import wpl_jax
from examples import continual_metrics as metrics
from wpl_jax.data.images.load import load_images

TASKS, CLASSES, PIXELS = 5, 10, 28 * 28
VALID = 10_000  # of the training images; strengths are chosen on them
SETTINGS = ("permuted", "split, task given", "split, one head")
ALPHAS = tuple(10.0**k for k in range(-3, 4))  # of importances with mean 1
CALIBRATION_SEED = 100

Params = list[dict[str, Any]]


class Sizes(NamedTuple):
    """How much is computed."""

    hidden: int = 128  # units in each of two layers
    images: int = 9_000  # of a task
    epochs: int = 2
    batch: int = 50
    learning_rate: float = 0.1
    remembered: int = 1_000  # images from which an importance is estimated
    judged: int = 10_000  # images of the test (or validation) set, at most


class Examples(NamedTuple):
    """Images of the tasks; the leading axes are [tasks, images]."""

    x: Any  # float32[..., 784]
    y: Any  # int32[...]
    compared: Any  # bool[..., 10]; the classes that the softmax is over
    weight: Any  # float32[...]; 0 for padding


class Tasks(NamedTuple):
    """What is learned, and the images that judge it."""

    train: Examples
    judged: Examples


# The data.


def load(path: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pixels ``float32[n, 784]`` and labels of training, validation and test images."""
    data = load_images("npz", path, valid=VALID)
    return {
        name: (_flat(split.images), np.asarray(split.labels, np.int32))
        for name, split in (
            ("train", data.train),
            ("valid", data.valid),
            ("test", data.test),
        )
    }


def make_tasks(
    images: Any, setting: str, seed: int, sizes: Sizes, judged: str
) -> Tasks:
    """The five tasks of a setting.

    Args:
      images: What :func:`load` returns.
      setting: One of ``SETTINGS``.
      seed: Of the orders of the pixels, and of the training images.
      sizes: How much is computed.
      judged: ``"valid"`` or ``"test"``.
    """
    if setting not in SETTINGS:
        raise ValueError(f"setting must be one of {SETTINGS}, got {setting!r}.")
    rng = np.random.default_rng(seed)
    orders = [np.arange(PIXELS), *(rng.permutation(PIXELS) for _ in range(TASKS - 1))]
    groups: dict[str, list[list[Any]]] = {"train": [], judged: []}
    for task in range(TASKS):
        digits = np.arange(CLASSES) // 2 == task
        shown = np.ones(CLASSES, bool) if setting == "permuted" else digits
        compared = np.ones(CLASSES, bool) if setting == "split, one head" else shown
        for name, group in groups.items():
            x, y = images[name]
            places = rng.permutation(np.flatnonzero(shown[y]))
            places = places[: sizes.images if name == "train" else sizes.judged]
            pixels = x[places][:, orders[task]] if setting == "permuted" else x[places]
            group.append([pixels, y[places], np.tile(compared, (len(places), 1))])
    least = min(len(y) for _, y, _ in groups["train"])
    train = [[part[:least] for part in parts] for parts in groups["train"]]
    return Tasks(_stack(train), _stack(groups[judged]))


def _flat(images: Any) -> np.ndarray:
    found = np.asarray(images)
    return found.reshape(len(found), -1).astype(np.float32) / 255


def _stack(tasks: list[list[Any]]) -> Examples:
    """The tasks in one array each; shorter ones are padded."""
    longest = max(len(y) for _, y, _ in tasks)

    def pad(part):
        return np.pad(part, [(0, longest - len(part)), *[(0, 0)] * (part.ndim - 1)])

    padded = [
        [pad(part) for part in [*t, np.ones(len(t[1]), np.float32)]] for t in tasks
    ]
    return Examples(*(np.stack(parts) for parts in zip(*padded, strict=True)))


def batches(seed: int, tasks: int, images: int, sizes: Sizes) -> np.ndarray:
    """Places of the images of each batch, ``int32[tasks, steps, batch]``."""
    rng = np.random.default_rng([seed, 1])
    steps = images // sizes.batch
    orders = [
        rng.permutation(images)[: steps * sizes.batch]
        for _ in range(tasks * sizes.epochs)
    ]
    return np.reshape(orders, (tasks, -1, sizes.batch)).astype(np.int32)


# The network.


def initial(seed: int, hidden: int) -> Params:
    """Weights of two hidden layers and the outputs (He et al., 2015)."""
    rng = np.random.default_rng([seed, 2])
    widths = (PIXELS, hidden, hidden, CLASSES)
    return [
        {
            "w": (rng.normal(size=(m, n)) * np.sqrt(2 / m)).astype(np.float32),
            "b": np.zeros(n, np.float32),
        }
        for m, n in itertools.pairwise(widths)
    ]


def outputs(params: Params, example: Examples) -> jax.Array:
    """Outputs of the classes that are compared, ``[..., 10]``; 0 for the others."""
    x = example.x
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return (x @ params[-1]["w"] + params[-1]["b"]) * example.compared


def logits(params: Params, example: Examples) -> jax.Array:
    """Logits of a softmax over the classes that are compared, ``[..., 10]``."""
    return jnp.where(example.compared, outputs(params, example), -1e9)


def loss(params: Params, example: Examples) -> jax.Array:
    """Cross-entropy of each example."""
    return optax.softmax_cross_entropy_with_integer_labels(
        logits(params, example), example.y
    )


def accuracy(params: Params, examples: Examples) -> jax.Array:
    """Share of the images of a task that are classified correctly."""
    right = jnp.argmax(logits(params, examples), -1) == examples.y
    return jnp.sum(right * examples.weight) / jnp.sum(examples.weight)


# The methods.


def uniform(function: Any, params: Params, examples: Examples) -> Params:
    """All weights are equally important."""
    del function, examples
    return jax.tree.map(jnp.ones_like, params)


class Method(NamedTuple):
    """How the tasks so far are remembered."""

    estimator: Callable[..., Params] | None  # of an importance; None: they are not
    function: Callable[[Params, Examples], jax.Array] = loss  # what it is of
    rule: Any = wpl_jax.accumulate
    step: str = "proximal"
    normalize: Any = "unit"


METHODS = {
    "none": Method(None),
    "L2 to the last weights": Method(uniform, rule=wpl_jax.replace),
    "EWC, exact Fisher": Method(wpl_jax.exact_fisher, logits),
    "EWC, empirical Fisher": Method(wpl_jax.per_example_fisher),
    "WPL": Method(wpl_jax.per_example_fisher, rule=wpl_jax.replace),
    # The sum of all importances, around the newest weights (Aljundi et al., 2018).
    "MAS": Method(wpl_jax.memory_aware_synapses, outputs, wpl_jax.online(1.0)),
}


@functools.partial(jax.jit, static_argnames=("method", "learning_rate", "remembered"))
def learn(
    method: Method,
    params: Params,
    alpha: Any,
    tasks: Tasks,
    places: Any,
    *,
    learning_rate: float,
    remembered: int,
) -> tuple[jax.Array, Params]:
    """Learns one task after the other.

    Args:
      method: How the earlier tasks are remembered.
      params: Initial weights.
      alpha: Strength of the penalty.
      tasks: What is learned, and what judges it.
      places: Images of each batch, ``int32[tasks, steps, batch]``.
      learning_rate: Of SGD.
      remembered: Images from which an importance is estimated.

    Returns:
      Accuracy on each judged task (columns) after each learned task (rows), and the
      weights at the end.
    """
    tx = wpl_jax.with_plasticity(
        optax.sgd, alpha=0.0, learning_rate=learning_rate, step=method.step
    )

    def one_step(state, batch):
        params, opt_state = state
        gradient = jax.grad(lambda params: jnp.mean(loss(params, batch)))(params)
        updates, opt_state = tx.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state)

    def one_task(state, given):
        train, places = given

        def take(places):
            return jax.tree.map(lambda part: part[places], train)

        state, _ = jax.lax.scan(
            lambda s, p: (one_step(s, take(p)), None), state, places
        )
        if method.estimator is not None:
            state = wpl_jax.remember(
                state,
                method.function,
                take(jnp.arange(remembered)),
                estimator=method.estimator,
                normalize=method.normalize,
                rule=method.rule,
            )
        after = jax.lax.map(functools.partial(accuracy, state[0]), tasks.judged)
        return state, after

    params = jax.tree.map(jnp.asarray, params)
    state = params, wpl_jax.set_alpha(tx.init(params), alpha)
    (params, _), after = jax.lax.scan(one_task, state, (tasks.train, places))
    return after, params


# The comparison.


class Run(NamedTuple):
    """What one sequence of tasks gave."""

    setting: str
    method: str
    alpha: float
    seed: int
    accuracies: np.ndarray  # float64[tasks, tasks]; of joint training [1, tasks]


def run_method(
    method: Method, tasks: Tasks, seed: int, alpha: float, sizes: Sizes
) -> Any:
    """Accuracies of a method with one seed, ``float64[tasks, tasks]``."""
    count, images = tasks.train.y.shape
    after, _ = learn(
        method,
        initial(seed, sizes.hidden),
        np.float32(alpha),
        tasks,
        batches(seed, count, images, sizes),
        learning_rate=sizes.learning_rate,
        remembered=min(sizes.remembered, images),
    )
    return np.asarray(after, np.float64)


def run_jointly(tasks: Tasks, seed: int, sizes: Sizes) -> np.ndarray:
    """Accuracies of a network that learns all tasks at once, ``float64[1, tasks]``."""
    merged = jax.tree.map(
        lambda part: part.reshape(1, -1, *part.shape[2:]), tasks.train
    )
    return run_method(METHODS["none"], tasks._replace(train=merged), seed, 0.0, sizes)


def choose_alpha(
    method: Method, images: Any, setting: str, sizes: Sizes, alphas: Iterable[float]
) -> tuple[float, dict[float, float]]:
    """The strength with the best average accuracy on validation images, and all."""
    tasks = make_tasks(images, setting, CALIBRATION_SEED, sizes, "valid")
    return metrics.best_alpha(
        lambda alpha: run_method(method, tasks, CALIBRATION_SEED, alpha, sizes), alphas
    )


def compare(
    images: Any, sizes: Sizes, seeds: int, alphas: Iterable[float] = ALPHAS
) -> Iterator[Run]:
    """Runs all methods in all settings; what is chosen is printed."""
    for setting in SETTINGS:
        tasks = {
            seed: make_tasks(images, setting, seed, sizes, "test")
            for seed in range(seeds)
        }
        for name, method in METHODS.items():
            alpha, start = 0.0, time.monotonic()
            if method.estimator is not None:
                alpha, found = choose_alpha(method, images, setting, sizes, alphas)
                tried = ", ".join(f"{a:g}: {x:.3f}" for a, x in found.items())
                print(f"{setting}; {name}: validation accuracies {tried}")
            for seed in range(seeds):
                after = run_method(method, tasks[seed], seed, alpha, sizes)
                yield Run(setting, name, alpha, seed, after)
            print(f"{setting}; {name}: {time.monotonic() - start:.0f} s", flush=True)
        for seed in range(seeds):
            after = run_jointly(tasks[seed], seed, sizes)
            yield Run(setting, "all tasks at once", 0.0, seed, after)


def table(runs: list[Run]) -> str:
    """Means and standard errors over seeds in percent, as Markdown.

    The gain is the difference from no penalty with the same seed.
    """
    head = ("setting", "method", "alpha", "average accuracy", "gain")
    head += ("backward transfer", "forgetting", "right after learning")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    groups = grouped(runs)
    for (setting, name), group in groups.items():
        found = [run.accuracies for run in group]
        average = np.array([x[-1].mean() for x in found])
        free = [x.accuracies[-1].mean() for x in groups[setting, "none"]]
        cells = [_cell(average), "" if name == "none" else _cell(average - free)]
        if len(found[0]) > 1:
            of_order = metrics.backward_transfer, metrics.forgetting
            for measure in (*of_order, metrics.learning_accuracy):
                cells.append(_cell([measure(x) for x in found]))
        alpha = f"{group[0].alpha:g}" if group[0].alpha else ""
        cells = [setting, name, alpha, *cells]
        cells += [""] * (len(head) - len(cells))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def grouped(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """The runs of each setting and method."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.setting, run.method), []).append(run)
    return groups


def _cell(values: Any) -> str:
    mean, error = metrics.mean_and_error(100 * np.asarray(values))
    return f"{mean:.1f} ± {error:.1f}"


def draw(runs: list[Run], path: Path) -> None:
    """Draws the mean accuracy over the tasks so far, after each task."""
    from matplotlib.figure import Figure

    figure = Figure((11, 3.6), layout="constrained")
    panels = figure.subplots(1, len(SETTINGS))
    learned = np.arange(1, TASKS + 1)
    for (setting, name), group in grouped(runs).items():
        axes = panels[SETTINGS.index(setting)]
        axes.set(title=setting, xlabel="tasks learned", xticks=learned)
        found = np.stack([run.accuracies for run in group])
        if found.shape[1] == 1:
            axes.axhline(found.mean(), color="0.5", ls="--", lw=1, label=name)
            continue
        curves = np.stack([found[:, t, : t + 1].mean(-1) for t in range(TASKS)], -1)
        error = [metrics.mean_and_error(column)[1] for column in curves.T]
        axes.errorbar(learned, curves.mean(0), error, marker=".", capsize=2, label=name)
    panels[0].set(ylabel="mean test accuracy of these tasks")
    panels[0].legend(fontsize="small")
    figure.savefig(path, dpi=150)


def write(runs: list[Run], folder: Path) -> None:
    """Writes all accuracies, the table and the figure."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "accuracies.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ("setting", "method", "alpha", "seed", "after", "task", "accuracy")
        )
        for run in runs:
            for (after, task), found in np.ndenumerate(run.accuracies):
                writer.writerow((*run[:4], after + 1, task + 1, f"{found:.5f}"))
    (folder / "table.md").write_text(table(runs) + "\n", encoding="utf-8")
    draw(runs, folder / "continual_mnist.png")


def main(arguments: list[str] | None = None) -> None:
    """Runs the comparison from the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--data", required=True, help="mnist.npz")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=Sizes().images, help="of a task")
    parser.add_argument("--epochs", type=int, default=Sizes().epochs)
    given = parser.parse_args(arguments)
    sizes = Sizes(images=given.images, epochs=given.epochs)
    runs = list(compare(load(given.data), sizes, given.seeds))
    write(runs, given.out)
    print(table(runs))


if __name__ == "__main__":
    main()
