"""The tangent kernel of the theory's networks is that of explicit Jacobians, and flow conserves what it must."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax._compat import enable_x64
from repsim_jax.errors import BadArrayError, MissingPackageError, UnknownNameError
from repsim_jax.kernels import mlp_kernels, ntk
from repsim_jax.theory.flow import flow_error, gradient_flow
from repsim_jax.theory.networks import Network, apply, init, tangent_kernel
from repsim_jax.theory.objectives import Objective

X = np.random.default_rng(0).normal(size=(12, 4))
X /= np.linalg.norm(X, axis=1, keepdims=True)


@pytest.mark.parametrize("activation", ["tanh", "erf", "relu", "gelu", "linear"])
@pytest.mark.parametrize("num_hidden", [1, 3])
def test_the_tangent_kernel_is_that_of_the_general_routine(activation: str, num_hidden: int):
    network = Network(8, 3, num_hidden, activation)
    with enable_x64():
        x = jnp.asarray(X)
        params = init(jax.random.key(0), network, 4, jnp.float64)
        found = tangent_kernel(params, x, network)
        jacobian = jax.jacobian(lambda p: apply(p, x, network))(params)
        wanted = sum(jnp.einsum("ikab,jlab->ikjl", one, one) for one in jacobian)
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)
        if activation == "tanh":
            np.testing.assert_allclose(
                ntk(lambda p, rows: apply(p, rows, network), params, x, outputs="full"), found, rtol=1e-9, atol=1e-11
            )


def test_a_wide_network_has_the_kernel_of_the_infinite_one():
    """k-sigma over seeds: the mean of many narrow kernels, which are unbiased for one hidden layer."""
    network = Network(64, 1, 1, "erf")
    x = jnp.asarray(X, jnp.float32)
    keys = jax.random.split(jax.random.key(3), 400)
    kernels = jax.vmap(lambda key: tangent_kernel(init(key, network, 4), x, network)[:, 0, :, 0])(keys)
    wanted = mlp_kernels(X, activation="erf", weight_std=(2.0, 1.0)).ntk
    error = np.asarray(kernels.std(0)) / np.sqrt(len(keys))
    assert (np.abs(np.asarray(kernels.mean(0)) - np.asarray(wanted)) < 4.5 * error).all()


LOSSES = (
    Objective("linear", "cosine"), Objective("infonce", "cosine"), Objective("barlow_twins", "cosine"),
    Objective("linear", "dot"), Objective("logistic", "dot"),
)  # fmt: skip
TIMES = np.array([0.125, 0.25, 0.5])


def flow_of(params: tuple, which: int, *, activation: str = "tanh", tolerance: float = 1e-6):
    network = Network(16, 4, 1, activation)
    return gradient_flow(
        params, jnp.asarray(X), jnp.asarray(TIMES), network=network, objectives=LOSSES, which=which, tolerance=tolerance
    )


def start(seed: int) -> tuple:
    return init(jax.random.key(seed), Network(16, 4), 4, jnp.float64)


@pytest.mark.parametrize(("which", "activation"), [(0, "tanh"), (2, "tanh"), (1, "relu")])
def test_cosine_losses_conserve_the_norm_of_the_output_weights(which: int, activation: str):
    with enable_x64():
        params = start(1)
        flow = flow_of(params, which, activation=activation)
        assert float(jnp.abs(flow.output_norm - 1).max()) < (1e-4 if activation == "relu" else 1e-6)
        network = Network(16, 4, 1, activation)
        assert float(flow.loss[-1]) < float(LOSSES[which](apply(params, jnp.asarray(X), network)))


def test_the_dot_product_does_not_conserve_it():
    """Otherwise the test above would pass for a flow that stands still."""
    with enable_x64():
        assert float(jnp.abs(flow_of(start(1), 3).output_norm - 1).max()) > 1e-2


def test_the_flow_is_that_of_tiny_steps_of_gradient_descent():
    """Richardson's extrapolation of two step sizes, in NumPy's order of operations, without the integrator."""
    with enable_x64():
        x, network = jnp.asarray(X), Network(16, 4)
        slope = jax.jit(jax.grad(lambda p: LOSSES[4](apply(p, x, network))))
        ends = []
        for steps in (500, 1000):
            at = start(2)
            for _ in range(steps):
                at = jax.tree.map(lambda a, b, h=0.5 / steps: a - h * b, at, slope(at))
            ends.append(np.asarray(apply(at, x, network)))
        flow = flow_of(start(2), 4)
        np.testing.assert_allclose(flow.outputs[-1], 2 * ends[1] - ends[0], atol=1e-5)


def test_the_error_falls_with_the_tolerance():
    with enable_x64():
        runs = {tolerance: flow_of(start(2), 4, tolerance=tolerance) for tolerance in (1e-2, 1e-4, 1e-8)}
        errors = [float(flow_error(runs[tolerance], runs[1e-8]).max()) for tolerance in (1e-2, 1e-4)]
        assert errors[1] < errors[0]
        assert errors[1] < 1e-3
        assert runs[1e-4].num_steps < runs[1e-8].num_steps


def test_a_flow_that_runs_away_ends_and_says_so():
    network, times = Network(16, 4), jnp.asarray([0.5, 1.0, 50.0])
    with enable_x64():
        flow = gradient_flow(start(1), jnp.asarray(X), times, network=network, objectives=LOSSES, which=3)
        assert bool(flow.ran_away)
        assert np.isinf(flow.change[-1])
        bounded = gradient_flow(start(1), jnp.asarray(X), times, network=network, objectives=LOSSES, which=4)
        assert not bool(bounded.ran_away)
        assert np.isfinite(bounded.change).all()


def test_a_flow_that_is_too_stiff_ends_and_has_no_error():
    with enable_x64():
        flows = [
            gradient_flow(
                start(1), jnp.asarray(X), jnp.asarray(TIMES), network=Network(16, 4), objectives=LOSSES, which=4,
                tolerance=1e-9, most_steps=most,
            )
            for most in (4, 2000)
        ]  # fmt: skip
        assert np.isinf(flows[0].change[-1])
        assert not bool(flows[0].ran_away)
        assert np.isinf(flow_error(*flows)[-1])


def test_gradient_flow_says_what_it_needs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(MissingPackageError, match=r"diffrax is needed to integrate .*repsim_jax\[theory\]"):
        gradient_flow(
            init(jax.random.key(0), Network(8), 4), jnp.asarray(X, jnp.float32), jnp.asarray(TIMES, jnp.float32),
            network=Network(8), objectives=LOSSES[:1],
        )  # fmt: skip


@pytest.mark.parametrize("changes", [{"width": 1}, {"num_outputs": 0}, {"num_hidden": 0}, {"width": 8.0}])
def test_a_network_that_cannot_be_is_refused(changes: dict):
    with pytest.raises(BadArrayError, match="whole number"):
        Network(**{"width": 8, **changes})


def test_names_are_suggested():
    with pytest.raises(UnknownNameError, match="Did you mean 'relu'"):
        Network(8, activation="relo")
    with pytest.raises(UnknownNameError, match="Did you mean 'linear'"):
        Objective("linea")
    with pytest.raises(BadArrayError, match="temperature > 0"):
        Objective(temperature=0.0)
