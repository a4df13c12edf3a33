"""The state of a search between two calls, the record of an epoch, and PRNG keys."""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from wpl_jax.engine.forgetting import Forgetting
from wpl_jax.engine.trainer import Skipped
from wpl_jax.strategies.strategy import Candidates
from wpl_jax.supernet import ALL, Architecture
from wpl_jax.tasks import Evaluation


class Shared(NamedTuple):
    """The parameters of all children and their optimizer state; a child is rows."""

    params: Any  # the shared parameters
    opt_state: optax.OptState  # with the penalty's anchor and Fisher
    memory: Any  # of the protection: the running average of the Fisher


def rows_of_state(transform: Any, opt_state: Any, rows: Any) -> Any:
    """Rows of an optimizer state, a tree like it: ``ALL`` of what is no parameter's.

    Args:
      transform: The optimizer.
      opt_state: Its state for all shared parameters.
      rows: The child's rows of these; or any tree like the parameters, whose leaves
        then stand at the parameters' places.
    """
    return optax.tree.map_params(
        transform,
        lambda _, of_parameter: of_parameter,
        opt_state,
        rows,
        transform_non_params=lambda _: ALL,
    )


class State(NamedTuple):
    """The complete state of a search between two calls."""

    key: jax.Array  # PRNG key of the search; see `key_for`
    shared: Shared
    strategy: Any  # state of the strategy
    carry: Any  # state that the last batch passes to the next
    rate_scale: jax.Array  # float32[]; halved when an epoch is restarted
    skipped: Skipped
    epoch: "Epoch"
    selection: "Selection"
    averaged: Any = ()  # mean of the parameters at the ends of epochs, if there is one


class Epoch(NamedTuple):
    """The children and measurements of an epoch so far."""

    architectures: Architecture  # of arrays [children, ...]
    train_loss: jax.Array  # float32[children]; mean over the batches trained on
    err1: Evaluation  # of float32[children]; after its own training
    err2: Evaluation  # of float32[children]; at the end of the epoch
    # Of the architectures to which mixtures are discretized; None without mixtures.
    derived_err1: Evaluation | None
    derived_err2: Evaluation | None
    reward: jax.Array  # float32[]; mean over the strategy's steps
    entropy: jax.Array  # float32[]; the same of the entropy of its proposals


class Best(NamedTuple):
    """The best candidate, or candidates with a leading axis, on the host."""

    choice: np.ndarray  # int32[decisions]
    loss: Any  # float; with the shared weights
    error: Any  # float
    allowed: Any  # bool; by the reward and the limits


class Selection(NamedTuple):
    """The candidates for the best architecture and their evaluations."""

    architectures: Architecture  # of arrays [proposed, ...]
    screened: Evaluation  # of float32[proposed]; on a few validation batches
    kept: jax.Array  # int32[keep]; numbers of the best candidates, best first
    judged: Evaluation  # of float32[keep]; on more validation data
    allowed: jax.Array  # bool[proposed]; by the reward and the limits

    def ranked(self, candidates: Candidates) -> Best:
        """The candidates that were kept, along a leading axis, the best first.

        Args:
          candidates: What they are ordered by.
        """
        one: Selection = jax.device_get(self)
        allowed = one.allowed[one.kept]
        order = np.asarray(candidates.order(one.judged, allowed))
        every = (one.architectures.choice[one.kept], *one.judged, allowed)
        return Best(*(np.asarray(each)[order] for each in every))

    def best(self, candidates: Candidates) -> Best:
        """The best of the candidates that were kept.

        Args:
          candidates: What they are ordered by.
        """
        choice, loss, error, allowed = (each[0] for each in self.ranked(candidates))
        return Best(choice, float(loss), float(error), bool(allowed))


class Measured(NamedTuple):
    """Measurements of one epoch."""

    loss: Forgetting  # err2 - err1 in nats
    error: Forgetting  # the same in the task's error
    derived_loss: Forgetting | None  # of the architectures derived from mixtures
    derived_error: Forgetting | None
    # Mean loss and error of these minus those of the mixtures, at the epoch's end.
    gap_loss: jax.Array | None  # float32[]
    gap_error: jax.Array | None  # float32[]
    err1: jax.Array  # float32[children]; nats
    err2: jax.Array  # float32[children]; nats
    child_error: jax.Array  # float32[]; mean error of the children, as err2
    train_loss: jax.Array  # float32[]
    child_reward: jax.Array  # float32[]; mean reward of the epoch's children, by err2
    reward: jax.Array  # float32[]; mean over the strategy's steps, nan without any
    entropy: jax.Array  # float32[]; nats, the same
    best: jax.Array  # int32[decisions]; choice of the epoch's child of lowest err2
    choices: jax.Array | None  # int32[children, decisions]; None of mixtures
    errors: jax.Array | None  # float32[children]; of these, as err2
    alpha: jax.Array  # float32[]; 0 before the first Fisher
    rate: jax.Array  # float32[]; learning rate
    skipped: jax.Array  # int32[]; number of skipped steps
    strategy: dict[str, jax.Array]  # values that `Strategy.watch` returns


# The position of a purpose is part of its keys, so append new ones.
_PURPOSES = (
    "params",
    "strategy",
    "propose",
    "train",
    "fisher",
    "learn",
    "derive",
    "rehearse",
)


def key_for(key: jax.Array, purpose: str, *position: Any) -> jax.Array:
    """A key for each purpose and each position in the search."""
    key = jax.random.fold_in(key, _PURPOSES.index(purpose))
    for number in position:
        key = jax.random.fold_in(key, number)
    return key
