"""Errors that are the user's to mend, shown without a traceback."""


class UserError(ValueError):
    """A wrong flag, configuration, file or checkpoint.

    The message says what was found, what was expected and how to mend it.
    """


class ConfigError(UserError):
    """A configuration that cannot be run."""
