"""Which model, trained for what, on which examples? Checked once, in the form that all else computes with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.errors import BadArrayError, RepsimError, UnknownNameError
from repsim_jax.influence.examples import Examples
from repsim_jax.influence.measurements import Seeing, Stability
from repsim_jax.influence.objectives import Objective
from repsim_jax.kernels.entrance import checked_inputs
from repsim_jax.kernels.models import Leaves, as_model, leaves_of
from repsim_jax.linalg import precise_jit

Of = Literal["objective", "alignment"]
# Examples that are looked at for a constant representation or views that are no views.
_PROBED = 64
# The spread of representations of different examples, in units of their size, below which all are one.
_COLLAPSED = 1e-5
# The effective rank of representations of different examples below which they lie on a line.
_LEAST_RANK = 2.0
# Features, and examples, from which such a rank is a collapse: of a few features it is no wonder.
_FEWEST_RANKED = 8


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Problem:
    """A trained model, its objective and its training examples; ``problem`` makes one.

    Attributes:
        params: What influence differentiates by.
        rest: Other state of the model.
        train: The training examples.
        objective: What the model was trained for.
        stability: How alignment is measured, in ``mode="paper"`` and for curvature of ``of="alignment"``.
        apply: ``apply(params, rest, x)`` gives the embeddings of the objective.
        represent: ``represent(params, x)`` gives the representations that are measured; None: the embeddings.
        batch_size: Examples that the objective sees together.
    """

    params: Any
    rest: Any
    train: Examples
    objective: Objective
    stability: Stability
    apply: Callable[[Any, Any, jax.Array], jax.Array] = field(metadata={"static": True})
    represent: Callable[[Any, jax.Array], jax.Array] | None = field(metadata={"static": True})
    batch_size: int = field(metadata={"static": True})

    def leaves(self) -> Leaves:
        """The floating-point parameters in a row.

        Returns:
            Names, arrays, and how to put arrays back.
        """
        return leaves_of(self.params)

    def seeing(self, arrays: Sequence[jax.Array]) -> Seeing:
        """The model with some parameters.

        Args:
            arrays: In place of those of ``leaves``.

        Returns:
            What measurements use.
        """
        embed = lambda params, x: self.apply(params, self.rest, x).reshape(len(x), -1)  # noqa: E731
        return Seeing(self.represent or embed, embed, self.leaves().restore(arrays))

    def loss(self, arrays: Sequence[jax.Array], seen: Any, weights: Float[Array, " b"]) -> Float[Array, ""]:
        """The objective of one batch.

        Args:
            arrays: Parameters.
            seen: Examples and their views (b, 1 + v, ...).
            weights: Of the examples.

        Returns:
            A scalar.
        """
        _, embed, params = self.seeing(arrays)
        return self.objective.loss(embed, params, seen[:, 1:], weights)

    def residuals(self, arrays: Sequence[jax.Array], unit: "Unit", of: Of) -> Float[Array, " r"]:
        """Residuals of one unit: a batch of the objective, or one example whose views are aligned.

        Args:
            arrays: Parameters.
            unit: The batch, or the example as a batch of one.
            of: Which Gauss-Newton matrix they make up, as the mean over units of J^T J.

        Returns:
            (r,) array.
        """
        if of == "alignment":
            return self.stability.residuals(self.seeing(arrays), unit.seen[0]) * jnp.sqrt(unit.weights[0])
        _, embed, params = self.seeing(arrays)
        return self.objective.residuals(embed, params, unit.seen[:, 1:], unit.weights)

    def unit(self, rows: jax.Array, weights: jax.Array) -> "Unit":
        """What the model sees of some training examples.

        Args:
            rows: Their numbers.
            weights: Zero for those that only fill a batch.

        Returns:
            The unit.
        """
        # in the precision of the model: weights of float32 would take digits from a model in float64
        precise = jnp.promote_types(self.leaves().arrays[0].dtype, jnp.float32)
        return Unit(self.train.rows(rows).seen(), weights.astype(precise))

    def num_params(self) -> int:
        """How many numbers influence differentiates by.

        Returns:
            p.
        """
        return sum(leaf.size for leaf in self.leaves().arrays)


class Unit(NamedTuple):
    """Examples that are computed together.

    Attributes:
        seen: They and their views (b, 1 + v, ...).
        weights: (b,), zero for those that only fill the batch.
    """

    seen: Any
    weights: Float[Array, " b"]


class Batches(NamedTuple):
    """All training examples in batches of one size.

    Attributes:
        rows: (k, b) numbers of examples.
        weights: (k, b); zero for those that only fill the last batches.
    """

    rows: np.ndarray
    weights: np.ndarray

    def scattered(self, values: np.ndarray, n: int) -> np.ndarray:
        """Brings values in the order of batches into the order of examples.

        Args:
            values: (..., k, b).
            n: Number of examples.

        Returns:
            (..., n).
        """
        out = np.zeros((*values.shape[:-2], n), values.dtype)
        present = self.weights > 0
        out[..., self.rows[present]] = values[..., present]
        return out


def in_batches(key: jax.Array | None, n: int, size: int, *, multiple: int = 1) -> Batches:
    """Deals examples into batches that differ in size by one at most.

    Args:
        key: Shuffles the examples; None leaves them in order.
        n: Number of examples.
        size: Largest batch.
        multiple: The number of batches is made a multiple of this, by batches of weight zero.

    Returns:
        The batches.
    """
    order = np.arange(n) if key is None else np.asarray(jax.random.permutation(key, n))
    count = -(-n // size)
    largest = -(-n // count)
    total = -(-count // multiple) * multiple
    rows = np.zeros((total, largest), np.int32)
    weights = np.zeros((total, largest), np.float32)
    for number, part in enumerate(np.array_split(order, count)):
        rows[number] = part[0]
        rows[number, : len(part)] = part
        weights[number, : len(part)] = 1
    return Batches(rows, weights)


def problem(
    model: Any,
    params: Any,
    train: Examples,
    *,
    objective: Objective,
    represent: Callable[[Any, jax.Array], jax.Array] | None = None,
    stability: Stability = Stability(),  # noqa: B008 (frozen)
    batch_size: int = 512,
    params_filter: str | None = None,
) -> Problem:
    """Says which model, trained for what, on which examples, and checks that influence is defined for them.

    Args:
        model: A function ``apply_fn(params, x)`` from (n, ...) inputs to the (n, q) embeddings that the objective was
            trained on (encoder and projector, as a rule), or a ``flax.nnx`` or ``flax.linen`` module, which is read in
            evaluation mode.
        params: Parameters of the function; variables of the linen module; None for an nnx module. Those of half
            precision are taken as float32, of the same values.
        train: Training examples, from ``augmented`` or ``with_views``, with the augmentations of training.
        objective: ``SimCLR()``, ``BYOL(...)``, ``BarlowTwins()``, ``VICReg()``, ``SimSiam(...)``,
            ``SpectralContrastive()`` or ``Custom(loss)``.
        represent: ``represent(params, x)`` gives the representations (n, d) that are measured, where these are not the
            embeddings: the encoder without its projector, of the same parameters.
        stability: How views are compared in ``mode="paper"`` and for curvature of ``of="alignment"``.
        batch_size: Examples that the objective sees together, as in training; examples are dealt into batches of at
            most this size.
        params_filter: Regular expression; only parameters in whose path it is found take part, as in
            ``repsim_jax.kernels.ntk``, and the others stay as they are. None: all. Not with ``represent``.

    Returns:
        The problem.

    Raises:
        BadArrayError: If there are fewer than two examples, numbers are NaN or infinite, the model mixes examples (as
            BatchNorm does in training), gives the same for all examples or differs along one direction alone (a
            collapsed encoder), or all views are the examples themselves.
        RepsimError: If the model is of no known kind, its parameters are missing, or the filter is no regular
            expression or given with ``represent``.
        UnknownNameError: If the filter is found in no path.
    """
    if params_filter is not None and represent is not None:
        raise RepsimError(
            "represent takes all parameters, and params_filter leaves some out: pass one of the two, or a function "
            "of the chosen parameters that represents."
        )
    parts = as_model(model, params, params_filter)
    checked_inputs("influence", parts, train.x, None)
    if len(train) < 2 or batch_size < 2:
        raise BadArrayError(
            f"influence needs at least two training examples, and batch_size >= 2: got {len(train)} examples, "
            f"batch_size {batch_size}. The objectives compare examples with each other."
        )
    posed = Problem(
        _single(parts.params),
        parts.rest,
        train,
        objective,
        stability,
        parts.apply,
        represent,
        min(batch_size, len(train)),
    )
    _check_views(train)
    return checked_model(posed)


def _check_views(train: Examples) -> None:
    seen = np.asarray(train.rows(slice(0, _PROBED)).seen())
    if not np.isfinite(seen.astype(np.float64)).all():
        raise BadArrayError(
            "influence: the augmentation gives NaN or infinity; look at the views of the first examples."
        )
    if (seen[:, 1:] == seen[:, :1]).all():
        raise BadArrayError(
            f"influence needs views that differ from their examples: all views of the first {len(seen)} examples are "
            "the examples themselves, so that every stability is zero. Pass the augmentation of training."
        )


def checked_model(posed: Problem) -> Problem:
    """Refuses a model whose representation has collapsed, to a point or to a line.

    Args:
        posed: The problem.

    Returns:
        The same.

    Raises:
        BadArrayError: If parameters or representations are not finite, if examples are all one, or if representations
            of eight features and more differ along less than two directions.
    """
    bad = [name for name, leaf in zip(*posed.leaves()[:2], strict=True) if not np.isfinite(np.asarray(leaf)).all()]
    if bad:
        raise BadArrayError(f"influence: parameters hold NaN or infinity, {bad[0]} first; train the model anew.")
    rows = np.asarray(_representation(posed, posed.train.x[:_PROBED]), np.float64)
    if not np.isfinite(rows).all():
        raise BadArrayError("influence: the representation holds NaN or infinity; train the model anew.")
    size = np.sqrt(np.square(rows).sum(1).mean())
    spread = np.sqrt(np.square(rows - rows.mean(0)).sum(1).mean())
    if not spread > _COLLAPSED * size:
        raise BadArrayError(
            f"influence needs an encoder that tells examples apart: the first {len(rows)} differ by {spread:.1e} in "
            f"representations of size {size:.1e}. It has collapsed, and its curvature is singular; train it anew."
        )
    if min(rows.shape[1], len(rows) - 1) >= _FEWEST_RANKED and (rank := _effective_rank(rows)) < _LEAST_RANK:
        raise BadArrayError(
            f"influence needs an encoder whose representations differ along two directions at least: those of the "
            f"first {len(rows)} examples have the effective rank {rank:.2f} of {rows.shape[1]}. It has collapsed to a "
            "line, and its curvature is singular; train it anew, for longer or with more repulsion."
        )
    return posed


def _effective_rank(rows: np.ndarray) -> float:
    """The exponential of the entropy of singular values about the mean: Roy and Vetterli 2007, definition 1."""
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


@precise_jit()
def _representation(posed: Problem, x: jax.Array) -> jax.Array:
    return posed.seeing(posed.leaves().arrays).rows(x)


def with_params(posed: Problem, params: Any) -> Problem:
    """The same problem at other parameters, such as an earlier checkpoint.

    Args:
        posed: The problem.
        params: As the model of the problem takes them.

    Returns:
        The problem.
    """
    return replace(posed, params=_single(params))


def _single(params: Any) -> Any:
    """Half precision as float32, which holds the same values: products of gradients would overflow or vanish in it."""
    halves = (jnp.float16, jnp.bfloat16)
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if getattr(leaf, "dtype", None) in halves else leaf, params
    )


def checked_of(of: str, known: Sequence[str]) -> None:
    """Refuses matrices that do not exist.

    Args:
        of: What curvature is of.
        known: What there is.

    Raises:
        UnknownNameError: If it is another one.
    """
    if of not in known:
        raise UnknownNameError.of("curvature", str(of), known)
