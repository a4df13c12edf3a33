"""What all tests share: eight CPU devices, asked for before JAX starts."""

import fnmatch
import gc
import os

import pytest
from helpers.tiny import QUICK_TO_COMPILE  # It does not import JAX.

os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        QUICK_TO_COMPILE,
        "--xla_force_host_platform_device_count=8",
    ]
)

# Tracing makes many objects that live on. Python's collector looks at all of them too
# often: with these thresholds the tests take 7 % less time.
gc.set_threshold(100_000, 50, 100)


@pytest.fixture(scope="module", autouse=True)
def _few_programs_of_files():
    """Forgets compiled programs between files, before they are too many."""
    yield
    _forget_programs()


@pytest.fixture(autouse=True)
def _few_programs_of_slow_tests(request):
    """The same after each slow test, of which some compile thousands of functions."""
    yield
    if "slow" in request.keywords:
        _forget_programs()


def _forget_programs():
    from wpl_jax.devices.program_memory import forget_programs

    forget_programs()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks as slow what ``slow_except`` does not name: most cases of a costly test.

    Each pattern is one of the ids of parameters, with ``*`` for any text.
    """
    for item in items:
        for mark in item.iter_markers("slow_except"):
            if not any(fnmatch.fnmatchcase(item.callspec.id, p) for p in mark.args):
                item.add_marker("slow")
