"""The tangent kernel of the theory's networks is that of explicit Jacobians, and flow conserves what it must."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax._compat import enable_x64
from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.kernels import mlp_kernels, ntk
from repsim_jax.theory.flow import flow_error, gradient_flow, resolve
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


@pytest.mark.parametrize(("loss", "activation"), [("linear", "tanh"), ("infonce", "relu"), ("barlow_twins", "tanh")])
def test_cosine_losses_conserve_the_norm_of_the_output_weights(loss: str, activation: str):
    network = Network(16, 4, 1, activation)
    with enable_x64():
        params = init(jax.random.key(1), network, 4, jnp.float64)
        flow = gradient_flow(
            params, jnp.asarray(X), network=network, objective=Objective(loss, "cosine"), horizon=0.5,
            num_records=4, num_substeps=40,
        )  # fmt: skip
        assert float(jnp.abs(flow.output_norm - 1).max()) < (1e-4 if activation == "relu" else 1e-7)
        assert float(flow.loss[-1]) < float(Objective(loss, "cosine")(apply(params, jnp.asarray(X), network)))


def test_the_dot_product_does_not_conserve_it():
    """Otherwise the test above would pass for a flow that stands still."""
    network = Network(16, 2, 1, "tanh")
    with enable_x64():
        params = init(jax.random.key(1), network, 4, jnp.float64)
        flow = gradient_flow(
            params, jnp.asarray(X), network=network, objective=Objective("linear", "dot"), horizon=0.5, num_records=4,
            num_substeps=40,
        )  # fmt: skip
        assert float(jnp.abs(flow.output_norm - 1).max()) > 1e-2


def test_the_integrator_is_of_order_four_and_knows_its_error():
    network, objective = Network(16, 2, 1, "tanh"), Objective("logistic", "dot")
    with enable_x64():
        params = init(jax.random.key(2), network, 4, jnp.float64)
        x = jnp.asarray(X)
        runs = {
            steps: gradient_flow(
                params, x, network=network, objective=objective, horizon=2.0, num_records=4, num_substeps=steps
            )
            for steps in (2, 4, 32)
        }
        errors = [float(flow_error(runs[steps], runs[32])) for steps in (2, 4)]
        assert 10 < errors[0] / errors[1] < 24
        found = resolve(
            params, x, network=network, objective=objective, horizon=2.0, num_records=4, start=2, tolerance=1e-4
        )
        assert found.error <= 1e-4
        assert float(flow_error(runs[found.num_substeps], runs[32])) < 3e-4


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
