"""Kernels in the place of networks: flows against closed forms and wide networks, components against scikit-learn."""

import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax._compat import enable_x64
from repsim_jax.errors import BadArrayError, DivergedError, MissingPackageError, RepsimError, UnknownNameError
from repsim_jax.kernels import mlp_kernels, ntk
from repsim_jax.losses import barlow_twins, nt_xent, spectral_contrastive, vicreg
from repsim_jax.theory.flow import gradient_flow
from repsim_jax.theory.kernel_learner import PairObjective, kernel_flow, pair_contrast
from repsim_jax.theory.kernel_pca import kernel_pca, nystrom_features, random_features
from repsim_jax.theory.kernel_regime import growth, relative_error
from repsim_jax.theory.kernel_twins import kernel_twins, linear_twins
from repsim_jax.theory.networks import Network, apply, init, tangent_kernel
from repsim_jax.theory.objectives import Objective
from repsim_jax.theory.pca import contrastive_pca, procrustes_error

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(12, 5))
X /= np.linalg.norm(X, axis=1, keepdims=True)
NEW = GENERATOR.normal(size=(4, 5))
START = GENERATOR.normal(size=(12, 4))
FEATURES = GENERATOR.normal(size=(12, 7))
GRAM = (lambda z: z @ z.T / 20)(GENERATOR.normal(size=(12, 20)))


def wide(x: np.ndarray, y: np.ndarray | None = None):
    """The infinitely wide network of ``theory.Network``."""
    return mlp_kernels(x, y, activation="tanh", depth=1, weight_std=(x.shape[1] ** 0.5, 1.0))


def test_the_flow_of_the_linear_loss_is_its_closed_form():
    closed = growth(GRAM[:, None, :, None] * np.eye(4)[None, :, None, :])
    with enable_x64():
        flow = kernel_flow(Objective("linear", "dot"), GRAM, START, horizon=0.8, tolerance=1e-8, num_records=4)
    for time, outputs in zip(flow.times, flow.outputs, strict=True):
        np.testing.assert_allclose(outputs, closed.outputs(START, float(time)), rtol=1e-5, atol=1e-6)
    assert flow.error < 1e-5
    assert flow.losses[-1] < flow.losses[0]
    assert flow.converged


def test_tolerance_rules_the_error_and_the_reported_error_bounds_it():
    gram, objective = GRAM, Objective("logistic", "cosine")
    with enable_x64():
        exact = kernel_flow(objective, gram, START, horizon=2.0, tolerance=1e-10, num_records=4)
        for tolerance in (1e-3, 1e-5):
            flow = kernel_flow(objective, gram, START, horizon=2.0, tolerance=tolerance, num_records=4)
            assert relative_error(flow.outputs[-1], exact.outputs[-1]) <= flow.error < 300 * tolerance
    assert flow.num_steps < exact.num_steps


def logistic_of_the_first(f: jax.Array) -> jax.Array:
    """The loss of X alone, whatever rows come after."""
    return Objective("logistic", "cosine")(f[: len(X)])


@pytest.mark.slow
def test_a_wide_network_under_gradient_flow_follows_its_kernel_and_the_wider_the_closer():
    objective, n = Objective("logistic", "cosine"), len(X)
    both, times = jnp.asarray(np.concatenate([X, NEW]), jnp.float32), jnp.linspace(0.1, 2.0, 20)
    errors = []
    for width in (256, 16384):
        network = Network(width, num_outputs=4)
        params = init(jax.random.key(0), network, 5)
        trained = gradient_flow(params, both, times, network=network, objectives=(logistic_of_the_first,))
        start = apply(params, both, network)
        flow = kernel_flow(objective, wide(X).ntk, start[:n], horizon=2.0)
        errors.append(relative_error(flow.outputs[-1], trained.outputs[-1, :n]))
        far = float(np.linalg.norm(flow.outputs[-1] - start[:n]) / np.linalg.norm(start[:n]))
        out_of_sample = relative_error(flow.embed(wide(NEW, X).ntk, start[n:]), trained.outputs[-1, n:])
    assert far > 0.1, "the flow went nowhere"
    assert errors[1] < 0.02, errors
    assert errors[1] < errors[0] / 3, errors
    assert out_of_sample < 0.02


