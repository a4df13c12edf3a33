"""Models with weights of their own for ``examples.fine_tune_text``, by name or factory.

A factory is a function of the path of a checkpoint. It returns

- ``(model, tokenizer)``: a Flax NNX module from tokens ``int32[..., n]`` to logits
  ``float[..., n, vocabulary]``; or
- ``(apply, params, tokenizer)``: ``apply(params, tokens)`` returns these logits, as
  ``model.apply`` of Flax Linen does.

A tokenizer is a function from a text to a list of tokens, or has one as ``encode``.
"""

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx


class Loaded(NamedTuple):
    """A model and its tokens."""

    model: nnx.Module
    encode: Callable[[str], Sequence[int]]


class Applied(nnx.Module):
    """An NNX module of a function and its parameters."""

    def __init__(
        self,
        apply: Callable[[Any, jax.Array], jax.Array],
        params: Any,
        trained: Callable[[str], bool] = lambda path: True,
    ):
        """Puts the parameters into variables.

        Args:
          apply: ``apply(params, tokens)``, logits ``float[..., n, vocabulary]``.
          params: A pytree of arrays.
          trained: Of the path of a parameter, such as ``"['layer']['w']"``: whether it
            is trained. The others are frozen, as those below adapters.
        """
        leaves, self.tree = jax.tree.flatten_with_path(params)
        kinds = [
            nnx.Param if trained(jax.tree_util.keystr(path)) else nnx.Variable
            for path, _ in leaves
        ]
        self.leaves = nnx.List(
            [kind(leaf) for kind, (_, leaf) in zip(kinds, leaves, strict=True)]
        )
        self.apply = apply

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits ``float[..., n, vocabulary]`` of tokens ``int32[..., n]``."""
        params = jax.tree.unflatten(self.tree, [leaf[...] for leaf in self.leaves])
        return self.apply(params, tokens)


def load(name: str, checkpoint: str | None) -> Loaded:
    """A model by the name in :data:`FACTORIES`, or by ``"module:factory"``.

    Raises:
      ValueError: If there is no such model, or the factory returns something else.
    """
    if name in FACTORIES:
        factory = FACTORIES[name]
    elif ":" in name:
        module, _, attribute = name.partition(":")
        factory = getattr(importlib.import_module(module), attribute)
    else:
        raise ValueError(
            f"model must be one of {', '.join(FACTORIES)} or 'module:factory', got "
            f"{name!r}."
        )
    found = tuple(factory(checkpoint))
    if len(found) == 3:
        found = Applied(*found[:2]), found[2]
    if len(found) != 2 or not isinstance(found[0], nnx.Module):
        raise ValueError(
            f"{name} must return (model, tokenizer) with an NNX module, or (apply, "
            f"params, tokenizer), got {[type(part).__name__ for part in found]}."
        )
    model, tokenizer = found
    return Loaded(model, getattr(tokenizer, "encode", tokenizer))


def gemma(name: str, checkpoint: str | None, rank: int = 0) -> tuple[nnx.Module, Any]:
    """A Gemma of the package ``gemma``, all weights or adapters.

    Args:
      name: Of a class in ``gemma.gm.nn``.
      checkpoint: Folder of its weights; None for the public one of the package.
      rank: Of the adapters (LoRA); 0 for none.
    """
    from gemma import gm

    model = getattr(gm.nn, name)()
    path = checkpoint or model.INFO.default_ckpt
    params = gm.ckpts.load_params(path)
    return adapt_gemma(model, params, rank), gm.text.Gemma3Tokenizer()


def adapt_gemma(model: Any, params: Any, rank: int) -> Applied:
    """A Gemma with its parameters as an NNX module.

    Args:
      model: A Linen module of ``gemma.gm.nn``.
      params: Its parameters.
      rank: Of new adapters, which alone are trained; 0 for none.
    """
    if rank:
        from gemma import gm, peft

        model = gm.nn.LoRA(rank=rank, model=model)
        shown = jnp.zeros((1, 2), jnp.int32)
        made = jax.jit(model.init)(jax.random.key(0), shown)["params"]
        params = peft.merge_params(params, peft.split_params(made).lora)

    def apply(params, tokens):
        rows = tokens.reshape(-1, tokens.shape[-1])
        logits = model.apply({"params": params}, rows).logits
        # The model computes in bfloat16; a loss is more exact.
        return logits.reshape(*tokens.shape, -1).astype(jnp.float32)

    return Applied(apply, params, lambda path: not rank or "lora" in path)


_GEMMAS = ("Gemma3_270M", "Gemma3_1B")
FACTORIES: dict[str, Callable[[str | None], tuple[Any, ...]]] = {
    **{name: functools.partial(gemma, name) for name in _GEMMAS},
    **{f"{name}+LoRA": functools.partial(gemma, name, rank=8) for name in _GEMMAS},
}
