"""Weights of another search: equal where they fit, fresh where they do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wpl_jax.errors import UserError
from wpl_jax.runs import warm_start
from wpl_jax.runs.checkpoint import Checkpoints
from wpl_jax.runs.checkpoint_reader import read_arrays
from wpl_jax.runs.warm_start import read_source, start_from
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.spaces.recurrent_cell import RecurrentCell
from wpl_jax.supernet import Architecture, gather

SPACE = NasBench201((8, 8, 1), 10, channels=4, cells=1, exclude_none=True)
WORDS = ("the", "<eos>", "cat", "sat", "<unk>")


def params_of(space, seed):
    """Drawn by numpy: to compile a generator for each shape takes seconds."""
    shapes = jax.eval_shape(space.init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)


def save(folder, state, step=3):
    found = Checkpoints(folder / "checkpoints")
    found.save(step, state)
    found.close()
    return folder


def searched(folder, space, seed=0):
    """A folder of a search, with its shared weights."""
    params = params_of(space, seed)
    state = {"shared": {"params": params}, "key": jax.random.key(0)}
    save(folder, state)
    return params


def trained(folder, space, choice, seed=0):
    """A folder of a training of one architecture, with its weights."""
    rows = space.rows(Architecture(jnp.asarray(choice)))
    params = params_of(space, seed)
    child = jax.device_get(jax.jit(lambda params: gather(params, rows))(params))
    other = jax.tree.map(np.zeros_like, child)
    choice = np.array(choice, np.int32)
    save(folder, {"best": child, "params": other, "choice": choice})
    return child


def test_everything_of_the_same_space_is_taken(tmp_path):
    expected = searched(tmp_path, SPACE)
    source = read_source(tmp_path)
    taken = start_from(source, SPACE, params_of(SPACE, 1), None)
    jax.tree.map(np.testing.assert_array_equal, taken.params, expected)
    assert taken.fresh == []
    assert (
        taken.describe() == f"{len(taken.fitting)} of {len(taken.fitting)} arrays fit."
    )


def test_a_classifier_of_another_size_is_fresh(tmp_path):
    searched(tmp_path, NasBench201((8, 8, 1), 100, channels=4, cells=1))
    own = params_of(SPACE, 1)
    taken = start_from(read_source(tmp_path), SPACE, own, None)
    fresh = taken.params.pop("classifier")
    jax.tree.map(np.testing.assert_array_equal, fresh, own.pop("classifier"))
    expected = params_of(NasBench201((8, 8, 1), 100, channels=4, cells=1), 0)
    expected.pop("classifier")
    jax.tree.map(np.testing.assert_array_equal, taken.params, expected)
    assert taken.fresh == [
        "classifier/bias: float32[10] here, float32[100] there",
        "classifier/kernel: float32[16, 10] here, float32[16, 100] there",
    ]
    assert "\n  classifier/bias: float32[10] here" in taken.describe()


def test_nothing_of_another_space_is_taken(tmp_path):
    searched(tmp_path, RecurrentCell(5, 3, num_nodes=3))
    taken = start_from(read_source(tmp_path), SPACE, params_of(SPACE, 1), None)
    assert taken.is_empty
    assert all(line.endswith("nothing there") for line in taken.fresh)


def test_embeddings_are_taken_by_word(tmp_path):
    own_words = ("sat", "dog", "<eos>", "the")
    small, large = (RecurrentCell(n, 3, num_nodes=3) for n in (4, 5))
    theirs = searched(tmp_path, large)
    warm_start.write_words(tmp_path, WORDS)
    own = params_of(small, 1)
    taken = start_from(read_source(tmp_path), small, own, own_words)
    for name in ("embedding", "output_bias"):
        for i, word in enumerate(own_words):
            expected = own[name][i]
            if word in WORDS:
                expected = theirs[name][WORDS.index(word)]
            np.testing.assert_array_equal(taken.params[name][i], expected)
    for name in ("input", "recurrent", "edges", "bias"):
        np.testing.assert_array_equal(taken.params[name], theirs[name])
    assert taken.partly == [
        f"{name}: 3 of 4 words are taken" for name in ("embedding", "output_bias")
    ]


def test_rows_without_words_are_not_taken_by_their_number(tmp_path):
    space = RecurrentCell(5, 3, num_nodes=3)
    searched(tmp_path, space)
    own = params_of(space, 1)
    taken = start_from(read_source(tmp_path), space, own, WORDS)
    np.testing.assert_array_equal(taken.params["embedding"], own["embedding"])
    assert any("has no words.json" in line for line in taken.fresh)


def test_weights_of_an_architecture_go_to_its_rows(tmp_path):
    choice, other = [1, 2, 2, 0, 3, 1], [1, 2, 1, 2, 2, 1]
    trained(tmp_path, SPACE, choice)
    whole = params_of(SPACE, 0)
    own = params_of(SPACE, 1)
    taken = start_from(read_source(tmp_path), SPACE, own, None)
    # Of the operations 0 to 3, 1 and 2 are the convolutions.
    for stage in range(3):
        name = f"stage_{stage}"
        for operation, stack in ((1, "conv_1x1"), (2, "conv_3x3")):
            for edge in range(6):
                source = whole if choice[edge] == operation else own
                np.testing.assert_array_equal(
                    taken.params[name][stack][edge], source[name][stack][edge]
                )
    np.testing.assert_array_equal(
        taken.params["classifier"]["kernel"], whole["classifier"]["kernel"]
    )
    # So another architecture has those of the edges that both have in common.
    params = jax.tree.map(jnp.asarray, taken.params)
    child = gather(params, SPACE.rows(Architecture(jnp.array(other))))
    assert np.all(child["stage_0"]["conv_3x3"][1] == whole["stage_0"]["conv_3x3"][1])
    assert np.all(child["stage_0"]["conv_1x1"][2] == own["stage_0"]["conv_1x1"][2])


def test_weights_of_an_architecture_of_another_space_have_no_rows(tmp_path):
    trained(tmp_path, RecurrentCell(5, 3, num_nodes=3), [0, 0, 1, 1, 2])
    space = RecurrentCell(5, 3, num_nodes=4)
    own = params_of(space, 1)
    taken = start_from(read_source(tmp_path), space, own, None)
    np.testing.assert_array_equal(taken.params["edges"], own["edges"])
    assert "edges: float32[6, 6, 3] here, float32[2, 6, 3] there" in taken.fresh
    assert "input" in taken.fitting


def test_the_newest_checkpoint_that_is_whole_is_read(tmp_path):
    state = {"shared": {"params": {"a": np.arange(3.0)}}}
    save(tmp_path, state, 1)
    save(tmp_path, {"shared": {"params": {"a": np.arange(3.0) + 1}}}, 2)
    step, arrays = read_arrays(tmp_path / "checkpoints")
    assert (step, list(arrays)) == (2, ["shared/params/a"])
    for path in (tmp_path / "checkpoints" / "2").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    step, arrays = read_arrays(tmp_path / "checkpoints")
    assert step == 1
    np.testing.assert_array_equal(arrays["shared/params/a"], np.arange(3.0))


def test_what_holds_no_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match="There are no checkpoints in"):
        read_source(tmp_path)
    save(tmp_path, {"something": np.zeros(2)})
    with pytest.raises(UserError, match="neither that of a search nor that of a train"):
        read_source(tmp_path)
