"""Checkpoints to go back to, which stay when the newest have moved on."""

import contextlib
import shutil

import numpy as np
import pytest
from helpers.tiny import ORBAX_FAILING

from wpl_jax.errors import UserError
from wpl_jax.runs.checkpoint import Checkpoints

pytestmark = pytest.mark.filterwarnings(*ORBAX_FAILING)

LIKE = {"values": np.zeros(3), "step": np.array(0, np.int32)}


def make_state(step):
    return {"values": np.arange(3) / (step + 1), "step": np.array(step, np.int32)}


@contextlib.contextmanager
def opened(directory, landmarks=(), **options):
    landmark = set(landmarks).__contains__
    with contextlib.closing(
        Checkpoints(directory, landmark=landmark, **options)
    ) as checkpoints:
        yield checkpoints


def saved(directory):
    return {int(path.name) for path in directory.iterdir() if path.name.isdigit()}


def fill(directory, steps, **options):
    with opened(directory, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step))


def damage(directory, step):
    shutil.rmtree(directory / str(step) / "state")


def assert_restored(found, step):
    assert found is not None
    assert found[0] == step
    np.testing.assert_array_equal(found[1]["values"], np.arange(3) / (step + 1))
    assert found[1]["step"] == step


@pytest.mark.parametrize(
    ("landmarks", "left"),
    [
        # What is there after each of the steps 0, 1, 2, 4, 5, 7.
        ((), [{0}, {0, 1}, {1, 2}, {2, 4}, {4, 5}, {5, 7}]),
        ((0,), [{0}, {0, 1}, {0, 1, 2}, {0, 2, 4}, {0, 4, 5}, {0, 5, 7}]),
        ((0, 2), [{0}, {0, 1}, {1, 2}, {2, 4}, {2, 4, 5}, {2, 5, 7}]),
        ((1, 3, 5), [{0}, {0, 1}, {1, 2}, {1, 2, 4}, {4, 5}, {5, 7}]),
    ],
)
def test_newest_two_and_the_newest_landmark_are_kept(landmarks, left, tmp_path):
    with opened(tmp_path / "c", landmarks) as checkpoints:
        for step, expected in zip((0, 1, 2, 4, 5, 7), left, strict=True):
            checkpoints.save(step, make_state(step))
            assert saved(tmp_path / "c") == expected, step


def test_landmark_is_kept_beside_as_many_as_are_asked_for(tmp_path):
    fill(tmp_path / "c", range(4), landmarks=(0, 1), keep=1)
    assert saved(tmp_path / "c") == {1, 3}


def test_landmark_outlives_the_process_that_saved_it(tmp_path):
    fill(tmp_path / "c", range(3), landmarks=(0,))
    fill(tmp_path / "c", range(3, 5), landmarks=(0,))
    assert saved(tmp_path / "c") == {0, 3, 4}


def test_going_back_deletes_what_came_after_the_landmark(tmp_path):
    fill(tmp_path / "c", range(6), landmarks=(0, 2))
    with opened(tmp_path / "c", (0, 2)) as checkpoints:
        assert_restored(checkpoints.go_back(LIKE), 2)
        assert saved(tmp_path / "c") == {2}
        assert_restored(checkpoints.restore(LIKE), 2)
        checkpoints.save(3, make_state(3))  # Steps may come again.
    assert saved(tmp_path / "c") == {2, 3}


def test_landmarks_do_not_matter_unless_they_are_asked_for(tmp_path):
    fill(tmp_path / "c", range(6), landmarks=(2,))
    with opened(tmp_path / "c", (2,)) as checkpoints:
        assert_restored(checkpoints.restore(LIKE), 5)
    assert saved(tmp_path / "c") == {2, 4, 5}


def test_newest_checkpoint_can_be_the_landmark(tmp_path):
    fill(tmp_path / "c", range(4), landmarks=(3,))
    with opened(tmp_path / "c", (3,)) as checkpoints:
        assert_restored(checkpoints.go_back(LIKE), 3)
    assert saved(tmp_path / "c") == {2, 3}


def test_where_no_landmark_is_nothing_is_restored_and_nothing_deleted(tmp_path):
    fill(tmp_path / "c", range(3))
    with opened(tmp_path / "c", (9,)) as checkpoints:
        assert checkpoints.go_back(LIKE) is None
    assert saved(tmp_path / "c") == {1, 2}


def test_landmark_is_the_last_resort_where_the_newest_are_damaged(tmp_path):
    fill(tmp_path / "c", range(6), landmarks=(1,))
    damage(tmp_path / "c", 4)
    damage(tmp_path / "c", 5)
    with opened(tmp_path / "c", (1,)) as checkpoints:
        assert_restored(checkpoints.restore(LIKE), 1)
        assert saved(tmp_path / "c") == {1, 4, 5}  # Nothing is saved in their place.
        checkpoints.save(2, make_state(2))
    assert saved(tmp_path / "c") == {1, 2}


def test_damaged_landmark_is_passed_over_for_the_one_before(tmp_path):
    fill(tmp_path / "c", range(6), landmarks=(3, 4), keep=3)
    damage(tmp_path / "c", 4)
    with opened(tmp_path / "c", (3, 4)) as checkpoints:
        assert_restored(checkpoints.go_back(LIKE), 3)
    assert saved(tmp_path / "c") == {3}


def test_no_other_checkpoint_stands_in_for_a_damaged_landmark(tmp_path):
    fill(tmp_path / "c", range(6), landmarks=(2,))
    damage(tmp_path / "c", 2)
    with opened(tmp_path / "c", (2,)) as checkpoints:
        with pytest.raises(UserError, match=r"None of the checkpoints \[2\] in "):
            checkpoints.go_back(LIKE)
        assert saved(tmp_path / "c") == {2, 4, 5}
        assert_restored(checkpoints.restore(LIKE), 5)
