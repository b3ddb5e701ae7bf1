"""Objectives are losses of the examples that have a weight, and their residuals give the Gauss-Newton matrix."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from influence_cases import SMALL, VIEWS, K, N, V, examples, flat_function, predictor, small, small_problem

from repsim_jax._compat import enable_x64
from repsim_jax.influence import BYOL, BarlowTwins, Custom, SimCLR, SimSiam, SpectralContrastive, VICReg
from repsim_jax.influence.problems import Unit
from repsim_jax.losses import barlow_twins, nt_xent

OBJECTIVES = {
    "SimCLR": SimCLR(0.3),
    "SpectralContrastive": SpectralContrastive(),
    "BarlowTwins": BarlowTwins(0.1),
    "VICReg": VICReg(),
    "SimSiam": SimSiam(predictor),
    "BYOL": BYOL(predictor=predictor),
}


def params() -> Any:
    return jax.tree.map(jnp.asarray, SMALL)


def seen_by(objective: Any, kept: Any, weights: Any) -> Any:
    return objective.loss(small, params(), jnp.asarray(VIEWS[kept]), jnp.asarray(weights, float))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_leaving_an_example_out_is_giving_it_no_weight(name: str):
    with enable_x64():
        kept = np.delete(np.arange(N), [2, 5])
        weights = np.ones(N)
        weights[[2, 5]] = 0
        whole = seen_by(OBJECTIVES[name], np.arange(N), weights)
        np.testing.assert_allclose(whole, seen_by(OBJECTIVES[name], kept, np.ones(N - 2)), rtol=1e-10)


def test_the_loss_is_the_mean_over_all_pairs_of_views():
    with enable_x64():
        z = np.asarray(small(params(), jnp.asarray(VIEWS).reshape(N * V, -1))).reshape(N, V, K)
        pairs = [(a, c) for a in range(V) for c in range(a + 1, V)]
        expected = np.mean([nt_xent(z[:, a], z[:, c], temperature=0.3) for a, c in pairs])
        np.testing.assert_allclose(seen_by(SimCLR(0.3), np.arange(N), np.ones(N)), expected, rtol=1e-10)


def convex_parts(name: str) -> tuple[Any, Any]:
    """Outputs of two views, and the convex loss of them, written out: an independent way to the Gauss-Newton matrix."""
    unit = lambda z: z / jnp.linalg.norm(z, axis=1, keepdims=True)  # noqa: E731

    def logits(z: Any, z_pos: Any, _: Any) -> Any:
        both = unit(jnp.concatenate([z, z_pos]))
        return both @ both.T / 0.3

    def softmax(s: Any) -> Any:
        others = jnp.where(jnp.eye(2 * N) > 0, -jnp.inf, s)
        positives = jnp.roll(jnp.arange(2 * N), N)
        return (jax.nn.logsumexp(others, axis=1) - s[jnp.arange(2 * N), positives]).mean()

    def correlation(z: Any, z_pos: Any, _: Any) -> Any:
        sides = [(side - side.mean(0)) / jnp.sqrt(jnp.square(side - side.mean(0)).sum(0)) for side in (z, z_pos)]
        return sides[0].T @ sides[1]

    def barlow(c: Any) -> Any:
        diagonal = jnp.diagonal(c)
        return jnp.square(1 - diagonal).sum() + 0.1 * (jnp.square(c).sum() - jnp.square(diagonal).sum())

    def vicreg_parts(z: Any, z_pos: Any, _: Any) -> Any:
        return jnp.concatenate([(z - z_pos).ravel(), jnp.cov(z.T).ravel(), jnp.cov(z_pos.T).ravel()])

    def vicreg(parts: Any) -> Any:
        difference, *covariances = jnp.split(parts, [N * K, N * K + K * K])
        off = 1 - jnp.eye(K).ravel()
        return 25 * jnp.square(difference).mean() + sum(jnp.square(c * off).sum() for c in covariances) / K

    def products(z: Any, z_pos: Any, _: Any) -> Any:
        return z @ z_pos.T

    def spectral(s: Any) -> Any:
        return -2 * jnp.diagonal(s).mean() + jnp.square(s * (1 - jnp.eye(N))).sum() / (N * (N - 1))

    def siamese(z: Any, z_pos: Any, held: Any) -> Any:
        first, second = (unit(one @ jnp.asarray(SMALL["predictor"])) for one in (z, z_pos))
        return jnp.concatenate([first - unit(held[1]), second - unit(held[0])])

    return {
        "SimCLR": (logits, softmax),
        "BarlowTwins": (correlation, barlow),
        "VICReg": (vicreg_parts, vicreg),
        "SpectralContrastive": (products, spectral),
        "SimSiam": (siamese, lambda d: jnp.square(d).sum() / (4 * N)),
        "BYOL": (siamese, lambda d: jnp.square(d).sum() / (2 * N)),
    }[name]


SLOWER = [pytest.param(n, marks=pytest.mark.slow) for n in OBJECTIVES if n not in ("SimCLR", "SimSiam")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SimCLR", "SimSiam", *SLOWER])
def test_residuals_give_the_gauss_newton_matrix_of_the_convex_part(name: str):
    with enable_x64():
        posed = small_problem(OBJECTIVES[name])
        row, restore = flat_function(posed)
        views, weights = jnp.asarray(VIEWS[:, :2]), jnp.ones(N)
        outputs, convex = convex_parts(name)

        def embedded(w: Any) -> Any:
            # the predictor's own parameters stay out of this comparison of what the embeddings are curved by
            z = small(posed.leaves().restore(restore(w)), views.reshape(2 * N, -1))
            return z.reshape(N, 2, K)

        held = jnp.moveaxis(embedded(jnp.asarray(row)), 1, 0)
        of = lambda w: outputs(embedded(w)[:, 0], embedded(w)[:, 1], held)  # noqa: E731
        jacobian = np.asarray(jax.jacobian(of)(jnp.asarray(row))).reshape(-1, len(row))
        found_outputs = of(jnp.asarray(row))
        hessian = jax.hessian(lambda flat: convex(flat.reshape(found_outputs.shape)))(found_outputs.ravel())
        residuals = lambda w: OBJECTIVES[name].residuals(  # noqa: E731
            small, posed.leaves().restore(restore(w)), views, weights
        )
        ours = np.asarray(jax.jacobian(residuals)(jnp.asarray(row)))[:, :-9]
        expected = (jacobian.T @ hessian @ jacobian)[:-9, :-9]
        np.testing.assert_allclose(ours.T @ ours, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_your_own_objective_is_used_as_it_is():
    function = lambda params, views, weights: (weights * barlow_twins(views[:, 0], views[:, 1])).sum()  # noqa: E731
    custom = Custom(function, lambda params, views, weights: views[:, 0] * weights[:, None])
    posed = small_problem(custom, train=examples())
    seen, weights = posed.train.seen(), jnp.full(N, 2.0)
    arrays = posed.leaves().arrays
    np.testing.assert_allclose(posed.loss(arrays, seen, weights), function(None, seen[:, 1:], weights))
    found = posed.residuals(arrays, Unit(seen, weights), "objective")
    np.testing.assert_allclose(found, 2 * np.asarray(seen[:, 1]).ravel())


@pytest.mark.slow
def test_without_stop_gradient_the_target_moves_too():
    with enable_x64():
        still, moving = SimSiam(predictor), SimSiam(predictor, stop_gradient=False)
        gradients = [
            jax.grad(lambda p, one=one: one.loss(small, p, jnp.asarray(VIEWS), jnp.ones(N)))(params())
            for one in (still, moving)
        ]
        np.testing.assert_allclose(gradients[0]["predictor"], gradients[1]["predictor"], rtol=1e-10)
        assert np.abs(gradients[0]["last"]["kernel"] - gradients[1]["last"]["kernel"]).max() > 1e-3
