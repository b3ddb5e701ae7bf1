"""The Vision Transformer computes what the textbook says, and every hidden layer can be read by name."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles_vision as oracle
import pytest
from flax import nnx

from repsim_jax import activations
from repsim_jax.encoders.transformer import ACTIVATIONS, Mlp
from repsim_jax.encoders.vit import ViT, ViTConfig, bicubic_matrix, hidden_layers, resize_positions

SMALL = ViTConfig(image_size=12, patch_size=4, width=8, num_layers=2, num_heads=2, mlp_width=12)
IMAGES = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> ViT:
    return nnx.jit(lambda: ViT(SMALL, rngs=nnx.Rngs(0)))()  # one program instead of one for every initializer


def test_random_init_gives_one_finite_embedding_per_image(model: ViT):
    embedded = model(IMAGES)
    assert embedded.shape == (2, 8)
    assert np.isfinite(embedded).all()
    assert not np.allclose(embedded[0], embedded[1])


def test_random_init_depends_on_the_key_alone():
    first, again, other = (np.asarray(Mlp(8, 16, "gelu", rngs=nnx.Rngs(seed)).expand.kernel[...]) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_every_hidden_layer_and_query_key_value_can_be_tapped_in_depth_order():
    config = ViTConfig(**{**vars(SMALL), "pre_norm": True, "layer_scale": True, "embedding_width": 5})
    shapes = activations.tap(ViT(config, rngs=nnx.Rngs(0))).layers(IMAGES)
    order = [name for name in shapes if name in hidden_layers(config)]
    assert tuple(order) == hidden_layers(config) == ("stem", "block_0", "block_1", "head")
    for part in ("query", "key", "value"):
        assert shapes[f"block_1/attention/{part}"].shape == (2, 10, 8)
    assert shapes["stem"].shape == (2, 10, 8)
    assert shapes["head"].shape == (2, 5)


def test_what_training_needs_flows_to_every_parameter():
    config = ViTConfig(**{**vars(SMALL), "num_layers": 1, "pre_norm": True, "layer_scale": True, "embedding_width": 5})
    graph, state = nnx.split(ViT(config, rngs=nnx.Rngs(0)))
    gradients = jax.jit(jax.grad(lambda state: (nnx.merge(graph, state)(IMAGES) ** 3).sum()))(state)
    for path, gradient in nnx.to_flat_state(gradients):
        # softmax does not see a number that is added to every score of a query
        if path[-2:] != ("key", "bias"):
            assert np.abs(gradient[...]).max() > 0, path


def test_one_program_serves_any_numbers_of_one_shape(model: ViT):
    graph, state = nnx.split(model)
    traces = []

    @jax.jit
    def run(state, images):
        traces.append(images.shape)
        return nnx.merge(graph, state)(images)

    run(state, IMAGES), run(state, 2 * IMAGES)
    assert len(traces) == 1


def test_another_image_size_resizes_the_positions(model: ViT):
    grid = np.asarray(model.stem.positions[...])
    tokens = model.stem(jnp.zeros((1, 20, 9, 3)))[0, 1:]
    bias = model.stem.patch_embed.projection.bias[...]
    np.testing.assert_allclose(tokens - bias, oracle.resize_bicubic(grid, 5, 2).reshape(10, 8), atol=1e-6)


def test_resizing_to_the_same_size_changes_nothing():
    grid = jax.random.normal(jax.random.key(0), (3, 4, 2))
    np.testing.assert_array_equal(resize_positions(grid, 3, 4), grid)
    np.testing.assert_allclose(bicubic_matrix(5, 5), np.eye(5), atol=1e-15)


def test_bicubic_resizing_is_pytorchs():
    # torch 2.13.0: interpolate(x[None, None], size=(5, 2), mode="bicubic", align_corners=False), float64
    grid = np.array([[0, 1, 4], [2, 7, 1], [8, 2, 8]], np.float64)
    expected = [
        [-0.18828125, 3.43421875],
        [1.149296875, 2.75678125],
        [3.34375, 2.53515625],
        [5.464375, 4.859546875],
        [6.7259375, 6.8035625],
    ]
    resized = bicubic_matrix(3, 5) @ grid @ bicubic_matrix(3, 2).T
    np.testing.assert_allclose(resized, expected, atol=1e-12)
    np.testing.assert_allclose(resize_positions(jnp.asarray(grid[..., None]), 5, 2)[..., 0], expected, atol=1e-5)


@pytest.mark.parametrize(("size", "wanted"), [(2, 7), (7, 2), (37, 16), (1, 4)])
def test_a_constant_grid_stays_constant(size: int, wanted: int):
    np.testing.assert_allclose(bicubic_matrix(size, wanted).sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("name", ["gelu", "quick_gelu", "relu"])
def test_activations_are_the_textbooks(name: str):
    x = np.linspace(-4, 4, 33)
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(x)), oracle.ACTIVATIONS[name](x), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"activation": "swish"}, "an activation of gelu"),
        ({"num_heads": 3}, "num_heads to divide width"),
        ({"image_size": 3}, "image_size >= patch_size"),
        ({"num_layers": 0}, "positive sizes"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused(change: dict, said: str):
    with pytest.raises(ValueError, match=said):
        ViTConfig(**{**vars(SMALL), **change})


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((12, 12, 3), np.float32), r"\(b, height, width, 3\)"),
        (np.zeros((1, 3, 12, 12), np.float32), "channels last"),
        (np.zeros((1, 12, 3, 3), np.float32), "at least 4 x 4 pixels"),
        (np.zeros((1, 12, 12, 3), np.uint8), "normalized float images; got uint8"),
    ],
)
def test_images_of_another_kind_are_refused(model: ViT, images: np.ndarray, said: str):
    with pytest.raises(ValueError, match=said):
        model(images)
