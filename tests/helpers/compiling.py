"""What a call compiles."""

import jax


def compilations(caplog, call):
    """Messages of JAX about the programs that a call compiles."""
    caplog.clear()
    with jax.log_compiles():
        call()
    return [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]
