"""Contrastive losses are what a double loop in NumPy says, at their edges too: no positive, masked columns."""

from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import oracles_contrasim as oracles
import pytest

from repsim_jax._compat import enable_x64
from repsim_jax.losses import max_margin, mean_positive, pairwise_logits, supervised_contrastive

M = 9
CLASSES = np.array([0, 0, 1, 1, 1, 2, 3, 2, 0])


def unit(seed: int = 0, m: int = M) -> np.ndarray:
    z = np.random.default_rng(seed).standard_normal((m, 4))
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def logits(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (M, M))


def positives(kind: str) -> np.ndarray:
    same = (CLASSES[:, None] == CLASSES[None]).astype(float)
    if kind == "weighted":
        return same * np.random.default_rng(5).uniform(0.1, 1, (M, M))
    return np.zeros((M, M)) if kind == "none" else same


def single(*arrays: np.ndarray) -> list[np.ndarray]:
    return [array.astype(np.float32) for array in arrays]


KINDS = ["several", "weighted", "none"]  # of several, class 3 is a row without a positive


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.07, 1.0, 5.0])
def test_supervised_contrastive_is_a_double_loop(kind: str, temperature: float):
    s, p = logits(), positives(kind)
    expected = oracles.supervised_contrastive(s, p, temperature)
    np.testing.assert_allclose(supervised_contrastive(*single(s, p), temperature=temperature), expected, rtol=2e-5)
    with enable_x64():
        exact = supervised_contrastive(jnp.asarray(s), jnp.asarray(p), temperature=temperature)
    assert exact.dtype == jnp.float64
    np.testing.assert_allclose(exact, expected, rtol=1e-12)


def test_with_one_positive_it_is_nt_xent():
    """SimCLR's loss, from its own formula: the mean over 2b items of minus the log softmax at the partner."""
    b = 4
    z = unit(m=2 * b)
    partner = (np.arange(2 * b) + b) % (2 * b)
    s = z @ z.T / 0.3
    each = [np.log(sum(np.exp(s[i, j]) for j in range(2 * b) if j != i)) - s[i, partner[i]] for i in range(2 * b)]
    found = supervised_contrastive(*single(z @ z.T, np.eye(2 * b)[partner]), temperature=0.3)
    np.testing.assert_allclose(found, np.mean(each), rtol=1e-5)


@pytest.mark.parametrize("loss", [supervised_contrastive, max_margin])
def test_masked_columns_are_as_if_they_were_not_there(loss):
    gone = np.isin(np.arange(M), [1, 5, 6])
    s, p = logits(), positives("several")
    masked = np.where(gone[None], -np.inf, s)
    kept = p * ~gone[:, None] * ~gone[None]
    small = [array[np.ix_(~gone, ~gone)] for array in (s, p)]
    np.testing.assert_allclose(loss(*single(masked, kept)), loss(*single(*small)), rtol=1e-5)
    gradient = np.asarray(jax.grad(loss)(*single(masked, kept)))
    assert np.isfinite(gradient).all()
    assert not gradient[:, gone].any()


@pytest.mark.parametrize("loss", [supervised_contrastive, max_margin, mean_positive])
@pytest.mark.parametrize("left", [0, 1])
def test_nothing_left_to_compare_with_gives_zero_and_no_nan(loss, left: int):
    masked = np.where(np.arange(M)[None] < left, logits(), -np.inf)
    value, gradient = jax.value_and_grad(loss)(*single(masked, np.zeros((M, M))))
    assert value == 0
    assert np.isfinite(gradient).all()


def test_a_learned_temperature_has_a_gradient_where_columns_are_masked():
    masked = np.where(np.arange(M)[None] < 6, logits(), -np.inf).astype(np.float32)
    p = positives("several") * (np.arange(M) < 6)[None] * (np.arange(M) < 6)[:, None]
    slope = jax.grad(lambda t: supervised_contrastive(masked, p.astype(np.float32), temperature=t))(jnp.asarray(0.3))
    step = [float(supervised_contrastive(*single(masked, p), temperature=0.3 + h)) for h in (1e-2, -1e-2)]
    np.testing.assert_allclose(slope, (step[0] - step[1]) / 2e-2, rtol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("margin", [0.1, 1.0])
def test_max_margin_is_a_double_loop(kind: str, margin: float):
    s, p = logits(1), positives(kind)
    found = max_margin(*single(s, p), margin=margin)
    np.testing.assert_allclose(found, oracles.max_margin(s, p, margin), rtol=1e-5)


def test_max_margin_without_negatives_is_zero_with_a_finite_gradient():
    value, gradient = jax.value_and_grad(max_margin)(*single(logits(), np.ones((M, M))))
    assert value == 0
    assert not np.asarray(gradient).any()


@pytest.mark.parametrize("kind", KINDS)
def test_mean_positive_is_a_double_loop(kind: str):
    s, p = logits(2), positives(kind)
    np.testing.assert_allclose(mean_positive(*single(s, p)), oracles.mean_positive(s, p), rtol=1e-5)


@pytest.mark.parametrize("loss", [supervised_contrastive, max_margin, mean_positive])
def test_an_items_similarity_to_itself_never_counts(loss):
    s, p = logits(), positives("several")
    other = s + np.diag(np.full(M, 100.0)), p * (1 - np.eye(M))
    np.testing.assert_allclose(loss(*single(*other)), loss(*single(s, p)), rtol=1e-6)


def test_logits_of_extreme_size_do_not_overflow():
    s = np.where(positives("several") > 0, 1.0, -1.0)
    value, gradient = jax.value_and_grad(supervised_contrastive)(*single(s, positives("several")), temperature=1e-3)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("similarity", ["dot", "distance"])
def test_pairwise_logits_are_cosine_or_distance_row_by_row(similarity):
    z = unit()
    expected = [[a @ b if similarity == "dot" else 1 - np.linalg.norm(a - b) for b in z] for a in z]
    np.testing.assert_allclose(pairwise_logits(*single(z), similarity=similarity), expected, atol=1e-3)
    with enable_x64():
        np.testing.assert_allclose(pairwise_logits(jnp.asarray(z), similarity=similarity), expected, atol=1e-6)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("similarity", ["dot", "distance"])
def test_gradients_are_finite_where_points_coincide(similarity, x64: bool):
    z = unit()[[0, 0, 0, 1, 2, 2, 3, 4, 5]]
    with enable_x64() if x64 else nullcontext():

        def loss(x):
            rows = x / jnp.linalg.norm(x, axis=1, keepdims=True)
            s = pairwise_logits(rows, similarity=similarity)
            return supervised_contrastive(s, jnp.asarray(positives("several"), x.dtype))

        gradient = jax.grad(loss)(jnp.asarray(z, float if x64 else jnp.float32))
    assert gradient.dtype == (jnp.float64 if x64 else jnp.float32)
    assert np.isfinite(np.asarray(gradient)).all()


def test_a_sweep_of_temperature_or_margin_compiles_once():
    traced = []

    @jax.jit
    def both(s, p, number):
        traced.append(None)
        return supervised_contrastive(s, p, temperature=number) + max_margin(s, p, margin=number)

    for number in (0.05, 0.1, 0.7):
        both(*single(logits(), positives("several")), number)
    assert len(traced) == 1
