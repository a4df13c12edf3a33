"""Parts as values of JSON, and back."""

import dataclasses
import json

import pytest

from wpl_jax.common.plain import from_plain, to_plain


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
