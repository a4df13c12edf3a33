"""Retraining against averaged SGD in numpy, interrupted and not."""

import copy
import dataclasses
import functools
import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import toy
from ml_collections import ConfigDict

from configs import enas_rnn_pydoc
from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.engine.optimizers import Exponential, Sgd
from wpl_jax.errors import ConfigError, UserError
from wpl_jax.evaluation import retrain
from wpl_jax.evaluation.retraining import Retraining
from wpl_jax.evaluation.speed import Speed
from wpl_jax.jobs.retrain_config import config_for_task, make_retraining
from wpl_jax.runs.machine import Requests
from wpl_jax.supernet import ALL, Architecture, Space
from wpl_jax.tasks import Evaluation
from wpl_jax.tasks.guessing import Guess

STACK, SIZE, BATCHES, EPOCHS, PATIENCE = 4, 3, 5, 6, 1
CHOICE = np.array([3, 1], np.int32)
DECAY = Exponential(0.9, decay_from=1)
SGD = Sgd(0.2, DECAY, clip_norm=2.0, weight_decay=0.01, momentum=0.3)
ROUNDING = {"rtol": 2e-5, "atol": 1e-6}
GUESS = Guess(loss=9.0, error=8e3, least_error=7e3)
STREAM = 0.3  # how much of the last batch the next one's prediction gets


class ToySpace(Space):
    """A stack of vectors, of which a child uses two, and one that all use."""

    def init(self, key):
        rows = jax.random.normal(key, (STACK, SIZE))
        return {"rows": rows, "shift": jnp.zeros(SIZE)}

    def rows(self, architecture):
        return {"rows": architecture.choice, "shift": ALL}


class ToyTask:
    """Half the squared distance of a point, which the child says, to the data's."""

    space, error_name, predictions_per_batch = ToySpace(), "distortion", 1

    def guess(self, data):
        return GUESS

    def init_carry(self):
        return {"last": jnp.zeros(SIZE), "drawn": jnp.zeros(EPOCHS * BATCHES), "at": 0}

    def train_loss(self, child, architecture, data, carry, step, key, axis=NO_AXIS):
        index = step % len(data["train"])
        target = data["train"][index]
        nats = distance(point(child, architecture) + STREAM * carry["last"], target)
        # Times 0 a gradient that overflows, where the data asks for it.
        nats += jnp.sum(child["shift"] * data["slope"][index] * 10)
        drawn = carry["drawn"].at[carry["at"]].set(jax.random.uniform(key))
        after = {"last": target, "drawn": drawn, "at": carry["at"] + 1}
        return nats + jnp.sum(child["shift"] ** 2), (nats, after)

    def evaluate(self, child, architecture, data, split, axis):
        predicted = point(child, architecture)
        nats = jnp.mean(jax.vmap(lambda x: distance(predicted, x))(data[split]))
        return Evaluation(nats, jnp.exp(nats))

    def num_batches(self, data, split):
        return len(data[split])

    def statistics(self, child, architecture, data, axis):
        return {"center": jnp.mean(data["train"], 0) + child["shift"]}

    def evaluate_with(self, statistics, child, architecture, data, split, axis):
        nats = distance(statistics["center"], data[split][0])
        return Evaluation(nats, jnp.exp(nats))


def point(child, architecture):
    """The architecture is part of what a child says, as activations are."""
    first, second = child["rows"]
    return first * (architecture.choice[0] - 2) + second / 2 + child["shift"]


def distance(one, other):
    return ((one - other) ** 2).sum() / 2


def make_data(valid):
    """Points around (1, 1, 1) to learn from, and others to be judged by."""
    rng = np.random.default_rng(0)
    centers = {"train": 1.0, "valid": valid, "test": 0.8}
    data = {
        name: np.float32(center + 0.1 * rng.normal(size=(BATCHES, SIZE)))
        for name, center in centers.items()
    }
    return data | {"slope": np.zeros(BATCHES, np.float32)}


# On their way to (1, 1, 1), the weights come by (0.4, 0.4, 0.4).
DATA = make_data(0.4)


