"""A trace of some calls of a job, for TensorBoard or Perfetto."""

from pathlib import Path

import jax

_asked: int | None = None  # calls to trace, of the first job that gets there
_WARM = 20  # calls after which programs are taken to be compiled, without a landmark


def ask(calls: int | None) -> None:
    """Has the next job trace so many of its calls; None for none."""
    global _asked
    _asked = calls


def remind() -> None:
    """Says so if what was asked for has not come, after all jobs."""
    if _asked is not None:
        print(
            f"No trace was written: no job made calls after its first {_WARM}, or its "
            "first epoch. A longer one does.",
            flush=True,
        )


class Tracer:
    """Traces calls of a job, once its programs are compiled.

    Those are the ones after its first landmark, the end of an epoch, or after twenty
    calls.
    """

    def __init__(self, folder: Path):
        """What is traced goes to ``profile`` in the folder."""
        self._folder, self._made, self._warm = folder / "profile", 0, False
        self._left: int | None = None  # calls still to trace, None before and after

    def begin(self) -> None:
        """Before a call."""
        global _asked
        if _asked is not None and self._warm:
            self._left, _asked = _asked, None
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=False)

    def end(self, landmark: bool) -> None:
        """After a call."""
        self._made += 1
        self._warm |= landmark or self._made >= _WARM
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                self.close()

    def close(self) -> None:
        """Writes the trace, if one has begun."""
        if self._left is not None:
            self._left = None
            jax.profiler.stop_trace()
            print(
                f"A trace is in {self._folder}: tensorboard --logdir={self._folder}, "
                "with tensorboard-plugin-profile.",
                flush=True,
            )
