"""Strings and isomorphism classes against their definition and published counts."""

import numpy as np
import pytest

from wpl_jax.errors import UserError
from wpl_jax.spaces.nasbench201_architectures import (
    EDGES,
    OPERATIONS,
    all_architectures,
    canonical_form,
    from_string,
    to_string,
)


def test_all_architectures_make_the_round_trip():
    every = all_architectures()
    texts = [to_string(choice) for choice in every]
    assert len(set(texts)) == 5**6
    np.testing.assert_array_equal([from_string(text) for text in texts], every)
    assert texts[1] == (
        "|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|"
    )  # The last edge varies fastest.


@pytest.mark.parametrize(
    "text",
    [
        "",
        "|none~0|+|none~0|none~1|",
        "|none~0|+|none~1|none~0|+|none~0|none~1|none~2|",
        "|none~0|+|none~0|sep_conv~1|+|none~0|none~1|none~2|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|none~3|",
        "|none~0||+|none~0|none~1|+|none~0|none~1|none~2|",
        "none~0+none~0|none~1+none~0|none~1|none~2",
    ],
)
def test_another_text_is_refused(text):
    with pytest.raises(UserError, match=r"no architecture of NAS-Bench-201.*nor_conv"):
        from_string(text)


def fingerprints(every):
    """What cells compute of some numbers, where operations are random polynomials."""
    prime, rng = 1_000_003, np.random.default_rng(0)
    coefficients = rng.integers(1, prime, (len(OPERATIONS), 3))
    x = np.broadcast_to(rng.integers(1, prime, 8), (len(every), 8))
    nodes = [x, *np.zeros((3, *x.shape), np.int64)]
    for (source, target), operation in zip(EDGES, every.T, strict=True):
        y = nodes[source]
        # Of 0 they make 0, as convolutions without a bias do.
        made = sum(
            coefficients[operation, power, None] * _power(y, power + 1, prime) % prime
            for power in range(3)
        )
        made = np.where(operation[:, None] == 1, y, made)
        made = np.where(operation[:, None] == 0, 0, made)
        nodes[target] = (nodes[target] + made) % prime
    return [tuple(row) for row in nodes[-1].tolist()]


def _power(y, power, prime):
    found = np.ones_like(y)
    for _ in range(power):
        found = found * y % prime
    return found


def test_there_are_as_many_classes_as_published_and_each_computes_one_function():
    every = all_architectures()
    published = [canonical_form(choice) for choice in every]
    functions = [canonical_form(choice, flatten=True) for choice in every]
    assert len(set(published)) == 6466
    assert len(set(functions)) == 4930
    computed = fingerprints(every)
    assert len(set(computed)) == len(set(zip(computed, functions, strict=True))) == 4930
    assert len(set(zip(computed, published, strict=True))) == 6466