def test_the_empirical_kernel_of_a_model_serves_as_well_as_the_exact_one():
    network = Network(64, num_outputs=1)
    params = init(jax.random.key(1), network, 5)
    x = jnp.asarray(X, jnp.float32)
    start = apply(params, x, network)
    of_model = kernel_flow(
        Objective("linear", "dot"), ntk(lambda p, z: apply(p, z, network), params, x), start, horizon=0.5
    )
    exact = growth(tangent_kernel(params, x, network)).outputs(np.asarray(start), 0.5)
    kept = growth(tangent_kernel(params, x, network)).outputs(np.asarray(start), 0.0)
    np.testing.assert_allclose(of_model.outputs[-1] - start, exact - kept, atol=2e-4)


def test_training_points_are_embedded_where_the_flow_left_them():
    flow = kernel_flow(PairObjective(), GRAM, START, horizon=3.0, num_records=4)
    for look in (0, -1):
        np.testing.assert_allclose(flow.embed(GRAM, START, look=look), flow.outputs[look], atol=1e-4)


def test_what_blows_up_or_is_too_stiff_is_told_and_not_returned():
    linear = Objective("linear", "dot")
    # Float32 holds e^87: the first of four looks, at e^60, and none after it.
    kernel = 60 / 125 / growth(GRAM[:, None, :, None]).largest_rate * GRAM
    with pytest.raises(DivergedError, match="did not reach time 500 in 4096 steps of tolerance 1e-05, but 125"):
        kernel_flow(linear, kernel, START, horizon=500.0, num_records=4)
    flow = kernel_flow(linear, kernel, START, horizon=500.0, num_records=4, allow_partial=True)
    assert (len(flow.times), flow.converged) == (1, False)
    assert np.isfinite(flow.outputs).all()
    with pytest.raises(RepsimError, match="finite gradient at the start"):
        kernel_flow(PairObjective("barlow_twins"), GRAM, np.ones_like(START))


@pytest.mark.parametrize(
    ("kernel", "start", "options", "message"),
    [
        (np.eye(4), START, {}, "same points"),
        (np.ones((12, 2, 12, 2)), START, {}, "trace"),
        (np.full((12, 12), np.nan), START, {}, "finite"),
        (np.eye(12), START, {"horizon": 0.0}, "horizon > 0"),
        (np.eye(12), START, {"tolerance": -1.0}, "tolerance > 0"),
        (np.eye(12), START, {"num_records": 0}, "num_records > 0"),
        (np.eye(12), START, {"num_records": 2.0}, "whole number num_records"),
        (np.eye(11), START[:11], {}, "got 11 rows, an odd number"),
    ],
)
def test_a_flow_that_makes_no_sense_is_refused(kernel, start, options, message):
    with pytest.raises(BadArrayError, match=message):
        kernel_flow(PairObjective(), kernel, start, **options)


def test_a_missing_diffrax_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(MissingPackageError, match=r"repsim_jax\[theory\]"):
        # Another number of records, so that no compiled program is at hand.
        kernel_flow(PairObjective(), np.eye(12), START, num_records=3)


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [
        ("nt_xent", lambda z, pos: nt_xent(z, pos, temperature=0.5)),
        ("spectral", spectral_contrastive),
        ("barlow_twins", barlow_twins),
        ("vicreg", vicreg),
    ],
)
def test_losses_of_pairs_are_those_of_unit_vectors_with_cosine(loss, wanted):
    f = jnp.asarray(START, jnp.float32)
    units = f / jnp.linalg.norm(f, axis=1, keepdims=True)
    np.testing.assert_allclose(PairObjective(loss)(f), wanted(units[:6], units[6:]), rtol=1e-5)
    if loss != "nt_xent":
        np.testing.assert_allclose(PairObjective(loss, "dot")(f), wanted(f[:6], f[6:]), rtol=1e-5)


