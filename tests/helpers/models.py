"""Models of random architectures with random weights, small and not trained."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.models.model import Model
from wpl_jax.spaces.darts_cell import DartsCell
from wpl_jax.spaces.micro_cell import MicroCell
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.spaces.recurrent_cell import RecurrentCell
from wpl_jax.supernet import Architecture, gather
from wpl_jax.tasks.image_predictor import ImagePredictor
from wpl_jax.tasks.text_predictor import TextPredictor

SHAPE, WORDS = (8, 8, 2), ("the", "<eos>", "cat", "sat", "<unk>")
IMAGES = ImagePredictor(("a", "b", "c"), SHAPE, (100.0, 90.5), (50.0, 61.25))
TEXT = TextPredictor(WORDS, "word")
METRICS = {"error_name": "% error", "valid_error": 50.0, "test_error": 51.0}

# Every operation of each space, an odd image, and the options of the spaces.
MODELS = {
    "nasbench201": (NasBench201(SHAPE, 3, channels=4, cells=2), [3, 1, 2, 4, 0, 3]),
    "nasbench201_parts": (
        NasBench201(SHAPE, 3, channels=4, cells=1, channel_parts=2, edge_weights=True),
        [2, 0, 3, 4, 1, 3],
    ),
    "micro_cell": (
        MicroCell(SHAPE, 3, num_nodes=3, filters=4, layers=3, auxiliary=True),
        # Of each node both inputs, then both operations; the normal cell first.
        [0, 1, 0, 3, 2, 1, 1, 4, 0, 2, 2, 0, 1, 0, 1, 4, 0, 2, 3, 0, 3, 1, 2, 1],
    ),
    "micro_cell_odd": (
        MicroCell((7, 6, 2), 3, num_nodes=2, filters=2, layers=3, affine=False),
        [0, 1, 0, 1, 2, 0, 4, 3, 1, 1, 2, 0, 0, 2, 1, 0],
    ),
    "darts_cell": (
        DartsCell(SHAPE, 3, channels=4, cells=3, num_nodes=2, affine=True),
        # Of each node both inputs, then both operations; the normal cell first.
        [0, 3, 0, 2, 2, 6, 0, 2, 4, 1, 1, 2],
    ),
    "darts_cell_parts": (
        DartsCell(
            SHAPE,
            3,
            channels=4,
            cells=3,
            num_nodes=2,
            channel_parts=2,
            edge_weights=True,
        ),
        [0, 5, 1, 1, 2, 0, 0, 2, 4, 2, 1, 2],
    ),
    "recurrent_cell": (
        RecurrentCell(5, hidden=3, num_nodes=5, init_scale=0.5),
        [0, 0, 1, 0, 2, 1, 3, 3, 0],
    ),
    "recurrent_cell_last": (
        RecurrentCell(
            5, hidden=3, num_nodes=3, output="all", carry="last", max_norm=0.2
        ),
        [1, 0, 2, 1, 3],
    ),
}


def make_model(name, seed=0):
    """The model of a name in ``MODELS``, with weights and moments of no symmetry."""
    space, choice = MODELS[name]
    choice = np.array(choice, np.int32)
    architecture = Architecture(jnp.asarray(choice))
    rng = np.random.default_rng(seed)

    def moved(leaf):
        return jnp.asarray(leaf + 0.1 * rng.normal(size=leaf.shape), jnp.float32)

    child = gather(space.init(jax.random.key(seed)), space.rows(architecture))
    child, predictor, statistics = jax.tree.map(moved, child), TEXT, None
    if hasattr(space, "image_shape"):
        predictor = dataclasses.replace(IMAGES, image_shape=space.image_shape)
        form = jax.eval_shape(lambda: child)
        form = predictor.statistics_form(space, form, architecture)
        statistics = jax.tree.map(
            lambda leaf: jnp.float32(rng.uniform(0.5, 2, leaf.shape)), form
        )
    return Model(space, choice, predictor, child, statistics, dict(METRICS))


def make_inputs(model, count=3, seed=1):
    """Prepared inputs: random images, or random words."""
    rng = np.random.default_rng(seed)
    if model.statistics is None:
        return rng.integers(0, len(WORDS), (count, 7)).astype(np.int32)
    shape = (count, *model.predictor.image_shape)
    return rng.integers(0, 256, shape).astype(np.uint8)
