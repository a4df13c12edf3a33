"""What all tests share: eight CPU devices, asked for before JAX starts."""

import os

from helpers.tiny import QUICK_TO_COMPILE  # It does not import JAX.

os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        QUICK_TO_COMPILE,
        "--xla_force_host_platform_device_count=8",
    ]
)
