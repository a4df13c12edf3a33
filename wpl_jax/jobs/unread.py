"""Settings that a search does not read, for those that the command line sets.

What is chosen by a name has settings of its own, and those of what is not chosen are
read by nobody. Each part tells of its own settings.
"""

from ml_collections import ConfigDict

from wpl_jax.engine.optimizers import OPTIMIZERS
from wpl_jax.engine.plan import SearchSettings
from wpl_jax.jobs import build
from wpl_jax.jobs.build import section_of
from wpl_jax.jobs.config_fields import get_field, leaves
from wpl_jax.jobs.expand import expand
from wpl_jax.jobs.retrain_config import config_for_task
from wpl_jax.protections import PENALTIES
from wpl_jax.spaces import SPACES
from wpl_jax.strategies import STRATEGIES
from wpl_jax.strategies.limits import LimitSettings
from wpl_jax.strategies.rewards import REWARDS
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
    found = {
        **build.unread(STRATEGIES, config, "strategy"),
        **build.unread(PENALTIES, config, "penalty"),
        **build.unread(REWARDS, config, "reward"),
        **build.unread(OPTIMIZERS, config, "optimizer"),
        **build.unread(OPTIMIZERS, config, "retrain.optimizer"),
        **build.unread(SPACES, config, "space"),
        **build.unread_choices(SearchSettings, config, "search"),
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
    limits = build.build(LimitSettings, config, "limits")
    if not limits.most:
        why = "config.limits has no limit"
        return dict.fromkeys(("limits.draws", "limits.weight"), why)
    if build.find_class(STRATEGIES, config, "strategy.name").differentiable:
        return {"limits.draws": "the strategy draws no children"}
    return {"limits.weight": "the strategy does not learn from gradients"}


def _of_task(config: ConfigDict) -> Unread:
    space = get_field(config, section_of(config, "space"))
    return build.unread(TASKS, config, "task", space=space)


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
    return found | build.unread(OPTIMIZERS, config, "retrain.optimizer")


def why(unread: Unread, field: str) -> str | None:
    """Why a field is not read; None if it is."""
    names = field.split(".")
    above = (".".join(names[:count]) for count in range(len(names), 0, -1))
    return next((unread[name] for name in above if name in unread), None)
