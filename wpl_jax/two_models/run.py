"""Runs the two-model experiment over settings and seeds, resumably.

A run is a list of arms: one training of B, over all seeds at once, under one
penalty. Arms share two compiled functions, and each is a few seconds at most, so
that a checkpoint between them is all that resuming needs.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.data import DataError, ImageDataset, load_images
from wpl_jax.data.repeats import describe_repeated
from wpl_jax.devices import processes
from wpl_jax.errors import ConfigError, UserError
from wpl_jax.protections.quadratic import STEPS
from wpl_jax.runs import fingerprint
from wpl_jax.runs.machine import Machine
from wpl_jax.runs.resumable import Resumable
from wpl_jax.runs.run_directory import claim_data, open_run
from wpl_jax.runs.run_files import finite, to_json, write_atomically
from wpl_jax.tasks.guessing import NO_BETTER, Guess, of_classes
from wpl_jax.two_models import experiment as two_models
from wpl_jax.two_models import memory as two_models_memory
from wpl_jax.two_models import results as two_models_results
from wpl_jax.two_models.arms import CONVERGED, Arm, Settings
from wpl_jax.two_models.experiment import Curves, Data, Examples, Setting
from wpl_jax.two_models.penalties import PENALTIES, fisher_of_a, protection_of


def run(
    settings: Settings,
    options: Mapping[str, Any],
    config: dict[str, Any],
    workdir: Path,
    machine: Machine,
) -> None:
    """Runs or resumes the experiment, and writes its results and report.

    Args:
      settings: Of the run.
      options: Of the images, as of :func:`wpl_jax.data.load_images`.
      config: All of it, as the folder keeps it.
      workdir: Folder of the run.
      machine: With one device.

    Raises:
      UserError: If something is wrong with the settings, the data or the folder,
        before anything is compiled.
      SystemExit: With 128 and the number of a signal after it, once all is saved.
    """
    if processes.is_distributed():
        raise UserError(
            "The two-model experiment runs in one process. Leave out --coordinator, "
            "--processes, --process and --cluster."
        )
    if (machine.devices or 1) > 1:
        raise UserError("The two-model experiment runs on one device. Omit --devices.")
    arms = settings.arms()
    results = workdir / two_models_results.RESULTS_FILE
    page = workdir / two_models_results.REPORT_FILE
    lost = ""
    # The data first: a folder is claimed by nothing that cannot run.
    try:
        data = load_data(settings, options)
        # Mean and deviation follow from the images, but for rounding.
        found = fingerprint.of_each({"the experiment": data[0][:4]})
    except DataError as error:
        if not results.exists():
            raise
        found, lost = {}, f"\nIts data is not there to be compared. {error}"
    else:
        if not results.exists():
            _check_memory(settings, *data)
    with open_run(workdir, config):
        claim_data(workdir, found)
        if results.exists():
            two_models_results.read(workdir, config, arms)
        if results.exists() and page.is_file():
            print(f"This run is finished: {page}{lost}")
            return
        if not results.exists():
            guess = of_classes(np.asarray(data[0].valid.labels))
            state = _train_all(settings, workdir, *data, guess, machine)
            found = _results(settings, config, state, guess)
            write_atomically(results, to_json(found))
        _report(settings, config, workdir)


def _check_memory(settings: Settings, data: Data, class_names: tuple[str, ...]) -> None:
    """Checks that the device can hold the experiment."""
    found = two_models_memory.estimate(
        data,
        make_setting(settings, data, len(class_names)),
        seeds=settings.num_seeds,
        stops=len(settings.stops) + 1,
        arms=len(settings.arms()),
    )
    two_models_memory.check(found)


def report(settings: Settings, config: dict[str, Any], workdir: Path) -> None:
    """Draws the figures and writes the report of a finished run anew."""
    with open_run(workdir, config, existing=True):
        _report(settings, config, workdir)


def _report(settings: Settings, config: dict[str, Any], workdir: Path) -> None:
    # Here: Matplotlib takes a third of a command's time to start.
    from wpl_jax.two_models import report as two_models_report

    two_models_report.write(workdir, config, settings.arms())
    print(f"Report: {workdir / two_models_results.REPORT_FILE}")


def load_data(
    settings: Settings, options: Mapping[str, Any]
) -> tuple[Data, tuple[str, ...]]:
    """Loads the images that options name, flattened.

    Args:
      settings: Of the run.
      options: As of :func:`wpl_jax.data.load_images`.

    Returns:
      The data, and the names of the classes.

    Raises:
      DataError: If the source is not what it should be.
      ConfigError: If it has too few validation images.
    """
    dataset: ImageDataset = load_images(**options)
    sizes = {name: len(getattr(dataset, name).labels) for name in ("valid", "test")}
    if repeated := describe_repeated(dataset.repeated or {}, sizes):
        print(f"{dataset.source}: {repeated}.")
    valid, count = dataset.valid, settings.fisher_examples
    if len(valid.labels) < 2 * count:
        raise ConfigError(
            f"The data set has {len(valid.labels)} validation images; "
            f"config.fisher_examples={count} of them serve the Fisher and at least as "
            f"many others are needed to evaluate on. Raise config.data.valid to "
            f"{2 * count} or more, or lower config.fisher_examples."
        )
    # Classes may stand in order in the file; the Fisher wants a sample of all.
    order = np.random.default_rng(settings.seed).permutation(len(valid.labels))

    def examples(split, index=slice(None)) -> Examples:
        images = split.images[index]
        return Examples(
            jnp.asarray(images.reshape(len(images), -1)),
            jnp.asarray(split.labels[index]),
        )

    pixels = dataset.train.images
    data = Data(
        train=examples(dataset.train),
        fisher=examples(valid, order[:count]),
        valid=examples(valid, order[count:]),
        test=examples(dataset.test),
        mean=jnp.float32(pixels.mean()),
        std=jnp.float32(pixels.std()),
    )
    return data, dataset.class_names


def make_setting(settings: Settings, data: Data, classes: int) -> Setting:
    """The sizes and optimizers of the experiment on its data."""
    pixels = data.train.images.shape[1]

    def sizes(layers: int) -> tuple[int, ...]:
        return (pixels, *[settings.hidden] * (layers - 1), classes)

    return Setting(
        sizes_a=sizes(settings.layers_a),
        sizes_b=sizes(settings.layers_b),
        activation=settings.activation,
        batch_size=settings.batch_size,
        optimizer_a=settings.model_a.optimizer,
        optimizer_b=settings.model_b.optimizer,
        steps_a=settings.model_a.steps,
        steps_b=settings.model_b.steps,
        eval_every=settings.model_b.eval_every,
        eval_examples=settings.eval_examples,
        stop_examples=settings.eval_examples,
    )


class Experiment:
    """The functions of the experiment over all seeds at once, compiled once each."""

    def __init__(self, settings: Settings, data: Data, setting: Setting):
        """Prepares the functions; they are compiled when first called."""
        self._data = data
        self._stops = [*sorted(settings.stops), CONVERGED]
        self._layers_a = settings.layers_a
        keys = jax.random.split(jax.random.key(settings.seed), settings.num_seeds)
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
        self._key_a, self._key_fisher, self._key_b = keys[:, 0], keys[:, 1], keys[:, 2]

        def over_seeds(function, in_axes, **fixed):
            bound = functools.partial(function, setting=setting, **fixed)
            return jax.jit(jax.vmap(bound, in_axes))

        self._train_a = over_seeds(two_models.train_a, (0, None, None))

        @functools.cache
        def compiled_fisher(penalty: str, normalize: str):
            bound = functools.partial(
                fisher_of_a,
                activation=setting.activation,
                protection=protection_of(penalty, normalize),
            )
            return jax.jit(jax.vmap(bound, (0, 0, None, None)))

        self._fisher_of_a = compiled_fisher
        self._train_b = {
            step: over_seeds(two_models.train_b, (0, 0, 0, None, None, None), step=step)
            for step in STEPS
        }

    def train_a(self) -> tuple[Any, jax.Array]:
        """A's layers at every stop, and the steps until then, per seed."""
        stops = jnp.asarray(self._stops[:-1], jnp.float32)
        return self._train_a(self._key_a, stops, self._data)

    def train_b(self, arm: Arm, models_a: Any) -> Curves:
        """Both models as B is trained under the arm's penalty, per seed."""
        layers_a = jax.tree.map(lambda x: x[:, self._stops.index(arm.stop)], models_a)
        share = two_models.share_first(arm.shared, self._layers_a)
        fisher = self._fisher_of_a(arm.penalty, arm.normalize)
        return self._train_b[arm.step](
            self._key_b,
            layers_a,
            fisher(self._key_fisher, layers_a, share, self._data),
            share,
            jnp.float32(arm.alpha),
            self._data,
        )

    def abstract_state(self, arms: list[Arm]) -> dict[str, Any]:
        """Shapes of a run's state: A's models, and B's curves in every arm."""
        models_a, steps = jax.eval_shape(self.train_a)
        curves = jax.eval_shape(lambda a: self.train_b(arms[0], a), models_a)
        return {
            "models_a": models_a,
            "steps_a": steps,
            "curves": [
                jax.ShapeDtypeStruct((len(arms), *c.shape), c.dtype) for c in curves
            ],
        }

    def initial_state(self, arms: list[Arm]) -> dict[str, Any]:
        """The state with A trained and no arm run yet."""
        models_a, steps = jax.device_get(self.train_a())
        shapes = self.abstract_state(arms)["curves"]
        curves = [np.zeros(c.shape, c.dtype) for c in shapes]
        return {"models_a": models_a, "steps_a": steps, "curves": curves}


