"""Closed forms of the theory against networks that are trained, and the claims on small ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax._compat import enable_x64
from repsim_jax.errors import BadArrayError
from repsim_jax.kernels import mlp_kernels
from repsim_jax.linalg.stiefel import retract
from repsim_jax.theory import Setup, drift, triplets, verify
from repsim_jax.theory.flow import gradient_flow
from repsim_jax.theory.kernel_regime import growth, relative_error
from repsim_jax.theory.networks import Network, apply, init, tangent_kernel
from repsim_jax.theory.objectives import LOSSES, Objective, pair_matrix
from repsim_jax.theory.pca import contrastive_pca, davis_kahan, procrustes_error, subspace_affinity, train_orthonormal

DATA = np.random.default_rng(0).normal(size=(60, 20)) + np.repeat(np.eye(20)[:4] * 3, 15, axis=0)
GIVEN = triplets(jax.random.key(0), DATA, num_triplets=6)


def test_points_keep_their_products_in_fewer_coordinates():
    given = triplets(jax.random.key(1), DATA, num_triplets=4, view_noise=0.1)
    assert given.points.shape == (12, 12)
    np.testing.assert_allclose(np.linalg.norm(given.points, axis=1), 1, rtol=1e-12)
    anchors, views = given.points[:4], given.points[4:8]
    assert ((anchors * views).sum(1) > 0.99).all()
    centered = DATA - DATA.mean(0)
    units = centered / np.linalg.norm(centered, axis=1, keepdims=True)
    rows = np.concatenate([given.anchors, given.negatives])
    products = units[rows] @ units[rows].T
    kept = np.concatenate([anchors, given.points[8:]])
    np.testing.assert_allclose(kept @ kept.T, products, atol=1e-12)
    assert len(set(rows.tolist())) == 8


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (np.full((10, 3), np.nan), {}, "NaN or infinity in 10 rows, the first is 0"),
        (np.array(1.0), {}, "real examples, one a row"),
        (np.ones((10, 3), complex), {}, "real examples"),
        (DATA, {"num_triplets": 2.5}, "2 to n / 2 triplets"),
        (np.repeat(DATA[:5], 4, axis=0), {"num_triplets": 3}, "n = 5 different examples"),
        (DATA, {"num_triplets": 31}, "2 to n / 2 triplets of n = 60"),
        (DATA, {"num_triplets": 1}, "2 to n / 2"),
        (np.stack([np.full(3, 1.0 * i) for i in range(-4, 5)]), {"num_triplets": 4}, "row 4 equals the mean"),
        (DATA, {"view_noise": 0.0}, "view_noise > 0"),
    ],
)
def test_data_without_triplets_are_refused(data: np.ndarray, options: dict, message: str):
    with pytest.raises(BadArrayError, match=message):
        triplets(jax.random.key(0), data, **options)


def test_neither_scale_nor_copies_change_the_triplets():
    huge = triplets(jax.random.key(0), DATA * 1e200, num_triplets=6)
    np.testing.assert_allclose(huge.points @ huge.points.T, GIVEN.points @ GIVEN.points.T, atol=1e-12)
    copied = triplets(jax.random.key(0), np.concatenate([DATA, DATA]), num_triplets=30)
    assert len({*copied.anchors.tolist(), *copied.negatives.tolist()}) == 60


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (DATA, "call triplets"),
        (GIVEN._replace(points=np.full_like(GIVEN.points, np.nan)), "finite points"),
        (GIVEN._replace(points=np.zeros_like(GIVEN.points)), "not zero"),
    ],
)
def test_points_without_a_cosine_are_refused(given: Any, message: str):
    for function in (verify, drift):
        with pytest.raises(BadArrayError, match=message):
            function(jax.random.key(0), given)


def test_more_components_than_points_are_refused_before_anything_is_trained():
    with pytest.raises(BadArrayError, match="fewer components than the 18 points"):
        verify(jax.random.key(0), GIVEN, setup=Setup(num_components=20))


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_cosine_losses_see_no_length_and_all_see_no_rotation(loss: str):
    f = np.random.default_rng(1).normal(size=(12, 3))
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    scales = np.random.default_rng(3).uniform(0.5, 2, size=(12, 1))
    with enable_x64():
        by_cosine = Objective(loss, "cosine")
        np.testing.assert_allclose(by_cosine(jnp.asarray(scales * f)), by_cosine(jnp.asarray(f)), rtol=1e-9)
        if loss not in ("barlow_twins", "vicreg"):  # those decorrelate the axes themselves
            for similarity in ("dot", "cosine"):
                objective = Objective(loss, similarity)
                np.testing.assert_allclose(objective(jnp.asarray(f @ rotation)), objective(jnp.asarray(f)), rtol=1e-9)


def test_the_linear_loss_is_its_quadratic_form():
    f = np.random.default_rng(4).normal(size=(12, 3))
    with enable_x64():
        found = Objective("linear", "dot")(jnp.asarray(f))
    np.testing.assert_allclose(found, -0.5 * np.trace(f.T @ pair_matrix(4) @ f), rtol=1e-12)


def test_losses_of_differences_are_their_twins():
    z, pos, neg = np.random.default_rng(5).normal(size=(3, 4, 3))
    m = (z * neg).sum(1) - (z * pos).sum(1)
    share = [
        np.exp(z[i] @ pos[i] / 0.5) / (np.exp(z[i] @ pos[i] / 0.5) + np.exp(neg @ z[i] / 0.5).sum()) for i in range(4)
    ]
    wanted = {
        "logistic": np.log1p(np.exp(m / 0.5)).sum(),
        "triplet": np.maximum(0, m + 1).sum(),
        "attraction": -(z * pos).sum(),
        "infonce": -np.log(share).sum(),
    }
    with enable_x64():
        for loss, value in wanted.items():
            found = Objective(loss, "dot", 0.5)(jnp.asarray(np.concatenate([z, pos, neg])))
            np.testing.assert_allclose(found, value, rtol=1e-10, err_msg=loss)


def test_a_wide_network_follows_the_closed_form_of_its_first_kernel():
    network = Network(8192, 2, 1, "tanh")
    with enable_x64():
        x = jnp.asarray(GIVEN.points)
        params = init(jax.random.key(1), network, x.shape[1], jnp.float64)
        modes = growth(np.asarray(tangent_kernel(params, x, network)))
        time = 0.5 / modes.largest_rate
        flow = gradient_flow(
            params, x, jnp.asarray([time / 2, time]), network=network, objectives=(Objective("linear", "dot"),)
        )
        start = np.asarray(apply(params, x, network))
        assert relative_error(modes.outputs(start, time), flow.outputs[-1]) < 1e-3
        assert relative_error(start, flow.outputs[-1]) > 0.05
        np.testing.assert_allclose(modes.outputs(start, 0.0), start, atol=1e-8)


def test_frozen_features_are_trained_to_pca_and_new_points_follow():
    network = Network(64, 2, 1, "tanh")
    with enable_x64():
        x = jnp.asarray(GIVEN.points)
        params = init(jax.random.key(2), network, x.shape[1], jnp.float64)
        params = (params[0], retract(params[1]))
        trained = train_orthonormal(params, x, network=network, train_hidden=False, num_records=10, num_substeps=200)
        n = len(x)
        gram = np.asarray(trained.grams[0])[:n, :n]
        pca = contrastive_pca(gram, 2)
        assert procrustes_error(trained.embeddings[-1], pca.embeddings) < 1e-8
        assert subspace_affinity(trained.embeddings[-1], pca.embeddings) == pytest.approx(1, abs=1e-8)
        assert float(trained.losses[-1]) == pytest.approx(pca.optimum, rel=1e-9)
        assert trained.angle(pca) < 1e-6
        assert trained.gram_change() < 1e-14
        np.testing.assert_allclose(gram @ pca.out_of_sample, pca.embeddings, atol=1e-9)
        # The primal problem, by NumPy: the top eigenvectors of the matrix that is as wide as the network.
        phi = np.tanh(np.asarray(x) @ np.asarray(params[0]).T) / 8
        values = np.linalg.eigvalsh(phi.T @ (pair_matrix(n // 3) / 2) @ phi)[::-1]
        np.testing.assert_allclose(pca.eigenvalues[:2], values[:2], rtol=1e-9)
        assert pca.gap == pytest.approx(values[1] - values[2], rel=1e-6)


def test_the_bound_on_eigenspaces_is_never_violated_by_random_changes():
    generator = np.random.default_rng(6)
    for _ in range(50):
        matrix, change = (one + one.T for one in generator.normal(size=(2, 12, 12)))
        change *= generator.uniform(0, 0.3)
        values, vectors = np.linalg.eigh(matrix)
        moved = np.linalg.eigh(matrix + change)[1]
        cosines = np.linalg.svd(vectors[:, -3:].T @ moved[:, -3:], compute_uv=False)
        sine = np.sqrt(max(0.0, 1 - cosines[-1] ** 2))
        assert sine <= davis_kahan(np.linalg.norm(change, 2), values[-3] - values[-4]) + 1e-9
    assert davis_kahan(1.0, 0.0) == 1.0


def test_pca_of_the_infinitely_wide_network_needs_its_kernel_alone():
    """Against the features of one very wide network."""
    x = GIVEN.points
    gram = np.asarray(mlp_kernels(x, activation="erf", weight_std=(np.sqrt(x.shape[1]), 1.0)).conjugate)
    from scipy.special import erf

    weights = np.random.default_rng(7).normal(size=(100_000, x.shape[1]))
    features = erf(x @ weights.T) / np.sqrt(len(weights))
    found, wanted = contrastive_pca(gram, 2), contrastive_pca(features @ features.T, 2)
    np.testing.assert_allclose(found.eigenvalues[:3], wanted.eigenvalues[:3], rtol=0.02)
    assert subspace_affinity(found.embeddings, wanted.embeddings) > 0.99


@pytest.mark.parametrize(
    ("gram", "num", "message"),
    [
        (np.eye(7), 2, r"\(3N, 3N\) Gram matrix"),
        (np.full((6, 6), np.nan), 2, "finite"),
        (np.ones((6, 6)), 1, "Duplicate points lower the rank"),
        (np.eye(6), 0, "num_components"),
    ],
)
def test_a_matrix_without_components_is_refused(gram: np.ndarray, num: int, message: str):
    with pytest.raises(BadArrayError, match=message):
        contrastive_pca(gram, num)


def test_the_spectral_loss_has_a_lower_bound_only_with_all_pairs():
    """One pair that grows orthogonally to all others: minus two s^2, against s^4 / N where it meets itself."""
    values = {}
    for loss in ("spectral", "spectral_batch"):
        for size in (1.0, 10.0, 100.0):
            f = np.zeros((12, 3), np.float32)
            f[[0, 4], 0] = size
            values[loss, size] = float(Objective(loss, "dot")(jnp.asarray(f)))
    assert values["spectral_batch", 100.0] == pytest.approx(-2e4)
    assert values["spectral", 100.0] == pytest.approx(-2e4 + 1e8 / 4)
    z, pos = np.random.default_rng(8).normal(size=(2, 4, 3))
    # A matrix factorization: of N times the identity, up to a constant.
    wanted = np.square(z @ pos.T - 4 * np.eye(4)).sum() / 4 - 16
    with enable_x64():
        found = Objective("spectral", "dot")(jnp.asarray(np.concatenate([z, pos, z])))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.slow
def test_the_claims_hold_on_small_networks():
    told: list[str] = []
    setup = Setup(widths=(64, 256, 1024), num_seeds=3, activations=("tanh",), horizon=4.0, num_times=8)
    claims = {one.name: one for one in verify(jax.random.key(3), GIVEN, setup=setup, on_progress=told.append)}
    constant = claims["cosine losses keep the kernel"]
    assert constant.verdict == constant.verdict_told == "holds"
    assert {one.kept_until for one in constant.courses} == {4.0}
    assert all(one.slope is not None and -1.6 < one.slope.value < -0.5 for one in constant.series)
    assert constant.details["integration error"] < 0.05
    escape = claims["the linear loss of dot products escapes"]
    assert (np.diff(escape.series[0].values.mean(1)) > 0).all()
    assert 0.2 < escape.series[0].slope.value < 1.0
    assert escape.details["exponent of that error in the width"]["high"] < 0
    boundary = claims["losses without a lower bound escape, others stay"]
    kept = boundary.details["kept until"]
    assert all(kept[f"{loss}, dot; tanh"] == 4.0 for loss in ("logistic", "infonce", "spectral", "barlow_twins"))
    assert all(kept[f"{loss}, dot; tanh"] < 4.0 for loss in ("linear", "attraction"))
    frozen = claims["frozen features give PCA"]
    # The gap of these few triplets is small, and descent slow: it must be near, and never be called wrong.
    assert frozen.verdict in ("holds", "undecided")
    assert frozen.details["smallest affinity"] > 0.99
    assert claims["trained features stay near PCA"].series[0].slope.high < 0
    assert any("width 1024" in line for line in told)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (64, 256)}, "three rising widths"),
        ({"num_seeds": 2}, "three seeds"),
        ({"horizon": 0.0}, "horizon > 0"),
        ({"num_times": 2}, "three times"),
        ({"widths": (16, 32, 10**12)}, "widths up to"),
        ({"widths": (1, 32, 64)}, "whole number width"),
        ({"num_components": 64}, "num_components < the smallest width 64"),
    ],
)
def test_too_little_evidence_is_refused(changes: dict, message: str):
    with pytest.raises(BadArrayError, match=message):
        Setup(**changes)
