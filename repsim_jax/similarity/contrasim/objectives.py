"""What a batch is trained for: the same similarity that is reported, high for positives, low for the rest."""

from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from repsim_jax.linalg import center
from repsim_jax.losses import max_margin, mean_positive, pairwise_logits, supervised_contrastive
from repsim_jax.similarity.contrasim.encoder import Params, encode
from repsim_jax.similarity.contrasim.options import Options

# For each group of classes, for each view: layers (C, N, d) as they enter the map.
Arrays: TypeAlias = tuple[tuple[jax.Array, ...], ...]


class Numbers(NamedTuple):
    """What a sweep turns without compiling again.

    Attributes:
        temperature: Of the contrastive loss.
        margin: Of the max-margin loss.
        anchor_dropout: Share of the anchors that a step does without.
        keep: For each group (views, classes) of 0 or 1: what takes part; the sensitivity to a source is measured by 0.
    """

    temperature: Float[Array, ""]
    margin: Float[Array, ""]
    anchor_dropout: Float[Array, ""]
    keep: tuple[Float[Array, "v c"], ...]


class Batch(NamedTuple):
    """Rows of a batch, for each group and view.

    Attributes:
        arrays: (C, b, d), or (1, b, d) where one class of the group was drawn.
        examples: Which examples they are; one that was drawn twice is a positive of itself.
        classes: For each group the class that was drawn; 0 where all are there.
    """

    arrays: Arrays
    examples: Int[Array, " b"]
    classes: tuple[Int[Array, ""], ...]


class Table(NamedTuple):
    """Representations that are drawn from.

    Attributes:
        arrays: (C, N, d) for each group and view.
        rows: (n, variants) row numbers for each group and view.
        neighbors: (n, k) examples that are hard to tell from each example; k = 0 where negatives are random.
    """

    arrays: Arrays
    rows: tuple[tuple[Int[Array, "n v"], ...], ...]
    neighbors: Int[Array, "n k"]


def draw(key: jax.Array, table: Table, *, options: Options, batch_size: int) -> Batch:
    """Draws the rows of one step, and for paired examples one class of each group.

    Args:
        key: Random key.
        table: All training examples.
        options: Whether positives are layers or examples.
        batch_size: Examples b.

    Returns:
        The batch; the same examples in all views.
    """
    key_rows, key_variant, key_class = jax.random.split(key, 3)
    rows = _examples(key_rows, table.neighbors, batch_size)
    groups, classes = [], []
    for g, (arrays, numbers) in enumerate(zip(table.arrays, table.rows, strict=True)):
        start = jax.random.randint(jax.random.fold_in(key_class, g), (), 0, arrays[0].shape[0])
        views = []
        for v, (array, places) in enumerate(zip(arrays, numbers, strict=True)):
            variant = jax.random.randint(
                jax.random.fold_in(jax.random.fold_in(key_variant, g), v), rows.shape, 0, places.shape[1]
            )
            chosen = array if options.positives == "layer" else jax.lax.dynamic_slice_in_dim(array, start, 1)
            views.append(chosen[:, places[rows, variant]])
        groups.append(tuple(views))
        classes.append(start)
    return Batch(tuple(groups), rows, tuple(classes))


