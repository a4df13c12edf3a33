"""The settings of a two-model run, and the arms that they ask for."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from wpl_jax.common.settings import (
    MOST_OF_A_CALL,
    MOST_SEED,
    check_choice,
    check_choices,
    check_int,
    check_number,
    check_numbers,
    check_parts,
    chosen,
    of_part,
    require,
)
from wpl_jax.engine.optimizers import OPTIMIZERS, Optimizer
from wpl_jax.protections.quadratic import STEPS
from wpl_jax.two_models.experiment import ACTIVATIONS
from wpl_jax.two_models.penalties import PENALTIES, protection_of
from wpl_jax.two_models.rules import Rule

_MOST_LAYERS = 100  # of a model: tracing takes time in proportion
CONVERGED = 1.0  # An accuracy at which no training is stopped early.


class Arm(NamedTuple):
    """One training of B."""

    stop: float  # accuracy at which A was stopped, or CONVERGED
    shared: int  # layers of A that are shared
    penalty: str  # a name in PENALTIES
    step: str  # a name in STEPS
    normalize: str  # "tree", "tensor" or "none", as of a quadratic protection
    alpha: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelA:
    """How A is trained.

    Attributes:
      steps: How many.
      optimizer: How each changes the weights; its schedule counts steps, not epochs.
    """

    steps: int
    optimizer: Optimizer = chosen(OPTIMIZERS)

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_parts(self)
        check_int(self, "steps", 1, "in one call", most=MOST_OF_A_CALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelB(ModelA):
    """How B is trained.

    Attributes:
      steps: How many.
      optimizer: As of :class:`ModelA`.
      eval_every: Steps between two evaluations of both models; divides ``steps``.
    """

    eval_every: int

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        check_int(self, "eval_every", 1)
        valid = self.steps % self.eval_every == 0
        require(self, "eval_every", valid, f"a divisor of the {self.steps} steps")


@dataclasses.dataclass(frozen=True)
class Study:
    """A grid: the product of its lists, and in each setting two arms to compare with.

    Those are no penalty, and frozen shared layers.

    Attributes:
      penalties: Names in ``PENALTIES``.
      steps: Names in ``STEPS``.
      normalize: Scale of the Fisher, ``"tree"``, ``"tensor"`` or ``"none"``.
      stops: Accuracies at which A is stopped, or ``CONVERGED``.
      shared: Numbers of layers that are shared.
      alphas: Strengths of the penalty.
    """

    alphas: tuple[float, ...]
    penalties: tuple[str, ...] = ("wpl",)
    steps: tuple[str, ...] = ("proximal",)
    normalize: str = "tree"
    stops: tuple[float, ...] = (CONVERGED,)
    shared: tuple[int, ...] = (3,)

    def __post_init__(self) -> None:
        """Checks the settings."""
        swept = [name for name, penalty in PENALTIES.items() if penalty.is_swept]
        check_choices(self, "penalties", swept)
        check_choices(self, "steps", STEPS)
        for penalty in self.penalties:
            protection_of(penalty, self.normalize)
        check_numbers(self, "alphas", above=0)
        require(self, "alphas", len(self.alphas) > 0, "at least one number")

    def arms(self) -> Iterator[Arm]:
        """What it runs."""
        for stop, shared in itertools.product(self.stops, self.shared):
            for name, penalty in PENALTIES.items():
                if penalty.alpha is not None:
                    yield Arm(stop, shared, name, "proximal", "none", penalty.alpha)
            for name, step, alpha in itertools.product(
                self.penalties, self.steps, self.alphas
            ):
                yield Arm(stop, shared, name, step, self.normalize, alpha)


@dataclasses.dataclass(frozen=True)
class Main:
    """What the report's tables and curves are of: a combination that a study runs.

    Attributes:
      penalty: As of :class:`Arm`.
      step: As of :class:`Arm`.
      normalize: As of :class:`Arm`.
      stop: As of :class:`Arm`.
      shared: As of :class:`Arm`.
      rule: The rule under which alpha is chosen for the curves.
    """

    penalty: str
    step: str
    normalize: str
    stop: float
    shared: int
    rule: str


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a run.

    Attributes:
      num_seeds: How often everything is repeated.
      hidden: Units of a hidden layer; of many A hardly forgets.
      layers_a: Of A.
      layers_b: Of B, at least as many.
      batch_size: Images of a batch.
      model_a: How A is trained.
      model_b: How B is trained.
      fisher_examples: Validation images that the Fisher is estimated on.
      eval_examples: Validation images of the curves.
      stops: Accuracies that a loose A is stopped at.
      main: What the report shows most of.
      studies: Grids of arms, by name.
      rules: Ways of choosing alpha, by name.
      seed: The first.
      activation: A name in ``ACTIVATIONS``.
      checkpoint_seconds: Between two checkpoints.
    """

    num_seeds: int
    hidden: int
    layers_a: int
    layers_b: int
    batch_size: int
    model_a: ModelA
    model_b: ModelB
    fisher_examples: int
    eval_examples: int
    stops: tuple[float, ...]
    main: Main
    studies: Mapping[str, Study]
    rules: Mapping[str, Rule]
    seed: int = 0
    activation: str = "relu"
    checkpoint_seconds: float = 10.0

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_parts(self)
        for name in ("num_seeds", "hidden", "batch_size", "fisher_examples"):
            check_int(self, name, 1)
        check_int(self, "seed", 0, most=MOST_SEED)
        check_choice(self, "activation", ACTIVATIONS)
        check_int(self, "layers_a", 2, most=_MOST_LAYERS)
        why = "layers_a, which it shares"
        check_int(self, "layers_b", self.layers_a, why, most=_MOST_LAYERS)
        check_int(self, "eval_examples", 1)
        check_numbers(self, "stops", above=0, below=1)
        check_number(self, "checkpoint_seconds", least=0)
        for name, study in self.studies.items():
            with of_part(f"studies.{name}"):
                check_choices(study, "stops", {*self.stops, CONVERGED})
                check_choices(study, "shared", range(1, self.layers_a + 1))
        with of_part("main"):
            check_choice(self.main, "rule", self.rules)
        main = dataclasses.asdict(self.main)
        del main["rule"]
        valid = any({**arm._asdict(), **main} == arm._asdict() for arm in self.arms())
        require(self, "main", valid, "a combination that one of the studies runs")

    def arms(self) -> list[Arm]:
        """The arms in the order in which they run, without repetitions."""
        found: dict[Arm, None] = {}
        for study in self.studies.values():
            found.update(dict.fromkeys(study.arms()))
        return list(found)
