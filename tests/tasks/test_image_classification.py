"""Image classification against a normalized linear model in float64 numpy."""

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers.parts import load_task

from configs import enas_cnn_digits
from wpl_jax.data import DataError, ImageDataset, Split, open_images
from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.devices.parallel import Devices
from wpl_jax.devices.sharded import Sharded
from wpl_jax.errors import ConfigError, UserError
from wpl_jax.jobs.open_task import open_task
from wpl_jax.spaces.batch_normalization import Moments
from wpl_jax.spaces.images import Outputs
from wpl_jax.spaces.micro_cell import MicroCell
from wpl_jax.supernet import Architecture
from wpl_jax.tasks import (
    DataCache,
    Evaluation,
    image_classification,
)
from wpl_jax.tasks.augmentation import Augmentation, augment
from wpl_jax.tasks.image_classification import (
    DropPath,
    ImageClassification,
    Normalization,
)
from wpl_jax.tasks.image_data import Data, Images, check_memory, prepare

HEIGHT, WIDTH, CHANNELS, CLASSES, BATCH = 4, 5, 2, 3, 4
PIXELS = HEIGHT * WIDTH
COUNTS = {"train": 11, "valid": 9, "test": 10}
BATCHES = {"train": 2, "valid": 2, "test": 2}  # whole ones
MOMENT_BATCHES = 3  # the first one twice
ROUNDING = {"rtol": 5e-6, "atol": 2e-6}
SPLIT_NAMES = ("train", "valid", "test")


# A space whose batch statistics, noise and architecture all matter, with a reference.


