r"""What was the model trained for, as a function of how much of each example there is in a batch?

An objective gives its loss for weights of the examples, whose derivative by a weight is the part of that example in all
terms of a loss that couples a batch: as what is attracted, and as what repels others. It also gives its residuals
:math:`r(\theta)`, with which :math:`J_r^T J_r` is the generalized Gauss-Newton matrix (GGN) of the loss: where the loss
is convex in some outputs, r is these outputs, scaled by the roots of its second derivatives, which are held fast.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.errors import RepsimError
from repsim_jax.linalg import unit_rows
from repsim_jax.losses import (
    barlow_twins,
    covariance_matrix,
    cross_correlation,
    negative_cosine,
    nt_xent,
    nt_xent_logits,
    spectral_contrastive,
    vicreg,
)

Embed = Callable[[Any, jax.Array], jax.Array]
_STATIC = {"static": True}


class Objective(Protocol):
    """What a training objective can do."""

    def loss(
        self, embed: Embed, params: Any, views: Float[Array, "b v *shape"], weights: Float[Array, " b"]
    ) -> Float[Array, ""]:
        """The loss of a batch.

        Args:
            embed: ``embed(params, x)`` gives the embeddings (n, q) that the objective was trained on.
            params: Parameters.
            views: Of b examples.
            weights: Of the examples; one of weight zero is as if it were not there.

        Returns:
            A scalar.
        """
        ...

    def residuals(
        self, embed: Embed, params: Any, views: Float[Array, "b v *shape"], weights: Float[Array, " b"]
    ) -> Float[Array, " r"]:
        """What the Gauss-Newton matrix of the loss is made from.

        Args:
            embed: As in ``loss``.
            params: As in ``loss``.
            views: As in ``loss``.
            weights: As in ``loss``.

        Returns:
            Residuals.
        """
        ...


class _OfPairs(Protocol):
    """A loss of two views, averaged over all pairs of views."""

    def _sides(self, embed: Embed, params: Any, views: jax.Array) -> Any:
        return _embedded(embed, params, views)

    @abstractmethod
    def _loss(self, first: Any, second: Any, weights: jax.Array) -> jax.Array:
        """Of one pair of views."""

    @abstractmethod
    def _residuals(self, first: Any, second: Any, weights: jax.Array) -> list[jax.Array]:
        """Of one pair of views."""

    def loss(
        self, embed: Embed, params: Any, views: Float[Array, "b v *shape"], weights: Float[Array, " b"]
    ) -> Float[Array, ""]:
        sides = self._sides(embed, params, views)
        return _map_pairs(lambda a, c: self._loss(a, c, weights), sides, views.shape[1]).mean()

    def residuals(
        self, embed: Embed, params: Any, views: Float[Array, "b v *shape"], weights: Float[Array, " b"]
    ) -> Float[Array, " r"]:
        sides = self._sides(embed, params, views)

        def flat(first: Any, second: Any) -> jax.Array:
            return jnp.concatenate([part.ravel() for part in self._residuals(first, second, weights)])

        found = _map_pairs(flat, sides, views.shape[1])
        return found.ravel() / np.sqrt(len(found))


def _embedded(embed: Embed, params: Any, views: jax.Array) -> Float[Array, "b v q"]:
    flat = embed(params, views.reshape(-1, *views.shape[2:]))
    return flat.reshape(*views.shape[:2], -1)


def _map_pairs(function: Callable[[Any, Any], jax.Array], sides: Any, num_views: int) -> jax.Array:
    """A function of all pairs of views, one after the other: together they would fill the memory."""
    first, second = np.triu_indices(num_views, 1)
    at = lambda view: jax.tree.map(lambda side: side[:, view], sides)  # noqa: E731
    if len(first) == 1:
        return function(at(0), at(1))[None]
    return jax.lax.map(lambda pair: function(at(pair[0]), at(pair[1])), (jnp.asarray(first), jnp.asarray(second)))


def _held_root(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jax.lax.stop_gradient(x))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SimCLR(_OfPairs):
    """NT-Xent, ``repsim_jax.losses.nt_xent``.

    Attributes:
        temperature: > 0.
    """

    temperature: float = 0.5

    def _loss(self, first: Any, second: Any, weights: jax.Array) -> jax.Array:
        return nt_xent(first, second, weights, temperature=self.temperature)

    def _residuals(self, first: Any, second: Any, weights: jax.Array) -> list[jax.Array]:
        """The softmax is convex in its logits: their variance under it is their curvature."""
        logits, factors = nt_xent_logits(first, second, weights, temperature=self.temperature)
        shares = jax.lax.stop_gradient(factors * jnp.exp(logits - logits.max(1, keepdims=True)))
        shares = shares / shares.sum(1, keepdims=True)
        deviations = logits - (shares * logits).sum(1, keepdims=True)
        anchors = jnp.concatenate([weights, weights])
        return [_held_root(shares * (anchors / anchors.sum())[:, None]) * deviations]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SpectralContrastive(_OfPairs):
    """The spectral contrastive loss, ``repsim_jax.losses.spectral_contrastive``; only its repulsion is curved."""

    def _loss(self, first: Any, second: Any, weights: jax.Array) -> jax.Array:
        return spectral_contrastive(first, second, weights)

    def _residuals(self, first: Any, second: Any, weights: jax.Array) -> list[jax.Array]:
        pairs = jnp.outer(weights, weights) * (1 - jnp.eye(len(weights), dtype=first.dtype))
        return [_held_root(2 * pairs / pairs.sum()) * (first @ second.T)]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BarlowTwins(_OfPairs):
    """Barlow Twins, ``repsim_jax.losses.barlow_twins``.

    Attributes:
        off_diagonal: Weight of correlations between different features.
    """

    off_diagonal: float = 5e-3

    def _loss(self, first: Any, second: Any, weights: jax.Array) -> jax.Array:
        return barlow_twins(first, second, weights, off_diagonal=self.off_diagonal)

    def _residuals(self, first: Any, second: Any, weights: jax.Array) -> list[jax.Array]:
        correlation = cross_correlation(first, second, weights)
        eye = jnp.eye(len(correlation), dtype=correlation.dtype)
        return [_held_root(2 * jnp.where(eye > 0, 1.0, self.off_diagonal)) * (correlation - eye)]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VICReg(_OfPairs):
    """VICReg, ``repsim_jax.losses.vicreg``; its hinge on standard deviations is linear, hence without curvature.

    Attributes:
        invariance: Weight of the squared difference of views.
        variance: Weight of the hinge.
        covariance: Weight of the squared covariances.
    """

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0

    def _loss(self, first: Any, second: Any, weights: jax.Array) -> jax.Array:
        parts = {"invariance": self.invariance, "variance": self.variance, "covariance": self.covariance}
        return vicreg(first, second, weights, **parts)

    def _residuals(self, first: Any, second: Any, weights: jax.Array) -> list[jax.Array]:
        q = first.shape[1]
        shares = 2 * self.invariance * weights / (weights.sum() * q)
        off = 1 - jnp.eye(q, dtype=first.dtype)
        shared = [_held_root(2 * self.covariance * off / q) * covariance_matrix(z, weights) for z in (first, second)]
        return [_held_root(shares)[:, None] * (first - second), *shared]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SimSiam(_OfPairs):
    """SimSiam: a predictor of each view's embedding from the other view.

    Attributes:
        predictor: ``predictor(params, z)`` gives (n, q) from the parameters of the whole model.
        stop_gradient: Whether the predicted embedding is held fast in the gradient, as in training.
        target_params: Parameters that the predicted embedding is made by, where these are not the model's own.

    Source:
        Chen and He 2021, arXiv 2011.10566, equation 4.
    """

    predictor: Embed = field(metadata=_STATIC)
    stop_gradient: bool = field(default=True, metadata=_STATIC)
    target_params: Any = field(default=None, kw_only=True)

    def _sides(self, embed: Embed, params: Any, views: jax.Array) -> Any:
        z = _embedded(embed, params, views)
        predicted = self.predictor(params, z.reshape(-1, z.shape[-1])).reshape(z.shape)
        if self.target_params is not None:
            return predicted, _embedded(embed, self.target_params, views)
        return predicted, jax.lax.stop_gradient(z) if self.stop_gradient else z

    def _loss(self, first: Any, second: Any, weights: jax.Array) -> jax.Array:
        return (negative_cosine(first[0], second[1], weights) + negative_cosine(second[0], first[1], weights)) / 2

    def _residuals(self, first: Any, second: Any, weights: jax.Array) -> list[jax.Array]:
        """A negative cosine is half a squared distance of unit vectors, up to a constant."""
        root = _held_root(weights / (2 * weights.sum()))[:, None]
        return [root * (unit_rows(p) - unit_rows(t)) for p, t in ((first[0], second[1]), (second[0], first[1]))]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BYOL(_OfPairs):
    """BYOL: a predictor of what a slowly moving copy of the model, the target, makes of the other view.

    Only the online model is differentiated: the target is held fast, as in each step of training.

    Attributes:
        target_params: Parameters of the target, a tree like the model's; None takes the model's own, held fast.
        predictor: ``predictor(params, z)`` gives (n, q) from the parameters of the online model.

    Source:
        Grill et al. 2020, arXiv 2006.07733, equation 2, of both orders of the views.
    """

    target_params: Any = None
    predictor: Embed = field(kw_only=True, metadata=_STATIC)

    def _sides(self, embed: Embed, params: Any, views: jax.Array) -> Any:
        z = _embedded(embed, params, views)
        predicted = self.predictor(params, z.reshape(-1, z.shape[-1])).reshape(z.shape)
        if self.target_params is not None:
            return predicted, _embedded(embed, self.target_params, views)
        return predicted, jax.lax.stop_gradient(z)

    def _loss(self, first: Any, second: Any, weights: jax.Array) -> jax.Array:
        return 2 + negative_cosine(first[0], second[1], weights) + negative_cosine(second[0], first[1], weights)

    def _residuals(self, first: Any, second: Any, weights: jax.Array) -> list[jax.Array]:
        root = _held_root(weights / weights.sum())[:, None]
        return [root * (unit_rows(p) - unit_rows(t)) for p, t in ((first[0], second[1]), (second[0], first[1]))]


def with_target(objective: Objective, params: Any) -> Objective:
    """Says by which parameters the embedding is made that an objective holds fast in its gradient.

    The gradient is the same as with ``jax.lax.stop_gradient``, but it can itself be differentiated by these parameters,
    as it must be where training is followed back.

    Args:
        objective: Any; only ``BYOL`` and ``SimSiam`` hold an embedding fast.
        params: Of the target.

    Returns:
        The objective.
    """
    if isinstance(objective, SimSiam) and not objective.stop_gradient:
        return objective
    if isinstance(objective, BYOL | SimSiam) and objective.target_params is None:
        return replace(objective, target_params=params)
    return objective


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Custom:
    """Your own objective.

    Attributes:
        function: ``function(params, views, weights)`` gives the loss of views (b, v, ...) of b examples; an example of
            weight zero must be as if it were not there.
        residual_function: ``residual_function(params, views, weights)`` gives the residuals (r,), for curvature of
            ``of="objective"``; None where it is taken from the Hessian or the alignment of views.
    """

    function: Callable[[Any, jax.Array, jax.Array], jax.Array] = field(metadata=_STATIC)
    residual_function: Callable[[Any, jax.Array, jax.Array], jax.Array] | None = field(default=None, metadata=_STATIC)

    def loss(
        self, embed: Embed, params: Any, views: Float[Array, "b v *shape"], weights: Float[Array, " b"]
    ) -> Float[Array, ""]:
        """Your loss.

        Args:
            embed: Not used.
            params: Parameters.
            views: Of b examples.
            weights: Of the examples.

        Returns:
            A scalar.
        """
        del embed
        return self.function(params, views, weights)

    def residuals(
        self, embed: Embed, params: Any, views: Float[Array, "b v *shape"], weights: Float[Array, " b"]
    ) -> Float[Array, " r"]:
        """Your residuals.

        Args:
            embed: Not used.
            params: Parameters.
            views: Of b examples.
            weights: Of the examples.

        Returns:
            (r,) array.

        Raises:
            RepsimError: If there are none.
        """
        del embed
        if self.residual_function is None:
            raise RepsimError(
                "the Gauss-Newton matrix of a custom objective needs its residual_function. Give one, or fit the "
                "curvature with of='alignment', or dense or low-rank with of='hessian'."
            )
        return self.residual_function(params, views, weights).ravel()
