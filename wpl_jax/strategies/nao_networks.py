"""The networks of NAO: an encoder, a predictor and a decoder of architectures.

Luo et al., "Neural Architecture Optimization" (NeurIPS 2018), section 3.2. An
architecture is a sequence with a token for each decision. The encoder is an LSTM, whose
outputs ``h_1, ..., h_T`` represent the architecture. The predictor estimates the
performance from their mean. The decoder, an LSTM with attention to these outputs,
returns the sequence. All three are trained together.

Decoders see only the tokens that are choices of the decision at hand, so each sequence
that they return is an architecture of the space.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from wpl_jax.common.settings import check_int, check_number
from wpl_jax.supernet import Decision, is_choice, num_choices

_NEVER = -1e9  # logit of a token that is no choice


class Vocabulary(NamedTuple):
    """The tokens of a space; choices of the same name have the same token."""

    size: int
    tokens: np.ndarray  # int32[decisions, max_choices]; of the choices, 0 where padded
    choices: np.ndarray  # int32[decisions, size]; of the tokens, 0 where not legal
    legal: np.ndarray  # bool[decisions, size]


def make_vocabulary(decisions: tuple[Decision, ...]) -> Vocabulary:
    """The tokens of all choices. Ordered and other decisions share none."""
    numbers: dict[tuple[bool, str], int] = {}
    for decision in decisions:
        for name in decision.choices:
            numbers.setdefault((decision.ordered, name), len(numbers))
    counts = num_choices(decisions)
    tokens = np.zeros((len(decisions), max(counts)), np.int32)
    choices = np.zeros((len(decisions), len(numbers)), np.int32)
    for row, decision in enumerate(decisions):
        for column, name in enumerate(decision.choices):
            token = numbers[decision.ordered, name]
            tokens[row, column], choices[row, token] = token, column
    rows, columns = np.nonzero(is_choice(decisions))
    legal = np.zeros(choices.shape, bool)
    legal[rows, tokens[rows, columns]] = True
    return Vocabulary(len(numbers), tokens, choices, legal)


def unit(x: jax.Array) -> jax.Array:
    """Vectors along the last axis, divided by their Euclidean norms."""
    return x * jax.lax.rsqrt(jnp.sum(x**2, -1, keepdims=True) + 1e-12)


class Encoder(nn.Module):
    """Tokens to outputs of an LSTM with norm 1, ``float32[n, decisions, hidden]``."""

    tokens: int
    embedding: int
    hidden: int
    dropout: float

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool) -> jax.Array:
        """Encodes ``int32[n, decisions]``."""
        embedded = nn.Embed(self.tokens, self.embedding)(tokens)
        embedded = nn.Dropout(self.dropout)(embedded, deterministic=not train)
        outputs: Any = nn.RNN(nn.OptimizedLSTMCell(self.hidden))(embedded)
        return unit(outputs)


class Predictor(nn.Module):
    """The mean of the encoder's outputs to a performance in [0, 1], ``float32[n]``."""

    layers: int
    units: int
    dropout: float

    @nn.compact
    def __call__(self, mean: jax.Array, train: bool) -> jax.Array:
        """Predicts from ``float32[n, hidden]``."""
        for _ in range(self.layers):
            mean = nn.relu(nn.Dense(self.units)(mean))
            mean = nn.Dropout(self.dropout)(mean, deterministic=not train)
        return nn.sigmoid(nn.Dense(1)(mean)[..., 0])


class Decoder(nn.Module):
    """Preceding tokens to logits of the next ones, with attention to the encoder."""

    tokens: int
    hidden: int

    @nn.compact
    def __call__(
        self, carry: Any, tokens: jax.Array, encoded: jax.Array
    ) -> tuple[Any, jax.Array]:
        """Decodes some steps.

        Args:
          carry: State of the LSTM, two ``float32[n, hidden]``.
          tokens: Those before each step, ``int32[n, steps]``.
          encoded: Outputs of the encoder, ``float32[n, decisions, hidden]``.

        Returns:
          The state after the steps, and logits, ``float32[n, steps, tokens]``.
        """
        embedded = nn.Embed(self.tokens + 1, self.hidden)(tokens)
        lstm = nn.RNN(nn.OptimizedLSTMCell(self.hidden), return_carry=True)
        carry, outputs = lstm(embedded, initial_carry=carry)
        queries = nn.Dense(self.hidden, use_bias=False)(outputs)
        scores = jnp.einsum("nsh,ndh->nsd", queries, encoded)
        context = jnp.einsum("nsd,ndh->nsh", nn.softmax(scores), encoded)
        mixed = nn.Dense(self.hidden)(jnp.concatenate([context, outputs], -1))
        return carry, nn.Dense(self.tokens)(jnp.tanh(mixed))


