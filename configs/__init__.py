"""Built-in configurations, one module each, with its ``get_config()``.

In a checkout they lie in ``configs/``; the package has them as ``wpl_jax.configs``.
"""
