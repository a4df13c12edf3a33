"""Predicting the next word: the task of the recurrent cell.

The training text is laid out as ``batch_size`` parallel streams and read
``length`` words at a time; hidden states go on from one batch to the next, and from
one child to the next, until the streams start anew (truncated backpropagation
through time, as in Zaremba et al., "Recurrent Neural Network Regularization",
2014). Everything that is measured is measured without dropout, from a zero state.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wpl_jax.common.settings import check_choice, check_int, check_number, check_parts
from wpl_jax.data import TextDataset, load_text
from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.devices.parallel import Devices
from wpl_jax.spaces.words import Dropout, Hidden, RecurrentSpace
from wpl_jax.tasks.guessing import Guess, of_words
from wpl_jax.tasks.task import Evaluation, Score, check_dataset
from wpl_jax.tasks.text_predictor import TextPredictor
from wpl_jax.tasks.text_streams import (
    Data,
    count_predicted,
    describe,
    padded,
    streams_of,
    window,
)
from wpl_jax.tasks.word_losses import measured_losses, word_losses


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """The task.

    Attributes:
      space: What is searched.
      length: Words that are read, and differentiated through, at a time.
      batch_size: Parallel streams.
      dropout: Rates in training.
      activation_penalty: Weight of the mean square of the cell's outputs, after
        dropout (AR of Merity et al., 2017).
      slowness_penalty: Weight of the mean square of their change from word to word,
        before dropout (TAR of the same).
      reward_scale: The reward is this over the perplexity.
      compute_dtype: In which training computes; parameters, the softmax and all that
        is measured stay in float32.
    """

    space: RecurrentSpace
    length: int = 35
    batch_size: int = 64
    dropout: Dropout = Dropout()
    activation_penalty: float = 0.0
    slowness_penalty: float = 0.0
    reward_scale: float = 80.0
    compute_dtype: Literal["float32", "bfloat16"] = "float32"

    error_name = "perplexity"
    loss_name = "nats"
    data_fields = ("batch_size", "length")
    rows_setting = "batch_size"
    memory_advice: ClassVar[Mapping[str, str]] = {"activations": "a smaller length"}

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_parts(self, but=("space",))
        check_int(self, "length", 2)
        check_int(self, "batch_size", 1)
        for name in ("activation_penalty", "slowness_penalty"):
            check_number(self, name, least=0)
        check_number(self, "reward_scale", above=0)
        check_choice(self, "compute_dtype", ("bfloat16", "float32"))

    @staticmethod
    def open(**options: Any) -> TextDataset:
        """Reads the text that options name; see :func:`wpl_jax.data.load_text`."""
        return load_text(**options)

    def check(self, dataset: TextDataset) -> None:
        """Any text will do that has a batch in each split, which :meth:`put` checks.

        Raises:
          UserError: If it is no data set of text.
        """
        made_by = "wpl_jax.data.text_of_strings or load_text"
        check_dataset(dataset, TextDataset, made_by)

    def space_sizes(self, dataset: TextDataset) -> dict[str, Any]:
        """The size of the vocabulary."""
        return {"vocabulary_size": dataset.vocabulary_size}

    def put(self, dataset: TextDataset, devices: Devices) -> Data:
        """Puts the text on devices as streams; each gets all of it, which is small."""
        return devices.replicate(streams_of(dataset, self.batch_size, self.length))

    def describe(self, dataset: TextDataset) -> str:
        """Sizes of a text, and how much of it is not in the vocabulary."""
        return describe(dataset)

    @property
    def rows_per_batch(self) -> int:
        """Streams."""
        return self.batch_size

    @property
    def predictions_per_batch(self) -> int:
        """Words of a batch."""
        return self.batch_size * self.length

    def init_carry(self) -> jax.Array:
        """The hidden state before the first word, ``float[batch_size, hidden]``."""
        return self.space.initial_state(self.batch_size)

    def num_batches(self, data: Data, split: str) -> int:
        """Batches of a split; what is left over at its end is not counted."""
        return count_predicted(getattr(data, split)) // self.length

    def train_loss(
        self,
        child,
        architecture,
        data,
        carry,
        step,
        key,
        axis=NO_AXIS,
        split="train",
    ):
        """Cross-entropy of one batch with dropout, and the two penalties.

        Args:
          child: The child's parameters.
          architecture: The child, or a mixture.
          data: The text.
          carry: Hidden state that the batch before left.
          step: Number of the batch, ``int32[]``; the streams start anew, from a zero
            state, at multiples of :meth:`num_batches`.
          key: PRNG key of the dropout.
          axis: Devices that share the streams.
          split: Whose batch.

        Returns:
          The loss, and the pair of the cross-entropy in nats per word and the
          hidden state, without gradient.
        """
        index = step % self.num_batches(data, split)
        state = jnp.where(index == 0, jnp.zeros_like(carry), carry)
        inputs, targets = axis.shard(window(getattr(data, split), index, self.length))
        child, state = jax.tree.map(
            lambda x: x.astype(self.compute_dtype), (child, state)
        )
        hidden = self.space.apply(
            child,
            architecture,
            inputs,
            state=state,
            dropout=None if self.dropout == Dropout() else self.dropout,
            key=key,
            axis=axis,
        )
        cross_entropy = self._mean_loss(child, hidden.dropped, targets)
        loss = cross_entropy + self._regularization(hidden)
        state = hidden.state.astype(jnp.float32)
        return loss, jax.lax.stop_gradient((cross_entropy, state))

    def validate(self, child, architecture, data, first, batches, axis=NO_AXIS):
        """Nats per word and perplexity over validation batches in a row.

        The state is zero before the first and goes on from each to the next.
        """

        def add(i, carry):
            state, total = carry
            index = (first + i) % self.num_batches(data, "valid")
            inputs, targets = axis.shard(window(data.valid, index, self.length))
            hidden = self.space.apply(child, architecture, inputs, state=state)
            loss = measured_losses(self.space, child, hidden.raw, targets)
            return hidden.state, total + jnp.mean(loss)

        start = axis.shard(self.init_carry()), jnp.float32(0)
        _, total = jax.lax.fori_loop(0, batches, add, start)
        return self._evaluation(axis.mean(total) / batches)

    def evaluate(self, child, architecture, data, split: str, axis=NO_AXIS):
        """Nats per word and perplexity over the whole of a split, from a zero state."""
        streams = getattr(data, split)
        predicted = count_predicted(streams)
        windows = self.batches_of_split(data, split)
        whole = padded(streams, self.length)

        def one(state, index):
            inputs, targets = axis.shard(window(whole, index, self.length))
            hidden = self.space.apply(child, architecture, inputs, state=state)
            loss = measured_losses(self.space, child, hidden.raw, targets)
            there = index * self.length + jnp.arange(self.length) < predicted
            return hidden.state, jnp.sum(loss * there)

        start = axis.shard(self.init_carry())
        _, loss = jax.lax.scan(one, start, jnp.arange(windows))
        total = axis.sum(jnp.sum(loss))
        return self._evaluation(total / (streams.shape[0] * predicted))

    def predict(self, child, architecture, data, inputs):
        """Log-probabilities of the next words, from a zero state.

        Args:
          child: Its parameters.
          architecture: The child, or a mixture.
          data: Not used.
          inputs: Numbers of words, ``int32[batch, time]``.

        Returns:
          ``float32[batch, time, vocabulary]``.
        """
        del data
        state = self.space.initial_state(inputs.shape[0])
        hidden = self.space.apply(child, architecture, inputs, state=state)
        logits = self.space.logits(child, hidden.raw)
        return jax.nn.log_softmax(logits.astype(jnp.float32))

    def predictor(self, dataset: TextDataset, data: Data) -> TextPredictor:
        """How a model prepares the text of its user."""
        del data
        return TextPredictor(tuple(dataset.vocabulary), dataset.level)

    def statistics(self, child, architecture, data, axis=NO_AXIS):
        """None: the model has no batch statistics."""
        del child, architecture, data, axis

    def evaluate_with(
        self, statistics, child, architecture, data, split: str, axis=NO_AXIS
    ):
        """The same as :meth:`evaluate`."""
        del statistics
        return self.evaluate(child, architecture, data, split, axis)

    def begin_split(self, child, architecture, data, axis=NO_AXIS):
        """A zero state."""
        del child, architecture, data
        return axis.shard(self.init_carry())

    def predict_batch(
        self, child, architecture, data, split: str, index, carry, axis=NO_AXIS
    ):
        """Log-probabilities of the words of a window, ``[streams, length, words]``.

        See :meth:`wpl_jax.tasks.task.Task.predict_batch`.
        """
        inputs, _ = axis.shard(self._window_of_split(data, split, index))
        hidden = self.space.apply(child, architecture, inputs, state=carry)
        logits = self.space.logits(child, hidden.raw)
        return jax.nn.log_softmax(logits.astype(jnp.float32)), hidden.state

    def score(self, log_probabilities, data, split: str, index, axis=NO_AXIS):
        """Cross-entropy of the words that there are."""
        _, targets = axis.shard(self._window_of_split(data, split, index))
        loss = optax.softmax_cross_entropy_with_integer_labels(
            log_probabilities, targets
        )
        predicted = count_predicted(getattr(data, split))
        there = index * self.length + jnp.arange(self.length) < predicted
        count = len(targets) * jnp.sum(there * 1.0)
        return Score(jnp.sum(loss * there), jnp.float32(0), count)

    def _window_of_split(self, data, split, index):
        """One of the windows that hold all words of a split, the last one padded."""
        return window(padded(getattr(data, split), self.length), index, self.length)

    def batches_of_split(self, data, split: str) -> int:
        """Windows that hold all words of a split."""
        return -(-count_predicted(getattr(data, split)) // self.length)

    def conclude(self, score):
        """Nats per word, and the perplexity."""
        return self._evaluation(score.loss / score.predicted)

    def fisher_loss(self, child, architecture, data, split: str, step, axis=NO_AXIS):
        """Nats per word on one batch of the split, from a zero state."""
        inputs, targets = self._fisher_batch(data, split, step, axis)
        state = axis.shard(self.init_carry())
        hidden = self.space.apply(child, architecture, inputs, state=state)
        return self._mean_loss(child, hidden.raw, targets)

    def fisher_examples(
        self, child, architecture, data, split: str, step, axis=NO_AXIS
    ):
        """Its sequences: inputs and targets, ``int32[batch, length]`` each."""
        del child, architecture
        return self._fisher_batch(data, split, step, axis)

    def _fisher_batch(self, data, split, step, axis):
        index = step % self.num_batches(data, split)
        return axis.shard(window(getattr(data, split), index, self.length))

    def example_loss(self, child, architecture, example):
        """Nats per word of one sequence, from a zero state."""
        inputs, targets = example
        hidden = self._alone(child, architecture, inputs)
        return self._mean_loss(child, hidden.raw[0], targets)

    def sample_labels(self, key, child, architecture, example):
        """The sequence with the next words drawn from the model."""
        inputs, targets = example
        hidden = self._alone(child, architecture, inputs)
        logits = self.space.logits(child, hidden.raw[0])
        return inputs, jax.random.categorical(key, logits).astype(targets.dtype)

    def log_probabilities(self, child, architecture, example):
        """Those of all words at each place of the sequence, from a zero state."""
        hidden = self._alone(child, architecture, example[0])
        logits = self.space.logits(child, hidden.raw[0])
        return jax.nn.log_softmax(logits.astype(jnp.float32))

    def guess(self, data: Data) -> Guess:
        """Each word with its frequency in the training text."""
        valid = np.asarray(data.valid)[:, 1:]  # The first words are not predicted.
        return of_words(np.asarray(data.train), valid, self.space.vocabulary_size)

    def reward(self, evaluation):
        """``reward_scale / perplexity`` (Pham et al., 2018)."""
        return self.reward_scale * jnp.exp(-evaluation.loss)

    def _evaluation(self, loss) -> Evaluation:
        """With the perplexity, ``exp(nats)``, at most that of a guess.

        A child whose states grow without bounds can be off by hundreds of nats; one
        of them would be all that a mean perplexity tells of.
        """
        guess = jnp.log(float(self.space.vocabulary_size))
        return Evaluation(loss, jnp.exp(jnp.minimum(loss, guess)))

    def _alone(self, child, architecture, inputs) -> Hidden:
        state = self.space.initial_state(1)
        return self.space.apply(child, architecture, inputs[None], state=state)

    def _mean_loss(self, child, hidden, targets):
        return jnp.mean(word_losses(self.space, child, hidden, targets))

    def _regularization(self, hidden: Hidden):
        total = jnp.zeros(())
        if self.activation_penalty:
            dropped = hidden.dropped.astype(jnp.float32)
            total += self.activation_penalty * jnp.mean(dropped**2)
        if self.slowness_penalty:
            raw = hidden.raw.astype(jnp.float32)
            change = raw[:, 1:] - raw[:, :-1]
            total += self.slowness_penalty * jnp.mean(change**2)
        return total
