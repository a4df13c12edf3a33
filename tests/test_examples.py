"""The example scripts: their measures, and runs at sizes that say nothing."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples import continual_metrics as metrics
from examples import continual_mnist as mnist
from examples import fine_tune_text as text
from examples import public_models

# After task 0, 1, 2 (rows) on task 0, 1, 2 (columns).
ACCURACIES = [[0.9, 0.2, 0.1], [0.7, 0.8, 0.3], [0.4, 0.9, 0.6]]
SIZES = mnist.Sizes(hidden=8, images=40, epochs=2, batch=10, remembered=20, judged=12)


# Measures.


def test_measures_are_those_of_a_matrix_by_hand():
    assert metrics.average_accuracy(ACCURACIES) == pytest.approx((0.4 + 0.9 + 0.6) / 3)
    # Task 0 lost 0.5, task 1 gained 0.1.
    assert metrics.backward_transfer(ACCURACIES) == pytest.approx((-0.5 + 0.1) / 2)
    # The best before the last task: 0.9 and 0.8.
    assert metrics.forgetting(ACCURACIES) == pytest.approx((0.5 - 0.1) / 2)
    assert metrics.learning_accuracy(ACCURACIES) == pytest.approx((0.9 + 0.8 + 0.6) / 3)


def test_forgetting_starts_from_the_best_and_transfer_from_right_after():
    rising = [[0.5, 0, 0], [0.9, 0.7, 0], [0.8, 0.6, 0.9]]
    assert metrics.backward_transfer(rising) == pytest.approx((0.3 - 0.1) / 2)
    assert metrics.forgetting(rising) == pytest.approx((0.1 + 0.1) / 2)


def test_errors_of_means_are_those_of_a_formula():
    # Variance with n - 1: ((-1)^2 + 0 + 1^2) / 2 = 1.
    assert metrics.mean_and_error([1, 2, 3]) == pytest.approx((2, 1 / np.sqrt(3)))
    mean, error = metrics.mean_and_error([4])
    assert mean == 4
    assert np.isnan(error)


@pytest.mark.parametrize("wrong", [[0.5], [[0.5, 0.5]], np.zeros((2, 2, 2))])
def test_a_matrix_of_another_shape_is_an_error(wrong):
    with pytest.raises(ValueError, match="a row for each task"):
        metrics.average_accuracy(wrong)


def test_one_task_has_no_transfer():
    with pytest.raises(ValueError, match=r"expected \(T, T\) of 2 or more"):
        metrics.backward_transfer([[0.5]])


# MNIST.


@pytest.fixture(scope="module")
def images():
    """Noise around an image for each digit."""
    rng = np.random.default_rng(0)
    mean = rng.uniform(size=(10, mnist.PIXELS)).astype(np.float32)

    def draw(count):
        y = np.arange(count, dtype=np.int32) % 10
        noise = rng.normal(scale=0.1, size=(count, mnist.PIXELS))
        return (mean[y] + noise).astype(np.float32), y

    return {"train": draw(400), "valid": draw(100), "test": draw(100)}


def test_permuted_tasks_have_the_same_images_in_other_orders(images):
    tasks = mnist.make_tasks(images, "permuted", 3, SIZES, "test")
    assert tasks.train.x.shape == (5, 40, 784)
    assert tasks.judged.x.shape == (5, 12, 784)
    assert tasks.train.compared.all()
    x, y = images["train"]
    rows = {pixels.tobytes(): label for pixels, label in zip(x, y, strict=True)}
    first = [rows[pixels.tobytes()] for pixels in tasks.train.x[0]]
    np.testing.assert_array_equal(first, tasks.train.y[0])
    # One order for the training and the test images of a task.
    rng = np.random.default_rng(3)
    orders = [np.arange(784), *(rng.permutation(784) for _ in range(4))]
    for part, source in ((tasks.train, "train"), (tasks.judged, "test")):
        known = {pixels.tobytes() for pixels in images[source][0]}
        for order, task in zip(orders, part.x, strict=True):
            back = task[:, np.argsort(order)]
            assert {pixels.tobytes() for pixels in back} <= known


@pytest.mark.parametrize("setting", mnist.SETTINGS[1:])
def test_split_tasks_have_two_digits(images, setting):
    tasks = mnist.make_tasks(images, setting, 0, SIZES, "valid")
    for task, (y, compared) in enumerate(
        zip(tasks.train.y, tasks.train.compared, strict=True)
    ):
        digits = np.arange(10) // 2 == task
        assert set(y) == set(np.flatnonzero(digits))
        given = setting == "split, task given"
        np.testing.assert_array_equal(compared, np.tile(digits | (not given), (40, 1)))


def test_padding_of_a_shorter_task_does_not_count(images):
    x, y = images["test"]
    fewer = dict(images, test=(x[y != 9], y[y != 9]))
    sizes = SIZES._replace(judged=100)
    judged = mnist.make_tasks(fewer, "split, task given", 0, sizes, "test").judged
    np.testing.assert_array_equal(judged.weight.sum(1), [20, 20, 20, 20, 10])
    params = mnist.initial(0, 8)
    last = jax.tree.map(lambda part: part[-1], judged)
    scores = np.asarray(mnist.logits(params, last))[:10]
    right = np.mean(np.argmax(scores, -1) == last.y[:10])
    assert float(mnist.accuracy(params, last)) == pytest.approx(right)


def test_every_image_is_in_one_batch_of_an_epoch():
    found = mnist.batches(0, tasks=2, images=40, sizes=SIZES)
    assert found.shape == (2, 8, 10)
    for epoch in found.reshape(4, 40):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(40))


def test_a_strong_penalty_keeps_the_first_task_and_none_learns_the_last(images):
    tasks = mnist.make_tasks(images, "permuted", 0, SIZES, "test")
    method = mnist.METHODS["L2 to the last weights"]
    free, held = (mnist.run_method(method, tasks, 0, a, SIZES) for a in (0.0, 1e6))
    np.testing.assert_array_equal(held[1:], np.broadcast_to(held[0], (4, 5)))
    np.testing.assert_allclose(free[0], held[0])
    assert np.ptp(free[:, 4]) > 0


def test_strengths_are_chosen_on_validation_images_and_another_seed(
    images, monkeypatch
):
    called = []

    def made(images, setting, seed, sizes, judged):
        called.append((seed, judged))

    found = {0.1: 0.3, 1.0: 0.8, 10.0: float("nan")}
    monkeypatch.setattr(mnist, "make_tasks", made)
    monkeypatch.setattr(
        mnist, "run_method", lambda m, t, seed, alpha, s: np.full((5, 5), found[alpha])
    )
    alpha, _ = mnist.choose_alpha(
        mnist.METHODS["WPL"], images, "permuted", SIZES, found
    )
    assert alpha == 1.0
    assert called == [(mnist.CALIBRATION_SEED, "valid")]


@pytest.mark.slow
def test_the_comparison_writes_its_table_and_its_accuracies(images, tmp_path):
    runs = list(mnist.compare(images, SIZES, seeds=2, alphas=(0.1, 1.0)))
    assert len(runs) == 3 * (len(mnist.METHODS) + 1) * 2
    mnist.write(runs, tmp_path)
    with (tmp_path / "accuracies.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * (len(mnist.METHODS) * 25 + 5)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert len(lines) == 2 + 3 * (len(mnist.METHODS) + 1)
    assert (tmp_path / "continual_mnist.png").stat().st_size


# Text.

TINY = text.Sizes(
    width=8,
    layers=1,
    heads=2,
    length=6,
    batch=4,
    first_steps=4,
    second_steps=4,
    parts=2,
    held_out=4,
    remembered=8,
    rank=2,
)


def ended(method, alpha, *losses):
    return text.Run("all weights", method, alpha, 0, np.array(losses, np.float64))


RUNS = [
    # Loss of the first text, of the second: before, after a part, after both.
    ended("stop earlier", 0.0, (1.0, 2.0), (1.1, 1.5), (1.4, 1.0)),
    ended("rehearsal", 0.0, (1.0, 2.0), (1.0, 1.6), (1.1, 1.2)),
    ended("EWC", 10.0, (1.0, 2.0), (1.2, 1.2), (1.2, 1.2)),
    ended("EWC", 99.0, (1.0, 2.0), (1.0, 1.9), (1.0, 1.8)),
]


def test_curves_have_the_start_and_the_end_without_a_penalty():
    found = text.curves(RUNS)
    assert list(found) == ["stop earlier", "rehearsal", "EWC"]
    # Learned and forgotten.
    want = {
        "stop earlier": [(0, 0), (0.5, 0.1), (1.0, 0.4)],
        "rehearsal": [(0, 0), (0.8, 0.1)],
        "EWC": [(0, 0), (0.8, 0.2), (0.2, 0.0), (1.0, 0.4)],
    }
    for method, points in want.items():
        np.testing.assert_allclose(found[method], points, atol=1e-12)


def test_forgetting_is_compared_at_equal_learning_on_the_front():
    # (0.5, 0.3) is worse than (0.8, 0.2), and no part of the front.
    points = np.array([(0, 0), (0.8, 0.2), (0.5, 0.3), (0.2, 0.0), (1.0, 0.4)])
    found = text.forgotten_at(points, [0.1, 0.5, 0.9, 1.1])
    np.testing.assert_allclose(found, [0, 0.1, 0.3, np.nan], atol=1e-12)


def test_forgetting_may_be_negative_where_one_text_helps_the_other():
    points = np.array([(0, 0), (0.5, -0.2), (1.0, 0.1)])
    found = text.forgotten_at(points, [0.1, 0.5, 0.75])
    np.testing.assert_allclose(found, [-0.2, -0.2, -0.05], atol=1e-12)


def test_the_texts_share_no_paragraph_and_what_is_held_out_is_a_tenth():
    pytest.importorskip("pydoc_data.topics")
    texts = text.read_texts()
    numbers = list(text.CHARACTERS)
    paragraphs = [
        set("".join(numbers[i] for i in part).split("\n\n"))
        for t in texts
        for part in t
    ]
    for i, first in enumerate(paragraphs):
        for second in paragraphs[i + 1 :]:
            assert not {p for p in first & second if len(p) > 80}
    for train, held_out in texts:
        share = len(held_out) / (len(train) + len(held_out))
        assert 0.05 < share < 0.15


def test_sequences_are_parts_of_the_text():
    numbers = np.arange(20)
    np.testing.assert_array_equal(text.spread(numbers, 2, 3)[1], [16, 17, 18, 19])
    found = text.draw(0, numbers, (5, 2), 3)
    assert found.shape == (5, 2, 4)
    np.testing.assert_array_equal(np.diff(found), 1)


def some_texts():
    rng = np.random.default_rng(0)
    both = [rng.integers(10 * i, 10 * i + 10, size=200) for i in range(2)]
    return tuple(text.Text(t[:150].astype(np.int32), t[150:]) for t in both)


@pytest.fixture(scope="module")
def model():
    return text.build_model(30, TINY, 0)


def test_a_logit_depends_on_no_later_character(model):
    sequence = np.arange(TINY.length + 1)
    changed = np.where(sequence == 4, 9, sequence)
    run = nnx.jit(text.logits)
    got, other = (run(model, s) for s in (sequence, changed))
    np.testing.assert_array_equal(got[:4], other[:4])
    assert not np.allclose(got[4], other[4])


def test_adapters_change_nothing_at_first_and_one_side_has_no_gradient(model):
    sequence = np.arange(TINY.length + 1)
    of_lora = nnx.DiffState(0, nnx.LoRAParam)
    run = nnx.jit(nnx.value_and_grad(text.loss, argnums=of_lora))
    want = nnx.jit(text.loss)(model, sequence)
    adapted = text.add_adapters(nnx.clone(model), rank=2, seed=1)
    found, gradient = run(adapted, sequence)
    np.testing.assert_allclose(found, want, rtol=1e-5)
    leaves = jax.tree.leaves_with_path(gradient)
    assert len(leaves) == 2 * (4 * TINY.layers + 1)
    # What the second product multiplies is zero.
    for path, value in leaves:
        assert np.any(value) == ("lora_b" in jax.tree_util.keystr(path)), path


@pytest.mark.slow
@pytest.mark.parametrize("trained", list(text.SETTINGS))
def test_fine_tuning_is_measured_from_the_same_start(trained, tmp_path):
    before = text.pretrain(some_texts(), 0, TINY)
    runs = list(text.fine_tune(before, trained))
    assert len(runs) == 2 + 2 * len(text.SETTINGS[trained].alphas)
    for run in runs:
        assert run.losses.shape == (3, 2)
        np.testing.assert_array_equal(run.losses[0], runs[0].losses[0])
    changes = [np.abs(run.losses[-1] - run.losses[0]).max() for run in runs]
    for weakest, strongest in ((2, 4), (5, 7)):  # of EWC, of L2
        assert changes[strongest] < 0.8 * changes[weakest]
    other = [run._replace(trained=name) for name in text.SETTINGS for run in runs]
    text.write(other, tmp_path)
    assert len((tmp_path / "losses.csv").read_text().splitlines()) == 1 + 3 * len(other)
    ends, fronts = (tmp_path / "tables.md").read_text().strip().split("\n\n")
    assert len(ends.splitlines()) == 2 + len(other)
    assert len(fronts.splitlines()) == 2 + 3 * len(text.SETTINGS)
    assert (tmp_path / "fine_tune_text.png").stat().st_size


# A model by name.


def bigrams(checkpoint):
    """Logits from the last token alone: apply, params, tokenizer."""
    rng = np.random.default_rng(int(checkpoint))
    params = {
        "lora": jnp.asarray(rng.normal(size=(16, 4)), jnp.float32),
        "out": jnp.asarray(rng.normal(size=(4, 16)), jnp.float32),
    }
    return (
        (lambda p, x: p["lora"][x] @ p["out"]),
        params,
        lambda s: [ord(c) % 16 for c in s],
    )


def bigrams_with_frozen_weights(checkpoint):
    """An NNX module whose last layer is frozen, and a tokenizer."""
    apply, params, encode = bigrams(checkpoint)
    model = public_models.Applied(apply, params, lambda path: "lora" in path)

    class Tokenizer:
        def encode(self, text):
            return encode(text)

    return model, Tokenizer()


def returns_a_number(checkpoint):
    return 1, checkpoint


def test_a_model_by_name_is_the_function_of_its_parameters():
    apply, params, encode = bigrams("3")
    tokens = np.array(encode("some text"))
    for factory in (bigrams, bigrams_with_frozen_weights):
        name = f"{__name__}:{factory.__name__}"
        loaded = public_models.load(name, "3")
        np.testing.assert_array_equal(loaded.encode("some text"), tokens)
        np.testing.assert_allclose(loaded.model(tokens), apply(params, tokens))
        shapes = [p.shape for p in jax.tree.leaves(nnx.state(loaded.model, nnx.Param))]
        assert shapes == [(16, 4), (4, 16)][: 2 if factory is bigrams else 1]


@pytest.mark.parametrize(
    ("name", "said"),
    [("nothing", "one of Gemma3_270M, "), (f"{__name__}:returns_a_number", "'int'")],
)
def test_a_name_of_no_model_is_an_error(name, said):
    with pytest.raises(ValueError, match=said):
        public_models.load(name, None)


@pytest.mark.parametrize(
    "is_exact", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_a_model_by_name_is_fine_tuned_without_a_first_training(
    is_exact, tmp_path, monkeypatch
):
    if not is_exact:  # That takes seconds to compile.

        def any_importance(function, params, examples, **settings):
            assert examples.shape == (4, TINY.length + 1)  # a batch of the iterator
            return text.ones(function, params, examples)

        monkeypatch.setattr(text.wpl_jax, "exact_fisher", any_importance)
    name = f"{__name__}:bigrams_with_frozen_weights"
    tiny = {name: value for name, value in TINY._asdict().items() if name != "streamed"}
    arguments = [f"--{name}={value}" for name, value in tiny.items()]
    arguments += ["--streamed=4", "--anchor_dtype=bfloat16", "--fisher_dtype=uint8"]
    arguments += ["--alphas", "1e6", f"--model={name}", "--checkpoint=3"]
    text.main([*arguments, f"--out={tmp_path}"])
    with (tmp_path / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["trained"] for row in rows} == {"all weights"}
    before = {(row["first"], row["second"]) for row in rows if row["part"] == "0"}
    assert len(before) == 1
    # Mean of the cross-entropy on the held-out text, in numpy.
    _, params, encode = bigrams("3")
    held_out = text.read_texts(encode)[0].held_out
    x = text.spread(held_out, TINY.held_out, TINY.length)

    def loss(weights):
        z = np.asarray(weights, np.float64)[x[:, :-1]] @ np.asarray(params["out"])
        picked = np.take_along_axis(z, x[:, 1:, None], -1)[..., 0]
        return np.mean(np.log(np.exp(z).sum(-1)) - picked)

    assert float(before.pop()[0]) == pytest.approx(loss(params["lora"]), abs=2e-5)
    # A strong penalty moves the weights to the anchor, which is in bfloat16.
    held = next(float(r["first"]) for r in rows[::-1] if r["method"] == "L2")
    anchor = params["lora"].astype(jnp.bfloat16).astype(np.float32)
    assert held == pytest.approx(loss(anchor), abs=1e-4)
    assert abs(loss(anchor) - loss(params["lora"])) > 1e-3


# Avalanche, where it is installed.


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of Avalanche and PyTorch
def test_the_rule_of_avalanche_is_ours_up_to_rounding(images):
    pytest.importorskip("avalanche")
    from examples import continual_avalanche as avalanche

    tasks = mnist.make_tasks(images, "permuted", 0, SIZES, "valid")
    for name, difference in avalanche.compare_rules(tasks, SIZES).items():
        assert difference < 1e-14, name
    tasks = avalanche.in_order(tasks, 0, SIZES)
    method = avalanche.methods(SIZES)[avalanche.AS_AVALANCHE]
    ours = avalanche.learn(method, tasks, 0, 4.0, SIZES)
    np.testing.assert_allclose(
        ours, avalanche.learn_with_avalanche(tasks, 0, 2.0, SIZES), atol=0.05
    )
