"""Search spaces of networks that call :func:`wpl_jax.choice`."""
