"""Encoders beyond one hidden layer do what NumPy does, and their kernels are those of explicit Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax._compat import enable_x64
from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.theory import networks, triplets
from repsim_jax.theory.architectures import Encoder, apply, init, tangent_kernel
from repsim_jax.theory.networks import Network
from repsim_jax.theory.triplets import image_triplets

X = np.random.default_rng(0).normal(size=(5, 16))
X /= np.linalg.norm(X, axis=1, keepdims=True)
KINDS = [(normalization, shape) for normalization in ("none", "layer", "batch") for shape in (None, (4, 4, 1))]


def drawn(encoder: Encoder) -> tuple[tuple, jax.Array]:
    return init(jax.random.key(0), encoder, X.shape[1], jnp.float64), jnp.asarray(X)


def convolved(image: np.ndarray, weights: np.ndarray, stride: int) -> np.ndarray:
    """A 3 x 3 convolution, place by place; one row and column of zeros around, less where a stride skips them."""
    side, _, channels = image.shape
    places = -(-side // stride)
    before = max((places - 1) * stride + 3 - side, 0) // 2
    padded = np.zeros((side + 4, side + 4, channels))
    padded[before : before + side, before : before + side] = image
    out = np.empty((places, places, len(weights)))
    for i in range(places):
        for j in range(places):
            window = padded[i * stride : i * stride + 3, j * stride : j * stride + 3]
            out[i, j] = weights @ window.reshape(-1) / np.sqrt(window.size)
    return out


def normalized(z: np.ndarray, normalization: str) -> np.ndarray:
    if normalization == "none":
        return z
    axes = tuple(range(1, z.ndim)) if normalization == "layer" else tuple(range(z.ndim - 1))
    return (z - z.mean(axes, keepdims=True)) / np.sqrt(z.var(axes, keepdims=True) + 1e-5)


@pytest.mark.parametrize(("normalization", "shape"), KINDS)
def test_an_encoder_is_its_numpy_twin(normalization: str, shape: tuple | None):
    encoder = Encoder(Network(6, 2, 2, "tanh"), normalization, shape)
    with enable_x64():
        params, x = drawn(encoder)
        first, second, last = map(np.asarray, params)
        if shape is None:
            a = np.tanh(normalized(X @ first.T, normalization))
            a = np.tanh(normalized(a @ second.T / np.sqrt(6), normalization))
        else:
            images = X.reshape(-1, *shape) * 4
            a = np.tanh(normalized(np.stack([convolved(one, first, 1) for one in images]), normalization))
            a = np.tanh(normalized(np.stack([convolved(one, second, 2) for one in a]), normalization)).mean((1, 2))
        np.testing.assert_allclose(apply(params, x, encoder), a @ last / np.sqrt(6), rtol=1e-10, atol=1e-12)


def test_a_plain_encoder_is_the_network_of_the_theory():
    encoder = Encoder(Network(8, 3, 3, "relu"))
    with enable_x64():
        params, x = drawn(encoder)
        np.testing.assert_allclose(apply(params, x, encoder), networks.apply(params, x, encoder.network), rtol=1e-12)


@pytest.mark.parametrize(("normalization", "shape"), KINDS)
def test_its_kernel_is_that_of_explicit_jacobians(normalization: str, shape: tuple | None):
    encoder = Encoder(Network(6, 2, 2, "tanh"), normalization, shape)
    with enable_x64():
        params, x = drawn(encoder)
        found = tangent_kernel(params, x, encoder)
        jacobian = jax.jacfwd(lambda p: apply(p, x, encoder))(params)
        wanted = sum(jnp.einsum("ikab,jlab->ikjl", one, one) for one in jacobian)
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("normalization", "shape"), KINDS)
def test_a_small_step_moves_all_outputs_as_the_kernel_says(normalization: str, shape: tuple | None):
    """By differences of two networks: no derivative of the outputs is taken on this side but that of one sum."""
    encoder = Encoder(Network(6, 2, 2, "tanh"), normalization, shape)
    pull = np.random.default_rng(1).normal(size=(5, 2))
    with enable_x64():
        params, x = drawn(encoder)
        direction = jax.grad(lambda p: jnp.sum(pull * apply(p, x, encoder)))(params)
        ends = [apply(jax.tree.map(lambda a, b, s=s: a + s * b, params, direction), x, encoder) for s in (1e-5, -1e-5)]
        moved = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(
            jnp.einsum("ikjl,jl->ik", tangent_kernel(params, x, encoder), pull), moved, rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize(("normalization", "mixes"), [("none", False), ("layer", False), ("batch", True)])
def test_only_batch_normalization_mixes_examples(normalization: str, mixes: bool):
    encoder = Encoder(Network(6, 2), normalization)
    with enable_x64():
        params, x = drawn(encoder)
        alone = apply(params, x.at[-1].set(-x[-1]), encoder)[:-1]
        assert bool(jnp.allclose(alone, apply(params, x, encoder)[:-1], atol=1e-12)) is not mixes


def test_batch_normalization_sees_no_scale_of_the_weights_before_it():
    encoder = Encoder(Network(6, 2), "batch")
    with enable_x64():
        params, x = drawn(encoder)
        scaled = (1e3 * params[0], params[1])
        np.testing.assert_allclose(apply(scaled, x, encoder), apply(params, x, encoder), rtol=1e-3, atol=1e-4)


def test_images_are_the_same_triplets_in_their_own_coordinates():
    data = np.random.default_rng(2).normal(size=(20, 16))
    key = jax.random.key(3)
    rotated, given = (one(key, data, num_triplets=3) for one in (triplets, image_triplets))
    assert given.points.shape == (9, 16)
    np.testing.assert_allclose(given.points @ given.points.T, rotated.points @ rotated.points.T, atol=1e-12)
    np.testing.assert_array_equal(given.anchors, rotated.anchors)
    centered = (data - data.mean(0))[given.anchors]
    np.testing.assert_allclose(given.points[:3], centered / np.linalg.norm(centered, axis=1, keepdims=True), rtol=1e-9)


def test_encoders_that_cannot_be_are_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'layer'"):
        Encoder(Network(4), "leyer")  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadArrayError, match="image_shape"):
        Encoder(Network(4), image_shape=(4, 4))  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadArrayError, match="takes 16 numbers, got 9"):
        init(jax.random.key(0), Encoder(Network(4), image_shape=(4, 4, 1)), 9)
