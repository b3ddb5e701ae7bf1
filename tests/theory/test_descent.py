"""Descent follows flow, optax and the edge of stability, and its numbers compile once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from house.test_compile_once import programs_compiled_by

from repsim_jax._compat import enable_x64
from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.theory import Objective, triplets
from repsim_jax.theory.architectures import Encoder, apply, tangent_kernel
from repsim_jax.theory.descent import Descended, Optimizer, descend, stable_rate, starts
from repsim_jax.theory.kernel_regime import growth, relative_error
from repsim_jax.theory.networks import Network

DATA = np.random.default_rng(0).normal(size=(60, 20)) + np.repeat(np.eye(20)[:4] * 3, 15, axis=0)
POINTS = triplets(jax.random.key(0), DATA, num_triplets=6).points
KEY = jax.random.key(1)
SMALL = Encoder(Network(16, 3))
LOSSES = (Objective("linear", "dot"), Objective("infonce", "cosine"))


def run(**changes: object) -> Descended:
    """In float64; what keeps the shapes of the default shares its program."""
    options = {"encoder": SMALL, "losses": LOSSES, "num_seeds": 2, "num_records": 3, "rate": 0.5, "which": 1}
    with enable_x64():
        seen = descend(KEY, jnp.asarray(POINTS), **{**options, **changes})  # pyright: ignore[reportArgumentType]
    return Descended(*map(np.asarray, seen))


def start(seed: int = 0, encoder: Encoder = SMALL) -> tuple:
    stacked = starts(KEY, encoder, POINTS.shape[1], 2, jnp.float64)
    return jax.tree.map(lambda leaf: leaf[seed], stacked)


def quadratic(curvatures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    matrix = generator.normal(size=(len(curvatures), 4))
    return matrix, np.diag(curvatures)


@pytest.mark.parametrize("curvatures", [[1.0, 2.0, 0.5, 3.0], [1.0, -9.0, 0.5, 0.1], [0.3, -1.0, -2.0, -3.0]])
def test_the_edge_is_two_over_the_largest_eigenvalue_of_the_curvature(curvatures: list[float]):
    matrix, middle = quadratic(np.asarray(curvatures))
    with enable_x64():
        found = stable_rate(KEY, jnp.ones(4), lambda p: matrix @ p, lambda f: 0.5 * f @ middle @ f)
    wanted = 2 / np.linalg.eigvalsh(matrix.T @ middle @ matrix)[-1]
    assert float(found) == pytest.approx(wanted, rel=1e-3)


def test_descent_falls_just_below_the_edge_and_grows_just_above():
    matrix, middle = quadratic(np.array([1.0, 2.0, 0.5, 3.0]))
    with enable_x64():
        edge = float(stable_rate(KEY, jnp.ones(4), lambda p: matrix @ p, lambda f: 0.5 * f @ middle @ f))
    curvature = matrix.T @ middle @ matrix
    for share, grows in ((0.98, False), (1.02, True)):
        p = np.ones(4)
        for _ in range(500):
            p = p - share * edge * curvature @ p
        assert (p @ curvature @ p > np.ones(4) @ curvature @ np.ones(4)) is np.bool_(grows)


def test_nothing_that_curves_upward_has_no_edge():
    assert float(stable_rate(KEY, jnp.ones(3), lambda p: p, lambda f: -jnp.sum(f * f))) == np.inf


@pytest.mark.slow
def test_small_steps_follow_the_closed_form_of_the_linear_loss():
    encoder = Encoder(Network(4096, 2))
    with enable_x64():
        seen = run(encoder=encoder, losses=LOSSES[:1], which=0, rate=2e-4, horizon=0.2)
        params = start(1, encoder)
        modes = growth(np.asarray(tangent_kernel(params, jnp.asarray(POINTS), encoder)))
        before = np.asarray(apply(params, jnp.asarray(POINTS), encoder))
        wanted = modes.outputs(before, 0.2)
        assert relative_error(before, wanted) > 0.1
        assert relative_error(seen.outputs[1], wanted) < 3e-3
        np.testing.assert_allclose(seen.times[:, -1], 0.2, rtol=1e-12)


@pytest.mark.parametrize(
    "method",
    ["descent", pytest.param("momentum", marks=pytest.mark.slow), pytest.param("adam", marks=pytest.mark.slow)],
)
def test_steps_are_those_of_optax_in_a_plain_loop(method: str):
    with enable_x64():
        seen = run(optimizer=Optimizer(method), horizon=3.0, adam_rate=0.02)  # pyright: ignore[reportArgumentType]
        steps, rate = int(seen.num_steps[0]), float(seen.times[0, -1] / seen.num_steps[0])
        optimizer = {
            "descent": optax.sgd(rate),
            "momentum": optax.sgd(0.1 * rate, momentum=0.9),
            "adam": optax.adam(0.02),
        }[method]
        params, x = start(), jnp.asarray(POINTS)
        state = optimizer.init(params)
        slope = jax.jit(jax.grad(lambda p: LOSSES[1](apply(p, x, SMALL))))
        for _ in range(steps):
            updates, state = optimizer.update(slope(params), state, params)
            params = optax.apply_updates(params, updates)
        assert steps > 5
        np.testing.assert_allclose(seen.outputs[0], apply(params, x, SMALL), rtol=1e-8, atol=1e-10)
        assert float(seen.loss[0, -1]) == pytest.approx(float(LOSSES[1](apply(params, x, SMALL))))
        kernels = [tangent_kernel(one, x, SMALL) for one in (start(), params)]
        wanted = jnp.linalg.norm(kernels[1] - kernels[0]) / jnp.linalg.norm(kernels[0])
        assert float(seen.change[0, -1]) == pytest.approx(float(wanted), rel=1e-8)


@pytest.mark.slow
def test_a_batch_of_all_triplets_is_no_minibatch_and_a_smaller_one_is():
    whole = run(which=0, horizon=0.5)
    permuted = run(which=0, horizon=0.5, optimizer=Optimizer(batch_size=6))
    part = run(which=0, horizon=0.5, optimizer=Optimizer(batch_size=3))
    np.testing.assert_allclose(permuted.outputs, whole.outputs, rtol=1e-9)
    assert not np.allclose(part.outputs, whole.outputs, rtol=1e-2)


@pytest.mark.slow
def test_many_small_minibatch_steps_go_where_all_triplets_go():
    """The gradient of a minibatch is scaled to be that of all triplets on average; unscaled, it would be half."""
    whole, half = (run(which=0, horizon=horizon, rate=0.0005).outputs[0] for horizon in (0.3, 0.15))
    part = run(which=0, horizon=0.3, rate=0.0005, optimizer=Optimizer(batch_size=3)).outputs[0]
    assert relative_error(half, whole) > 0.2
    assert relative_error(part, whole) < 0.1


def test_looks_are_geometric_and_end_at_the_horizon_in_whole_steps():
    seen = run(rate=0.01, horizon=4.0, first_time=1.0)
    np.testing.assert_allclose(seen.times, [[1, 2, 4]] * 2, rtol=0.05)
    np.testing.assert_allclose(seen.times[:, -1], 4.0, rtol=1e-5)
    np.testing.assert_array_less(seen.rate, 0.01 * (1 + 1e-6))
    np.testing.assert_allclose(seen.rate * seen.stable_rate * seen.num_steps, 4.0, rtol=1e-5)


def test_what_blows_up_is_told_by_numbers_that_are_not_finite():
    seen = run(which=0, horizon=1e4, rate=1.0)
    assert not np.isfinite(np.asarray(seen.change[:, -1])).any()


def test_losses_temperatures_rates_and_times_compile_once():
    run()
    others = {"which": 0, "rate": 0.2, "horizon": 3.0, "temperature": 0.4, "first_time": 0.3, "adam_rate": 0.1}
    for name, value in others.items():
        assert programs_compiled_by(lambda name=name, value=value: run(**{name: value})) == 0, name


def test_the_temperature_given_is_that_of_the_loss():
    seen = run(temperature=0.3)
    with enable_x64():
        wanted = Objective("infonce", "cosine", 0.3)(apply(start(), jnp.asarray(POINTS), SMALL))
    assert float(seen.start_loss[0]) == pytest.approx(float(wanted), rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": ()}, "a loss, a seed and a look"),
        ({"num_seeds": 0}, "0 seeds"),
        ({"num_records": 0}, "0 looks"),
        ({"rate": 0.0}, "finite rate > 0"),
        ({"horizon": float("inf")}, "finite horizon > 0"),
        ({"temperature": -1.0}, "finite temperature > 0"),
        ({"optimizer": Optimizer(batch_size=7)}, "6 triplets, fewer than a batch of 7"),
    ],
)
def test_training_that_cannot_be_is_refused(changes: dict, message: str):
    with pytest.raises(BadArrayError, match=message):
        run(**changes)


def test_points_that_are_no_triplets_are_refused():
    with pytest.raises(BadArrayError, match=r"\(3N, d\) points"):
        descend(KEY, jnp.asarray(POINTS[:-1]), encoder=SMALL, losses=LOSSES)


def test_optimizers_that_cannot_be_are_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'adam'"):
        Optimizer("adma")  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadArrayError, match="batch_size of 2"):
        Optimizer(batch_size=1)
    with pytest.raises(BadArrayError, match="decay"):
        Optimizer(decay=1.0)
