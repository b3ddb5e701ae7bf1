"""EfficientNet-Lite computes what a loop over pixels computes, in the released shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles_vision as oracle
import pytest
from flax import nnx

from repsim_jax import activations
from repsim_jax.encoders.efficientnet import ConvNorm, EfficientNet, EfficientNetConfig, Stage, hidden_layers

SMALL = EfficientNetConfig(
    stages=(Stage(1, 3, 1, 1, 8), Stage(1, 5, 2, 2, 8)), stem_width=8, head_width=8, num_classes=4
)
IMAGES = np.random.default_rng(0).normal(size=(2, 9, 12, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> EfficientNet:
    """Random kernels, and statistics of every normalization that are not 0 and 1."""
    rng = np.random.default_rng(1)
    graph, state = nnx.split(nnx.eval_shape(lambda: EfficientNet(SMALL, rngs=nnx.Rngs(0))))
    fill = lambda leaf: jnp.asarray(  # noqa: E731
        rng.uniform(0.5, 2, leaf.shape) if len(leaf.shape) == 1 else rng.normal(size=leaf.shape), jnp.float32
    )
    return nnx.merge(graph, jax.tree.map(fill, state))


def twin(part: ConvNorm, x: np.ndarray, stride: int = 1, groups: int = 1) -> np.ndarray:
    kernel = np.asarray(part.convolution.kernel[...], np.float64)
    mean, var, scale, bias = (
        np.asarray(value[...]) for value in (part.norm.mean, part.norm.var, part.norm.scale, part.norm.bias)
    )
    x = (oracle.convolve_same(x, kernel, stride, groups) - mean) / np.sqrt(var + 1e-3) * scale + bias
    return np.clip(x, 0, 6) if part.relu else x


def test_the_network_equals_its_numpy_twin(model: EfficientNet):
    x = twin(model.stem, IMAGES, stride=2)
    x = twin(model.block_0.project, twin(model.block_0.depthwise, x, groups=8)) + x
    x = twin(model.block_1.depthwise, twin(model.block_1.expand, x), stride=2, groups=16)
    x = twin(model.block_1.project, x)
    pooled = twin(model.head, x).mean(axis=(1, 2))
    logits = pooled @ np.asarray(model.classifier.kernel[...]) + np.asarray(model.classifier.bias[...])
    np.testing.assert_allclose(model(IMAGES), logits, atol=1e-4, rtol=1e-4)


def test_every_block_can_be_tapped_in_depth_order(model: EfficientNet):
    shapes = activations.tap(model).layers(IMAGES)
    assert tuple(name for name in shapes if name in hidden_layers(SMALL)) == hidden_layers(SMALL)
    assert [shapes[name].shape for name in hidden_layers(SMALL)] == [(2, 5, 6, 8)] * 2 + [(2, 3, 3, 8)] * 2


@pytest.mark.parametrize(
    ("factors", "num_blocks", "widths"),
    [
        ((1.0, 1.0), 16, (16, 24, 40, 80, 112, 192, 320)),
        ((1.0, 1.1), 21, (16, 24, 40, 80, 112, 192, 320)),
        ((1.1, 1.2), 21, (16, 24, 48, 88, 120, 208, 352)),
    ],
    ids=["lite0", "lite1", "lite2"],
)
def test_scaling_gives_the_released_shapes(factors: tuple, num_blocks: int, widths: tuple):
    shapes = EfficientNetConfig(*factors).block_shapes()
    assert len(shapes) == num_blocks
    assert tuple(dict.fromkeys(shape.width for shape in shapes)) == widths
    assert np.prod([shape.stride for shape in shapes]) == 16


def test_inference_mode_is_the_default_and_training_mode_moves_the_averages():
    stem = ConvNorm(3, 8, 3, stride=2, rngs=nnx.Rngs(0))
    before = np.array(stem.norm.mean[...])
    assert np.isfinite(stem(jnp.asarray(IMAGES))).all()
    np.testing.assert_array_equal(stem.norm.mean[...], before)
    stem.train()
    stem(jnp.asarray(IMAGES))
    assert not np.array_equal(stem.norm.mean[...], before)


@pytest.mark.parametrize("images", [np.zeros((9, 9, 3), np.float32), np.zeros((1, 9, 9, 4), np.float32)])
def test_images_of_another_shape_are_refused(model: EfficientNet, images: np.ndarray):
    with pytest.raises(ValueError, match="channels last"):
        model(images)


def test_factors_that_are_not_positive_are_refused():
    with pytest.raises(ValueError, match="positive factors"):
        EfficientNetConfig(width_factor=0.0)
