"""What does the Universal Sentence Encoder (convolutional, multilingual) compute? Yang et al. (ACL 2020 demos).

Words are projected and normalized for three branches at once, which convolve over 2, 3 and 5 neighbors; words and
branches are joined, normalized and averaged over the text, and a deep averaging network makes the sentence embedding.
There is no attention. Every hidden layer is the output of a submodule: "word", "projected", "branch_3/second",
"joined", "tokens", "average", "dense_1", "sentence".
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from repsim_jax.encoders.bert import Tokens, checked_tokens


@dataclass(frozen=True)
class UseConfig:
    """The shape of the encoder; the defaults are those of universal-sentence-encoder-multilingual v3.

    Attributes:
        vocab_size: Rows of the word table.
        width: Width d of words, of averaged tokens and of the sentence embedding.
        branch_width: Width of each branch.
        orders: Words that each branch's convolutions see at once.
        hidden_width: Width of the first two dense layers.
        norm_epsilon: Added to the variance in every LayerNorm, and under the root of the last normalization.
    """

    vocab_size: int = 128010
    width: int = 512
    branch_width: int = 256
    orders: tuple[int, ...] = (2, 3, 5)
    hidden_width: int = 320
    norm_epsilon: float = 1e-12

    def __post_init__(self) -> None:
        sizes = (self.vocab_size, self.width, self.branch_width, self.hidden_width)
        if not self.orders or min(*sizes, *self.orders) < 1 or len(set(self.orders)) != len(self.orders):
            raise ValueError(f"UseConfig wants positive sizes and distinct orders; got {self}.")


class GramConv(nnx.Module):
    """A residual convolution over each ``order`` neighboring words: x + relu(conv(x)), blind to padding."""

    def __init__(self, order: int, width: int, *, rngs: nnx.Rngs):
        # An even window reaches one word further to the right: what "SAME" means to flax and TensorFlow.
        self.conv = nnx.Conv(width, width, (order,), padding="SAME", rngs=rngs)

    def __call__(self, tokens: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b t d"]:
        """Transforms tokens (b, t, d); padding counts as zeros."""
        tokens = jnp.where(mask[..., None], tokens, 0)
        return tokens + jax.nn.relu(self.conv(tokens))


class Branch(nnx.Module):
    """Convolves twice over windows of ``order`` words: (b, t, c) to (b, t, c)."""

    def __init__(self, order: int, width: int, *, rngs: nnx.Rngs):
        self.first = GramConv(order, width, rngs=rngs)
        self.second = GramConv(order, width, rngs=rngs)

    def __call__(self, tokens: Float[Array, "b t c"], mask: Bool[Array, "b t"]) -> Float[Array, "b t c"]:
        """Reads tokens (b, t, c)."""
        return self.second(self.first(tokens, mask), mask)


class RootAverage(nnx.Module):
    """Sums the real tokens and divides by the square root of their number: (b, t, d) to (b, d)."""

    def __call__(self, tokens: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b d"]:
        """Averages tokens (b, t, d) over the mask; a text without tokens gives zeros."""
        total = jnp.sum(jnp.where(mask[..., None], tokens, 0), axis=1)
        return total / jnp.sqrt(jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1))


class Dense(nnx.Module):
    """activation(W x + V skip), without biases: x (b, c), skip (b, s) to (b, q)."""

    def __init__(self, width: int, skip_width: int | None, out_width: int, activation: str, *, rngs: nnx.Rngs):
        self.activation = activation
        self.main = nnx.Linear(width, out_width, use_bias=False, rngs=rngs)
        self.skip = nnx.Linear(skip_width, out_width, use_bias=False, rngs=rngs) if skip_width else None

    def __call__(self, x: Float[Array, "b c"], skipped: Float[Array, "b s"] | None = None) -> Float[Array, "b q"]:
        """Transforms x (b, c), adding what was skipped (b, s)."""
        total = self.main(x)
        if self.skip is not None:
            total = total + self.skip(x if skipped is None else skipped)
        return {"relu": jax.nn.relu, "tanh": jnp.tanh}[self.activation](total)


class UniversalSentenceEncoder(nnx.Module):
    """The encoder; texts of any number of tokens.

    Args:
        config: Its shape.
        rngs: Random keys of the initial parameters.
    """

    def __init__(self, config: UseConfig, *, rngs: nnx.Rngs):
        d, hidden = config.width, config.hidden_width
        self.config = config
        self.word = nnx.Embed(config.vocab_size, d, rngs=rngs)
        branches = len(config.orders) * config.branch_width
        self.projection = nnx.Linear(d, branches, rngs=rngs)
        self.projected = _norm(branches, config, rngs)
        for order in config.orders:
            setattr(self, f"branch_{order}", Branch(order, config.branch_width, rngs=rngs))
        self.joined = _norm(d + branches, config, rngs)
        self.tokens = nnx.Linear(d + branches, d, rngs=rngs)
        self.average = RootAverage()
        self.dense_0 = Dense(d, None, hidden, "relu", rngs=rngs)
        self.dense_1 = Dense(hidden, d, hidden, "relu", rngs=rngs)
        self.dense_2 = Dense(hidden, None, d, "relu", rngs=rngs)
        self.sentence = Dense(d, hidden, d, "tanh", rngs=rngs)

    def __call__(self, inputs: Tokens) -> Float[Array, "b d"]:
        """Embeds texts.

        Args:
            inputs: "ids" (b, t), integers below ``config.vocab_size``, and "mask" (b, t), nonzero for real tokens.

        Returns:
            Sentence embeddings of length one (b, d).

        Raises:
            ValueError: If ids or mask are missing or are not (b, t) of the same shape.
        """
        ids, mask = checked_tokens(inputs, "UniversalSentenceEncoder")
        words = self.word(ids)
        parts = jnp.split(self.projected(self.projection(words)), len(self.config.orders), axis=-1)
        orders = zip(self.config.orders, parts, strict=True)
        branches = [getattr(self, f"branch_{order}")(part, mask) for order, part in orders]
        tokens = self.tokens(self.joined(jnp.concatenate([words, *branches], axis=-1)))
        average = self.average(tokens, mask)
        first = self.dense_0(average)
        second = self.dense_1(first, average)
        sentence = self.sentence(self.dense_2(second), second)
        square = jnp.sum(sentence**2, axis=-1, keepdims=True)
        return sentence / jnp.sqrt(jnp.maximum(square, self.config.norm_epsilon))


def token_layers(config: UseConfig) -> tuple[str, ...]:
    """Names of the hidden layers that have one row per token, in depth order.

    Args:
        config: Its shape.

    Returns:
        The words, their normalized projections for the branches, both convolutions of every branch, the normalized join
        of words and branches, and its projection.
    """
    branches = (f"branch_{order}/{half}" for order in config.orders for half in ("first", "second"))
    return ("word", "projected", *branches, "joined", "tokens")


def sentence_layers() -> tuple[str, ...]:
    """Names of the hidden layers that have one row per text, in depth order.

    Returns:
        The average and the four dense layers; the last one's length is not yet one.
    """
    return ("average", "dense_0", "dense_1", "dense_2", "sentence")


def _norm(width: int, config: UseConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=config.norm_epsilon, use_fast_variance=False, rngs=rngs)
