"""One module a configuration, each with its ``get_config()``."""