def _train_all(settings, workdir, data, class_names, guess, machine) -> dict[str, Any]:
    """Trains A, then B in every arm, from wherever an earlier process stopped."""
    arms = settings.arms()
    setting = make_setting(settings, data, len(class_names))
    experiment = Experiment(settings, data, setting)

    def start() -> dict[str, Any]:
        print("Training A ...", flush=True)
        return experiment.initial_state(arms)

    with (
        machine.requests() as requests,
        Resumable(
            workdir,
            total=len(arms),
            like=experiment.abstract_state(arms),
            start=start,
            record_of=lambda done: done,
            title="Training B",
            unit="arms",
            requests=requests,
            checkpoint_seconds=settings.checkpoint_seconds,
        ) as job,
    ):
        for i in job.calls():
            found = experiment.train_b(arms[i], job.state["models_a"])
            curves = jax.device_get(found)
            for all_arms, one in zip(job.state["curves"], curves, strict=True):
                all_arms[i] = one
            record = _record(arms[i], curves)
            job.record(i, record)
            job.note = _describe(arms[i], record) + _level(curves, guess)
        return job.state


def _record(arm: Arm, curves: Curves) -> dict[str, Any]:
    """The line of an arm in the metrics."""
    before, after = curves.start_test, curves.final_test
    described = arm._asdict()
    described["penalty_step"] = described.pop("step")  # A record's "step" is a number.
    return {
        **described,
        "a_before": float(before.mean()),
        "a_after": float(after[:, 0].mean()),
        "b_after": float(after[:, 1].mean()),
        "a_lost": float((before - after[:, 0]).mean()),
        "diverged_seeds": int((~curves.finite).sum()),
    }