def test_nt_xent_by_dot_product_is_its_textbook_form():
    f, products = START, START @ START.T / 0.7
    np.fill_diagonal(products, -np.inf)
    partners = (np.arange(12) + 6) % 12
    shares = np.exp(products[np.arange(12), partners]) / np.exp(products).sum(1)
    found = PairObjective("nt_xent", "dot", temperature=0.7)(jnp.asarray(f, jnp.float32))
    np.testing.assert_allclose(found, -np.log(shares).mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": "nt_exnt"}, UnknownNameError, "nt_xent"),
        ({"similarity": "cos"}, UnknownNameError, "cosine"),
        ({"temperature": 0.0}, BadArrayError, "temperature > 0"),
    ],
)
def test_unknown_objectives_of_pairs_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        PairObjective(**options)


def test_the_linear_loss_of_pairs_is_the_quadratic_form_of_its_contrast():
    f = jnp.asarray(START, jnp.float32)
    wanted = -np.trace(START.T @ pair_contrast(6) @ START)
    np.testing.assert_allclose(PairObjective("linear", "dot")(f), wanted, rtol=1e-5)
    with pytest.raises(BadArrayError, match="two pairs"):
        pair_contrast(1)


def test_contrastive_pca_of_pairs_is_pca_of_the_cross_covariance_of_views():
    found = contrastive_pca(FEATURES @ FEATURES.T, 3, contrast=pair_contrast(6))
    z, pos = (side - side.mean(0) for side in (FEATURES[:6], FEATURES[6:]))
    values, vectors = np.linalg.eigh((z.T @ pos + pos.T @ z) / (2 * 5))
    np.testing.assert_allclose(found.eigenvalues[:3], values[::-1][:3], rtol=1e-9)
    assert procrustes_error(found.embeddings, FEATURES @ vectors[:, ::-1][:, :3]) < 1e-9
    np.testing.assert_allclose(found.embed(FEATURES @ FEATURES.T), found.embeddings, atol=1e-9)


@pytest.mark.parametrize(
    ("gram", "contrast", "message"),
    [
        (np.eye(4), np.eye(3), "same points"),
        (np.eye(4), np.triu(np.ones((4, 4))), "symmetric"),
        (np.eye(4), np.full((4, 4), np.inf), "finite"),
        (np.ones((4, 3)), np.eye(4), "of n points"),
    ],
)
def test_a_contrast_of_other_points_is_refused(gram, contrast, message):
    with pytest.raises(BadArrayError, match=message):
        contrastive_pca(gram, 1, contrast=contrast)


def test_modes_of_barlow_twins_grow_as_the_flow_of_its_loss():
    gram = np.concatenate([FEATURES[:6], FEATURES[:6] + 0.3 * FEATURES[6:]])
    gram = gram @ gram.T / 7
    twins = kernel_twins(gram, 2)
    small = 0.05
    with enable_x64():
        flow = kernel_flow(linear_twins, gram, small * twins.modes.embeddings, horizon=8.0, tolerance=1e-9)
    for look, time in enumerate(flow.times):
        wanted = twins.embed(gram, time=float(time), start=small)
        np.testing.assert_allclose(flow.outputs[look], wanted, atol=1e-6)
    assert flow.losses[-1] < 1e-3, "the flow has not arrived"
    at_steps = [twins.sizes(time, small)[j] for j, time in enumerate(twins.step_times(small))]
    np.testing.assert_allclose(np.square(at_steps) * twins.eigenvalues, 0.5, rtol=0.01)
    np.testing.assert_allclose(linear_twins(jnp.asarray(twins.embed(gram))), 0, atol=1e-6)
    np.testing.assert_allclose(twins.sizes(0.0, small), small)


def test_barlow_twins_learns_modes_that_views_share_only():
    gram = np.kron([[1.0, -0.9], [-0.9, 1.0]], np.eye(4))  # other views are nearly the opposite
    with pytest.raises(BadArrayError, match="positive eigenvalue only, and there are 4"):
        kernel_twins(gram, 5)
    with pytest.raises(BadArrayError, match="other views, got 5"):
        kernel_twins(np.eye(5), 1)
    for time, start in ((-1.0, 0.1), (1.0, 0.0)):
        with pytest.raises(BadArrayError, match="time >= 0 and start > 0"):
            kernel_twins(np.eye(8) + gram * 0.1 + np.kron([[0, 1], [1, 0]], np.eye(4)) * 0.5, 2).sizes(time, start)