@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear model of images that are normalized by channel."""

    auxiliary: bool = True

    def apply(
        self, child, architecture, images, *, noise=None, batch_stats=None, axis=NO_AXIS
    ):
        if batch_stats is None:
            axes = (0, 1, 2)
            found = Moments(jnp.mean(images, axes), jnp.var(images, axes))
            batch_stats = jax.lax.stop_gradient(found)
        x = (images - batch_stats.mean) / jnp.sqrt(batch_stats.variance + 0.1)
        x = x.reshape(len(x), -1)
        logits = x @ child["kernel"][architecture.choice[0]] + child["bias"]
        if noise is not None:
            logits *= 1 - noise.dropout - noise.drop_path
        auxiliary = x @ child["auxiliary"] if self.auxiliary else None
        return Outputs(logits, auxiliary, batch_stats)


@dataclasses.dataclass(frozen=True)
class Telling(Linear):
    """Also tells what it was called with."""

    told: list = dataclasses.field(default_factory=list)

    def apply(
        self, child, architecture, images, *, noise=None, batch_stats=None, axis=NO_AXIS
    ):
        self.told.append((images, noise))
        given = {"noise": noise, "batch_stats": batch_stats}
        return super().apply(child, architecture, images, **given)


RNG = np.random.default_rng(0)
ARCHITECTURE = Architecture(jnp.array([1]))
CHILD = {
    name: jnp.asarray(RNG.normal(0, 0.2, shape), jnp.float32)
    for name, shape in {
        "kernel": (2, PIXELS * CHANNELS, CLASSES),
        "bias": (CLASSES,),
        "auxiliary": (PIXELS * CHANNELS, CLASSES),
    }.items()
}
P = {name: np.asarray(value, np.float64) for name, value in CHILD.items()}


def make_split(count):
    """Images whose every pixel says, in its first channel, which it is of which."""
    images = RNG.integers(256, size=(count, HEIGHT, WIDTH, CHANNELS), dtype=np.uint8)
    images[..., 0] = np.arange(count * PIXELS).reshape(count, HEIGHT, WIDTH)
    return images, RNG.integers(CLASSES, size=count, dtype=np.int32)


SPLITS = {name: make_split(count) for name, count in COUNTS.items()}
# Of no pixel, so that what is blank is nothing else.
MEAN, DEVIATION = np.array([100.3, 80.7]), np.array([60.1, 45.2])
DATA = jax.tree.map(
    jnp.asarray,
    Data(
        *(Images(*SPLITS[name]) for name in SPLIT_NAMES),
        mean=np.float32(MEAN),
        deviation=np.float32(DEVIATION),
    ),
)


def normalized(images):
    return (images - MEAN) / DEVIATION


def batch_of(split, index):
    """Normalized images and labels of one of the batches, which wrap around."""
    first = index % BATCHES[split] * BATCH
    images, labels = (x[first : first + BATCH] for x in SPLITS[split])
    return normalized(images), labels


def batch_stats_of(x):
    return Moments(x.mean((0, 1, 2)), x.var((0, 1, 2)))


def batch_stats_of_training():
    """Means over the first batches, each normalized by its own."""
    found = [batch_stats_of(batch_of("train", i)[0]) for i in range(MOMENT_BATCHES)]
    return Moments(*(np.mean(each, 0) for each in zip(*found, strict=True)))


def expected_batch_stats(batch_stats, x):
    return batch_stats_of(x) if batch_stats == "batch" else batch_stats_of_training()


def logits_of(x, batch_stats):
    """Of the classifier and of the auxiliary one, in float64."""
    x = (x - batch_stats.mean) / np.sqrt(batch_stats.variance + 0.1)
    x = x.reshape(len(x), -1)
    return x @ P["kernel"][1] + P["bias"], x @ P["auxiliary"]


def probabilities(logits):
    found = np.exp(logits)
    return found / found.sum(-1, keepdims=True)


def nats_of(logits, labels):
    """Of each image."""
    return -np.log(probabilities(logits)[np.arange(len(labels)), labels])


def wrong_of(logits, labels):
    return logits.argmax(-1) != labels


# Training batches. Those of many steps are drawn once, for several tests.

STEPS = 200
PLAIN = ImageClassification(
    Linear(),
    BATCH,
    dropout=0.25,
    drop_path=DropPath(rate=0.5, epochs=3),
    auxiliary_weight=0.7,
)
AUGMENTED = dataclasses.replace(
    PLAIN, augmentation=Augmentation(crop=1, flip=True, cutout=2)
)


class Trained(NamedTuple):
    """What training steps are, each leaf with a leading axis of steps."""

    loss: Any
    cross_entropy: Any
    images: Any  # what the space is given
    dropout: Any
    drop_path: Any
    key: Any  # of the noise


@functools.cache
def steps_of(task):
    """A function that takes training steps, compiled once."""

    @jax.jit
    @jax.vmap
    def step(number, key):
        space = Telling(task.space.auxiliary)
        telling = dataclasses.replace(task, space=space)
        loss, (nats, carry) = telling.train_loss(
            CHILD, ARCHITECTURE, DATA, telling.init_carry(), number, key
        )
        assert carry == ()
        ((images, noise),) = space.told
        key = jax.random.key_data(noise.key)
        return Trained(loss, nats, images, noise.dropout, noise.drop_path, key)

    return step


@functools.cache
def train(task, seed):
    """The first steps, each with a key of its own."""
    keys = jax.random.split(jax.random.key(seed), STEPS)
    return jax.device_get(steps_of(task)(jnp.arange(STEPS), keys))


def pixels_of(images):
    """The bytes that were normalized, ``int[..., channels]``; -1 where it is blank."""
    blank = np.all(images == 0, -1)
    pixels = np.rint(images * DEVIATION + MEAN).astype(int)
    exact = np.where(blank[..., None], 0, normalized(pixels))
    np.testing.assert_allclose(images, exact, rtol=1e-6, atol=1e-6)
    return np.where(blank[..., None], -1, pixels)


def numbers_of(images):
    """Which of the training images they are, by a pixel that is not blank."""
    return pixels_of(images)[..., 0].max((-1, -2)) // PIXELS


def test_there_are_as_many_batches_as_are_full():
    assert {split: PLAIN.num_batches(DATA, split) for split in COUNTS} == BATCHES
    assert PLAIN.predictions_per_batch == BATCH


def test_a_pass_sees_no_image_twice_and_is_in_an_order_of_its_own():
    seen = numbers_of(train(PLAIN, 0).images).reshape(-1, BATCHES["train"] * BATCH)
    assert len(seen) == STEPS / BATCHES["train"]
    for one in seen:
        assert len(set(one)) == BATCHES["train"] * BATCH
    assert len({tuple(one) for one in seen}) == len(seen)
    # All images are as often the first of a pass, and the last.
    for column in (0, -1):
        counts = np.bincount(seen[:, column], minlength=COUNTS["train"])
        assert len(counts) == COUNTS["train"]
        assert scipy.stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.slow
def test_the_step_alone_says_which_images_are_in_a_batch():
    expected = numbers_of(train(PLAIN, 0).images)
    for task, seed in ((PLAIN, 1), (AUGMENTED, 0)):
        np.testing.assert_array_equal(numbers_of(train(task, seed).images), expected)


def test_images_that_are_not_augmented_are_only_normalized():
    images = train(PLAIN, 0).images
    expected = normalized(SPLITS["train"][0][numbers_of(images)])
    np.testing.assert_allclose(images, expected, rtol=1e-6, atol=1e-6)


def test_each_key_gives_the_child_noise_of_its_own():
    keys = np.concatenate([train(PLAIN, seed).key for seed in (0, 1)])
    assert len({tuple(key) for key in keys}) == 2 * STEPS


def test_the_childs_noise_does_not_depend_on_that_of_the_images(monkeypatch):
    @jax.jit
    def keys(key):
        found, space = [key], Telling()

        def spy(key, images, augmentation, data, axis):
            found.append(key)
            return augment(key, images, augmentation, data, axis)

        monkeypatch.setattr(image_classification, "augment", spy)
        task = dataclasses.replace(PLAIN, space=space)
        task.train_loss(CHILD, ARCHITECTURE, DATA, (), 0, key)
        found.append(space.told[0][1].key)
        return [jax.random.key_data(each) for each in found]

    assert len({tuple(key) for key in np.array(keys(jax.random.key(0)))}) == 3


def test_branches_are_left_out_at_a_rate_that_grows_with_the_steps():
    trained = train(PLAIN, 0)
    np.testing.assert_array_equal(trained.dropout, 0.25)
    # 3 passes are 6 steps.
    expected = 0.5 * np.minimum(np.arange(STEPS) / 6, 1)
    np.testing.assert_allclose(trained.drop_path, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "task",
    [PLAIN, AUGMENTED, dataclasses.replace(PLAIN, space=Linear(auxiliary=False))],
    ids=["plain", "augmented", "without_auxiliary"],
)
def test_the_loss_is_the_cross_entropy_and_a_share_of_the_auxiliary_heads(task):
    trained = train(task, 0)
    labels = SPLITS["train"][1][numbers_of(trained.images)]
    weight = 0.7 * task.space.auxiliary
    for step in range(20):
        x = np.float64(trained.images[step])
        logits, auxiliary = logits_of(x, batch_stats_of(x))
        kept = 1 - 0.25 - 0.5 * min(step / 6, 1)
        nats = nats_of(logits * kept, labels[step]).mean()
        loss = nats + weight * nats_of(auxiliary, labels[step]).mean()
        np.testing.assert_allclose(trained.cross_entropy[step], nats, **ROUNDING)
        np.testing.assert_allclose(trained.loss[step], loss, **ROUNDING)


def test_what_is_beside_the_loss_has_no_gradient():
    @jax.jit
    @jax.grad
    def gradient(child, of_loss):
        loss, (nats, _) = PLAIN.train_loss(
            child, ARCHITECTURE, DATA, (), 1, jax.random.key(0)
        )
        return of_loss * loss + nats

    assert all(np.all(x == 0) for x in gradient(CHILD, 0.0).values())
    assert all(np.any(x != 0) for x in gradient(CHILD, 1.0).values())


@pytest.mark.slow
def test_half_precision_is_near_and_leaves_float32_gradients():
    """Near: 8 bits of mantissa, in sums of 40 products."""

    def train_in(dtype):
        space = Telling()
        task = dataclasses.replace(PLAIN, space=space, compute_dtype=dtype)

        @jax.jit
        @jax.value_and_grad
        def loss(child):
            return task.train_loss(child, ARCHITECTURE, DATA, (), 1, jax.random.key(0))[
                0
            ]

        found = loss(CHILD)
        ((images, _),) = space.told
        assert images.dtype == dtype
        return found

    (whole, exact), (half, found) = train_in("float32"), train_in("bfloat16")
    assert half.dtype == np.float32
    assert 0 < abs(half - whole) < 0.03 * whole
    scale = max(np.abs(g).max() for g in exact.values())
    for name, gradient in found.items():
        assert gradient.dtype == np.float32
        np.testing.assert_allclose(gradient, exact[name], atol=0.05 * scale)


# Augmentation, against all that it can make of an image.

IMAGES = SPLITS["train"][0][2:6].astype(int)
KEYS = 400
CENTERS = list(itertools.product(range(HEIGHT), range(WIDTH)))


@functools.cache
def augmented(**settings):
    """What it makes of the images by many keys, as bytes, ``[image, keys, ...]``."""
    augmentation = Augmentation(**settings)
    batch = jnp.asarray(IMAGES, jnp.uint8)

    @jax.jit
    @jax.vmap
    def make(key):
        return augment(key, batch, augmentation, DATA)

    found = make(jax.random.split(jax.random.key(3), KEYS))
    assert found.dtype == np.float32
    return pixels_of(np.asarray(found)).swapaxes(0, 1)


def moved(image, down, right, mirrored):
    """What is at a pixel comes from so many below it, and to the right of it."""
    found = np.full_like(image, -1)
    if mirrored:
        image = image[:, ::-1]
    for row, column in itertools.product(range(HEIGHT), range(WIDTH)):
        if 0 <= row + down < HEIGHT and 0 <= column + right < WIDTH:
            found[row, column] = image[row + down, column + right]
    return found


def cut(image, row, column, size):
    """A square around a pixel, which of an even size is before its middle's end."""
    found = image.copy()
    top, left = row - size // 2, column - size // 2
    found[max(top, 0) : top + size, max(left, 0) : left + size] = -1
    return found


