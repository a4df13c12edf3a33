"""What all tests share: eight CPU devices, asked for before JAX starts.

Programs are compiled without LLVM's optimizations: that is most of the tests' time,
and how fast they run does not matter here.
"""

import os

import pytest

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    + " --xla_llvm_disable_expensive_passes=true"
)


@pytest.fixture(autouse=True, scope="session")
def one_device():
    """Runs use one of them, unless a test asks for more."""
    from wpl_jax import parallel  # Not before JAX is asked for eight.

    parallel.use(1)
    yield
    parallel.use(None)


@pytest.fixture
def all_devices():
    """As many as divide the work; to be asked for before ``monkeypatch``."""
    from wpl_jax import parallel

    parallel.use(None)
    yield
    parallel.use(1)
