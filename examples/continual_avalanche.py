r"""The same sequence of tasks with Avalanche's EWC and with the penalty of wpl_jax.

    pip install avalanche-lib
    python -m examples.continual_avalanche --data=PATH/mnist.npz
    python -m examples.continual_avalanche --data=PATH/mnist.npz \
        --setting="split, one head"

Avalanche (Lomonaco et al., 2021) is a library for continual learning in PyTorch. Its
``EWCPlugin`` adds ``ewc_lambda * sum_t sum_i F_ti (theta_i - theta_ti)^2`` to the loss.
``F_t`` is the mean over mini-batches of the squared gradient of their mean loss. Here
that is ``batch_fisher`` with the size of these batches, the rule ``accumulate``, the
explicit step, and ``alpha = 2 * ewc_lambda``.

The script first compares both rules in float64. Then it trains both on permuted or
split MNIST, with the tasks and seeds of :mod:`examples.continual_mnist`, from equal
weights on equal batches, at strengths chosen on validation images with our
implementation. The last rows have the same step with Fishers of single examples.
"""

import argparse
import functools
import operator
import types
from typing import Any

import jax
import numpy as np
import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.training.plugins import EWCPlugin
from avalanche.training.supervised import Naive
from avalanche.training.utils import copy_params_dict
from torch import nn

import wpl_jax
from examples import continual_metrics as metrics
from examples import continual_mnist as mnist

SIZES = mnist.Sizes(epochs=1)
# Where the task is given, each task has a softmax over its own classes of one layer.
# Avalanche has another layer for each task instead, so the weights are not the same.
SETTINGS = ("permuted", "split, one head")
ALPHAS = tuple(10.0**k for k in range(-2, 5))  # of the raw Fisher
AS_AVALANCHE = "batch Fisher"


def in_order(tasks: mnist.Tasks, seed: int, sizes: mnist.Sizes) -> mnist.Tasks:
    """The tasks with the training images in the order of their batches."""
    places = mnist.batches(seed, *tasks.train.y.shape, sizes)
    train = jax.tree.map(
        lambda part: np.stack(
            [p[at.reshape(-1)] for p, at in zip(part, places, strict=True)]
        ),
        tasks.train,
    )
    return tasks._replace(train=train)


def methods(sizes: mnist.Sizes) -> dict[str, mnist.Method]:
    """EWC with the explicit step and the raw Fisher, by estimator."""
    batch_fisher = functools.partial(wpl_jax.batch_fisher, batch_size=sizes.batch)
    estimators = {
        AS_AVALANCHE: (batch_fisher, mnist.loss),
        "empirical Fisher": (wpl_jax.per_example_fisher, mnist.loss),
        "exact Fisher": (wpl_jax.exact_fisher, mnist.logits),
    }
    return {
        name: mnist.Method(estimator, of, step="explicit", normalize=None)
        for name, (estimator, of) in estimators.items()
    }


def learn(
    method: mnist.Method,
    tasks: mnist.Tasks,
    seed: int,
    alpha: float,
    sizes: mnist.Sizes,
) -> np.ndarray:
    """Accuracies of wpl_jax, ``float64[tasks, tasks]``."""
    count, images = tasks.train.y.shape
    places = np.tile(np.arange(images).reshape(1, -1, sizes.batch), (count, 1, 1))
    after, _ = mnist.learn(
        method,
        mnist.initial(seed, sizes.hidden),
        np.float32(alpha),
        tasks,
        places.astype(np.int32),
        learning_rate=sizes.learning_rate,
        remembered=images,
    )
    return np.asarray(after, np.float64)


# Avalanche.


def network(params: mnist.Params) -> nn.Sequential:
    """The network of :mod:`examples.continual_mnist` in PyTorch, with its weights."""
    layers: list[nn.Module] = []
    for layer in params:
        linear = nn.Linear(*layer["w"].shape)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(layer["w"].T))
            linear.bias.copy_(torch.tensor(layer["b"]))
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def like_ours(values: dict[str, torch.Tensor]) -> mnist.Params:
    """Values of the parameters of a network by name, as wpl_jax has them."""
    numbers = sorted({int(name.partition(".")[0]) for name in values})
    return [
        {
            "w": values[f"{i}.weight"].detach().numpy().T,
            "b": values[f"{i}.bias"].detach().numpy(),
        }
        for i in numbers
    ]


def datasets(examples: mnist.Examples) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images and labels of each task, without padding."""
    return [
        (torch.tensor(x[kept > 0]), torch.tensor(y[kept > 0], dtype=torch.long))
        for x, y, kept in zip(examples.x, examples.y, examples.weight, strict=True)
    ]


def stream(tasks: mnist.Tasks) -> Any:
    """The tasks as experiences of Avalanche."""
    return tensors_benchmark(
        train_tensors=datasets(tasks.train),
        test_tensors=datasets(tasks.judged),
        task_labels=[0] * len(tasks.train.y),
    ).train_stream


def learn_with_avalanche(
    tasks: mnist.Tasks, seed: int, ewc_lambda: float, sizes: mnist.Sizes
) -> np.ndarray:
    """Accuracies of Avalanche's EWC, ``float64[tasks, tasks]``."""
    model = network(mnist.initial(seed, sizes.hidden))
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=sizes.learning_rate),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=sizes.batch,
        plugins=[EWCPlugin(ewc_lambda)],
        evaluator=None,
    )
    judged, found = datasets(tasks.judged), []
    for experience in stream(tasks):
        strategy.train(experience, shuffle=False)
        with torch.no_grad():
            found.append(
                [float((model(x).argmax(1) == y).double().mean()) for x, y in judged]
            )
    return np.array(found)