def moves(crop, flip):
    offsets = range(-crop, crop + 1)
    return list(itertools.product(offsets, offsets, (False, True)[: 1 + flip]))


def places_in(versions, found):
    """Which of the versions of an image each one is; it has to be one."""
    same = np.all(found[:, None] == np.array(versions)[None], axis=(2, 3, 4))
    assert np.all(same.any(1))
    return same.argmax(1)


def assert_uniform_and_independent(places, count):
    """Of places in ``count`` versions, ``int[image, keys]``."""
    seen = np.bincount(places.reshape(-1), minlength=count)
    assert scipy.stats.chisquare(seen).pvalue > 1e-4
    # Images of a batch are augmented each in its own way.
    for one, other in itertools.combinations(places, 2):
        equal = np.sum(one == other)
        assert scipy.stats.binomtest(int(equal), KEYS, 1 / count).pvalue > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("crop", "flip"), [(2, False), (0, True), (1, True)])
def test_images_are_moved_and_mirrored_in_all_ways_as_often(crop, flip):
    ways = moves(crop, flip)
    found = augmented(crop=crop, flip=flip)
    places = np.array(
        [
            places_in([moved(image, *way) for way in ways], each)
            for image, each in zip(IMAGES, found, strict=True)
        ]
    )
    assert_uniform_and_independent(places, len(ways))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_squares_around_all_pixels_are_blanked_as_often(size):
    found = augmented(cutout=size)
    places = np.array(
        [
            places_in([cut(image, *center, size) for center in CENTERS], each)
            for image, each in zip(IMAGES, found, strict=True)
        ]
    )
    assert_uniform_and_independent(places, PIXELS)


