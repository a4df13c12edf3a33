"""Checkpoints that survive damage and full disks, and signals that wait."""

import contextlib
import errno
import gc
import os
import resource
import shutil
import sys
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import ORBAX_FAILING, small_files

from wpl_jax.errors import UserError
from wpl_jax.runs.checkpoint import Checkpoints, check_path
from wpl_jax.runs.checkpoint_reader import CheckpointReader, read_arrays
from wpl_jax.runs.orbax_manager import quiet_threads

pytestmark = pytest.mark.filterwarnings(*ORBAX_FAILING)


def make_state(step=0):
    """Arrays of both kinds and many types, others for other steps."""
    rng = np.random.default_rng(step)
    return {
        "layers": [
            {"kernel": jnp.asarray(rng.normal(size=(20, 30)), jnp.float32)},
            {"kernel": jnp.asarray(rng.normal(size=(3,)), jnp.bfloat16)},
        ],
        "step": np.array(step, np.int32),
        "empty": np.zeros((0, 2), np.int32),
        "curves": [
            rng.normal(size=(100, 100)),
            rng.random(5) < 0.5,
            np.array([np.nan, np.inf, -0.0, 1e-45, 1 / 3], np.float32),
            rng.integers(256, size=(2, 3, 4), dtype=np.uint8),
        ],
    }


