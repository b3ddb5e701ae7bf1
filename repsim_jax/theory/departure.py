"""How fast does training leave PCA, under orthonormal output weights or under a penalty that pulls them there?"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from repsim_jax.errors import BadArrayError
from repsim_jax.linalg.stiefel import retract, tangent
from repsim_jax.theory.networks import Network, Params, hidden_layers
from repsim_jax.theory.objectives import pair_matrix
from repsim_jax.theory.pca import ContrastivePca, contrastive_pca, subspace_affinity


class Departure(NamedTuple):
    """Networks that start at PCA of their features, at geometric times; arrays have a leading axis of seeds.

    Attributes:
        times: (t,) steps times the learning rate.
        embeddings: (s, t, 3N, K).
        gram_change: (s, t) relative Frobenius change of the hidden features' Gram matrix since the start.
        defect: (s, t) Frobenius distance of :math:`W^T W` from the identity.
    """

    times: Float[Array, " t"]
    embeddings: Float[Array, "s t n k"]
    gram_change: Float[Array, "s t"]
    defect: Float[Array, "s t"]


def features(params: Params, x: Float[Array, "n d"], network: Network) -> Float[Array, "n m"]:
    r"""Hidden features, the last activations divided by :math:`M^{1/2}`.

    Args:
        params: Weights.
        x: Inputs.
        network: Its shape.

    Returns:
        (n, M).
    """
    return hidden_layers(params, x, network)[-1][1] * network.width**-0.5


def at_pca(params: Params, x: Float[Array, "n d"], network: Network) -> tuple[Params, ContrastivePca]:
    """Output weights that make the embeddings PCA of the features at the start.

    Args:
        params: Of one network; its output weights are replaced.
        x: Anchors, positives and negatives, one after the other.
        network: Its shape.

    Returns:
        Parameters whose output weights are orthonormal, and the PCA.

    Raises:
        BadArrayError: As ``contrastive_pca``.
    """
    phi = np.asarray(features(params, x, network))
    start = contrastive_pca(phi @ phi.T, network.num_outputs)
    return (*params[:-1], jnp.asarray(phi.T @ start.out_of_sample, x.dtype)), start


def penalized_scales(eigenvalues: Float[ArrayLike, " k"], penalty: float) -> Float[np.ndarray, " k"]:
    r"""How long the output weights are at the minimum under a penalty, and with them each component.

    The minimum of :math:`-\mathrm{tr}(W^T C W) + \frac{\mu}{4} \|W^T W - I\|_F^2` is at the top eigenvectors of C,
    each scaled by :math:`\sqrt{1 + 2 \lambda / \mu}`: the subspace is that of PCA at any strength.

    Args:
        eigenvalues: Of C, the top K.
        penalty: The strength :math:`\mu` > 0.

    Returns:
        The scales; zero where no component is learned.
    """
    return np.sqrt(np.maximum(1.0 + 2.0 * np.asarray(eigenvalues, float) / penalty, 0.0))


def doubled(x: Float[Array, "n d"]) -> Float[Array, "n2 d2"]:
    r"""Triplets whose contrast matrix has every eigenvalue twice in the limit of infinite width.

    The first half of the triplets and a copy of it in as many other dimensions, orthogonal to all of them. Odd
    activations let orthogonal inputs alone, so that the limit is two equal blocks; at width M their eigenvalues differ
    by order :math:`M^{-1/2}`.

    Args:
        x: Anchors, positives and negatives of N >= 2 triplets, one after the other.

    Returns:
        As many triplets again, or one less.
    """
    half = x.reshape(3, -1, x.shape[1])[:, : len(x) // 6]
    nothing = jnp.zeros_like(half)
    copies = [jnp.concatenate([half, nothing], -1), jnp.concatenate([nothing, half], -1)]
    return jnp.concatenate(copies, 1).reshape(-1, 2 * x.shape[1])


def deviation(embeddings: Float[ArrayLike, "n k"], start: ContrastivePca) -> float:
    """Root mean squared sine of the principal angles between the span of embeddings and that of PCA.

    Args:
        embeddings: (3N, K).
        start: The PCA.

    Returns:
        From 0 (the same subspace) to 1 (orthogonal); blind to rotations and scales within the subspace.
    """
    return float(np.sqrt(max(1.0 - subspace_affinity(embeddings, start.embeddings), 0.0)))


def depart(
    params: Params,
    x: Float[Array, "n d"],
    *,
    network: Network,
    penalty: float | None = None,
    train_hidden: bool = True,
    num_records: int = 6,
    horizon: float = 40.0,
    first_time: float = 1.0,
    learning_rate: float = 0.2,
) -> Departure:
    r"""Gradient descent on :math:`-\mathrm{tr}(f^T A' f)` with output weights that are held, or pulled, orthonormal.

    Args:
        params: Of several networks, stacked; where they start.
        x: Anchors, positives and negatives, one after the other.
        network: Their shape.
        penalty: Strength :math:`\mu` of :math:`\frac{\mu}{4} \|W^T W - I\|_F^2`; None: steps along the orthonormal
            matrices, as in ``train_orthonormal``.
        train_hidden: Whether the hidden weights move as well.
        num_records: Looks, at geometric times.
        horizon: Time of the last.
        first_time: Time of the first.
        learning_rate: Of both. Under a penalty steps below :math:`1 / (\mu + 2 \lambda)`, with the largest eigenvalue
            of C, are stable at its minimum.

    Returns:
        What was seen.

    Raises:
        BadArrayError: If the penalty is not positive.
    """
    if penalty is not None and not 0 < penalty < np.inf:
        raise BadArrayError(f"depart needs a penalty > 0, or None for the constraint, got {penalty!r}.")
    times = np.geomspace(first_time, horizon, num_records)
    ends = np.maximum(np.round(times / learning_rate), 1).astype(int)
    seen = _depart(
        params, x, network=network, constrained=penalty is None, train_hidden=train_hidden,
        penalty=0.0 if penalty is None else float(penalty), rate=learning_rate,
        ends=jnp.asarray(ends),
    )  # fmt: skip
    return Departure(jnp.asarray(ends * learning_rate), *seen)


@partial(jax.jit, static_argnames=("network", "constrained", "train_hidden"))
def _depart(
    params: Params, x: jax.Array, *, network: Network, constrained: bool, train_hidden: bool, penalty: Any, rate: Any,
    ends: jax.Array,
) -> tuple[jax.Array, ...]:  # fmt: skip
    pairs = jnp.asarray(pair_matrix(len(x) // 3) / 2, x.dtype)

    def excess(w: jax.Array) -> jax.Array:
        return w.T @ w - jnp.eye(w.shape[1], dtype=w.dtype)

    def loss(at: Params) -> jax.Array:
        f = features(at, x, network) @ at[-1]
        return -jnp.sum(f * (pairs @ f)) + penalty / 4 * jnp.sum(jnp.square(excess(at[-1])))

    def step(state: tuple[jax.Array, Params]) -> tuple[jax.Array, Params]:
        done, at = state
        slope = jax.grad(loss)(at)
        hidden = at[:-1]
        if train_hidden:
            hidden = jax.tree.map(lambda a, b: a - rate * b, hidden, slope[:-1])
        w, by_w = at[-1], slope[-1]
        w = retract(w - rate * tangent(w, by_w)) if constrained else w - rate * by_w
        return done + 1, (*hidden, w)

    def one(start: Params) -> tuple[jax.Array, ...]:
        phi = features(start, x, network)
        gram = phi @ phi.T

        def look(state: tuple[jax.Array, Params], end: jax.Array) -> tuple[Any, tuple[jax.Array, ...]]:
            state = jax.lax.while_loop(lambda at: at[0] < end, step, state)
            now = features(state[1], x, network)
            change = jnp.linalg.norm(now @ now.T - gram) / jnp.linalg.norm(gram)
            w = state[1][-1]
            return state, (now @ w, change, jnp.linalg.norm(excess(w)))

        return jax.lax.scan(look, (jnp.zeros((), int), start), ends)[1]

    return jax.lax.map(one, params)