def moved_and_cut(image):
    """All that is made of an image with a crop of 1, a flip and a cutout of 2."""
    return [
        cut(moved(image, *way), *center, 2)
        for way in moves(1, True)
        for center in CENTERS
    ]


def test_what_is_moved_and_mirrored_is_then_cut():
    found = augmented(crop=1, flip=True, cutout=2)
    for image, each in zip(IMAGES, found, strict=True):
        places = places_in(moved_and_cut(image), each)
        assert len(set(places)) > KEYS / 4


def test_no_augmentation_leaves_images_as_they_are():
    for image, each in zip(IMAGES, augmented(), strict=True):
        np.testing.assert_array_equal(each, np.broadcast_to(image, each.shape))


def test_training_images_are_augmented_as_the_task_says():
    trained = train(AUGMENTED, 0)
    found = pixels_of(trained.images)[numbers_of(trained.images) == 5]
    places = places_in(moved_and_cut(SPLITS["train"][0][5].astype(int)), found)
    assert len(found) > 40
    assert len(set(places)) > 20


# What is measured is measured without noise, in float32.


@functools.cache
def measured(batch_stats):
    return ImageClassification(
        Linear(),
        BATCH,
        Augmentation(crop=2, flip=True, cutout=2),
        dropout=0.25,
        drop_path=DropPath(0.5, 1),
        auxiliary_weight=0.7,
        normalization=Normalization(batch_stats, MOMENT_BATCHES),
        compute_dtype="bfloat16",
    )


@functools.cache
def validator(batch_stats):
    validate = measured(batch_stats).validate
    return jax.jit(lambda first, n: validate(CHILD, ARCHITECTURE, DATA, first, n))


@pytest.mark.parametrize("batch_stats", ["batch", "train"])
@pytest.mark.parametrize(("first", "count"), [(0, 1), (1, 1), (0, 2), (1, 4), (3, 5)])
def test_validation_is_the_mean_over_batches_in_a_row(batch_stats, first, count):
    nats, wrong = [], []
    for index in range(first, first + count):
        x, labels = batch_of("valid", index)
        logits, _ = logits_of(x, expected_batch_stats(batch_stats, x))
        nats.append(nats_of(logits, labels))
        wrong.append(wrong_of(logits, labels))
    found = validator(batch_stats)(first, count)
    np.testing.assert_allclose(found.loss, np.mean(nats), **ROUNDING)
    np.testing.assert_allclose(found.error, 100 * np.mean(wrong), rtol=1e-6)


@pytest.mark.parametrize("batch_stats", ["batch", "train"])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_whole_split_is_evaluated_on_every_image_once(batch_stats, split):
    count = COUNTS[split]
    nats, wrong = [], []
    for first in range(0, count, BATCH):
        places = np.arange(first, first + BATCH)
        images, labels = (x[places % count] for x in SPLITS[split])
        x = normalized(images)
        logits, _ = logits_of(x, expected_batch_stats(batch_stats, x))
        nats.extend(nats_of(logits, labels)[places < count])
        wrong.extend(wrong_of(logits, labels)[places < count])
    assert len(nats) == count
    evaluate = jax.jit(measured(batch_stats).evaluate, static_argnums=3)
    found = evaluate(CHILD, ARCHITECTURE, DATA, split)
    np.testing.assert_allclose(found.loss, np.mean(nats), **ROUNDING)
    np.testing.assert_allclose(found.error, 100 * np.mean(wrong), rtol=1e-6)
    assert 0 < np.mean(wrong) < 1


