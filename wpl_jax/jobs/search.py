"""The modes of a search's job.

A configuration describes one search and variations of it, its arms (``config.arms``).
Each arm is run with the same seeds, and each run has a folder under ``searches``. A
search is a fixed sequence of compiled calls, seconds each. A checkpoint between two
calls is all that is needed to resume it.
"""

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

MODES = {
    "run": run,
    "derive": derive,
    "retrain": retrain_file,
    "evaluate": evaluate_file,
    "rank": rank,
    "ensemble": ensemble,
    "report": report,
    "time": measure_time,
    "latency": measure_latency,
    "predict": predict,
    "export": export,
}