def shapes(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


def assert_bitwise(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for have, want in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (have.shape, have.dtype) == (want.shape, want.dtype)
        assert np.asarray(have).tobytes() == np.asarray(want).tobytes()


@contextlib.contextmanager
def opened(directory, **options):
    checkpoints = Checkpoints(directory, **options)
    yield checkpoints
    checkpoints.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints of steps 1 and 4, which tests only copy."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    with opened(directory) as checkpoints:
        for step in (0, 1, 4):
            checkpoints.save(step, make_state(step))
    return directory


@pytest.fixture
def directory(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


# Saving and restoring.


@pytest.mark.parametrize("like", [shapes, lambda state: state])
def test_what_is_saved_comes_back_bit_by_bit(like, saved):
    with opened(saved) as checkpoints:
        step, state = checkpoints.restore(like(make_state()))
    assert step == 4
    assert_bitwise(state, make_state(4))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_keys_come_back_with_their_implementation(kind, tmp_path):
    state = {"keys": jax.random.split(jax.random.key(7, impl=kind), 3)}
    with opened(tmp_path / "c") as checkpoints:
        checkpoints.save(0, state)
        _, found = checkpoints.restore(shapes(state))
    assert found["keys"].dtype == state["keys"].dtype
    expected = jax.random.key_data(state["keys"])
    np.testing.assert_array_equal(jax.random.key_data(found["keys"]), expected)


def test_restored_numpy_arrays_can_be_written_to(saved):
    with opened(saved) as checkpoints:
        _, state = checkpoints.restore(shapes(make_state()))
    state["curves"][0][3] = 5.0
    assert np.all(state["curves"][0][3] == 5.0)


def test_saved_arrays_may_change_afterwards(tmp_path):
    state = make_state()
    with opened(tmp_path / "c") as checkpoints:
        checkpoints.save(0, state)
        state["curves"][0][:] = 0
        _, restored = checkpoints.restore(state)
    assert_bitwise(restored, make_state())


def test_empty_folder_has_nothing_to_restore(tmp_path):
    with opened(tmp_path / "new" / "checkpoints") as checkpoints:
        assert checkpoints.restore(shapes(make_state())) is None
        checkpoints.save(0, make_state())
    with opened(tmp_path / "new" / "checkpoints") as checkpoints:
        assert checkpoints.restore(shapes(make_state()))[0] == 0


def test_newest_are_kept(tmp_path):
    with opened(tmp_path / "c", keep=3) as checkpoints:
        for step in (0, 2, 3, 7, 11):
            checkpoints.save(step, make_state(step))
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["11", "3", "7"]


@pytest.mark.parametrize("step", [0, 3, 4])
def test_steps_must_grow(step, directory):
    with opened(directory) as checkpoints:
        with pytest.raises(ValueError, match=f"step {step}: its newest is 4"):
            checkpoints.save(step, make_state(9))
        found, state = checkpoints.restore(shapes(make_state()))
    assert found == 4
    assert_bitwise(state, make_state(4))


# Damage.


def find(step, pattern):
    """The largest file of a checkpoint, a folder of it, or all of it."""
    if pattern == ".":
        return step
    found = sorted(step.glob(pattern), key=lambda path: path.stat().st_size)
    assert found, (step, pattern)
    return found[-1]


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def garble(path):
    path.write_bytes(bytes(byte ^ 0x5A for byte in path.read_bytes()))


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def delete(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def clear(path):
    shutil.rmtree(path)
    path.mkdir()


DATA = "state/ocdbt.process_0/d/*"
MANIFEST = "state/manifest.ocdbt"
TREE = "state/_METADATA"


@pytest.mark.slow_except("*truncate*")
@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        (DATA, truncate),
        (DATA, empty),
        (DATA, garble),
        (DATA, flip_a_bit),
        (DATA, delete),
        (MANIFEST, truncate),
        (MANIFEST, delete),
        (TREE, garble),
        ("state/ocdbt.process_0", clear),
        ("state", clear),
        ("state", delete),
        (".", clear),
    ],
)
def test_damaged_checkpoint_is_passed_over(pattern, damage, directory, caplog):
    damage(find(directory / "4", pattern))
    with opened(directory) as checkpoints:
        step, state = checkpoints.restore(shapes(make_state()))
        assert step == 1
        assert_bitwise(state, make_state(1))
        told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert any(f"Checkpoint 4 in {directory} cannot be read" in m for m in told)
        # It goes on from there, past the damaged one's step.
        for later in (2, 4, 5):
            checkpoints.save(later, make_state(later))
    with opened(directory) as checkpoints:
        step, state = checkpoints.restore(shapes(make_state()))
    assert step == 5
    assert_bitwise(state, make_state(5))


def test_deleted_checkpoint_is_as_if_it_had_not_been(directory):
    shutil.rmtree(directory / "4")
    with opened(directory) as checkpoints:
        step, state = checkpoints.restore(shapes(make_state()))
    assert step == 1
    assert_bitwise(state, make_state(1))


@pytest.mark.parametrize("damage", [clear, delete])
def test_damage_to_the_one_before_does_no_harm(damage, directory):
    """What a kill leaves that comes as the oldest checkpoint is being deleted."""
    damage(directory / "1" / "state")
    with opened(directory) as checkpoints:
        step, state = checkpoints.restore(shapes(make_state()))
        assert step == 4
        assert_bitwise(state, make_state(4))
        checkpoints.save(5, make_state(5))
        checkpoints.save(6, make_state(6))
    assert sorted(path.name for path in directory.iterdir()) == ["5", "6"]


def test_save_that_was_cut_off_is_no_checkpoint(directory):
    shutil.copytree(directory / "4", directory / "6.orbax-checkpoint-tmp")
    delete(find(directory / "6.orbax-checkpoint-tmp", DATA))
    with opened(directory) as checkpoints:
        assert checkpoints.restore(shapes(make_state()))[0] == 4
        checkpoints.save(6, make_state(6))
    with opened(directory) as checkpoints:
        step, state = checkpoints.restore(shapes(make_state()))
    assert step == 6
    assert_bitwise(state, make_state(6))
    assert not list(directory.glob("*tmp*"))


@pytest.mark.slow_except("truncate")
@pytest.mark.parametrize("damage", [truncate, garble])
def test_threads_of_orbax_say_nothing_of_damage(damage, directory, monkeypatch, capfd):
    """Where one array of many cannot be read, the others used to report, too."""
    unraised = []
    monkeypatch.setattr(sys, "unraisablehook", unraised.append)
    state = {f"{i}": np.random.default_rng(i).random((300, 300)) for i in range(30)}
    shutil.rmtree(directory)
    with opened(directory) as checkpoints:
        for step in (1, 4):
            checkpoints.save(step, state)
    damage(find(directory / "4", DATA))
    with opened(directory) as checkpoints:
        assert checkpoints.restore(state)[0] == 1
        time.sleep(0.2)  # Some come late.
    assert unraised == []
    assert "Traceback" not in capfd.readouterr().err


def test_what_else_cannot_be_raised_is_still_said(monkeypatch):
    unraised = []
    monkeypatch.setattr(sys, "unraisablehook", unraised.append)
    with quiet_threads():
        pass
    for message in ("Event loop is closed", "another"):
        said = types.SimpleNamespace(exc_value=RuntimeError(message))
        sys.unraisablehook(said)
    assert unraised == [said]


@pytest.mark.parametrize("name", ["a\\b", "a\udcffb", "gs:", "blogs:"])
def test_path_from_which_nothing_can_be_restored_is_refused(name, tmp_path):
    with pytest.raises(UserError, match="cannot be read again"):
        Checkpoints(tmp_path / name / "checkpoints")
    assert not (tmp_path / name).exists()


def test_paths_of_all_other_characters_can_be_restored(tmp_path):
    names = [
        "".join(map(chr, range(1, 128))),
        "gs",
        "é日本\u2028",
        "%2F%5C",
        " ..",
        "x" * 255,
    ]
    for name in names:
        name = name.translate({ord("/"): None, ord("\\"): None})
        with opened(tmp_path / name / "checkpoints") as checkpoints:
            checkpoints.save(0, {"x": np.arange(3)})
            checkpoints.verify(0, {"x": np.arange(3)})


def test_what_cannot_be_read_again_is_said_at_once(directory):
    with opened(directory) as checkpoints:
        checkpoints.verify(4, shapes(make_state()))
        empty(find(directory / "4", DATA))
        with pytest.raises(UserError, match="cannot be read again"):
            checkpoints.verify(4, shapes(make_state()))


def test_checkpoints_that_are_of_no_use_are_passed_over(directory, caplog):
    def usable(step, beside):
        return "too new" if step == 4 else ""

    with opened(directory) as checkpoints:
        step, state = checkpoints.restore(shapes(make_state()), usable=usable)
    assert step == 1
    assert_bitwise(state, make_state(1))
    assert "Checkpoint 4" in caplog.text
    assert "(too new)" in caplog.text


@pytest.mark.parametrize("damage", [truncate, garble, delete])
def test_nothing_to_restore_is_a_user_error(damage, directory):
    for step in ("1", "4"):
        damage(find(directory / step, DATA))
    with opened(directory) as checkpoints, pytest.raises(UserError) as caught:
        checkpoints.restore(shapes(make_state()))
    message = str(caught.value)
    assert message.startswith(f"None of the checkpoints [4, 1] in {directory}")
    assert {"1", "4"} <= set(os.listdir(directory))  # Nothing is thrown away.


@pytest.mark.slow
@pytest.mark.parametrize("damage", [truncate, empty, garble, flip_a_bit, delete])
def test_no_damage_to_any_file_gives_wrong_values(damage, saved, tmp_path):
    count = sum(path.is_file() for path in (saved / "4").rglob("*"))
    for i in range(count):
        directory = shutil.copytree(saved, tmp_path / str(i))
        files = sorted(path for path in (directory / "4").rglob("*") if path.is_file())
        damage(files[i])
        with opened(directory) as checkpoints:
            step, state = checkpoints.restore(shapes(make_state()))
            assert_bitwise(state, make_state(step))
            checkpoints.save(step + 1, make_state(step + 1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s["curves"].__setitem__(0, leaf(100, 101)), "shape"),
        (lambda s: s["layers"].__setitem__(0, {"kernel": leaf(21, 30)}), "shape"),
        (lambda s: s["curves"].__setitem__(0, leaf(100, 100)), "float32"),
        (lambda s: s["curves"].append(leaf(3)), "structure"),
        (lambda s: s["curves"].pop(), "structure"),
    ],
    ids=["shape of NumPy", "shape of JAX", "type", "a leaf more", "a leaf less"],
)
def test_state_of_another_form_is_an_error_that_says_so(change, said, directory):
    like = shapes(make_state())
    change(like)
    with opened(directory) as checkpoints:
        with pytest.raises(ValueError, match=r".") as caught:
            checkpoints.restore(like)
        message = str(caught.value).replace(str(directory), "").lower()
        assert said in message
        assert checkpoints.restore(shapes(make_state()))[0] == 4  # All still there.


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, np.float32)


