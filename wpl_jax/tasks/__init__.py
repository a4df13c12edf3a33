"""Tasks: one module each, one line each in ``TASKS``."""

from wpl_jax.common.registry import Registry
from wpl_jax.tasks.data_cache import DataCache as DataCache
from wpl_jax.tasks.task import Data as Data
from wpl_jax.tasks.task import Evaluation as Evaluation
from wpl_jax.tasks.task import Task as Task
from wpl_jax.tasks.task import check_task as check_task
from wpl_jax.tasks.task import memory_advice as memory_advice
from wpl_jax.tasks.task import ranking as ranking
from wpl_jax.tasks.task import rows_setting as rows_setting

# By name: dataclasses with the methods of :class:`Task`, whose space is given.
TASKS = Registry(
    "wpl_jax.tasks",
    {
        "image_classification": (
            "wpl_jax.tasks.image_classification:ImageClassification"
        ),
        "language_model": "wpl_jax.tasks.language_model:LanguageModel",
    },
)
