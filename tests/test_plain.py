"""Parts as values of JSON, and back."""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from wpl_jax.common.plain import from_plain, text_of, to_plain
from wpl_jax.errors import UserError
from wpl_jax.models.files import keep_in


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int = 1


@dataclasses.dataclass(frozen=True)
class Outer:
    shape: tuple[int, int]
    inner: Inner = Inner()
    other: Inner | None = None
    names: tuple[tuple[str, ...], ...] = ()


def test_they_come_back_equal_through_json():
    part = Outer((2, 3), Inner(4), Inner(5), (("a", "b"), ()))
    assert from_plain(Outer, json.loads(json.dumps(to_plain(part)))) == part
    assert from_plain(Outer, {"shape": [1, 2]}) == Outer((1, 2))


def test_another_field_is_an_error():
    with pytest.raises(TypeError, match="width"):
        from_plain(Outer, {"shape": [1, 2], "width": 3})


@dataclasses.dataclass(frozen=True)
class Activated:
    """A space whose network takes a function."""

    size: Any
    activation: Callable[[float], float] = math.tanh
    inner: Any = None


def test_numbers_of_numpy_are_numbers():
    part = Activated(np.int64(3), inner=(np.float32(0.5), np.bool_(True), np.str_("a")))
    found = json.loads(json.dumps(to_plain(part)))
    assert found == {"size": 3, "inner": [0.5, True, "a"]}
    assert from_plain(Activated, found) == Activated(3, inner=(0.5, True, "a"))


def test_functions_are_defaults_or_said_before_a_training(tmp_path):
    part = Activated(3, math.sin)
    for given in (part, Activated(3, inner={"a": (1, math.sin)})):
        with pytest.raises(UserError, match=r"Activated has .*sin.*no file can hold"):
            to_plain(given)
    with pytest.raises(UserError, match="has activation=<built-in function sin>"):
        keep_in(tmp_path, part, object())
    keep_in(tmp_path, Activated(3), object())


def test_a_part_is_told_from_others_without_addresses():
    class Of:
        pass

    def one(x):
        return x

    assert "0x" in repr(Activated(Of(), one))
    assert "0x" not in text_of(Activated(Of(), one))
    assert text_of(Activated(Of(), one)) == text_of(Activated(Of(), one))
    assert text_of(Activated(3, one)) != text_of(Activated(4, one))