class Reference:
    """The training in numpy and float64, a step at a time."""

    def __init__(self, params, data, patience):
        self.data, self.patience = data, patience
        self.params = {k: np.asarray(v, np.float64) for k, v in params.items()}
        self.moment = {k: np.zeros_like(v) for k, v in self.params.items()}
        self.last, self.iterates, self.best = np.zeros(SIZE), None, self.params
        self.records, self.skipped, self.norms = [], 0, []

    def loss(self, params, split):
        predicted = point(params, Architecture(CHOICE))
        return np.mean([distance(predicted, np.float64(x)) for x in self.data[split]])

    def step(self, i, rate):
        target = np.float64(self.data["train"][i])
        nats = np.nan
        if np.isfinite(target).all() and not self.data["slope"][i]:
            away = (
                point(self.params, Architecture(CHOICE)) + STREAM * self.last - target
            )
            nats = (away**2).sum() / 2
            rows = np.stack([away * (CHOICE[0] - 2), away / 2])
            gradient = {"rows": rows, "shift": away + 2 * self.params["shift"]}
            norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
            self.norms.append(norm)
            for name, g in gradient.items():
                g = g * min(1, SGD.clip_norm / norm)
                g = g + SGD.weight_decay * self.params[name]
                self.moment[name] = SGD.momentum * self.moment[name] + g
            self.params = {
                name: p - rate * self.moment[name] for name, p in self.params.items()
            }
            self.last = target
        else:
            self.skipped += 1
        if self.iterates is not None:
            self.iterates.append(self.params)
        return nats

    def epoch(self):
        number = len(self.records)
        rate = SGD.learning_rate * DECAY.decay ** max(number - DECAY.decay_from + 1, 0)
        nats = [self.step(i, rate) for i in range(BATCHES)]
        judged = self.average() if self.iterates else self.params
        valid, history = self.loss(judged, "valid"), self.history()
        if valid < min(history, default=np.inf):
            self.best = judged
        self.records.append(
            {
                "step": number,
                "train_loss": np.nanmean(nats),
                "valid_loss": valid,
                "valid_error": np.exp(valid),
                "averaged_steps": len(self.iterates or []),
                "skipped": self.skipped,
            }
        )
        # Merity et al., algorithm 1: t > n and v > min of the logs but the last n.
        if (
            self.iterates is None
            and self.patience is not None
            and number > self.patience
            and valid > min(history[: number - self.patience])
        ):
            self.iterates = []

    def history(self):
        return [record["valid_loss"] for record in self.records]

    def average(self):
        return {
            name: np.mean([each[name] for each in self.iterates], axis=0)
            for name in self.params
        }


@pytest.fixture(scope="module")
def retraining():
    """Compiled once for all tests."""
    return Retraining(ToyTask(), SGD, EPOCHS, PATIENCE)


def initial(retraining, seed=0):
    return retraining.init(jax.random.key(seed), CHOICE)


def train_epoch(retraining, state, data, epoch, ends=(BATCHES,)):
    first = 0
    for end in ends:
        numbers = map(np.int32, (epoch, first, end))
        state = retraining.train(state, data, *numbers)
        first = end
    return state


def validate(retraining, state, data, epoch):
    return retraining.validate(state, data, np.int32(epoch))


def assert_params(got, expected):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, **ROUNDING, err_msg=name)


# Steps.


def test_child_begins_with_its_rows_of_the_space(retraining):
    state = initial(retraining)
    assert state.params["rows"].shape == (2, SIZE)
    other = retraining.init(jax.random.key(0), CHOICE[::-1])
    np.testing.assert_array_equal(other.params["rows"], state.params["rows"][::-1])
    assert not np.array_equal(
        initial(retraining, 1).params["rows"], other.params["rows"]
    )


@pytest.mark.parametrize("ends", [(5,), (2, 4, 5), (1, 5)])
def test_epochs_are_sgd_however_they_are_cut_into_calls(ends, retraining):
    state = initial(retraining)
    reference = Reference(state.params, DATA, None)
    for epoch in range(2):
        reference.epoch()
        state = train_epoch(retraining, state, DATA, epoch, ends)
        assert_params(state.params, reference.params)
        nats = reference.records[epoch]["train_loss"] * BATCHES
        np.testing.assert_allclose(state.loss, nats, **ROUNDING)
    assert (int(state.averaged), int(state.skipped)) == (0, 0)
    assert min(reference.norms) < SGD.clip_norm < max(reference.norms)
    drawn = np.asarray(state.carry["drawn"])[: 2 * BATCHES]
    assert len(set(drawn.tolist())) == 2 * BATCHES  # Each step has a key of its own.
    whole = initial(retraining)
    for epoch in range(2):
        whole = train_epoch(retraining, whole, DATA, epoch)
    np.testing.assert_array_equal(whole.carry["drawn"], state.carry["drawn"])


# Averages, and what is kept.