# What passes, and what is passed over.


PASSING = {
    "open files": OSError(errno.EMFILE, "Too many open files"),
    "stale": OSError(errno.ESTALE, "Stale file handle"),
    "memory": MemoryError(),
    "tensorstore": ValueError(
        "RESOURCE_EXHAUSTED: Failed to open: Too many open files [os_error_code='24']"
    ),
}


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


READINGS = {
    "to go on": (Checkpoints, lambda found: found.restore(shapes(make_state()))),
    "to go back": (
        lambda folder: Checkpoints(folder, landmark=lambda step: True),
        lambda found: found.go_back(shapes(make_state())),
    ),
    "to read": (CheckpointReader, lambda found: found.restore(shapes(make_state()))),
    "arrays": (CheckpointReader, lambda found: found.arrays()),
    "verify": (Checkpoints, lambda found: found.verify(4, shapes(make_state()))),
}


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("what", PASSING)
def test_what_cannot_be_read_for_now_ends_the_run_and_changes_nothing(
    what, reading, directory, monkeypatch
):
    make, read = READINGS[reading]
    before = contents(directory)

    def fail(*args, **options):
        raise PASSING[what]

    with contextlib.closing(make(directory)) as found:
        with monkeypatch.context() as failing:
            failing.setattr(found._manager, "restore", fail)
            with pytest.raises(UserError, match="not be read this time") as caught:
                read(found)
        message = str(caught.value)
        assert message.startswith(f"{directory / '4'} ")
        assert str(PASSING[what]) in message
        assert contents(directory) == before
        # Once it can be read the newest one counts.
        if reading != "verify":
            assert read(found)[0] == 4


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="Linux lists them")
def test_too_many_open_files_are_no_damage(directory, monkeypatch):
    # Event loops that could not be opened complain when they are collected.
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    before = contents(directory)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = max(map(int, os.listdir("/proc/self/fd"))) + 8
    with opened(directory) as checkpoints, contextlib.ExitStack() as held:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, limits[1]))
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        with contextlib.suppress(OSError):
            while True:
                held.callback(os.close, os.dup(0))
        with pytest.raises(UserError, match="Too many open files"):
            checkpoints.restore(shapes(make_state()))
        held.close()
        gc.collect()
        assert contents(directory) == before
        assert checkpoints.restore(shapes(make_state()))[0] == 4


