"""The state of a search between two calls, the record of an epoch, and PRNG keys."""

from typing import Any, NamedTuple

import jax
import optax

from wpl_jax.engine.forgetting import Forgetting
from wpl_jax.engine.trainer import Skipped
from wpl_jax.supernet import Architecture
from wpl_jax.tasks import Evaluation


class Shared(NamedTuple):
    """What the children share; each is a set of rows of every part."""

    params: Any  # the shared parameters
    opt_state: optax.OptState  # with the penalty's anchor and Fisher
    memory: Any  # of the protection: the running average of the Fisher


class State(NamedTuple):
    """All that a search is, between two calls."""

    key: jax.Array  # of all randomness, with the position in the search
    shared: Shared
    strategy: Any  # what the strategy has learned
    carry: Any  # what the last batch left for the next
    rate_scale: jax.Array  # float32[]; halved when a search has to go back
    skipped: Skipped
    epoch: "Epoch"
    selection: "Selection"


class Epoch(NamedTuple):
    """What an epoch has seen so far."""

    architectures: Architecture  # of arrays [children, ...]
    train_loss: jax.Array  # float32[children]; mean over the batches trained on
    err1: Evaluation  # of float32[children]; after its own training
    err2: Evaluation  # of float32[children]; at the end of the epoch
    # The same of the choices that mixtures are discretized to; None without mixtures.
    derived_err1: Evaluation | None
    derived_err2: Evaluation | None
    reward: jax.Array  # float32[]; mean over the strategy's steps
    entropy: jax.Array  # float32[]; the same of the entropy of its proposals


class Selection(NamedTuple):
    """What is known of the candidates for the best architecture, at the end."""

    architectures: Architecture  # of arrays [proposed, ...]
    screened: Evaluation  # of float32[proposed]; on a few validation batches
    kept: jax.Array  # int32[keep]; the best of them, the very best first
    judged: Evaluation  # of float32[keep]; on more validation data
    allowed: jax.Array  # bool[proposed]; which the reward lets be selected


class Measured(NamedTuple):
    """Measurements of one epoch."""

    loss: Forgetting  # err2 - err1 in nats
    error: Forgetting  # the same in the task's error
    derived_loss: Forgetting | None  # the same of what mixtures are discretized to
    derived_error: Forgetting | None
    # Mean loss and error of these minus those of the mixtures, as err2.
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
    alpha: jax.Array  # float32[]; 0 before children leave a Fisher
    rate: jax.Array  # float32[]
    skipped: jax.Array  # int32[]
    strategy: dict[str, jax.Array]  # what the strategy has recorded of its state


# Their places are part of every key: another goes to the end.
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