@pytest.mark.parametrize(
    ("centers", "begins"),
    [
        # Where the validation data lies, an epoch each: what is far is bad. Averaging
        # begins where it is farther than the best of the epochs but the last one.
        ((3.0, 2.0, 2.5, 2.2, 1.5, 1.2), 3),
        ((1.8, 2.2, 2.6, 1.9, 1.2, 1.5), 2),
        ((4.0, 3.0, 3.5, 2.0, 2.5, 2.2), 5),
        ((4.0, 3.0, 2.5, 2.6, 2.0, 2.1), None),
    ],
)
def test_averaging_begins_where_validation_no_longer_improves(
    centers, begins, retraining
):
    state = initial(retraining)
    reference = Reference(state.params, DATA, PATIENCE)
    averaging, from_average = [], False
    for epoch, center in enumerate(centers):
        reference.data = data = make_data(center)
        best = reference.best
        reference.epoch()
        state = train_epoch(retraining, state, data, epoch, (3, 5))
        state = validate(retraining, state, data, epoch)
        averaging.append(bool(state.averaging))
        assert int(state.averaged) == len(reference.iterates or [])
        if reference.iterates:
            assert_params(state.average, reference.average())
            from_average |= reference.best is not best
        history = reference.history()
        np.testing.assert_allclose(state.last.loss, history[-1], **ROUNDING)
        np.testing.assert_allclose(state.lowest.loss, min(history), **ROUNDING)
        assert_params(state.best, reference.best)
        assert_params(state.params, reference.params)
    expected = [begins is not None and epoch >= begins for epoch in range(EPOCHS)]
    assert averaging == expected
    # Of the four, those that begin in time also have a best that is an average.
    assert from_average == (begins in (2, 3))


def test_the_state_does_not_grow_with_the_epochs(retraining):
    endless = Retraining(ToyTask(), SGD, 10**9, PATIENCE)
    sizes = [
        jax.eval_shape(functools.partial(initial, r)) for r in (retraining, endless)
    ]
    assert sizes[0] == sizes[1]


def test_averaging_never_begins_without_patience(retraining):
    patient = Retraining(ToyTask(), SGD, EPOCHS, None)
    state = initial(retraining)
    for epoch, center in enumerate((2.0, 2.5, 3.0, 4.0)):
        data = make_data(center)
        state = train_epoch(patient, state, data, epoch)
        state = validate(patient, state, data, epoch)
        assert not state.averaging


def test_a_validation_that_is_not_finite_is_only_no_improvement(retraining):
    state, history = initial(retraining), []
    for epoch, center in enumerate((4.0, np.nan, 3.0, 2.0)):
        data = make_data(center)
        state = retraining.validate(state, data, np.int32(epoch))
        history.append(float(state.last.error))
        if epoch == 0:  # What the later ones are compared with.
            state = state._replace(best=jax.tree.map(jnp.zeros_like, state.best))
    assert history[1] == np.inf
    assert history[0] > history[2] > history[3]
    for best, now in zip(
        *map(jax.tree.leaves, (state.best, state.params)), strict=True
    ):
        np.testing.assert_array_equal(best, now)
    assert not state.averaging


# Steps that are not finite.


def test_steps_that_are_not_finite_are_left_out_and_counted(retraining):
    data = make_data(0.4)
    data["slope"][0] = 3e38  # Its loss is finite, its gradient is not.
    data["train"][2, 1] = np.nan
    data["train"][3, 0] = np.inf
    state = initial(retraining)
    reference = Reference(state.params, data, PATIENCE)
    task, child = retraining.task, dict(state.params)
    loss, (nats, _) = task.train_loss(
        child, Architecture(CHOICE), data, task.init_carry(), 0, jax.random.key(0)
    )
    assert np.isfinite(loss)
    assert np.isfinite(nats)
    for epoch in range(EPOCHS):
        data["valid"] += 0.5  # Farther, so that averaging begins.
        reference.epoch()
        state = train_epoch(retraining, state, data, epoch, (1, 3, 5))
        state = validate(retraining, state, data, epoch)
        assert int(state.skipped) == 3 * (epoch + 1)
        assert_params(state.params, reference.params)
        nats = reference.records[epoch]["train_loss"]
        np.testing.assert_allclose(state.loss / state.finite, nats, **ROUNDING)
    assert_params(state.best, reference.best)
    assert_params(state.average, reference.average())


# Whole runs.


class Stop:
    """A request to stop that a test makes by itself."""

    signum = None

    def asked(self):
        return self.signum is not None

    def exit_code(self):
        return 128 + self.signum


class Stopping:
    """A training that is asked to stop in one of its calls of ``train``."""

    def __init__(self, retraining, stop, after):
        self._retraining, self._stop, self._left = retraining, stop, after

    def __getattr__(self, name):
        return getattr(self._retraining, name)

    def train(self, *args):
        self._left -= 1
        if self._left == 0:
            self._stop.signum = signal.SIGTERM
        return self._retraining.train(*args)