# The rule.


def compare_rules(tasks: mnist.Tasks, sizes: mnist.Sizes) -> dict[str, float]:
    """Largest differences of both in float64, relative to the largest value.

    Two tasks are remembered, each at weights of its own, and the penalty is
    differentiated at a third point.
    """
    torch.set_default_dtype(torch.float64)  # that of the importances of Avalanche
    try:
        with jax.enable_x64(True):
            return _compare_rules(jax.tree.map(_wide, tasks), sizes)
    finally:
        torch.set_default_dtype(torch.float32)


def _compare_rules(tasks, sizes):
    ewc_lambda, found = 8.0, {}
    plugin = EWCPlugin(ewc_lambda)
    tx = wpl_jax.weight_plasticity(2 * ewc_lambda)
    points = [jax.tree.map(_wide, mnist.initial(i, sizes.hidden)) for i in range(3)]
    opt_state = tx.init(points[0])
    for task, experience in zip(range(2), stream(tasks), strict=False):
        model = network(points[task])
        importances = plugin.compute_importances(
            model,
            nn.CrossEntropyLoss(),
            torch.optim.SGD(model.parameters(), lr=0.1),
            *(experience.dataset, "cpu", sizes.batch),
        )
        plugin.update_importances(importances, task)
        plugin.saved_params[task] = copy_params_dict(model)
        examples = jax.tree.map(operator.itemgetter(task), tasks.train)
        ours = wpl_jax.batch_fisher(
            mnist.loss, points[task], examples, batch_size=sizes.batch
        )
        theirs = {name: value.data for name, value in importances.items()}
        found[f"Fisher of task {task + 1}"] = _difference(ours, like_ours(theirs))
        opt_state = wpl_jax.consolidate(
            opt_state, points[task], ours, rule=wpl_jax.accumulate
        )
    model = network(points[2])
    strategy = types.SimpleNamespace(
        clock=types.SimpleNamespace(train_exp_counter=2),
        model=model,
        device="cpu",
        loss=torch.zeros((), requires_grad=True) * 1.0,
    )
    plugin.before_backward(strategy)
    strategy.loss.backward()
    theirs = {name: p.grad for name, p in model.named_parameters()}
    ours, _ = tx.update(jax.tree.map(np.zeros_like, points[2]), opt_state, points[2])
    found["gradient of the penalty"] = _difference(ours, like_ours(theirs))
    return found


def _wide(x):
    return x.astype(np.float64) if x.dtype == np.float32 else x


def _difference(ours: Any, theirs: Any) -> float:
    pairs = list(zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))
    largest = max(np.abs(b).max() for _, b in pairs)
    return float(max(np.abs(np.asarray(a) - b).max() for a, b in pairs) / largest)


def choose_alpha(
    method: mnist.Method, images: Any, setting: str, sizes: mnist.Sizes
) -> float:
    """The strength with the best average accuracy on validation images."""
    seed = mnist.CALIBRATION_SEED
    tasks = in_order(
        mnist.make_tasks(images, setting, seed, sizes, "valid"), seed, sizes
    )
    best, found = metrics.best_alpha(
        lambda alpha: learn(method, tasks, seed, alpha, sizes), ALPHAS
    )
    print("validation:", ", ".join(f"{a:g}: {x:.3f}" for a, x in found.items()))
    return best


def compare(
    images: Any, setting: str, sizes: mnist.Sizes, seeds: int
) -> dict[str, list[np.ndarray]]:
    """Accuracies of each seed on test images: ours, Avalanche's, and others of ours."""
    tasks = {
        seed: in_order(
            mnist.make_tasks(images, setting, seed, sizes, "test"), seed, sizes
        )
        for seed in range(seeds)
    }
    found = {}
    for name, method in methods(sizes).items():
        alpha = choose_alpha(method, images, setting, sizes)
        found[f"wpl_jax, {name}, alpha {alpha:g}"] = [
            learn(method, tasks[seed], seed, alpha, sizes) for seed in tasks
        ]
        if name == AS_AVALANCHE:
            found[f"Avalanche, ewc_lambda {alpha / 2:g}"] = [
                learn_with_avalanche(tasks[seed], seed, alpha / 2, sizes)
                for seed in tasks
            ]
    return found


def table(found: dict[str, list[np.ndarray]]) -> str:
    """Means and standard errors over seeds in percent, as Markdown."""
    lines = ["| EWC, explicit step | average accuracy | forgetting |", "|---|---|---|"]
    for name, runs in found.items():
        cells = [
            "{:.2f} ± {:.2f}".format(
                *metrics.mean_and_error([100 * of(x) for x in runs])
            )
            for of in (metrics.average_accuracy, metrics.forgetting)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Prints both comparisons."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--data", required=True, help="mnist.npz")
    parser.add_argument("--setting", choices=SETTINGS, default=SETTINGS[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=SIZES.images, help="of a task")
    given = parser.parse_args(arguments)
    sizes, images = SIZES._replace(images=given.images), mnist.load(given.data)
    few = sizes._replace(images=10 * sizes.batch)
    tasks = mnist.make_tasks(images, given.setting, 0, few, "valid")
    for name, difference in compare_rules(tasks, few).items():
        print(f"float64, {name}: largest relative difference {difference:.1e}")
    found = compare(images, given.setting, sizes, given.seeds)
    print(table(found))
    ours, theirs = list(found.values())[:2]
    largest = 100 * np.abs(np.subtract(ours, theirs)).max()
    print(f"Largest difference of an accuracy from Avalanche: {largest:.2f} points")


if __name__ == "__main__":
    main()