def test_kernel_pca_and_its_map_agree_with_scikit_learn():
    decomposition = pytest.importorskip("sklearn.decomposition")
    gram, cross = np.exp(X @ X.T), np.exp(NEW @ X.T)
    ours = kernel_pca(gram, 3)
    theirs = decomposition.KernelPCA(3, kernel="precomputed").fit(gram)
    np.testing.assert_allclose(ours.eigenvalues[:3], theirs.eigenvalues_, rtol=1e-9)
    np.testing.assert_allclose(np.abs(ours.embeddings), np.abs(theirs.transform(gram)), atol=1e-9)
    np.testing.assert_allclose(np.abs(ours.embed(cross)), np.abs(theirs.transform(cross)), atol=1e-9)
    np.testing.assert_allclose(ours.embed(gram), ours.embeddings, atol=1e-9)


def test_kernel_pca_of_a_linear_kernel_is_pca():
    centered = X - X.mean(0)
    u, s, _ = np.linalg.svd(centered, full_matrices=False)
    np.testing.assert_allclose(np.abs(kernel_pca(X @ X.T, 4).embeddings), np.abs(u[:, :4] * s[:4]), atol=1e-9)


def test_all_points_as_landmarks_give_the_kernel_exactly_and_few_give_less():
    gram, cross = np.exp(X @ X.T), np.exp(NEW @ X.T)
    features, new = nystrom_features(gram, gram), nystrom_features(gram, cross)
    np.testing.assert_allclose(features @ features.T, gram, atol=1e-8)
    np.testing.assert_allclose(new @ features.T, cross, atol=1e-8)
    few = nystrom_features(gram[:4, :4], gram[:, :4])
    assert few.shape == (12, 4)
    np.testing.assert_allclose(few[:4] @ few.T, gram[:4], atol=1e-9)
    residual = np.linalg.eigvalsh(gram - few @ few.T)
    assert residual[0] > -1e-9, "an approximation takes nothing that is not there"
    assert residual[-1] > 1e-3


def test_products_of_random_features_tend_to_the_conjugate_kernel():
    wanted = np.asarray(wide(X).conjugate)
    errors = []
    for num_features in (400, 40_000):
        features = random_features(jax.random.key(0), jnp.asarray(X), num_features=num_features, activation="tanh")
        errors.append(np.abs(features @ features.T - wanted).max())
    assert errors[1] < 0.02
    assert errors[1] < errors[0] / 3
    both = random_features(jax.random.key(0), jnp.asarray(X[:3]), num_features=400, activation="tanh")
    again = random_features(jax.random.key(0), jnp.asarray(X), num_features=400, activation="tanh")
    np.testing.assert_allclose(both, again[:3], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("called", "message"),
    [
        (lambda: kernel_pca(np.ones((3, 2)), 1), "kernel_pca needs the"),
        (lambda: kernel_pca(np.full((3, 3), np.nan), 1), "finite kernel"),
        (lambda: kernel_pca(np.ones((3, 3)), 1), "rank = 0"),
        (lambda: kernel_pca(X @ X.T, 6), "rank = 5"),
        (lambda: kernel_pca(X @ X.T, 2.0), "whole number"),
        (lambda: kernel_pca(X @ X.T, 2).embed(np.ones((2, 3))), "the 12 known ones"),
        (lambda: kernel_pca(X @ X.T, 2).embed(np.full((2, 12), np.inf)), "finite kernel"),
        (lambda: nystrom_features(np.zeros((3, 3)), np.zeros((2, 3))), "not zero"),
        (lambda: random_features(jax.random.key(0), jnp.asarray(X), num_features=1), "width >= 2"),
    ],
)
def test_kernels_without_components_are_refused(called, message):
    with pytest.raises(BadArrayError, match=message):
        called()


def test_reading_the_package_loads_no_integrator():
    assert "diffrax" not in importlib.import_module("repsim_jax.theory.kernel_learner").__dict__
