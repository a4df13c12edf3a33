"""Fingerprints: equal for equal data wherever it lies, else not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wpl_jax.devices.parallel import Devices
from wpl_jax.runs.fingerprint import fingerprint, of_each

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(256, size=(21, 4, 3, 2), dtype=np.uint8)
LABELS = RNG.integers(5, size=21).astype(np.int32)
DATA = {"images": IMAGES, "labels": LABELS, "mean": np.float32(0.5)}


def test_same_content_has_the_same_fingerprint():
    expected = fingerprint(DATA)
    assert len(expected) == 16
    assert int(expected, 16) >= 0
    assert fingerprint(jax.tree.map(np.copy, DATA)) == expected
    assert fingerprint(jax.tree.map(jnp.asarray, DATA)) == expected


@pytest.mark.parametrize("count", [2, 4, 8])
def test_rows_may_be_on_any_devices(count):
    devices = Devices(count)
    data = dict(DATA, images=devices.shard(IMAGES[devices.rows_here(21)], 21))
    assert fingerprint(devices.replicate(data)) == fingerprint(DATA)
    other = IMAGES.copy()
    other[20, 0, 0, 0] ^= 1
    data = dict(DATA, images=devices.shard(other[devices.rows_here(21)], 21))
    assert fingerprint(data) == fingerprint(dict(DATA, images=other))
    assert fingerprint(data) != fingerprint(DATA)


def flipped():
    images = IMAGES.copy()
    images[7, 1, 2, 0] ^= 1
    return images


CHANGES = {
    "a bit": {"images": flipped()},
    "order": {"images": IMAGES[::-1]},
    "order within": {"images": IMAGES[:, ::-1]},
    "two rows exchanged": {"images": IMAGES[[1, 0, *range(2, 21)]]},
    "shape": {"images": IMAGES.reshape(21, 3, 4, 2)},
    "fewer": {"images": IMAGES[:-1], "labels": LABELS[:-1]},
    "a row twice": {"images": IMAGES[[*range(20), 0]]},
    "labels": {"labels": LABELS[::-1]},
    "type": {"labels": LABELS.astype(np.uint32)},
    "number": {"mean": np.float32(0.25)},
    "name": {"more": np.float32(0.5)},
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_content_has_another_fingerprint(name):
    assert fingerprint(DATA | CHANGES[name]) != fingerprint(DATA)


def test_what_several_share_is_read_once(monkeypatch):
    read = []
    monkeypatch.setattr(
        "wpl_jax.runs.fingerprint.fingerprint", lambda data: str(read.append(data))
    )
    assert of_each({"a": DATA, "b": DATA, "c": dict(DATA)}).keys() == {"a", "b", "c"}
    assert len(read) == 2
