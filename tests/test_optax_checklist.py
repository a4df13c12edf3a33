"""The checklist of optax for contributions, run with both transforms, also in 8 bits.

The checks are optax's own, from the file of tests in its wheel. Nothing is copied: the
file is executed with our entries in place of its lists of optimizers.
"""

import importlib.util
import unittest

import optax
import pytest

import wpl_jax

FILE = "optax.contrib._common_test"
ALPHA = 10.0  # It has no effect: the states of the checks have remembered nothing yet.


def explicit_elastic_sgd(
    learning_rate: optax.ScalarOrSchedule, alpha: optax.ScalarOrSchedule = ALPHA
):
    return optax.chain(wpl_jax.weight_plasticity(alpha), optax.sgd(learning_rate))


def proximal_elastic_sgd(
    learning_rate: optax.ScalarOrSchedule, alpha: optax.ScalarOrSchedule = ALPHA
):
    return optax.chain(
        optax.sgd(learning_rate),
        wpl_jax.proximal_weight_plasticity(alpha, learning_rate),
    )


def elastic_sgd_in_8_bits(
    learning_rate: optax.ScalarOrSchedule, alpha: optax.ScalarOrSchedule = ALPHA
):
    penalty = wpl_jax.proximal_weight_plasticity(
        alpha, learning_rate, anchor_dtype="int8", fisher_dtype="uint8"
    )
    return optax.chain(optax.sgd(learning_rate), penalty)


FACTORIES = (explicit_elastic_sgd, proximal_elastic_sgd, elastic_sgd_in_8_bits)
CHECKS = (
    "test_optimizers_accept_extra_args",
    "test_optimizers",
    "test_optimizers_can_be_wrapped_in_inject_hyperparams",
    "test_preserve_dtype",
    "test_gradient_accumulation",
    "test_state_shape_dtype_shard_stability",
    "test_optimizers_accept_learning_rate_schedule_if_type_annotated_as_such",
)


@pytest.fixture(scope="module")
def checklist():
    """Their class of tests, with our optimizers alone."""
    with pytest.MonkeyPatch.context() as patch:
        parameterized = pytest.importorskip("absl.testing.parameterized")
        spec = importlib.util.find_spec(FILE)
        if spec is None:
            pytest.skip("this optax comes without its tests")
        entries = [
            {
                "opt_name": factory.__name__,
                "opt_kwargs": {"learning_rate": 1e-3},
                "wrapper_name": None,
                "wrapper_kwargs": None,
            }
            for factory in FACTORIES
        ]
        product = parameterized.product
        patch.setattr(
            parameterized, "product", lambda listed, **grid: product(entries, **grid)
        )
        for factory in FACTORIES:
            # They look optimizers up by name, and test those of `contrib` first.
            patch.setattr(optax.contrib, factory.__name__, factory, raising=False)
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except ImportError as error:
            pytest.skip(f"the tests of this optax need more: {error}")
        yield module.ContribTest


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_a_check_of_optax(check, checklist):
    names = [
        name
        for name in unittest.TestLoader().getTestCaseNames(checklist)
        if name.rstrip("0123456789") == check
    ]
    assert len(names) >= len(FACTORIES)
    result = unittest.TestResult()
    unittest.TestSuite(map(checklist, names)).run(result)
    found = [text for _, text in (*result.failures, *result.errors)]
    assert not found, "\n".join(found)
    assert not result.skipped
    assert result.testsRun == len(names)


@pytest.mark.slow
def test_no_check_of_optax_is_left_out(checklist):
    names = unittest.TestLoader().getTestCaseNames(checklist)
    assert {name.rstrip("0123456789") for name in names} == set(CHECKS)