@pytest.mark.parametrize("batch_stats", ["batch", "train"])
def test_a_batchs_fisher_loss_is_the_mean_of_its_examples(batch_stats):
    task = measured(batch_stats)

    @jax.jit
    def losses(step):
        examples = task.fisher_examples(CHILD, ARCHITECTURE, DATA, "valid", step)
        alone = jax.vmap(lambda each: task.example_loss(CHILD, ARCHITECTURE, each))
        together = task.fisher_loss(CHILD, ARCHITECTURE, DATA, "valid", step)
        return examples, alone(examples), together

    for step in range(BATCHES["valid"] + 2):
        x, labels = batch_of("valid", step)
        of_batch = expected_batch_stats(batch_stats, x)
        expected = nats_of(logits_of(x, of_batch)[0], labels)
        examples, alone, together = losses(step)
        np.testing.assert_allclose(examples.inputs, x, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(examples.targets, labels)
        for of_each, exact in zip(examples.batch_stats, of_batch, strict=True):
            np.testing.assert_allclose(of_each, [exact] * BATCH, **ROUNDING)
        np.testing.assert_allclose(alone, expected, **ROUNDING)
        np.testing.assert_allclose(together, expected.mean(), **ROUNDING)


def test_the_fisher_can_be_of_another_split():
    task, step = measured("batch"), BATCHES["train"] + 1

    @jax.jit
    def fisher():
        where = (CHILD, ARCHITECTURE, DATA, "train", step)
        return task.fisher_examples(*where), task.fisher_loss(*where)

    examples, loss = fisher()
    x, labels = batch_of("train", step)
    np.testing.assert_allclose(examples.inputs, x, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(examples.targets, labels)
    expected = nats_of(logits_of(x, batch_stats_of(x))[0], labels).mean()
    np.testing.assert_allclose(loss, expected, **ROUNDING)


def test_sampled_classes_follow_the_models_probabilities():
    n = 4000
    task = measured("batch")

    @jax.jit
    def draw(keys):
        examples = task.fisher_examples(CHILD, ARCHITECTURE, DATA, "valid", 0)
        sample = jax.vmap(task.sample_labels, (0, None, None, None))
        of_each = jax.vmap(sample, (None, None, None, 0))
        return examples, of_each(keys, CHILD, ARCHITECTURE, examples)

    examples, drawn = draw(jax.random.split(jax.random.key(0), n))
    assert drawn.targets.dtype == examples.targets.dtype == np.int32
    for kept, given in zip(
        jax.tree.leaves(drawn._replace(targets=None)),
        jax.tree.leaves(examples._replace(targets=None)),
        strict=True,
    ):
        np.testing.assert_array_equal(kept, np.repeat(given[:, None], n, 1))
    x, _ = batch_of("valid", 0)
    p = probabilities(logits_of(x, batch_stats_of(x))[0])
    assert p.max() > 0.7
    frequency = np.mean(np.eye(CLASSES)[drawn.targets], 1)
    assert np.all(np.abs(frequency - p) < 4.5 * np.sqrt(p * (1 - p) / n))


def test_log_probabilities_are_those_of_the_classes_of_an_image():
    task = measured("batch")

    @jax.jit
    def found():
        examples = task.fisher_examples(CHILD, ARCHITECTURE, DATA, "valid", 0)
        of_each = jax.vmap(task.log_probabilities, (None, None, 0))
        return of_each(CHILD, ARCHITECTURE, examples)

    x, _ = batch_of("valid", 0)
    expected = np.log(probabilities(logits_of(x, batch_stats_of(x))[0]))
    np.testing.assert_allclose(found(), expected, **ROUNDING)


def test_the_reward_is_the_share_that_is_right():
    found = Evaluation(loss=None, error=np.array([0.0, 25.0, 100.0]))
    np.testing.assert_allclose(PLAIN.reward(found), [1, 0.75, 0])
    assert PLAIN.error_name == "% error"


# Preparing images.


def make_dataset(height=HEIGHT, width=WIDTH, **counts):
    """Random images; the label of each is its place in its split."""
    rng = np.random.default_rng(1)
    splits = {
        name: Split(
            rng.integers(256, size=(count, height, width, 2), dtype=np.uint8),
            np.arange(count, dtype=np.int32),
        )
        for name, count in ({"train": 40, "valid": 20, "test": 30} | counts).items()
    }
    return ImageDataset(**splits, class_names=("a", "b"), source="noise")


def test_images_are_shuffled_with_their_labels_always_the_same_way():
    dataset = make_dataset()
    data, again = prepare(dataset), prepare(dataset)
    for name in SPLIT_NAMES:
        split, found = getattr(dataset, name), getattr(data, name)
        assert found.images.dtype == np.uint8
        assert found.labels.dtype == np.int32
        np.testing.assert_array_equal(np.sort(found.labels), split.labels)
        np.testing.assert_array_equal(found.images, split.images[found.labels])
        # Neither as they were nor merely turned around.
        rising = np.mean(np.diff(found.labels) > 0)
        assert 0.2 < rising < 0.8
        for one, other in zip(found, getattr(again, name), strict=True):
            np.testing.assert_array_equal(one, other)


def test_mean_and_deviation_are_those_of_the_training_images():
    dataset = make_dataset()
    dataset.train.images[..., 1] = 7  # Nothing is divided by a deviation of zero.
    data = prepare(dataset)
    pixels = np.float64(dataset.train.images[..., 0])
    np.testing.assert_allclose(data.mean, [pixels.mean(), 7], rtol=1e-6)
    np.testing.assert_allclose(data.deviation, [pixels.std(), 1], rtol=1e-6)
    assert data.mean.dtype == data.deviation.dtype == np.float32


@pytest.mark.parametrize("shrink", [1, 2])
def test_training_images_of_one_colour_are_refused(shrink):
    dataset = make_dataset()
    rows, columns = np.indices((4, 6)) if shrink == 2 else np.zeros((2, 4, 6), int)
    # Of a chessboard one colour is left, of each channel another one.
    board = (rows + columns)[..., None] % 2 * [100, 60] + [20, 200]
    dataset.train.images[:] = board[: dataset.image_shape[0], : dataset.image_shape[1]]
    with pytest.raises(DataError, match="noise: found training images of one colour"):
        prepare(dataset, shrink=shrink)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7), (4, 5)])
