"""What all tests share: eight CPU devices, asked for before JAX starts."""

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


@pytest.fixture(autouse=True, scope="session")
def one_device():
    """Runs use one of them, unless a test asks for more."""
    from wpl_jax.devices import parallel  # Not before JAX is asked for eight.

    parallel.use(1)
    yield
    parallel.use(None)


@pytest.fixture
def all_devices():
    """As many as divide the work; to be asked for before ``monkeypatch``."""
    from wpl_jax.devices import parallel

    parallel.use(None)
    yield
    parallel.use(1)