class Params(NamedTuple):
    """Parameters of the three networks."""

    encoder: Any
    predictor: Any
    decoder: Any


@dataclasses.dataclass(frozen=True)
class Networks:
    """Sizes of the networks, and their training.

    The defaults are those of the authors' code for Penn Treebank.

    Attributes:
      embedding: Length of the embedding of a token in the encoder.
      hidden: Units of both LSTMs, and length of the decoder's embedding.
      layers: Hidden layers of the predictor; 0 for a linear predictor.
      units: Of each of these layers.
      dropout: Of the encoder's embeddings.
      predictor_dropout: Of the predictor's hidden layers.
      learning_rate: Of Adam.
      weight_decay: Factor of the parameters, which is added to the gradient.
      clip_norm: Largest norm of a gradient.
      prediction_weight: Weight of the predictor's squared error in the loss; the rest
        is that of the decoder's cross-entropy.
      batch_size: Architectures in an update.
    """

    embedding: int = 48
    hidden: int = 96
    layers: int = 4
    units: int = 200
    dropout: float = 0.1
    predictor_dropout: float = 0.0
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    clip_norm: float = 5.0
    prediction_weight: float = 0.8
    batch_size: int = 100

    def __post_init__(self) -> None:
        """Checks the settings."""
        for name in ("embedding", "hidden", "units", "batch_size"):
            check_int(self, name, 1)
        check_int(self, "layers", 0)
        for name in ("dropout", "predictor_dropout"):
            check_number(self, name, least=0, below=1)
        for name in ("learning_rate", "clip_norm"):
            check_number(self, name, above=0)
        check_number(self, "weight_decay", least=0)
        check_number(self, "prediction_weight", least=0, most=1)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Adam on clipped gradients."""
        return optax.chain(
            optax.clip_by_global_norm(self.clip_norm),
            optax.add_decayed_weights(self.weight_decay),
            optax.adam(self.learning_rate),
        )


@dataclasses.dataclass(frozen=True)
class Coder:
    """The networks for the architectures of a space; its methods are pure.

    Architectures are ``int32[n, decisions]``.
    """

    networks: Networks
    decisions: tuple[Decision, ...]

    def init(self, key: jax.Array) -> Params:
        """Random parameters, as Flax initializes them."""
        keys = jax.random.split(key, 3)
        tokens = jnp.zeros((1, len(self.decisions)), jnp.int32)
        encoder = self._encoder.init(keys[0], tokens, False)
        encoded = jnp.zeros((*tokens.shape, self.networks.hidden))
        mean = encoded[:, 0]
        predictor = self._predictor.init(keys[1], mean, False)
        decoder = self._decoder.init(keys[2], (mean, mean), tokens, encoded)
        return Params(encoder, predictor, decoder)

    def encode(
        self, params: Params, choices: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """The representation of architectures.

        Args:
          params: Of the networks.
          choices: The architectures.
          key: PRNG key of dropout; None for evaluation.

        Returns:
          Vectors of norm 1, ``float32[n, decisions, hidden]``.
        """
        tokens = jnp.asarray(self._vocabulary.tokens)[self._rows, choices]
        return _apply(self._encoder, params.encoder, tokens, key=key)

    def predict(
        self, params: Params, encoded: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """The performance that is expected of representations, in [0, 1].

        Args:
          params: Of the networks.
          encoded: ``float32[n, decisions, hidden]``.
          key: PRNG key of dropout; None for evaluation.

        Returns:
          ``float32[n]``.
        """
        mean = unit(jnp.mean(encoded, -2))
        return _apply(self._predictor, params.predictor, mean, key=key)

    def expect(self, params: Params, choices: jax.Array) -> jax.Array:
        """The performance that is expected of architectures, ``float32[n]``."""
        return self.predict(params, self.encode(params, choices))

    def log_probabilities(
        self, params: Params, encoded: jax.Array, choices: jax.Array
    ) -> jax.Array:
        """Of each decision given those before it, ``float32[n, decisions]``."""
        tokens = jnp.asarray(self._vocabulary.tokens)[self._rows, choices]
        before = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)))
        before = before.at[:, 0].set(self._vocabulary.size)
        carry = self._start(encoded)
        found: Any = self._decoder.apply(params.decoder, carry, before, encoded)
        logits = found[1]
        logits = jnp.where(self._vocabulary.legal, logits, _NEVER)
        log_p = jax.nn.log_softmax(logits)
        return jnp.take_along_axis(log_p, tokens[..., None], -1)[..., 0]

    def decode(self, params: Params, encoded: jax.Array) -> jax.Array:
        """Architectures, by the most probable choice of one decision after the other.

        Args:
          params: Of the networks.
          encoded: ``float32[n, decisions, hidden]``.

        Returns:
          ``int32[n, decisions]``.
        """

        def decide(state, decision):
            carry, before = state
            legal, choice_of = decision
            found: Any = self._decoder.apply(
                params.decoder, carry, before[:, None], encoded
            )
            carry, logits = found
            logits = jnp.where(legal, logits[:, 0], _NEVER)
            token = jnp.argmax(logits, -1).astype(jnp.int32)
            return (carry, token), choice_of[token]

        vocabulary = self._vocabulary
        start = jnp.full(len(encoded), vocabulary.size, jnp.int32)
        decisions = jnp.asarray(vocabulary.legal), jnp.asarray(vocabulary.choices)
        _, found = jax.lax.scan(decide, (self._start(encoded), start), decisions)
        return found.T

    def loss(
        self,
        params: Params,
        choices: jax.Array,
        target: jax.Array,
        known: jax.Array,
        there: jax.Array,
        key: jax.Array,
    ) -> jax.Array:
        """What is minimised, ``float32[]``.

        Args:
          params: Of the networks.
          choices: A batch of architectures.
          target: Their performance in [0, 1], ``float32[n]``.
          known: Which of the targets count, ``bool[n]``.
          there: Which of the architectures count, ``bool[n]``.
          key: PRNG key of dropout.
        """
        keys = jax.random.split(key)
        encoded = self.encode(params, choices, keys[0])
        errors = (self.predict(params, encoded, keys[1]) - target) ** 2
        nats = -jnp.mean(self.log_probabilities(params, encoded, choices), -1)
        share = self.networks.prediction_weight
        return share * _mean(errors, known) + (1 - share) * _mean(nats, there)

    def slope(self, params: Params, encoded: jax.Array) -> jax.Array:
        """The gradient of the prediction in the representation, shaped like it."""
        return jax.grad(lambda x: jnp.sum(self.predict(params, x)))(encoded)

    def move(self, encoded: jax.Array, slope: jax.Array, step: Any) -> jax.Array:
        """Representations after a step along a gradient, with norm 1 again."""
        return unit(encoded + step * slope)

    def _start(self, encoded):
        mean = unit(jnp.mean(encoded, -2))
        return mean, mean

    @functools.cached_property
    def _vocabulary(self) -> Vocabulary:
        return make_vocabulary(self.decisions)

    @property
    def _rows(self) -> np.ndarray:
        return np.arange(len(self.decisions))

    @property
    def _encoder(self) -> Encoder:
        own = self.networks
        return Encoder(self._vocabulary.size, own.embedding, own.hidden, own.dropout)

    @property
    def _predictor(self) -> Predictor:
        own = self.networks
        return Predictor(own.layers, own.units, own.predictor_dropout)

    @property
    def _decoder(self) -> Decoder:
        return Decoder(self._vocabulary.size, self.networks.hidden)


def _apply(module: nn.Module, params: Any, *args: Any, key: jax.Array | None) -> Any:
    """What a network computes, with dropout if there is a key."""
    rngs = None if key is None else {"dropout": key}
    return module.apply(params, *args, train=key is not None, rngs=rngs)


def _mean(values: jax.Array, which: jax.Array) -> jax.Array:
    """The mean of those that count, 0 if none do."""
    return jnp.sum(jnp.where(which, values, 0)) / jnp.maximum(jnp.sum(which), 1)