def _examples(key: jax.Array, neighbors: Int[Array, "n k"], batch_size: int) -> Int[Array, " b"]:
    """Examples without repetition; where neighbors are known, half of the batch are neighbors of the other half."""
    n, k = neighbors.shape
    if k == 0:
        return jax.random.choice(key, n, (batch_size,), replace=False)
    key_first, key_which = jax.random.split(key)
    first = jax.random.choice(key_first, n, (batch_size - batch_size // 2,), replace=False)
    which = jax.random.randint(key_which, (batch_size // 2,), 0, k)
    return jnp.concatenate([first, neighbors[first[: batch_size // 2], which]])


@lru_cache(maxsize=64)
def loss_of(options: Options, sources: tuple[tuple[str, ...], ...], batch_size: int) -> Any:
    """The function that training minimizes; the same object for the same choices, so that it compiles once.

    Args:
        options: What is fitted.
        sources: For each group, the source of each view.
        batch_size: Examples per step.

    Returns:
        ``loss(key, params, (table, numbers))``, which draws its batch.
    """

    def loss(key: jax.Array, params: Params, data: tuple[Table, Numbers]) -> jax.Array:
        table, numbers = data
        key_rows, key_anchors = jax.random.split(key)
        batch = draw(key_rows, table, options=options, batch_size=batch_size)
        if options.input == "relative":
            batch = _without_some_anchors(key_anchors, batch, numbers.anchor_dropout, options.num_metrics)
        return batch_loss(params, batch, numbers, options=options, sources=sources)

    return loss


def _without_some_anchors(key: jax.Array, batch: Batch, share: Float[Array, ""], num_metrics: int) -> Batch:
    """The same anchors are dropped for all layers: what is left must be as telling, whichever they are."""
    num_anchors = batch.arrays[0][0].shape[-1] // num_metrics
    kept = jnp.tile(jax.random.bernoulli(key, 1.0 - share, (num_anchors,)) / (1.0 - share), num_metrics)
    return batch._replace(arrays=jax.tree.map(lambda array: array * kept, batch.arrays))


def batch_loss(
    params: Params, batch: Batch, numbers: Numbers, *, options: Options, sources: tuple[tuple[str, ...], ...]
) -> Float[Array, ""]:
    """The loss of one batch.

    Args:
        params: Of the measure.
        batch: Rows as they enter the map.
        numbers: Temperature, margin, and the views that take part.
        options: What is fitted.
        sources: For each group, the source of each view.

    Returns:
        A scalar.
    """
    encoded = [
        [embed(params, array, source=name, options=options) for array, name in zip(views, names, strict=True)]
        for views, names in zip(batch.arrays, sources, strict=True)
    ]
    if options.positives == "layer":
        return _layer_loss(encoded, numbers, options)
    each = [
        _example_loss(views, batch.examples, keep[:, drawn], numbers, options)
        for views, keep, drawn in zip(encoded, numbers.keep, batch.classes, strict=True)
    ]
    return jnp.mean(jnp.stack(each))


def embed(params: Params, x: Float[Array, "*batch d"], *, source: str, options: Options) -> Float[Array, "*batch q"]:
    """Prepared rows in the learned space.

    Args:
        params: Of the measure.
        x: Rows, standardized or relative as the input of the measure wants them.
        source: Whose projection to use.
        options: What was fitted.

    Returns:
        Unit rows.
    """
    if options.input == "projected":
        x = x @ params["projections"][source]
    return encode(params["trunk"], x, residual=bool(options.residual))


def _layer_loss(encoded: list[list[jax.Array]], numbers: Numbers, options: Options) -> jax.Array:
    items = [z for views in encoded for z in views]
    z = jnp.concatenate(items)
    first = [sum(len(views[0]) for views in encoded[:g]) for g in range(len(encoded))]
    classes = jnp.concatenate([first[g] + jnp.arange(len(view)) for g, views in enumerate(encoded) for view in views])
    keep = jnp.concatenate([kept.ravel() for kept in numbers.keep])
    scores = set_scores(z, z, options=options)
    return _objective(scores, classes, keep, numbers, options)


def _example_loss(
    views: list[jax.Array], examples: jax.Array, keep: jax.Array, numbers: Numbers, options: Options
) -> jax.Array:
    z = jnp.concatenate([view[0] for view in views])
    if options.objective == "deep_cka":
        scores = set_scores(jnp.concatenate(views), jnp.concatenate(views), options=options)
        return _objective(scores, jnp.zeros(len(views), int), keep, numbers, options)
    scores = pairwise_logits(z, similarity=options.similarity)
    return _objective(scores, jnp.tile(examples, len(views)), jnp.repeat(keep, len(examples)), numbers, options)


def _objective(scores: jax.Array, classes: jax.Array, keep: jax.Array, numbers: Numbers, options: Options) -> jax.Array:
    positives = (classes[:, None] == classes[None, :]) * keep[:, None] * keep[None, :]
    positives = jnp.where(jnp.eye(len(classes), dtype=bool), 0.0, positives)
    if options.objective in ("deep_dot", "deep_cka"):
        return mean_positive(scores, positives)
    present = jnp.where(keep[None, :] > 0, scores, -jnp.inf)
    if options.objective == "max_margin":
        return max_margin(present, positives, margin=numbers.margin)
    return supervised_contrastive(present, positives, temperature=numbers.temperature)


def set_scores(z: Float[Array, "s n q"], other: Float[Array, "t n q"], *, options: Options) -> Float[Array, "s t"]:
    r"""The measure itself, for all pairs of layers: :math:`\frac{1}{n} \sum_i z_{si}^T z'_{ti}` in one matrix product.

    Args:
        z: Encoded layers, unit rows.
        other: Encoded layers of the same examples.
        options: Dot product, distance, or CKA of the encoded layers (``deep_cka``).

    Returns:
        Scores in [-1, 1].
    """
    n = z.shape[1]
    if options.objective == "deep_cka":
        return _cka(z, other)
    if options.similarity == "dot":
        return z.reshape(len(z), -1) @ other.reshape(len(other), -1).T / n
    return _closeness(jnp.einsum("snq,tnq->nst", z, other)).mean(0)


def row_scores(z: Float[Array, "s n q"], other: Float[Array, "s n q"], *, options: Options) -> Float[Array, "s n"]:
    """The score of each row of layer s of one side with the same row of layer s of the other.

    Args:
        z: Encoded layers, unit rows.
        other: As many encoded layers of the same examples.
        options: Dot product or distance; ``deep_cka`` has no scores of rows.

    Returns:
        Scores in [-1, 1], whose mean over rows is that of ``set_scores``.
    """
    products = jnp.einsum("snq,snq->sn", z, other)
    return products if options.similarity == "dot" else _closeness(products)


def _closeness(products: jax.Array) -> jax.Array:
    """One minus the distance of unit vectors of these products."""
    # Where rows agree the distance has no gradient; nothing is to be learned there.
    squared = 2.0 - 2.0 * products
    return 1.0 - jnp.where(squared > 1e-12, jnp.sqrt(jnp.where(squared > 1e-12, squared, 1.0)), 0.0)


def _cka(z: Float[Array, "s n q"], other: Float[Array, "t n q"]) -> Float[Array, "s t"]:
    """Linear CKA, biased, of all pairs of encoded layers by their Gram matrices: a batch is smaller than q^2."""

    def grams(side: jax.Array) -> jax.Array:
        side = center(side)
        gram = (side @ jnp.swapaxes(side, -1, -2)).reshape(len(side), -1)
        return gram * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(gram), axis=1, keepdims=True), 1e-24))

    return grams(z) @ grams(other).T
