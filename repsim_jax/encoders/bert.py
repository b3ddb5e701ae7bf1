"""What does a BERT compute? Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (NAACL 2019).

One post-LN transformer covers BERT, MiniLM, multilingual E5, RoBERTa and XLM-R (which count positions from after the
padding id). Every hidden layer, and the queries, keys and values of every block, are outputs of submodules:
"embeddings", "block_3", "block_3/attention/query".
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from repsim_jax.encoders.transformer import ACTIVATIONS, Attention, Mlp

Tokens = Mapping[str, Array | np.ndarray]


@dataclass(frozen=True)
class BertConfig:
    """The shape of a BERT; the defaults are BERT-base, uncased.

    Attributes:
        vocab_size: Rows of the word table.
        width: Width d of the tokens.
        num_layers: Number of blocks.
        num_heads: Attention heads per block; must divide ``width``.
        mlp_width: Hidden width of each block's MLP.
        num_positions: Rows of the position table.
        num_types: Rows of the segment table; single sentences are of type 0.
        activation: A key of ``repsim_jax.encoders.transformer.ACTIVATIONS``.
        norm_epsilon: Added to the variance in every LayerNorm.
        first_position: Row of the position table that the first token gets: 0 for BERT; padding id + 1 for RoBERTa.
    """

    vocab_size: int = 30522
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_width: int = 3072
    num_positions: int = 512
    num_types: int = 2
    activation: str = "gelu"
    norm_epsilon: float = 1e-12
    first_position: int = 0

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"BertConfig wants an activation of {', '.join(ACTIVATIONS)}; got {self.activation!r}.")
        sizes = (self.vocab_size, self.width, self.num_layers, self.num_heads, self.mlp_width, self.num_types)
        if min(*sizes, self.max_tokens) < 1 or self.first_position < 0:
            raise ValueError(f"BertConfig wants positive sizes and more positions than first_position; got {self}.")
        if self.width % self.num_heads:
            raise ValueError(
                f"BertConfig wants num_heads to divide width; got width {self.width}, {self.num_heads} heads."
            )

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest text that has positions, the special tokens included."""
        return self.num_positions - self.first_position


class Embeddings(nnx.Module):
    """Word, position and type vectors, summed and normalized: ids and mask (b, t) to tokens (b, t, d)."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.first_position = config.first_position
        self.word = _table(config.vocab_size, config.width, rngs)
        self.position = _table(config.num_positions, config.width, rngs)
        self.type = _table(config.num_types, config.width, rngs)
        self.norm = _norm(config, rngs)

    def __call__(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b t d"]:
        """Embeds ids (b, t); positions count along real tokens, and padding stays on the row before the first one."""
        if self.first_position:
            positions = jnp.cumsum(mask, axis=1) * mask + (self.first_position - 1)
        else:
            positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
        return self.norm(self.word(ids) + self.position(positions) + self.type(jnp.zeros_like(ids)))


class Block(nnx.Module):
    """A post-LN transformer block: norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.attention = Attention(config.width, config.num_heads, rngs=rngs)
        self.norm_attention = _norm(config, rngs)
        self.mlp = Mlp(config.width, config.mlp_width, config.activation, rngs=rngs)
        self.norm_mlp = _norm(config, rngs)

    def __call__(self, tokens: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b t d"]:
        """Adds both branches to tokens (b, t, d) and normalizes after each."""
        tokens = self.norm_attention(tokens + self.attention(tokens, mask))
        return self.norm_mlp(tokens + self.mlp(tokens))


class Bert(nnx.Module):
    """A BERT encoder; any number of tokens up to ``config.max_tokens``.

    Args:
        config: Its shape.
        rngs: Random keys of the initial parameters.
    """

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embeddings = Embeddings(config, rngs=rngs)
        for index in range(config.num_layers):
            setattr(self, f"block_{index}", Block(config, rngs=rngs))

    def __call__(self, inputs: Tokens) -> Float[Array, "b t d"]:
        """Encodes token ids.

        Args:
            inputs: "ids" (b, t), integers below ``config.vocab_size``, and "mask" (b, t), nonzero for real tokens.

        Returns:
            The tokens after the last block (b, t, d); those of padding mean nothing.

        Raises:
            ValueError: If ids or mask are missing, differ in shape, are not (b, t), or are longer than the model reads.
        """
        ids, mask = checked_tokens(inputs, "Bert", self.config.max_tokens)
        tokens = self.embeddings(ids, mask)
        for index in range(self.config.num_layers):
            tokens = getattr(self, f"block_{index}")(tokens, mask)
        return tokens


def hidden_layers(config: BertConfig) -> tuple[str, ...]:
    """Names of a BERT's residual stream, in depth order.

    Args:
        config: Its shape.

    Returns:
        "embeddings" and every block.
    """
    return ("embeddings", *(f"block_{index}" for index in range(config.num_layers)))


def checked_tokens(
    inputs: Tokens, reader: str, max_tokens: int | None = None
) -> tuple[Int[Array, "b t"], Bool[Array, "b t"]]:
    """Checks at the door what a text encoder is given.

    Args:
        inputs: "ids" and "mask", both (b, t).
        reader: Name of the encoder, for the message.
        max_tokens: The largest t that it reads, or None where it reads any.

    Returns:
        Ids (b, t), and the mask (b, t) as booleans.

    Raises:
        ValueError: If one is missing, their shapes differ or are not (b, t), ids are no integers, or t is too large.
    """
    if not isinstance(inputs, Mapping) or not {"ids", "mask"} <= set(inputs):
        got = sorted(map(str, inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
        raise ValueError(f'{reader} wants a dict with "ids" and "mask", both (b, t); got {got}.')
    ids, mask = jnp.asarray(inputs["ids"]), jnp.asarray(inputs["mask"])
    if ids.ndim != 2 or ids.shape != mask.shape or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(
            f"{reader} wants integer ids (b, t) and a mask of the same shape; got ids {ids.dtype}{ids.shape} and mask "
            f"{mask.shape}."
        )
    if max_tokens is not None and ids.shape[1] > max_tokens:
        raise ValueError(f"{reader} reads at most {max_tokens} tokens; got t = {ids.shape[1]}. Cut the texts shorter.")
    return ids, mask.astype(bool)


def _table(rows: int, width: int, rngs: nnx.Rngs) -> nnx.Embed:
    # 0.02 is the spread of the paper's released code.
    return nnx.Embed(rows, width, embedding_init=nnx.initializers.normal(0.02), rngs=rngs)


def _norm(config: BertConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(config.width, epsilon=config.norm_epsilon, use_fast_variance=False, rngs=rngs)