def test_squares_of_pixels_become_their_mean(height, width):
    dataset = make_dataset(height, width)
    data = prepare(dataset, shrink=2)
    for name in SPLIT_NAMES:
        images = getattr(dataset, name).images.astype(float)
        found = getattr(data, name)
        assert found.images.shape == (len(images), height // 2, width // 2, 2)
        assert found.images.dtype == np.uint8
        for row, column in itertools.product(range(height // 2), range(width // 2)):
            corners = [
                images[:, 2 * row + i, 2 * column + j] for i in (0, 1) for j in (0, 1)
            ]
            exact = np.mean(corners, 0)[found.labels]
            # A byte is the nearest one, of two that are as near either.
            assert np.all(np.abs(found.images[:, row, column] - exact) <= 0.5)
    none = dataclasses.replace(
        dataset, test=Split(dataset.test.images[:0], np.array([]))
    )
    assert prepare(none, shrink=2).test.images.shape == (0, height // 2, width // 2, 2)
    shrunk = np.float64(data.train.images)
    np.testing.assert_allclose(data.mean, shrunk.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(data.deviation, shrunk.std((0, 1, 2)), rtol=1e-6)


# Configurations.


def make_config(**fields):
    """The digits' with other values, of any type, in some fields."""
    config = enas_cnn_digits.get_config()
    with config.ignore_type(), config.unlocked():
        for field, value in fields.items():
            *path, name = field.split(".")
            within = config
            for part in path:
                within = within[part]
            within[name] = value
    return config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task.image_classification.batch_size", 1),
        ("task.image_classification.batch_size", 32.0),
        ("task.image_classification.shrink", 0),
        ("task.image_classification.shrink", 1.5),
        ("task.image_classification.shard_images", 1),
        ("task.image_classification.augmentation", 4),
        ("task.image_classification.augmentation.crop", -1),
        ("task.image_classification.augmentation.crop", 0.5),
        ("task.image_classification.augmentation.flip", "left"),
        ("task.image_classification.augmentation.flip", None),
        ("task.image_classification.augmentation.cutout", -1),
        ("task.image_classification.augmentation.cutout", "2"),
        ("task.image_classification.dropout", 1.0),
        ("task.image_classification.dropout", -0.1),
        ("task.image_classification.dropout", float("nan")),
        ("task.image_classification.drop_path", None),
        ("task.image_classification.drop_path.rate", 1.0),
        ("task.image_classification.drop_path.rate", -0.5),
        ("task.image_classification.drop_path.epochs", 0),
        ("task.image_classification.drop_path.epochs", 1.5),
        ("task.image_classification.auxiliary_weight", -0.1),
        ("task.image_classification.auxiliary_weight", "0.4"),
        ("task.image_classification.normalization", "batch"),
        ("task.image_classification.normalization.batch_stats", "running"),
        ("task.image_classification.normalization.batches", 0),
        ("task.image_classification.compute_dtype", "float16"),
    ],
)
def test_a_wrong_field_is_named(field, value):
    with pytest.raises(ConfigError, match=rf"config\.{field} is {value!r}, expected"):
        open_task(make_config(**{field: value}))


@pytest.mark.parametrize("group", ["augmentation", "drop_path", "normalization"])
def test_a_setting_that_there_is_not_is_named(group):
    config = make_config(**{f"task.image_classification.{group}.colour": 1})
    with pytest.raises(ConfigError, match=rf"{group}\.colour is not a setting"):
        open_task(config)


@pytest.mark.parametrize(
    "field",
    [
        "batch_size",
        "shrink",
        "shard_images",
        "augmentation",
        "augmentation.crop",
        "augmentation.flip",
        "augmentation.cutout",
        "dropout",
        "drop_path",
        "drop_path.rate",
        "drop_path.epochs",
        "auxiliary_weight",
        "normalization",
        "normalization.batch_stats",
        "normalization.batches",
        "compute_dtype",
    ],
)
def test_a_field_that_is_missing_has_its_default(field):
    config = make_config()
    *path, name = field.split(".")
    own = config.task.image_classification
    del functools.reduce(lambda c, part: c[part], path, own)[name]
    default = open_task(config).task
    expected = ImageClassification(default.space)
    for part in field.split("."):
        default, expected = getattr(default, part), getattr(expected, part)
    assert default == expected


@pytest.mark.parametrize("field", ["name", "data.format"])
def test_a_field_that_is_missing_is_named(field):
    config = make_config()
    *path, name = field.split(".")
    del functools.reduce(lambda c, part: c[part], path, config.task)[name]
    with pytest.raises(ConfigError, match=rf"config\.task\.{field} is missing"):
        open_task(config)


def test_the_digits_are_loaded_with_what_the_configuration_says():
    config = make_config(
        **{
            "task.image_classification.shrink": 2,
            "task.image_classification.augmentation.flip": True,
            "task.image_classification.augmentation.cutout": 3,
            "task.image_classification.dropout": 0.125,
            "task.image_classification.drop_path": {"rate": 0.25, "epochs": 7},
            "task.image_classification.auxiliary_weight": 0.5,
            "task.image_classification.normalization": {
                "batch_stats": "train",
                "batches": 5,
            },
            "task.image_classification.compute_dtype": "bfloat16",
            "space.micro_cell.num_nodes": 2,
            "space.micro_cell.affine": False,
            "space.micro_cell.auxiliary": True,
        }
    )
    task, data, line = load_task(config)
    assert task == ImageClassification(
        MicroCell(
            (4, 4, 1),
            10,
            num_nodes=2,
            filters=8,
            layers=3,
            affine=False,
            auxiliary=True,
        ),
        batch_size=32,
        augmentation=Augmentation(crop=1, flip=True, cutout=3),
        dropout=0.125,
        drop_path=DropPath(0.25, 7),
        auxiliary_weight=0.5,
        normalization=Normalization("train", 5),
        compute_dtype="bfloat16",
        shrink=2,
        shard_images=True,
    )
    counts = {"train": 1118, "valid": 320, "test": 359}
    for name, count in counts.items():
        assert getattr(data, name).images.shape == (count, 4, 4, 1)
        # No class is in a block: each is in every batch, or nearly so.
        found = np.asarray(getattr(data, name).labels)
        assert len(set(found[:100])) == len(set(found[-100:])) == 10
    assert line == (
        "scikit-learn digits: images 1,118 train, 320 valid, 359 test, 4x4x1; "
        "10 classes"
    )


def test_images_are_loaded_once_for_tasks_that_differ_in_other_things(monkeypatch):
    opened, cache = [], DataCache()

    def spy(**options):
        opened.append(options)
        return open_images(**options)

    monkeypatch.setattr(image_classification, "open_images", spy)
    first, data, _ = load_task(make_config(), cache=cache)
    other, again, _ = load_task(
        make_config(**{"task.image_classification.dropout": 0.5}), cache=cache
    )
    assert first != other
    assert again is data
    _, small, _ = load_task(
        make_config(**{"task.image_classification.shrink": 2}), cache=cache
    )
    assert small.train.images.shape[1:] == (4, 4, 1)
    assert len(opened) == 1
    load_task(make_config(**{"task.data.valid": 100}), cache=cache)
    assert len(opened) == 2


@pytest.mark.parametrize(
    ("valid", "batch_size", "smallest"),
    [(320, 321, "320, the images of valid"), (400, 360, "359, the images of test")],
)
def test_a_batch_larger_than_a_split_is_named(valid, batch_size, smallest):
    config = make_config(
        **{"task.data.valid": valid, "task.image_classification.batch_size": batch_size}
    )
    said = (
        rf"config\.task\.image_classification\.batch_size is {batch_size}, "
        f"expected at most {smallest}"
    )
    with pytest.raises(ConfigError, match=said):
        load_task(config)


def test_a_batch_as_large_as_the_smallest_split_will_do():
    task, data, _ = load_task(
        make_config(**{"task.image_classification.batch_size": 320})
    )
    assert task.num_batches(data, "valid") == task.num_batches(data, "test") == 1


def test_an_unknown_option_of_the_images_is_named():
    with pytest.raises(UserError, match="colour"):
        load_task(make_config(**{"task.data.colour": 3}))


class Device:
    """One that tells how much memory it has, or does not."""

    platform = "tiny"

    def __init__(self, stats):
        self.stats = stats

    def memory_stats(self):
        return self.stats

    def __repr__(self):
        return "tiny:0"


def make_large(**gibibytes):
    """A data set that says it is large, of one byte."""
    byte = np.zeros(1, np.uint8)
    splits = {
        name: Split(
            np.broadcast_to(byte, (int(size * 2**20), 32, 32, 1)),
            np.broadcast_to(np.int32(0), int(size * 2**20)),
        )
        for name, size in gibibytes.items()
    }
    return ImageDataset(**splits, class_names=("a",), source="zeros")


def test_images_that_do_not_fit_on_the_device_are_told_with_what_they_need(monkeypatch):
    devices = [Device({"bytes_limit": 4 * 2**30})]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    monkeypatch.setattr("wpl_jax.data.host_memory.free_memory", lambda: 2**40)
    check_memory(make_large(train=2, valid=1, test=1))
    large = make_large(train=2, valid=1, test=1.5)
    said = "of zeros need 4.5 GiB on each device, which has 4.0 GiB"
    with pytest.raises(UserError, match=said):
        check_memory(large)
    check_memory(large, shrink=2)  # A quarter of it.
    check_memory(large, devices=Devices(2))  # Half of it on each.
    # Where a device does not tell, nothing is known.
    for stats in (None, {}, {"bytes_in_use": 1}):
        devices[0] = Device(stats)
        check_memory(large)


@pytest.mark.parametrize(
    ("platform", "needed"), [("cpu", 4 + 2), ("tpu", 2)], ids=["cpu", "accelerator"]
)
def test_copies_of_images_that_do_not_fit_on_the_machine(platform, needed, monkeypatch):
    """The largest split is copied; the memory of a CPU also holds the images."""
    device = Device({"bytes_limit": 2**40})
    device.platform = platform
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    large = make_large(train=2, valid=1, test=1)
    for free in (needed * 2**30, needed * 2**30 - 1):
        monkeypatch.setattr("wpl_jax.data.host_memory.free_memory", lambda f=free: f)
        if free == needed * 2**30:
            check_memory(large)
            continue
        said = f"4,194,304 images.* takes {needed}.0 GiB"
        with pytest.raises(DataError, match=said):
            check_memory(large)


@pytest.mark.parametrize("shrink", [3, 9])
def test_too_little_must_not_be_left_of_an_image(shrink):
    config = make_config()
    config.task.image_classification.shrink = shrink
    with pytest.raises(ConfigError, match=r"classification\.shrink .* at most 2"):
        load_task(config)


def test_a_task_is_opened_without_its_pixels(monkeypatch):
    monkeypatch.setattr(image_classification, "prepare", None)
    opened = open_task(make_config())
    monkeypatch.undo()
    task, data, same = load_task(make_config())
    assert (task, same) == (opened.task, opened.about)
    assert data.train.images.shape[1:] == task.space.image_shape


@pytest.mark.slow
def test_images_may_be_whole_on_every_device():
    devices = Devices(2)
    _, data, _ = load_task(
        make_config(**{"task.image_classification.shard_images": False}), devices
    )
    _, divided, _ = load_task(make_config(), devices)
    _, expected, _ = load_task(make_config())
    for found, images in zip(data[:3], expected[:3], strict=True):
        np.testing.assert_array_equal(found.images, images.images)
        assert len(found.images.devices()) == 2
    np.testing.assert_array_equal(data.mean, divided.mean)
    np.testing.assert_array_equal(data.mean, expected.mean)
    assert isinstance(divided.train.images, Sharded)


def test_an_unknown_field_of_the_task_is_named():
    config = make_config()
    with config.unlocked():
        config.task.image_classification.colour = 1
    with pytest.raises(ConfigError, match=r"config\.task.*colour"):
        load_task(config)


def test_a_child_that_is_not_a_number_has_no_error():
    data = DATA._replace(mean=jnp.full_like(DATA.mean, jnp.nan))
    found = PLAIN.validate(CHILD, ARCHITECTURE, data, 0, 1)
    assert np.isnan(found.loss)
    assert np.isnan(found.error)


def test_loading_looks_at_the_memory(monkeypatch):
    devices = [Device({"bytes_limit": 1000})]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    with pytest.raises(UserError, match="images of scikit-learn digits need"):
        load_task(make_config())


def test_a_guess_names_the_most_frequent_class_of_the_validation_images():
    _, labels = SPLITS["valid"]
    wrong = min(np.mean(labels != name) for name in range(CLASSES))
    found = PLAIN.guess(DATA)
    np.testing.assert_allclose(found.error, 100 * wrong)
    margin = 3 * np.sqrt(wrong * (1 - wrong) / len(labels))
    np.testing.assert_allclose(found.least_error, 100 * max(wrong - margin, 0))


# Models.


def test_statistics_are_those_of_all_training_images_at_once():
    found = jax.jit(PLAIN.statistics)(CHILD, ARCHITECTURE, DATA)
    images = SPLITS["train"][0][: BATCHES["train"] * BATCH]  # Whole batches alone.
    expected = batch_stats_of(normalized(images))
    np.testing.assert_allclose(found.mean, expected.mean, **ROUNDING)
    np.testing.assert_allclose(found.variance, expected.variance, **ROUNDING)


def test_a_model_is_evaluated_with_the_statistics_that_it_keeps():
    statistics = Moments(np.float32([0.3, -0.2]), np.float32([0.5, 1.5]))
    found = jax.jit(PLAIN.evaluate_with, static_argnums=4)(
        statistics, CHILD, ARCHITECTURE, DATA, "test"
    )
    images, labels = SPLITS["test"]
    logits, _ = logits_of(normalized(images), statistics)
    np.testing.assert_allclose(found.loss, nats_of(logits, labels).mean(), **ROUNDING)
    expected = 100 * wrong_of(logits, labels).mean()
    np.testing.assert_allclose(found.error, expected, **ROUNDING)
