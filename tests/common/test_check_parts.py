"""A part says at once that something else was given in the place of another part."""

import dataclasses
import types
import typing

import pytest
from helpers.tabular import SEARCH, SPACE, Sines
from ml_collections import ConfigDict

from wpl_jax.common.settings import SettingError, check_parts
from wpl_jax.engine.optimizers import OPTIMIZERS, SCHEDULES, Cosine, Exponential, Sgd
from wpl_jax.engine.plan import SearchSettings
from wpl_jax.engine.updates import UPDATES
from wpl_jax.errors import ConfigError
from wpl_jax.evaluation.rank_disorder import Ranking
from wpl_jax.evaluation.retraining import Retraining
from wpl_jax.evaluation.shared_scores import SharedScores
from wpl_jax.evaluation.truth import TRUTHS
from wpl_jax.jobs.build import build_chosen
from wpl_jax.protections import PENALTIES
from wpl_jax.protections.estimators import ESTIMATORS
from wpl_jax.protections.quadratic import WeightPlasticity
from wpl_jax.search import Search
from wpl_jax.strategies import STRATEGIES
from wpl_jax.strategies.architecture_optimizers import ARCHITECTURE_OPTIMIZERS
from wpl_jax.strategies.rewards import REWARDS, Limited
from wpl_jax.strategies.samplers import SAMPLERS
from wpl_jax.tasks import TASKS
from wpl_jax.two_models.arms import ModelA, ModelB, Settings

REGISTRIES = (
    *(STRATEGIES, PENALTIES, OPTIMIZERS, REWARDS, TASKS, SCHEDULES, UPDATES),
    *(SAMPLERS, TRUTHS, ESTIMATORS, ARCHITECTURE_OPTIMIZERS),
)
PARTS = {registry[name] for registry in REGISTRIES for name in registry}
PARTS |= {Search, Retraining, SharedScores, Ranking, SearchSettings}
PARTS |= {ModelA, ModelB, Settings}
# What fields without a default are given.
GIVEN = {name: getattr(SEARCH, name) for name in Search.__dataclass_fields__}
GIVEN |= {"space": SPACE, "task": Sines(SPACE), "patience": None, "epochs": 1}
GIVEN |= {"learning_rate": 0.1, "target": 1.0, "limit": 1.0, "steps": 4}
GIVEN |= {"model_a": ModelA(steps=4, optimizer=Sgd(0.1))}
GIVEN |= {"model_b": ModelB(steps=4, optimizer=Sgd(0.1), eval_every=4)}
# Tasks are no subclasses of a protocol, and have no space before their data is known.
OTHERWISE = ("task", "space")


def given(cls):
    fields = dataclasses.fields(cls)
    missing = dataclasses.MISSING
    needed = [f for f in fields if f.default is f.default_factory is missing]
    return {field.name: GIVEN.get(field.name, 1) for field in needed}


def fields_of_parts():
    """The fields whose type is a class of this library, by the class that has them."""
    for cls in sorted(PARTS, key=lambda cls: cls.__name__):
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            hint = hints[field.name]
            every = hint.__args__ if isinstance(hint, types.UnionType) else (hint,)
            modules = [getattr(one, "__module__", "") for one in every]
            of_library = (module.startswith("wpl_jax.") for module in modules)
            is_strategy = cls in [STRATEGIES[name] for name in STRATEGIES]
            if any(of_library) and (is_strategy or field.name not in OTHERWISE):
                yield pytest.param(cls, field.name, id=f"{cls.__name__}.{field.name}")


FIELDS = list(fields_of_parts())


@pytest.mark.parametrize(("cls", "name"), FIELDS)
def test_each_part_refuses_what_is_no_part(cls, name):
    for wrong in (3, "cosine", object, SPACE if name != "space" else Sines):
        with pytest.raises(SettingError) as caught:
            cls(**given(cls) | {name: wrong})
        assert caught.value.name == name
        assert str(caught.value).startswith(f"{cls.__name__}.{name} is ")
        assert "expected an instance of a class that inherits from" in str(caught.value)


def test_the_list_has_the_parts_of_each_kind():
    ids = {param.id for param in FIELDS}
    assert ids >= {"LanguageModel.dropout", "Sgd.schedule", "Ranking.truth"}
    assert ids >= {"WeightPlasticity.estimator", "RandomSearch.candidates"}
    assert ids >= {"Nao.networks", "Enas.limits", "Enas.space", "Limited.costs"}


def test_the_message_names_the_class_the_field_and_both_kinds():
    with pytest.raises(SettingError) as caught:
        Sgd(0.1, schedule="cosine")
    assert str(caught.value) == (
        "Sgd.schedule is 'cosine', expected an instance of a class that inherits from "
        "wpl_jax.engine.optimizers.Schedule."
    )
    with pytest.raises(SettingError, match=r"costs\.Costs, or None\.$"):
        Limited(1.0, costs=3)


def test_a_configuration_names_its_field():
    sgd = {"learning_rate": 0.1, "schedule": "wpl_jax.strategies.samplers:Fair"}
    config = ConfigDict({"optimizer": {"name": "sgd", "sgd": sgd}})
    with pytest.raises(ConfigError, match=r"config\.optimizer\.sgd\.schedule is .*Sch"):
        build_chosen(OPTIMIZERS, config, "optimizer")


def test_a_part_with_all_methods_need_not_inherit():
    class Estimates:
        def estimate(self, trained, task, data, key, axis):
            return trained.params

    class Falls:  # Schedule has of_children, rate and rate_of.
        def rate(self, highest, epoch):
            return highest

    assert WeightPlasticity(estimator=Estimates()).estimator
    with pytest.raises(SettingError, match=r"estimator is <class .*Estimates'>, expec"):
        WeightPlasticity(estimator=Estimates)
    with pytest.raises(SettingError, match=r"schedule is .*Falls.*, expected an inst"):
        Sgd(0.1, schedule=Falls())


def test_own_classes_may_have_fields_of_any_type():
    """Names of a function, which nobody can look up, are left alone."""

    class Own(Cosine):
        pass

    @dataclasses.dataclass(frozen=True)
    class Mine(Sgd):
        other: "Own | None" = None

    assert Mine(0.1, schedule=Own(), other=3).other == 3

    @dataclasses.dataclass(frozen=True)
    class Several:
        schedule: Cosine | Exponential
        either: Cosine | int = 3
        names: tuple[str, ...] = ()

        def __post_init__(self):
            check_parts(self)

    assert Several(Own(), Own(), 3).names == 3
    with pytest.raises(SettingError, match=r"Cosine or wpl_jax.*Exponential\.$"):
        Several(3)
