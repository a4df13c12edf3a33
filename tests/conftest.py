"""What all tests share: eight CPU devices, asked for before JAX starts."""

import itertools
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

_FILES_AT_ONCE = 20
_files = itertools.count(1)


@pytest.fixture(scope="module", autouse=True)
def _few_programs():
    """Forgets compiled programs after so many files.

    Each holds some of the memory mappings that a process may have (65,530), and XLA
    ends the process when there are no more.
    """
    import jax

    yield
    if next(_files) % _FILES_AT_ONCE == 0:
        jax.clear_caches()
