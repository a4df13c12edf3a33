"""Settings that a search does not read, for those that the command line sets.

What is chosen by a name has settings of its own, and those of what is not chosen are
read by nobody. Each part tells of its own settings.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from wpl_jax.common.registry import settings_name
from wpl_jax.engine.optimizers import OPTIMIZERS
from wpl_jax.engine.plan import SearchSettings
from wpl_jax.jobs.build import (
    build,
    find_class,
    known_parts,
    part_fields,
    section_of,
)
from wpl_jax.jobs.config_fields import get_field, join, leaves
from wpl_jax.jobs.expand import CHOSEN, expand
from wpl_jax.jobs.retrain_config import config_for_task
from wpl_jax.strategies import STRATEGIES
from wpl_jax.strategies.limits import LimitSettings
from wpl_jax.tasks import TASKS

# Of dotted names of fields, or of those below which all fields are meant, the reasons.
Unread = dict[str, str]

# Read from the configuration itself, never from that of an arm.
_OF_RUN = ("arms", "ensemble", "job", "main_arm", "num_seeds", "ranking", "seed")


def by_arm(config: ConfigDict, mode: str) -> dict[str, Unread]:
    """What no search of an arm reads, by the arms' names.

    Args:
      config: The configuration of the searches.
      mode: What is to be done with them.

    Raises:
      ConfigError: If a name in it is not known.
    """
    del mode
    found = {}
    for run in expand(config):
        if run.arm not in found:
            own = dict.fromkeys(leaves(config.arms[run.arm]), f"{run.arm} sets it")
            common = of_search(run.config)
            if run.arm != config.main_arm:
                common["retrain.baselines"] = "they belong to config.main_arm"
            of_arm = common | dict.fromkeys(_OF_RUN, "an arm cannot change it")
            others = [arm for arm in config.arms if arm != run.arm]
            found[run.arm] = {
                **common,
                **own,
                **{f"arms.{arm}": f"it changes {arm}" for arm in others},
                **{f"arms.{run.arm}.{name}": why for name, why in of_arm.items()},
            }
    return found


def by_file(config: ConfigDict, mode: str) -> dict[str, Unread]:
    """What a mode that trains one architecture does not read; it has no arms."""
    return {"": of_file(config, mode)}


def of_search(config: ConfigDict) -> Unread:
    """What is read neither by the search of an arm nor by its retraining."""
    found: Unread = {}
    for path, section in CHOSEN.items():
        if path != "task":  # The retraining has another one, which may read more.
            found |= of_part(section.known, config, path)
    found |= {
        **of_choices(SearchSettings, config, "search"),
        **_of_limits(config),
        "retrain.architecture": "it is for --mode=retrain and --mode=evaluate",
    }
    in_search, in_retraining = _of_task(config), _of_task(config_for_task(config))
    own = {f"task.{field}" for field in leaves(config.retrain.task)}
    for field, why in in_search.items():
        if field in own or field in in_retraining:
            found[field] = why
    for field in own & in_retraining.keys():
        found[f"retrain.{field}"] = f"for the retraining {in_retraining[field]}"
    return found


def _of_limits(config: ConfigDict) -> Unread:
    if "limits" not in config:
        return {}
    limits = build(LimitSettings, config, "limits")
    if not limits.most:
        why = "config.limits has no limit"
        return dict.fromkeys(("limits.draws", "limits.weight"), why)
    if find_class(STRATEGIES, config, "strategy.name").differentiable:
        return {"limits.draws": "the strategy draws no children"}
    return {"limits.weight": "the strategy does not learn from gradients"}


def _of_task(config: ConfigDict) -> Unread:
    space = get_field(config, section_of(config, "space"))
    return of_part(TASKS, config, "task", space=space)


def of_file(config: ConfigDict, mode: str) -> Unread:
    """What is not read by a mode that trains one architecture."""
    read = {"job", "seed", "space", "task", "retrain"}
    found = dict.fromkeys({*config} - read, f"--mode={mode} does not read it")
    found["retrain.baselines"] = f"--mode={mode} does not read it"
    for part in ("space", "task"):
        for field in leaves(get_field(config, f"retrain.{part}")):
            found[f"{part}.{field}"] = f"config.retrain.{part}.{field} replaces it"
    for field, reason in _of_task(config_for_task(config)).items():
        found |= dict.fromkeys((field, f"retrain.{field}"), reason)
    return found | of_part(OPTIMIZERS, config, "retrain.optimizer")


def of_part(
    known: Mapping[str, Any], config: ConfigDict, path: str, **others: Any
) -> Unread:
    """Settings under a path that the chosen part does not read.

    Args:
      known: Classes of parts by name. One that does not always read all of its fields
        has a static method ``unread(settings)``, of a mapping, which returns reasons by
        the fields' names.
      config: The configuration.
      path: As of :func:`wpl_jax.jobs.build.build_chosen`.
      **others: More of what the part's ``unread`` is to know.
    """
    return _of_chosen(known, config, f"{path}.name", path, others)


def of_choices(cls: Any, config: ConfigDict, path: str) -> Unread:
    """:func:`of_part` for the parts that the fields of a part choose by name.

    Args:
      cls: Dataclass of the part.
      config: The configuration.
      path: Dotted name of the section that holds the part's settings.
    """
    section = get_field(config, path)
    found: Unread = {}
    for name, field in part_fields(cls).items():
        if (known := known_parts(field)) and name in section:
            found |= _of_chosen(known, config, join(path, name), path, {})
    return found


def _of_chosen(known, config, field, path, others) -> Unread:
    cls, name = find_class(known, config, field), get_field(config, field)
    section = get_field(config, path)
    why = f"config.{field} is {name!r}"
    own = settings_name(name)
    sections = {settings_name(other) for other in known} - {own}
    found = {f"{path}.{other}": why for other in sections if other in section}
    below = section.get(own)
    if below is None:
        return found
    below_path = f"{path}.{own}"
    if hasattr(cls, "unread"):
        for one, because in cls.unread({**below, **others}).items():
            found[f"{below_path}.{one}"] = f"config.{below_path}.{because}"
    return found | of_choices(cls, config, below_path)


def why(unread: Unread, field: str) -> str | None:
    """Why a field is not read; None if it is."""
    names = field.split(".")
    above = (".".join(names[:count]) for count in range(len(names), 0, -1))
    return next((unread[name] for name in above if name in unread), None)
