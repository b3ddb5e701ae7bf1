"""How far from its canonical pose is a view? Energies: of a network and a reference, of logits, of distance to data.

Each is a pytree that is called on views (m, ...) and gives one number for each, the lower the more canonical. The
paper's is ``reference``; that of any other callable is ``Custom``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.kernels.models import as_model
from repsim_jax.linalg import unit_rows

_STATIC = {"static": True}
LOGIT_SCORES = ("logsumexp", "max-probability", "entropy", "contrast")
Apply = Callable[[Any, Any, jax.Array], jax.Array]


class Energy(Protocol):
    """A number for each view, the lower the more canonical."""

    def __call__(self, views: Float[Array, "m *shape"]) -> Float[Array, " m"]:
        """Judges views.

        Args:
            views: In any poses.

        Returns:
            One number each.
        """
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reference:
    r"""The paper's energy: :math:`-\cos(r, s_\theta(x))`, of any network s and a fixed vector r.

    Attributes:
        apply: ``apply(params, rest, views)`` gives vectors (m, q).
        params: Of the network.
        rest: Its other state.
        vector: (q,), the reference r.

    Source:
        arXiv 2405.14089; the vector and the cosine are those of its code (equiadapt 0.1.2).
    """

    apply: Apply = field(metadata=_STATIC)
    params: Any
    rest: Any
    vector: Float[Array, " q"]

    def vectors(self, views: Float[Array, "m *shape"]) -> Float[Array, "m q"]:
        """The network's output.

        Args:
            views: In any poses.

        Returns:
            Vectors.
        """
        return self.apply(self.params, self.rest, views)

    def of_vectors(self, vectors: Float[Array, "*m q"]) -> Float[Array, "*m"]:
        """The energy of vectors.

        Args:
            vectors: From ``vectors``.

        Returns:
            Energies in [-1, 1].
        """
        r = self.vector / jnp.linalg.norm(self.vector)
        # the square root has no gradient at zero, where a network's output may start
        squares = jnp.square(vectors).sum(-1)
        lengths = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
        return -(vectors * r).sum(-1) / lengths

    def __call__(self, views: Float[Array, "m *shape"]) -> Float[Array, " m"]:
        """Judges views.

        Args:
            views: In any poses.

        Returns:
            Energies in [-1, 1].
        """
        return self.of_vectors(self.vectors(views))


def reference(key: jax.Array, model: Any, params: Any = None, *, num_outputs: int) -> Reference:
    """The paper's energy of a network, trained or not.

    Args:
        key: Random key; draws the reference vector.
        model: A ``flax.nnx`` module, a ``flax.linen`` module, or a function ``apply_fn(params, views)`` to (m, q).
        params: Of a linen module or a function; None for an nnx module.
        num_outputs: Size q of the network's output.

    Returns:
        The energy.

    Raises:
        RepsimError: If the model is none of these.
    """
    parts = as_model(model, params)
    return Reference(parts.apply, parts.params, parts.rest, jax.random.normal(key, (num_outputs,)))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FromLogits:
    """How unsure a classifier is: without any training, but only as good as its confidence is a sign of pose.

    Attributes:
        apply: ``apply(params, rest, views)`` gives logits (m, k).
        params: Of the model.
        rest: Its other state.
        score: "logsumexp" (negative), "max-probability" (negative, its logarithm), "entropy" of the probabilities, or
            "contrast", the mean logit less half of the greatest.

    Source:
        Schmidt and Stober 2024, arXiv 2405.03730 (logits as an energy); "contrast" is that of the code of Singhal et
        al. 2025, arXiv 2507.10375.
    """

    apply: Apply = field(metadata=_STATIC)
    params: Any
    rest: Any
    score: str = field(default="logsumexp", metadata=_STATIC)

    def __call__(self, views: Float[Array, "m *shape"]) -> Float[Array, " m"]:
        """Judges views.

        Args:
            views: In any poses.

        Returns:
            Energies.
        """
        logits = self.apply(self.params, self.rest, views)
        if self.score == "logsumexp":
            return -jax.nn.logsumexp(logits, axis=-1)
        if self.score == "contrast":
            return logits.mean(-1) - logits.max(-1) / 2
        log_probabilities = jax.nn.log_softmax(logits, axis=-1)
        if self.score == "entropy":
            return -(jnp.exp(log_probabilities) * log_probabilities).sum(-1)
        return -log_probabilities.max(-1)


def from_logits(
    model: Any,
    params: Any = None,
    *,
    score: Literal["logsumexp", "max-probability", "entropy", "contrast"] = "logsumexp",
) -> FromLogits:
    """The energy of a classifier's own logits.

    Args:
        model: As in ``reference``, to logits (m, k).
        params: As in ``reference``.
        score: As in ``FromLogits``.

    Returns:
        The energy; give the canonicalizer ``Views(size=None)`` where the classifier needs its images at full size.

    Raises:
        RepsimError: If the model is none of these.
        UnknownNameError: If there is no such score.
    """
    if score not in LOGIT_SCORES:
        raise UnknownNameError.of("score of logits", str(score), LOGIT_SCORES)
    parts = as_model(model, params)
    return FromLogits(parts.apply, parts.params, parts.rest, score)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mahalanobis:
    """How unusual features are among those of upright data, by their mean and covariance.

    Attributes:
        apply: ``apply(params, rest, views)`` gives features (m, q).
        params: Of the model.
        rest: Its other state.
        mean: (q,), of the data.
        whitening: (q, q), which makes their covariance the identity.
    """

    apply: Apply = field(metadata=_STATIC)
    params: Any
    rest: Any
    mean: Float[Array, " q"]
    whitening: Float[Array, "q q"]

    def __call__(self, views: Float[Array, "m *shape"]) -> Float[Array, " m"]:
        """Judges views.

        Args:
            views: In any poses.

        Returns:
            Squared distances over q: about 1 for what is usual.
        """
        white = (self.apply(self.params, self.rest, views) - self.mean) @ self.whitening
        return jnp.square(white).mean(-1)


def mahalanobis(model: Any, params: Any, views: Float[Array, "n *shape"], *, shrinkage: float = 0.1) -> Mahalanobis:
    """Fits the energy to upright data, without labels.

    Args:
        model: As in ``reference``, to features (n, q).
        params: As in ``reference``.
        views: Upright data at the size at which the canonicalizer will show them.
        shrinkage: Share in (0, 1] of the covariance that is made a multiple of the identity, which few data need.

    Returns:
        The energy.

    Raises:
        BadArrayError: If there are fewer than two examples or the shrinkage is out of range.
        RepsimError: If the model is none of these.
    """
    if len(views) < 2 or not 0 < shrinkage <= 1:
        raise BadArrayError(
            f"mahalanobis needs 2 examples and shrinkage in (0, 1], got {len(views)} and {shrinkage!r}."
        )
    parts = as_model(model, params)
    rows = np.asarray(parts.apply(parts.params, parts.rest, jnp.asarray(views)), np.float64)
    covariance = np.cov(rows.T, bias=True).reshape(rows.shape[1], -1)
    covariance = (1 - shrinkage) * covariance + shrinkage * covariance.trace() / len(covariance) * np.eye(
        len(covariance)
    )
    values, basis = np.linalg.eigh(covariance)
    whitening = basis / np.sqrt(np.maximum(values, 1e-12))
    return Mahalanobis(
        parts.apply,
        parts.params,
        parts.rest,
        jnp.asarray(rows.mean(0), jnp.float32),
        jnp.asarray(whitening, jnp.float32),
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Neighbors:
    """How far features are from their nearest ones of upright data, all of length one.

    Attributes:
        apply: ``apply(params, rest, views)`` gives features (m, q).
        params: Of the model.
        rest: Its other state.
        bank: (n, q), features of the data, of length one.
        k: Neighbors of which the distance is the mean.

    Source:
        Sun et al. 2022, arXiv 2204.06507 (distance to neighbors as a sign of what is out of distribution).
    """

    apply: Apply = field(metadata=_STATIC)
    params: Any
    rest: Any
    bank: Float[Array, "n q"]
    k: int = field(default=5, metadata=_STATIC)

    def __call__(self, views: Float[Array, "m *shape"]) -> Float[Array, " m"]:
        """Judges views.

        Args:
            views: In any poses.

        Returns:
            One less the mean cosine to the nearest, in [0, 2].
        """
        cosines = unit_rows(self.apply(self.params, self.rest, views)) @ self.bank.T
        return 1 - jax.lax.top_k(cosines, self.k)[0].mean(-1)


def neighbors(model: Any, params: Any, views: Float[Array, "n *shape"], *, k: int = 5) -> Neighbors:
    """Takes the features of upright data as the bank, without labels.

    Args:
        model: As in ``reference``, to features (n, q).
        params: As in ``reference``.
        views: Upright data at the size at which the canonicalizer will show them.
        k: Neighbors, in [1, n].

    Returns:
        The energy.

    Raises:
        BadArrayError: If k is out of range.
        RepsimError: If the model is none of these.
    """
    if not 1 <= k <= len(views):
        raise BadArrayError(f"neighbors needs 1 <= k <= n, got k={k!r} for n={len(views)} examples.")
    parts = as_model(model, params)
    bank = unit_rows(parts.apply(parts.params, parts.rest, jnp.asarray(views)))
    return Neighbors(parts.apply, parts.params, parts.rest, bank, k)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Custom:
    """Your own energy.

    Attributes:
        function: ``function(params, views)`` gives (m,) numbers, the lower the more canonical; pure, and the same
            object at each call, or it is compiled again.
        params: What it needs, any pytree.
    """

    function: Callable[[Any, jax.Array], jax.Array] = field(metadata=_STATIC)
    params: Any = None

    def __call__(self, views: Float[Array, "m *shape"]) -> Float[Array, " m"]:
        """Judges views.

        Args:
            views: In any poses.

        Returns:
            Your numbers.
        """
        return self.function(self.params, views)
