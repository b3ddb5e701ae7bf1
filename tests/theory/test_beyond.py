"""What leaves the kernel and PCA is told apart from what stays; departures are measured from where theory starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax._compat import enable_x64
from repsim_jax.errors import BadArrayError
from repsim_jax.kernels import mlp_kernels
from repsim_jax.theory import Setup, triplets
from repsim_jax.theory.beyond import Variation, _verdict, beyond_the_theory, shrinking
from repsim_jax.theory.beyond_pca import beyond_pca
from repsim_jax.theory.departure import at_pca, depart, deviation, doubled, features, penalized_scales
from repsim_jax.theory.exponents import Slope
from repsim_jax.theory.networks import Network, init
from repsim_jax.theory.objectives import pair_matrix
from repsim_jax.theory.pca import contrastive_pca, train_orthonormal
from repsim_jax.theory.triplets import image_triplets

DATA = np.random.default_rng(0).normal(size=(60, 16)) + np.repeat(np.eye(16)[:4] * 3, 15, axis=0)
GIVEN = triplets(jax.random.key(0), DATA, num_triplets=6)
NETWORK = Network(32, 2)
SHRINKS, FLAT = "shrinks with the width", "does not shrink with the width"


def started(seed: int = 0) -> tuple:
    params = init(jax.random.key(seed), NETWORK, GIVEN.points.shape[1], jnp.float64)
    return at_pca(params, jnp.asarray(GIVEN.points), NETWORK)


def stacked(params: tuple) -> tuple:
    return jax.tree.map(lambda leaf: leaf[None], params)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(-1.1, -0.9, SHRINKS), (-0.6, -0.05, SHRINKS), (-0.05, 0.05, FLAT), (0.3, 0.5, FLAT), (-0.5, 0.1, "undecided")],
)
def test_an_exponent_is_put_into_words(low: float, high: float, word: str):
    assert shrinking(Slope((low + high) / 2, low, high, 0.0, 5)) == word


def test_one_setting_that_does_not_shrink_is_enough_to_refute():
    assert shrinking(None) == "diverged"
    assert _verdict([SHRINKS, SHRINKS]) == "holds"
    assert _verdict([SHRINKS, "undecided"]) == "undecided"
    assert _verdict([SHRINKS, "undecided", FLAT]) == "does not hold"
    assert _verdict([SHRINKS, "diverged"]) == "does not hold"


def test_output_weights_at_pca_are_orthonormal_and_give_its_embeddings():
    with enable_x64():
        params, start = started()
        np.testing.assert_allclose(params[-1].T @ params[-1], np.eye(2), atol=1e-10)
        phi = features(params, jnp.asarray(GIVEN.points), NETWORK)
        np.testing.assert_allclose(phi @ params[-1], start.embeddings, atol=1e-10)
        # The primal problem: the weights are eigenvectors of the matrix that is as wide as the network.
        matrix = phi.T @ (pair_matrix(6) / 2) @ phi
        np.testing.assert_allclose(matrix @ params[-1], params[-1] * start.eigenvalues[:2], atol=1e-9)


@pytest.mark.parametrize("penalty", [0.5, 20.0])
def test_no_weights_are_better_under_a_penalty_than_the_scaled_components(penalty: float):
    with enable_x64():
        params, start = started()
        phi = np.asarray(features(params, jnp.asarray(GIVEN.points), NETWORK))
    matrix = phi.T @ (pair_matrix(6) / 2) @ phi
    w = np.asarray(params[-1]) * penalized_scales(start.eigenvalues[:2], penalty)

    def loss(w: np.ndarray) -> float:
        return -np.trace(w.T @ matrix @ w) + penalty / 4 * np.square(w.T @ w - np.eye(2)).sum()

    slope = -2 * matrix @ w + penalty * w @ (w.T @ w - np.eye(2))
    np.testing.assert_allclose(slope, 0, atol=1e-9)
    generator = np.random.default_rng(1)
    assert all(loss(w) < loss(w + scale * generator.normal(size=w.shape)) for scale in (1e-3, 0.1, 1) for _ in range(9))


def test_a_component_that_costs_more_than_it_gives_is_not_learned():
    np.testing.assert_allclose(penalized_scales([3.0, -1.0, -9.0], 4.0), [np.sqrt(2.5), np.sqrt(0.5), 0])


@pytest.mark.parametrize("penalty", [None, 5.0])
def test_frozen_features_stay_at_pca_and_trained_ones_leave(penalty: float | None):
    with enable_x64():
        params, start = started()
        if penalty is not None:
            params = (params[0], params[1] * penalized_scales(start.eigenvalues[:2], penalty))
        x = jnp.asarray(GIVEN.points)
        for train_hidden in (False, True):
            run = depart(
                stacked(params), x, network=NETWORK, penalty=penalty, train_hidden=train_hidden, horizon=4.0,
                num_records=2, learning_rate=0.05,
            )  # fmt: skip
            left = [deviation(look, start) for look in run.embeddings[0]]
            assert (left[1] > 1e-3) is train_hidden
            assert (float(run.gram_change[0, -1]) > 1e-3) is train_hidden
            if penalty is None:
                assert float(run.defect.max()) < 1e-12
            if not train_hidden:
                assert max(left) < 1e-6


def test_the_constraint_is_that_of_the_claim_on_pca():
    with enable_x64():
        params, _ = started()
        x = jnp.asarray(GIVEN.points)
        run = depart(stacked(params), x, network=NETWORK, horizon=2.0, num_records=1, first_time=2.0)
        wanted = train_orthonormal(params, x, network=NETWORK, train_hidden=True, num_records=1, num_substeps=10)
        np.testing.assert_allclose(run.embeddings[0, -1], wanted.embeddings[-1], rtol=1e-9, atol=1e-11)
        assert float(run.gram_change[0, -1]) == pytest.approx(wanted.gram_change(), rel=1e-8)


def test_the_deviation_sees_the_subspace_alone():
    start = contrastive_pca(np.diag(np.arange(1.0, 13.0)), 2)
    turned = start.embeddings @ np.array([[2.0, 1.0], [-1.0, 0.5]])
    assert deviation(turned, start) < 1e-7
    assert deviation(np.random.default_rng(2).normal(size=(12, 2)), start) > 0.5
    away = np.linalg.svd(start.embeddings)[0][:, 2:4]
    assert deviation(away, start) == pytest.approx(1.0)


def test_every_eigenvalue_comes_twice_in_the_limit_of_doubled_triplets():
    x = np.asarray(doubled(jnp.asarray(GIVEN.points)))
    assert x.shape == (18, 2 * GIVEN.points.shape[1])
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-5)
    gram = mlp_kernels(x, activation="erf", weight_std=(np.sqrt(x.shape[1]), 1.0)).conjugate
    eigenvalues = contrastive_pca(np.asarray(gram), 2).eigenvalues
    np.testing.assert_allclose(eigenvalues[0:6:2], eigenvalues[1:7:2], rtol=1e-4)
    assert eigenvalues[1] > 1.05 * eigenvalues[2]


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(BadArrayError, match="a penalty > 0"):
        depart((), jnp.asarray(GIVEN.points), network=NETWORK, penalty=0.0)
    with pytest.raises(BadArrayError, match="both images and image_shape"):
        beyond_the_theory(jax.random.key(0), GIVEN, Setup(), lambda _: None, images=GIVEN)


@pytest.mark.slow
def test_adam_with_one_rate_for_all_widths_keeps_its_kernel_less_well_than_descent():
    variations = (
        Variation("Adam, one rate for all widths", method="adam", width_power=0.0),
        Variation("convolutions", convolutional=True, narrowing=8),
    )
    setup = Setup((64, 256, 1024), 3, num_outputs=3, activations=("tanh",), horizon=20.0)
    lines: list[str] = []
    images = image_triplets(jax.random.key(0), DATA, num_triplets=6)
    claim = beyond_the_theory(
        jax.random.key(1), GIVEN, setup, lines.append, images=images, image_shape=(4, 4, 1), variations=variations
    )
    base, adam, convolutions = claim.series
    assert base.slope is not None
    assert adam.slope is not None
    assert claim.details[base.label]["verdict"] == SHRINKS
    assert adam.slope.value > base.slope.value + 0.2
    assert convolutions.widths == (8, 32, 128)
    assert "Adam, one rate for all widths, width 256" in lines
    assert base.label in claim.observed


@pytest.mark.slow
def test_departure_from_pca_shrinks_with_the_width_and_grows_with_time():
    setup = Setup((64, 256, 1024), 3, activations=("tanh",))
    claim = beyond_pca(jax.random.key(3), GIVEN, setup, lambda _: None, horizon=10.0)
    assert claim.details["largest deviation with frozen features"] < 1e-6
    constraint = claim.series[0]
    assert constraint.slope is not None
    assert -1.4 < constraint.slope.value < -0.6
    assert 0.7 < claim.details["constraint"]["exponent in time"] < 1.4
    assert len(claim.series) == 8
