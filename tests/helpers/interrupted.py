"""A request to stop that comes after some calls."""

from wpl_jax.runs.stopping import StopRequest


class Interrupted(StopRequest):
    """Is told to stop after some calls."""

    left = 0

    def asked(self):
        type(self).left -= 1
        return type(self).left < 0

    def exit_code(self):
        return 143
