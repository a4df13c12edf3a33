"""The modes of a search's job.

A configuration describes one search and variations of it, its arms (``config.arms``).
Each arm is run with the same seeds, and each run has a folder under ``searches``. A
search is a fixed sequence of compiled calls, seconds each. A checkpoint between two
calls is all that is needed to resume it.
"""

from wpl_jax.jobs import unread
from wpl_jax.jobs.job import Job, Mode
from wpl_jax.jobs.modes.derive import derive
from wpl_jax.jobs.modes.ensemble import ensemble
from wpl_jax.jobs.modes.export import export
from wpl_jax.jobs.modes.measure_latency import measure_latency
from wpl_jax.jobs.modes.measure_time import measure_time
from wpl_jax.jobs.modes.predict import predict
from wpl_jax.jobs.modes.rank import rank
from wpl_jax.jobs.modes.report import report
from wpl_jax.jobs.modes.retrain import evaluate_file, retrain_file
from wpl_jax.jobs.modes.run import run

JOB = Job(
    {
        "run": Mode(run, ("share", "log")),
        "derive": Mode(derive, ("share",)),
        "retrain": Mode(retrain_file, ("log",), unread=unread.by_file),
        "evaluate": Mode(evaluate_file, unread=unread.by_file),
        "rank": Mode(rank, ("share", "log")),
        "ensemble": Mode(ensemble, ("share",)),
        "report": Mode(report, ("join",)),
        "time": Mode(measure_time, ("budget",)),
        "latency": Mode(measure_latency),
        "export": Mode(export, ("output", "format"), needs_config=False),
        "predict": Mode(predict, ("input", "output"), needs_config=False),
    },
    unread=unread.by_arm,
)
