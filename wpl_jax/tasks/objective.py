"""What a task of one's own minimises and reports: functions of outputs and targets."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wpl_jax.common.counted import counted
from wpl_jax.errors import UserError
from wpl_jax.tasks.guessing import STANDARD_ERRORS, Guess
from wpl_jax.tasks.kinds import KINDS, Kind, PerExample

_FITTED = 10_000  # examples that a constant guess is fitted to
_STEPS = 50  # of L-BFGS


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss of a task, its error and its metrics.

    Attributes:
      loss: Of each example; None for that of the kind.
      kind: ``"classification"``, ``"regression"`` or None.
      metrics: Pairs of a name and a function like the loss.
      error: The name of the metric that reports print; None for the kind's error, or
        the loss.
      sample_targets: Draws the targets of one example, ``sample_targets(key,
        outputs)``; None for the kind's.
      reward: What a strategy learns from, ``reward(loss, error)``; None for the kind's.
      loss_name: What reports call the loss, such as its unit; None for that of the
        kind's loss, or "loss".
    """

    loss: PerExample | None = None
    kind: str | None = None
    metrics: tuple[tuple[str, PerExample], ...] = ()
    error: str | None = None
    sample_targets: Callable[[jax.Array, jax.Array], Any] | None = None
    reward: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    loss_name: str | None = None

    def __post_init__(self) -> None:
        """Checks what is known without outputs."""
        if not isinstance(self.kind, str | None) or self.kind not in KINDS:
            known = sorted(filter(None, KINDS))
            raise UserError(f"kind is {self.kind!r}, expected one of {known}, or None.")
        if self.loss is None and self.of_kind.loss is None:
            raise UserError(
                "A task needs loss=, a function of outputs and targets, or "
                'kind="classification" or "regression", which have losses of their own.'
            )
        functions = {
            "loss": self.loss,
            "sample_targets": self.sample_targets,
            "reward": self.reward,
            **{f"metrics[{name!r}]": f for name, f in self.metrics},
        }
        for name, function in functions.items():
            if function is not None and not callable(function):
                raise UserError(f"{name} is {function!r}, expected a function.")
        if self.loss_name is not None and not isinstance(self.loss_name, str):
            raise UserError(
                f"loss_name is {self.loss_name!r}, expected text, such as its unit."
            )
        if self.error is not None and self.error not in dict(self.metrics):
            raise UserError(
                f"error is {self.error!r}, expected the name of one of the metrics, "
                f"{sorted(dict(self.metrics))}."
            )

    @property
    def of_kind(self) -> Kind:
        """The kind."""
        return KINDS[self.kind]

    @property
    def error_name(self) -> str:
        """What the error is called."""
        return self.error or self.of_kind.error_name

    @property
    def name_of_loss(self) -> str:
        """What the loss is called; "loss" if nothing is known about it."""
        of_kind = self.of_kind if self.loss is None else KINDS[None]
        return self.loss_name or of_kind.loss_name

    @property
    def can_sample(self) -> bool:
        """Whether targets can be drawn from the model."""
        return (self.sample_targets or self.of_kind.sample) is not None

    def losses(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """The loss of each example, ``float32[batch]``."""
        function: Any = self.loss or self.of_kind.loss
        return function(outputs, targets).astype(jnp.float32)

    def errors(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """What each example adds to the error, ``float32[batch]``."""
        function = dict(self.metrics).get(self.error or "") or self.of_kind.error
        if function is None:
            return self.losses(outputs, targets)
        return function(outputs, targets).astype(jnp.float32)

    def to_error(self, mean: Any) -> Any:
        """The error that people read, from its mean over examples."""
        return mean if self.error else self.of_kind.to_error(mean)

    def measures(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """The metrics of each example, ``float32[metrics, batch]``."""
        found = [f(outputs, targets).astype(jnp.float32) for _, f in self.metrics]
        return jnp.stack(found) if found else jnp.zeros((0, len(targets)))

    def sample(self, key: jax.Array, outputs: jax.Array) -> Any:
        """Targets of one example, drawn from the model, if :attr:`can_sample`."""
        function: Any = self.sample_targets or self.of_kind.sample
        return function(key, outputs)

    def reward_of(self, loss: jax.Array, error: jax.Array) -> jax.Array:
        """What a strategy learns from."""
        return (self.reward or self.of_kind.reward)(loss, error)

    def check(self, outputs: Any, targets: Any) -> None:
        """Checks what the functions return for a batch; nothing is computed.

        Args:
          outputs: Shape of what the network returns.
          targets: Shape of the targets.

        Raises:
          UserError: If a function does not return one number for each example.
        """
        count = targets.shape[0]
        if not hasattr(outputs, "shape") or outputs.shape[:1] != (count,):
            raise UserError(
                f"The network returns {_form(outputs)} for "
                f"{counted(count, 'example')}, expected "
                f"an array with a leading axis of {count}."
            )
        self.of_kind.check(outputs, targets)
        given = {"loss": self.loss or self.of_kind.loss}
        given |= {f"metrics[{name!r}]": f for name, f in self.metrics}
        for name, function in given.items():
            _check_per_example(name, function, outputs, targets)
        if self.can_sample:
            self._check_samples(outputs, targets)
        number = jax.ShapeDtypeStruct((), jnp.float32)
        with _failing("reward", "a loss and an error"):
            reward = jax.eval_shape(self.reward_of, number, number)
        if getattr(reward, "shape", None) != ():
            raise UserError(
                f"reward returns {_form(reward)} for a loss and an error, expected "
                "float32[], a number."
            )

    def _check_samples(self, outputs, targets):
        one = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in (outputs, targets)]
        key = jax.eval_shape(lambda: jax.random.key(0))
        with _failing("sample_targets", f"a key and outputs {_form(one[0])}"):
            drawn = jax.eval_shape(self.sample, key, one[0])
        if getattr(drawn, "shape", None) != one[1].shape:
            raise UserError(
                f"sample_targets returns {_form(drawn)} for one example, expected the "
                f"shape of its targets, {one[1].shape}."
            )

    def guess(self, outputs: Any, train: np.ndarray, valid: np.ndarray) -> Guess:
        """What the best constant output is worth on the validation data.

        Args:
          outputs: Shape of what the network returns for one example.
          train: Targets of the training examples, to which the constant is fitted.
          valid: Targets of the validation examples.

        Raises:
          UserError: If the error is not finite for some of these targets.
        """
        shape = tuple(outputs.shape)
        constant = self.of_kind.constant(train, shape)
        if constant is None:
            constant = self._fit(shape, train[:_FITTED])
        measured = _programs(self).measured(jnp.asarray(constant, jnp.float32), valid)
        losses, errors = (np.asarray(x, np.float64) for x in measured)
        self._check_errors(losses, errors, valid)
        margin = STANDARD_ERRORS * float(np.std(errors)) / np.sqrt(len(errors))
        mean = float(np.mean(errors))
        least = max(mean - margin, 0.0) if mean >= 0 else mean - margin
        return Guess(
            float(np.mean(losses)),
            float(self.to_error(mean)),
            float(self.to_error(least)),
        )

    def _check_errors(self, losses, errors, targets):
        """Checks that the error is finite whatever the targets are."""
        wrong = ~np.isfinite(errors)
        if np.isfinite(losses).all() and wrong.any() and not wrong.all():
            first = int(np.argmax(wrong))
            raise UserError(
                f"{self.error_name} of a constant output is {errors[first]} for "
                f"{wrong.sum()} of {len(wrong)} validation examples, such as one with "
                f"the target {targets[first].tolist()}, and finite for others. "
                "Architectures are compared by it: give an error that is finite for "
                "all targets."
            )

    def _fit(self, shape: tuple[int, ...], targets: np.ndarray) -> Any:
        """The constant of the lowest loss that L-BFGS finds."""
        programs = _programs(self)
        # A loss need not be finite at zero: outputs may be deviations, or rates.
        starts = [jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32)]
        if targets.shape[1:] == shape:
            starts.insert(0, jnp.asarray(targets.mean(0), jnp.float32))
        losses = [float(programs.mean_loss(start, targets)) for start in starts]
        start = starts[int(np.argmax(np.isfinite(losses)))]
        return programs.fitted(start, targets)

    def __repr__(self) -> str:
        """The names of the functions, which are the same in each process."""
        named = {"loss": self.loss, "sample_targets": self.sample_targets}
        named |= {"reward": self.reward, **dict(self.metrics)}
        each = [f"{name}={_name(f)}" for name, f in named.items() if f is not None]
        return f"Objective({', '.join([f'kind={self.kind!r}', *each])})"


class _Programs(NamedTuple):
    """Compiled functions of a constant output and the targets of some examples."""

    measured: Callable[[Any, Any], tuple[jax.Array, jax.Array]]  # losses and errors
    mean_loss: Callable[[Any, Any], jax.Array]
    fitted: Callable[[Any, Any], jax.Array]  # the best constant found from a first one


@functools.lru_cache(maxsize=4)  # Each keeps alive what its functions have captured.
def _programs(objective: Objective) -> _Programs:
    """Those of an objective; equal ones share them."""

    def repeated(constant, targets):
        return jnp.broadcast_to(constant, (len(targets), *constant.shape))

    def measured(constant, targets):
        outputs = repeated(constant, targets)
        return objective.losses(outputs, targets), objective.errors(outputs, targets)

    def mean_loss(constant, targets):
        return jnp.mean(objective.losses(repeated(constant, targets), targets))

    def fitted(start, targets):
        loss = functools.partial(mean_loss, targets=targets)
        optimizer = optax.lbfgs()
        value_and_gradient = optax.value_and_grad_from_state(loss)

        def step(carry, _):
            constant, state, lowest, best = carry
            value, gradient = value_and_gradient(constant, state=state)
            is_best = value < lowest
            lowest = jnp.where(is_best, value, lowest)
            best = jnp.where(is_best, constant, best)
            updates, state = optimizer.update(
                gradient, state, constant, value=value, grad=gradient, value_fn=loss
            )
            return (optax.apply_updates(constant, updates), state, lowest, best), None

        carry = start, optimizer.init(start), jnp.float32(jnp.inf), start
        return jax.lax.scan(step, carry, None, _STEPS)[0][3]

    return _Programs(jax.jit(measured), jax.jit(mean_loss), jax.jit(fitted))


def _check_per_example(name: str, function: Any, outputs: Any, targets: Any) -> None:
    count = targets.shape[0]
    with _failing(name, f"outputs {_form(outputs)} and targets {_form(targets)}"):
        found = jax.eval_shape(function, outputs, targets)
    if getattr(found, "shape", None) == (count,) and jnp.issubdtype(
        found.dtype, jnp.floating
    ):
        return
    advice = "It returns one number for each example"
    if getattr(found, "shape", None) == ():
        advice = "Leave out the mean over the examples: the penalty needs each"
    elif getattr(found, "shape", (0,))[:1] == (count,):
        advice = "Take the sum or the mean over the axes behind the first"
    raise UserError(
        f"{name} returns {_form(found)} for outputs {_form(outputs)} and targets "
        f"{_form(targets)}, expected float32[{count}], a number for each example. "
        f"{advice}."
    )


@contextlib.contextmanager
def _failing(name: str, arguments: str) -> Iterator[None]:
    """Names a function of the user that does not take its arguments.

    Raises:
      UserError: In place of a TypeError or ValueError.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} fails for {arguments}: {error}") from error


def _form(x: Any) -> str:
    if hasattr(x, "dtype"):
        return f"{x.dtype}[{', '.join(map(str, x.shape))}]"
    return type(x).__name__


def _name(function: Any) -> str:
    module = getattr(function, "__module__", None)
    return f"{module}.{getattr(function, '__qualname__', type(function).__name__)}"