def test_file_that_may_not_be_read_is_no_damage(directory, monkeypatch):
    """Orbax reports what it may not look at as missing."""
    path, opening = directory / "4" / "check" / "metadata", open

    def refuse(file, *args, **options):
        if file == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return opening(file, *args, **options)

    def miss(step, **options):
        raise FileNotFoundError(f"File {path} not found.")

    with opened(directory) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "restore", miss)
        monkeypatch.setattr("wpl_jax.runs.damage.open", refuse, raising=False)
        with pytest.raises(UserError, match="Permission denied"):
            checkpoints.restore(shapes(make_state()))


@pytest.mark.parametrize("later", [2, 4, 5])
def test_what_was_passed_over_is_deleted_once_a_save_has_succeeded(later, directory):
    empty(find(directory / "4", DATA))
    with opened(directory) as checkpoints:
        assert checkpoints.restore(shapes(make_state()))[0] == 1
        before = contents(directory)
        with small_files(100), pytest.raises(UserError) as caught:
            checkpoints.save(later, make_state(later))
        assert "continues from checkpoint 1, which is intact" in str(caught.value)
        assert contents(directory) == before
        for step in (0, 1):
            with pytest.raises(ValueError, match=f"step {step}: its newest is 1"):
                checkpoints.save(step, make_state(step))
        checkpoints.save(later, make_state(later))
        assert set(os.listdir(directory)) == {"1", str(later)}
        step, state = checkpoints.restore(shapes(make_state()))
    assert step == later
    assert_bitwise(state, make_state(later))