def make_config(**options):
    settings = {
        "epochs": EPOCHS,
        "checkpoint_seconds": 1e9,
        "patience": PATIENCE,
    }
    config = toy.get_config()
    config.retrain.update(settings)
    config.retrain.optimizer.sgd.update(
        dataclasses.asdict(SGD)
        | {"schedule": "exponential", "exponential": dataclasses.asdict(DECAY)}
    )
    with config.ignore_type():
        config.retrain.update(options)
    return config


def run(
    retraining,
    folder,
    stop=None,
    data=DATA,
    per_call=2,
    checkpoint_seconds=1e9,
    keep=None,
):
    """With so many batches in a call, however long they take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Speed, "batches_of_a_call", lambda speed: per_call)
        return retrain.run(
            retraining,
            data,
            CHOICE.tolist(),
            0,
            folder,
            "Toy",
            Requests(stop or Stop()),
            checkpoint_seconds,
            keep=keep,
        )


@pytest.mark.parametrize("per_call", [1, 3, 1000])
def test_calls_of_any_length_leave_the_same_bytes(
    per_call, retraining, undisturbed, tmp_path
):
    run(retraining, tmp_path, per_call=per_call)
    for name in ("metrics.jsonl", "retrained.json"):
        assert (tmp_path / name).read_bytes() == (undisturbed / name).read_bytes()


@pytest.fixture(scope="module")
def undisturbed(retraining, tmp_path_factory):
    """The folder of a run, which tests only read."""
    folder = tmp_path_factory.mktemp("retrain") / "new" / "run"
    run(retraining, folder)
    return folder


def test_run_tells_of_each_epoch_and_of_what_is_kept(retraining, undisturbed):
    reference = Reference(initial(retraining).params, DATA, PATIENCE)
    for _ in range(EPOCHS):
        reference.epoch()
    assert 0 < len(reference.iterates) < BATCHES * EPOCHS
    lines = (undisturbed / "metrics.jsonl").read_text().splitlines()
    for line, expected in zip(lines, reference.records, strict=True):
        assert json.loads(line) == pytest.approx(expected, rel=2e-5)
    found = json.loads((undisturbed / "retrained.json").read_text())
    valid, test = (reference.loss(reference.best, s) for s in ("valid", "test"))
    assert valid == min(reference.history()) < reference.history()[-1]
    assert found.pop("architecture") == CHOICE.tolist()
    assert found.pop("error_name") == "distortion"
    assert found.pop("guess") == GUESS._asdict()
    assert found == pytest.approx(
        {
            "parameters": 3 * SIZE,  # two rows of the stack and the shift
            "averaged_steps": len(reference.iterates),
            "valid_loss": valid,
            "valid_error": np.exp(valid),
            "test_loss": test,
            "test_error": np.exp(test),
        },
        rel=2e-5,
    )


def test_run_keeps_the_best_parameters_and_what_they_are_worth(
    retraining, undisturbed, tmp_path, capsys
):
    reference = Reference(initial(retraining).params, DATA, PATIENCE)
    for _ in range(EPOCHS):
        reference.epoch()
    assert np.any(np.abs(reference.best["shift"] - reference.params["shift"]) > 1e-3)
    folder, kept = tmp_path / "run", []
    shutil.copytree(undisturbed, folder)
    (folder / "retrained.json").unlink()

    def keep(found):
        assert not (folder / "retrained.json").exists()  # It says that all is there.
        kept.append(found)

    run(retraining, folder, keep=keep)
    (kept,) = kept
    np.testing.assert_array_equal(kept.choice, CHOICE)
    for name, expected in reference.best.items():
        np.testing.assert_allclose(kept.params[name], expected, **ROUNDING)
    center = np.mean(np.float64(DATA["train"]), 0) + reference.best["shift"]
    np.testing.assert_allclose(kept.statistics["center"], center, **ROUNDING)
    expected = {"parameters": 3 * SIZE}
    for split in ("valid", "test"):
        nats = distance(center, DATA[split][0])
        expected |= {f"{split}_loss": nats, f"{split}_error": np.exp(nats)}
    assert kept.metrics.pop("error_name") == "distortion"
    assert kept.metrics == pytest.approx(expected, rel=2e-5)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("Toy: with batch statistics of the training data, as the")
    assert said.endswith(
        f"distortion {kept.metrics['valid_error']:.2f} on validation data and "
        f"{kept.metrics['test_error']:.2f} on test data."
    )


def test_run_returns_what_it_writes_and_says_it(retraining, tmp_path, capsys):
    found = run(retraining, tmp_path)
    assert found == json.loads((tmp_path / "retrained.json").read_text())
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == (
        f"Toy: distortion {found['valid_error']:.2f} on validation data and "
        f"{found['test_error']:.2f} on test data, 9 parameters."
    )


@pytest.mark.slow_except("stops2-*")
@pytest.mark.parametrize(
    ("stops", "seconds"), [((1,), 1e9), ((2, 5, 4), 1e9), ((7,), 0.0)]
)
def test_stopped_runs_leave_the_same_bytes(
    stops, seconds, retraining, undisturbed, tmp_path
):
    stop = Stop()
    for after in stops:
        with pytest.raises(SystemExit) as caught:
            run(
                Stopping(retraining, stop, after),
                tmp_path,
                stop,
                checkpoint_seconds=seconds,
            )
        assert caught.value.code == 143
        assert not (tmp_path / "retrained.json").exists()
        stop.signum = None
    run(retraining, tmp_path, stop, checkpoint_seconds=seconds)
    for name in ("metrics.jsonl", "retrained.json"):
        assert (tmp_path / name).read_bytes() == (undisturbed / name).read_bytes()


def test_finished_run_is_evaluated_again(retraining, undisturbed, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    (folder / "retrained.json").unlink()
    run(retraining, folder)
    for name in ("retrained.json", "metrics.jsonl"):
        found, expected = (path / name for path in (folder, undisturbed))
        assert found.read_bytes() == expected.read_bytes()


def test_a_training_without_a_finite_step_ends_at_once(retraining, tmp_path):
    data = DATA | {"train": np.full_like(DATA["train"], np.nan)}
    with pytest.raises(UserError, match=r"no step that was finite\. Lower .*rate"):
        run(retraining, tmp_path, data=data)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["skipped"] == BATCHES
    assert json.loads(line)["train_loss"] is None
    assert not (tmp_path / "retrained.json").exists()


# Configurations.


def test_settings_are_those_of_the_configuration():
    made, data, _ = make_retraining(make_config())
    assert made == Retraining(toy.ToyTask(), SGD, EPOCHS, PATIENCE)
    jax.tree.map(np.testing.assert_array_equal, data, toy.make_data())
    assert make_retraining(make_config(patience=None))[0].patience is None


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("epochs", 0, "0, expected a whole number of at least 1"),
        ("epochs", 2.0, "2.0, expected a whole number"),
        # 5 batches an epoch, of at most 2**31 - 1.
        ("epochs", 429_496_730, "429496730, expected at most 429496729: training"),
        ("checkpoint_seconds", -1.0, "-1.0, expected a number at least 0"),
        ("patience", 0, "0, expected a whole number of at least 1"),
        ("patience", "5", "'5', expected a whole number"),
        ("optimizer.sgd.learning_rate", 0.0, "0.0, expected a number above 0"),
        ("optimizer.sgd.clip_norm", -1.0, "-1.0, expected a number above 0"),
        (
            "optimizer.sgd.momentum",
            1.0,
            "1.0, expected a number at least 0 and below 1",
        ),
    ],
)
def test_wrong_settings_are_named(field, value, said):
    config = make_config()
    with config.ignore_type():
        config.update_from_flattened_dict({f"retrain.{field}": value})
    with pytest.raises(ConfigError) as caught:
        make_retraining(config)
    assert f"config.retrain.{field} is {said}" in str(caught.value)


@pytest.mark.parametrize("field", ["epochs", "checkpoint_seconds", "patience"])
def test_missing_settings_are_named(field):
    config = make_config()
    del config.retrain[field]
    with pytest.raises(ConfigError, match=rf"config\.retrain\.{field} is missing"):
        make_retraining(config)


def test_space_and_task_of_the_retraining_are_merged_into_those_of_the_search():
    config = enas_rnn_pydoc.get_config()
    config.retrain.space = ConfigDict(
        {"recurrent_cell": {"hidden": 48, "output": "all"}}
    )
    dropout = {"input": 0.7, "recurrent": 0.4}
    config.retrain.task = ConfigDict(
        {"language_model": {"dropout": dropout, "activation_penalty": 2}}
    )
    before = config.to_dict()
    expected = copy.deepcopy(before)
    expected["space"]["recurrent_cell"] |= {"hidden": 48, "output": "all"}
    expected["task"]["language_model"]["dropout"] |= dropout
    expected["task"]["language_model"]["activation_penalty"] = 2
    assert config_for_task(config).to_dict() == expected
    assert config.to_dict() == before
