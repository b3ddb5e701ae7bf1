"""Each curvature is its explicit NumPy twin, and exact where it should be."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from influence_cases import D, K, N, V, examples, flat_function, flat_rows, random_gradients, small_problem

from repsim_jax._compat import enable_x64
from repsim_jax.errors import BadArrayError, RepsimError, UnknownNameError
from repsim_jax.influence import (
    Custom,
    Damping,
    Identity,
    Problem,
    dense,
    ekfac,
    logra,
    low_rank,
    problem,
    random_projection,
    woodbury,
)

KEY = jax.random.key(3)
DAMPING = Damping(0.1, 0.01)


def matrix_of(curvature: Any) -> np.ndarray:
    return np.asarray((curvature.vectors * curvature.values) @ curvature.vectors.T)


def twin_solve(matrix: np.ndarray, gradients: Any, damping: float) -> np.ndarray:
    return np.linalg.solve(matrix + damping * np.eye(len(matrix)), flat_rows(gradients).T).T


def alignment_jacobian(posed: Problem) -> np.ndarray:
    """(n, r, p) by plain automatic differentiation."""
    row, restore = flat_function(posed)
    seen = posed.train.seen()
    residuals = lambda w, one: posed.stability.residuals(posed.seeing(restore(w)), one)  # noqa: E731
    return np.asarray(jax.vmap(jax.jacobian(residuals), (None, 0))(jnp.asarray(row), seen))


def test_dense_curvature_of_alignment_is_that_of_plain_jacobians():
    with enable_x64():
        posed = small_problem()
        jacobian = alignment_jacobian(posed)
        expected = np.einsum("nrp,nrq->pq", jacobian, jacobian) / N
        np.testing.assert_allclose(matrix_of(dense(KEY, posed, of="alignment")), expected, atol=1e-12)


@pytest.mark.slow
def test_the_dense_hessian_is_that_of_autodiff_with_the_magnitudes_of_its_eigenvalues():
    with enable_x64():
        posed = small_problem()
        row, restore = flat_function(posed)
        loss = lambda w: posed.loss(restore(w), posed.train.seen(), jnp.ones(N))  # noqa: E731
        values, vectors = np.linalg.eigh(jax.hessian(loss)(jnp.asarray(row)))
        assert values.min() < -1e-3  # so that the magnitudes matter
        found = matrix_of(dense(KEY, posed, of="hessian"))
        np.testing.assert_allclose(found, (vectors * np.abs(values)) @ vectors.T, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("of", ["objective", "alignment"])
def test_woodbury_and_full_rank_are_dense(of: Any):
    with enable_x64():
        posed = small_problem(batch_size=6)
        gradients = random_gradients(posed)
        whole = dense(KEY, posed, of=of)
        expected = twin_solve(matrix_of(whole), gradients, DAMPING.relative * float(whole.mean) + DAMPING.absolute)
        for curvature in (whole, woodbury(KEY, posed, of=of), low_rank(KEY, posed, of=of, rank=posed.num_params())):
            np.testing.assert_allclose(flat_rows(curvature.solve(gradients, DAMPING)), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
def test_low_rank_keeps_the_largest_directions_and_damps_the_others():
    with enable_x64():
        posed = small_problem()
        whole = dense(KEY, posed, of="hessian")
        kept = np.argsort(-np.asarray(whole.values))[:4]
        vectors = np.asarray(whole.vectors)[:, kept]
        matrix = (vectors * np.asarray(whole.values)[kept]) @ vectors.T
        found = low_rank(KEY, posed, rank=4, num_steps=posed.num_params())
        gradients = random_gradients(posed)
        expected = twin_solve(matrix, gradients, 0.2)
        np.testing.assert_allclose(flat_rows(found.solve(gradients, Damping(0.0, 0.2))), expected, rtol=1e-8)


def ekfac_twin(posed: Problem, gradients: Any) -> np.ndarray:
    """One example and residual after the other, with the backward pass written out."""
    params = {name: np.asarray(leaf) for name, leaf in zip(posed.leaves().names, posed.leaves().arrays, strict=True)}
    seen, jacobian = np.asarray(posed.train.seen()), alignment_jacobian(posed)
    first, bias, last = (params[name] for name in ("first/kernel", "first/bias", "last/kernel"))
    _, restore = flat_function(posed)
    split = lambda row: {n: np.asarray(a) for n, a in zip(posed.leaves().names, restore(row), strict=True)}  # noqa: E731
    r = jacobian.shape[1]
    moments = {"first": [np.zeros((D + 1,) * 2), np.zeros((4, 4))], "last": [np.zeros((4, 4)), np.zeros((K, K))]}
    by_row = []
    for i in range(N):
        hidden = np.tanh(seen[i] @ first + bias)
        z = hidden @ last
        norms = np.linalg.norm(z, axis=1, keepdims=True)
        unit = z / norms
        for o in range(r):
            back = np.zeros_like(z)  # of residual o, (unit_0 - unit_a)_k / sqrt(V)
            a, k = divmod(o, K)
            back[0, k], back[a + 1, k] = 1 / np.sqrt(V), -1 / np.sqrt(V)
            back = (back - unit * (unit * back).sum(1, keepdims=True)) / norms
            at_hidden = (back @ last.T) * (1 - hidden**2)
            ones = np.concatenate([seen[i], np.ones((V + 1, 1))], axis=1)
            for name, inputs, signals in (("first", ones, at_hidden), ("last", hidden, back)):
                moments[name][0] += inputs.T @ inputs / N
                moments[name][1] += signals.T @ signals / N
            by_row.append(split(jnp.asarray(jacobian[i, o])))
    bases = {name: [np.linalg.eigh(side)[1] for side in sides] for name, sides in moments.items()}

    def stacked(tree: Any) -> dict[str, np.ndarray]:
        whole = np.concatenate([tree["first/kernel"], tree["first/bias"][None]])
        return {"first": whole, "last": tree["last/kernel"]}

    rotate = lambda name, matrix: bases[name][0].T @ matrix @ bases[name][1]  # noqa: E731
    values = {
        name: sum(np.square(rotate(name, stacked(row)[name])) for row in by_row) / N for name in ("first", "last")
    }
    solved = []
    for number in range(len(gradients[0])):
        tree = {name: np.asarray(g[number]) for name, g in zip(posed.leaves().names, gradients, strict=True)}
        parts = {}
        for name, matrix in stacked(tree).items():
            damped = values[name] + DAMPING.relative * values[name].mean() + DAMPING.absolute
            parts[name] = bases[name][0] @ (rotate(name, matrix) / damped) @ bases[name][1].T
        back = {"first/kernel": parts["first"][:-1], "first/bias": parts["first"][-1], "last/kernel": parts["last"]}
        back["predictor"] = tree["predictor"] / DAMPING.absolute  # no residual depends on it
        solved.append(np.concatenate([back[name].ravel() for name in posed.leaves().names]))
    return np.stack(solved)


def test_ekfac_is_its_twin_on_a_small_network():
    with enable_x64():
        posed = small_problem()
        gradients = random_gradients(posed)
        curvature = ekfac(KEY, posed, of="alignment", num_samples=None)
        np.testing.assert_allclose(
            flat_rows(curvature.solve(gradients, DAMPING)), ekfac_twin(posed, gradients), rtol=1e-9, atol=1e-9
        )


def quadratic(params: Any, views: jax.Array, weights: jax.Array) -> jax.Array:
    return (weights * jnp.square(views[:, 0] @ params["w"]).sum(1)).sum() / weights.sum() / 2


def quadratic_residuals(params: Any, views: jax.Array, weights: jax.Array) -> jax.Array:
    return (views[:, 0] @ params["w"]) * jnp.sqrt(weights / weights.sum())[:, None]


def one_layer() -> Problem:
    rng = np.random.default_rng(1)
    return problem(
        lambda params, x: x @ params["w"], {"w": jnp.asarray(rng.normal(size=(D, K)))}, examples(),
        objective=Custom(quadratic, quadratic_residuals), batch_size=2,
    )  # fmt: skip


def test_ekfac_is_exact_for_a_linear_layer_whose_inputs_and_signals_are_independent():
    with enable_x64():
        posed = one_layer()
        gradients = random_gradients(posed)
        views = np.asarray(posed.train.seen())[:, 1]
        matrix = np.kron(views.T @ views / N, np.eye(K))
        added = 0.1 * np.trace(matrix) / len(matrix)
        found = ekfac(KEY, posed, num_samples=None).solve(gradients, Damping(0.1))
        np.testing.assert_allclose(flat_rows(found), twin_solve(matrix, gradients, added), rtol=1e-9)
        np.testing.assert_allclose(matrix_of(dense(KEY, posed)), matrix, atol=1e-12)


@pytest.mark.slow
def test_many_random_signs_approach_all_residuals():
    posed = small_problem()
    gradients = random_gradients(posed)
    exact = flat_rows(ekfac(KEY, posed, of="alignment", num_samples=None).solve(gradients, DAMPING))
    drawn = flat_rows(ekfac(KEY, posed, of="alignment", num_samples=12_000).solve(gradients, DAMPING))
    assert np.linalg.norm(drawn - exact) < 0.1 * np.linalg.norm(exact)


def explicit(apply: Callable[[Any], Any], posed: Problem) -> np.ndarray:
    """A linear function of gradients as a matrix."""
    p = posed.num_params()
    row, restore = flat_function(posed)
    unit = jax.vmap(restore)(jnp.eye(p, dtype=row.dtype))
    return np.asarray(apply(unit))


def test_logra_with_both_sides_whole_is_the_block_of_each_layer():
    with enable_x64():
        posed = small_problem()
        gradients = random_gradients(posed)
        found = logra(KEY, posed, of="alignment", rank=6, num_samples=None)
        jacobian = alignment_jacobian(posed)
        whole = np.einsum("nrp,nrq->pq", jacobian, jacobian) / N
        names = np.concatenate([
            np.full(leaf.size, name.partition("/")[0])
            for name, leaf in zip(posed.leaves().names, posed.leaves().arrays, strict=True)
        ])  # fmt: skip
        rows, expected = flat_rows(gradients), np.zeros((3, posed.num_params()))
        for name in ("first", "last"):
            where = names == name
            block = whole[np.ix_(where, where)]
            added = DAMPING.relative * np.trace(block) / len(block) + DAMPING.absolute
            expected[:, where] = np.linalg.solve(block + added * np.eye(len(block)), rows[:, where].T).T
        expected[:, names == "predictor"] = rows[:, names == "predictor"] / DAMPING.absolute
        np.testing.assert_allclose(flat_rows(found.solve(gradients, DAMPING)), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["logra", "random_projection"])
def test_projected_curvature_is_divided_out_between_its_directions(name: str):
    with enable_x64():
        posed = one_layer()
        fits = {
            "logra": lambda: logra(KEY, posed, rank=2, num_samples=None),
            "random_projection": lambda: random_projection(KEY, posed, dimension=6, num_samples=None),
        }
        found: Any = fits[name]()
        features = lambda unit: found.features(unit)[0] if name == "logra" else found.features(unit)  # noqa: E731
        directions = explicit(features, posed)  # (p, k)
        matrix = matrix_of(dense(KEY, posed))
        moment = directions.T @ matrix @ directions
        added = DAMPING.relative * np.trace(moment) / len(moment) + DAMPING.absolute
        gradients = random_gradients(posed)
        middle = np.linalg.solve(moment + added * np.eye(len(moment)), directions.T @ flat_rows(gradients).T)
        np.testing.assert_allclose(flat_rows(found.solve(gradients, DAMPING)), (directions @ middle).T, rtol=1e-8)


@pytest.mark.slow
def test_random_directions_keep_products_of_gradients_on_average():
    posed = one_layer()
    gradients = random_gradients(posed, num=2)
    products = [
        np.asarray(random_projection(key, posed, dimension=64).features(gradients)) for key in jax.random.split(KEY, 8)
    ]
    found = np.mean([one @ one.T for one in products], axis=0)
    rows = flat_rows(gradients)
    # 512 draws of signs: the standard error of an entry is below |g| |g'| / 16
    assert np.abs(found - rows @ rows.T).max() < 4 / 16 * np.square(rows).sum(1).max()


FITS: dict[str, Callable[[Problem], Any]] = {
    "dense": lambda posed: dense(KEY, posed, of="alignment"),
    "ekfac": lambda posed: ekfac(KEY, posed, of="alignment"),
    "woodbury": lambda posed: woodbury(KEY, posed),
    "low_rank": lambda posed: low_rank(KEY, posed, of="alignment", rank=4),
}


@pytest.mark.slow
@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_endless_damping_leaves_the_product_of_gradients(fit: Callable[[Problem], Any]):
    with enable_x64():
        posed = small_problem()
        gradients = random_gradients(posed)
        found = flat_rows(fit(posed).solve(gradients, Damping(0.0, 1e9))) * 1e9
        np.testing.assert_allclose(found, flat_rows(gradients), rtol=1e-6)
        np.testing.assert_array_equal(flat_rows(Identity().solve(gradients, DAMPING)), flat_rows(gradients))


@pytest.mark.slow
@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_dividing_curvature_out_is_symmetric_and_positive(fit: Callable[[Problem], Any]):
    with enable_x64():
        posed = small_problem()
        inverse = explicit(lambda unit: flat_rows(fit(posed).solve(unit, DAMPING)), posed)
        np.testing.assert_allclose(inverse, inverse.T, atol=1e-9 * np.abs(inverse).max())
        assert np.linalg.eigvalsh((inverse + inverse.T) / 2).min() > 0


@pytest.mark.slow
def test_convolutions_are_divided_out_like_plain_jacobians():
    """At full rank LoGra is the exact block of a layer; a convolution that is the only layer is the whole model."""
    with enable_x64():
        rng = np.random.default_rng(2)
        images = rng.normal(size=(6, 5, 5, 2))
        from repsim_jax.influence import SimCLR, with_views

        def convolve(params: Any, x: jax.Array) -> jax.Array:
            dimensions = ("NHWC", "HWIO", "NHWC")
            out = jax.lax.conv_general_dilated(x, params["kernel"], (2, 2), "SAME", dimension_numbers=dimensions)
            return jnp.tanh(out + params["bias"]).mean((1, 2))

        params = {"bias": jnp.asarray(rng.normal(size=3)), "kernel": jnp.asarray(rng.normal(size=(3, 3, 2, 3)))}
        train = with_views(images, images[:, None] + 0.2 * rng.normal(size=(6, 2, 5, 5, 2)))
        posed = problem(convolve, params, train, objective=SimCLR())
        gradients = random_gradients(posed)
        jacobian = alignment_jacobian(posed)
        whole = np.einsum("nrp,nrq->pq", jacobian, jacobian) / 6
        found = logra(KEY, posed, of="alignment", rank=64, num_samples=None).solve(gradients, Damping(0.0, 0.1))
        np.testing.assert_allclose(flat_rows(found), twin_solve(whole, gradients, 0.1), rtol=1e-7, atol=1e-8)


def test_what_cannot_be_fitted_is_refused():
    posed = small_problem()
    for fit in (dense, ekfac, woodbury, low_rank, logra, random_projection):
        with pytest.raises(UnknownNameError, match="no curvature is called 'loss'"):
            fit(KEY, posed, of="loss")  # type: ignore[operator]
    with pytest.raises(BadArrayError, match="num_samples >= 1"):
        ekfac(KEY, posed, num_samples=0)
    with pytest.raises(BadArrayError, match="rank from 1"):
        low_rank(KEY, posed, rank=0)
    with pytest.raises(BadArrayError, match="rank >= 1"):
        logra(KEY, posed, rank=0)
    with pytest.raises(BadArrayError, match="dimension >= 1"):
        random_projection(KEY, posed, dimension=0)
    with pytest.raises(RepsimError, match="needs its residual_function"):
        ekfac(KEY, small_problem(Custom(quadratic)))


def test_a_dense_matrix_of_a_large_model_is_refused():
    large = {"w": jax.random.normal(KEY, (D, 5000))}
    posed = problem(lambda params, x: x @ params["w"], large, examples(), objective=Custom(quadratic))
    with pytest.raises(BadArrayError, match="at most 20000 parameters, got 25000"):
        dense(KEY, posed)


def test_progress_is_told_to_the_end():
    told: list[tuple[int, int]] = []
    ekfac(KEY, small_problem(), of="alignment", block=4, on_progress=lambda *step: told.append(step))
    assert told[-1][0] == told[-1][1] == len(told) >= 6