def _describe(arm: Arm, record: dict[str, Any]) -> str:
    penalty = PENALTIES[arm.penalty]
    told = f"{arm.penalty} {arm.step} alpha {arm.alpha:g}"
    return (
        f"A {arm.stop}, {arm.shared} shared, "
        f"{told if penalty.is_swept else penalty.title}: "
        f"A {record['a_before']:.3f} -> {record['a_after']:.3f}, "
        f"B {record['b_after']:.3f}"
    )


def _level(curves: Curves, guess: Guess) -> str:
    """Which models are no better than guessing, in the mean over seeds."""
    accuracies = {"A": curves.start_valid, "B": curves.final_valid[:, 1]}
    found = [
        model
        for model, accuracy in accuracies.items()
        if guess.explains(100 * (1 - float(accuracy.mean())))
    ]
    return f"; {' and '.join(found)} {NO_BETTER}" if found else ""


def _results(
    settings: Settings, config: dict[str, Any], state: dict[str, Any], guess: Guess
) -> Any:
    """Everything that the report is made from, as JSON."""
    curves = dict(zip(Curves._fields, state["curves"], strict=True))
    return {
        "config": config,
        "guess": guess._asdict(),
        "stops": [*sorted(settings.stops), CONVERGED],
        "steps_a": state["steps_a"].tolist(),
        "arms": [
            {
                **arm._asdict(),
                **{name: finite(curve[i]) for name, curve in curves.items()},
            }
            for i, arm in enumerate(settings.arms())
        ],
    }