def test_reading_alone_leaves_the_folder_as_it_is(directory):
    empty(find(directory / "4", DATA))
    # Another process is saving a checkpoint.
    shutil.copytree(directory / "1", directory / "6.orbax-checkpoint-tmp")
    before = contents(directory)
    with contextlib.closing(CheckpointReader(directory)) as reader:
        assert reader.restore(shapes(make_state()))[0] == 1
        assert reader.beside() is None
    assert read_arrays(directory)[0] == 1
    assert contents(directory) == before


# A full disk.


@pytest.mark.parametrize("noticed", ["before it is written", "while it is written"])
@pytest.mark.parametrize("limit", [0, 100, 20_000])
def test_full_disk_is_a_user_error_and_harms_no_earlier_checkpoint(
    limit, noticed, directory, monkeypatch
):
    if noticed == "while it is written":
        monkeypatch.delattr("os.posix_fallocate")
    with opened(directory) as checkpoints:
        with (
            small_files(limit),
            pytest.raises(
                UserError, match="Checkpoint 5 could not be written"
            ) as caught,
        ):
            checkpoints.save(5, make_state(5))
        assert str(directory) in str(caught.value)
        assert "Make room" in str(caught.value)
        assert "continues from checkpoint 4, which is intact" in str(caught.value)
        step, state = checkpoints.restore(shapes(make_state()))
        assert step == 4
        assert_bitwise(state, make_state(4))
    with opened(directory) as checkpoints:  # The same command again.
        step, state = checkpoints.restore(shapes(make_state()))
        assert step == 4
        assert_bitwise(state, make_state(4))
        checkpoints.save(5, make_state(5))
        assert checkpoints.restore(shapes(make_state()))[0] == 5


def test_full_disk_at_the_first_checkpoint_promises_no_earlier_one(tmp_path):
    with (
        opened(tmp_path / "c") as checkpoints,
        small_files(100),
        pytest.raises(UserError) as caught,
    ):
        checkpoints.save(0, make_state())
    assert "it starts anew" in str(caught.value)
    assert "intact" not in str(caught.value)


def test_folder_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(UserError, match="file cannot be made"),
        opened(tmp_path / "file") as checkpoints,
    ):
        checkpoints.save(0, make_state())


@pytest.mark.parametrize("first", ["s3", "gs", "az", "hf"])
def test_folders_that_stand_for_places_elsewhere_are_refused(first, monkeypatch):
    with pytest.raises(UserError, match=f"stands for {first}://runs") as caught:
        check_path(Path(f"/{first}/runs"))
    assert "symbolic link" in str(caught.value)
    monkeypatch.chdir("/")
    with pytest.raises(UserError, match="stands for"):
        check_path(Path(f"{first}/runs").absolute())


@pytest.mark.parametrize("name", ["/tmp/s3/runs", "/s3runs", "/~/a", "/a b%20?"])
def test_other_folders_are_taken(name):
    check_path(Path(name))
