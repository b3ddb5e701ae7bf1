"""The packaged image models say what their own engines say; skipped where a package is not installed.

benchmarks/pretrained_checks.py does the same with more photographs, sizes and layers: results/pretrained_vision.json.
"""

from pathlib import Path

import numpy as np
import pytest

from repsim_jax import activations, pretrained
from repsim_jax.errors import MissingPackageError
from repsim_jax.pretrained.registry import CARDS
from repsim_jax.pretrained.weights import locate, read_pinned

pytestmark = pytest.mark.slow


def loaded(name: str) -> pretrained.Pretrained:
    try:
        return pretrained.load(name)
    except MissingPackageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """A palace in China, and a flower."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn's sample photographs are not installed")
    return list(datasets.load_sample_images().images)


def engine(name: str, pixels: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra 'onnx')")
    path: Path = locate(CARDS[name].files[0])
    return activations.tap(str(path)).read(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), names)


def test_clip_embeds_like_its_own_graph_with_float_activations(photographs: list[np.ndarray]):
    """Not like the graph as it is: its int8 products saturate on processors without VNNI, where cosines fall to 0.5."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra 'onnx')")
    from benchmarks import _onnx_engines

    model = loaded("clip-vit-b16")
    pixels = model.prepare(photographs, ["china", "flower"]).inputs
    ours = np.asarray(activations.tap(model.model).read(pixels, ("head",))["head"])
    graph = _onnx_engines.without_quantization(read_pinned(CARDS[model.name].files[0]))
    theirs = _onnx_engines.run(graph, np.asarray(pixels), ("image_embeds",))["image_embeds"]
    assert np.abs(ours - theirs).max() < 1e-3 * np.abs(theirs).max()


def test_the_saliency_vit_equals_onnxruntime_in_every_block(photographs: list[np.ndarray]):
    model = loaded("vit-s14-saliency")
    pixels = model.prepare(photographs, ["china", "flower"]).inputs
    theirs = {f"block_{index}": f"/backbone/encoder/layer.{index}/Add_1_output_0" for index in range(12)}
    theirs |= {
        f"block_{index}/attention/{part}": f"/backbone/encoder/layer.{index}/attention/attention/{part}/Add_output_0"
        for index in (0, 6, 11)
        for part in ("query", "key", "value")
    }
    theirs["norm"] = "/backbone/layernorm/Add_1_output_0"
    ours = activations.tap(model.model).read(pixels, tuple(theirs))
    expected = engine(model.name, pixels, tuple(theirs.values()))
    for name, other in theirs.items():
        # Measured: 5e-5 here, 4e-4 on other photographs, on values up to 31, most of it onnxruntime's rounding. The
        # wrong bicubic kernel would give 0.3.
        np.testing.assert_allclose(ours[name], expected[other], atol=5e-4, err_msg=name)


# Classes 698 palace, 985 daisy, 599 honeycomb: PyTorch 2.13.0 on the same weights (benchmarks/_pretrained_rival.py)
LOGITS = {
    "efficientnet-lite0": ((698, 7.482850), (985, 7.413502)),
    "efficientnet-lite1": ((698, 8.487014), (599, 4.206578)),
    "efficientnet-lite2": ((698, 7.098031), (599, 6.901118)),
}


@pytest.mark.parametrize("name", LOGITS)
def test_efficientnet_says_what_pytorch_says(name: str, photographs: list[np.ndarray]):
    model = loaded(name)
    pixels = model.prepare(photographs, ["china", "flower"]).inputs
    logits = np.asarray(activations.tap(model.model).read(pixels, ("output",))["output"])
    for row, (label, value) in zip(logits, LOGITS[name], strict=True):
        assert row.argmax() == label
        assert row.max() == pytest.approx(value, abs=2e-3)  # decoders of JPEG differ in single bits


@pytest.mark.parametrize("name", ["clip-vit-b16", "vit-s14-saliency", *LOGITS])
def test_every_default_layer_tells_photographs_apart(name: str, photographs: list[np.ndarray]):
    model = loaded(name)
    batch = model.prepare(photographs, ["china", "flower"])
    layers = activations.extract(model.model, [batch], layers=model.layers, layout=model.layout)
    assert tuple(layers.layers) == model.layers
    for layer in model.layers:
        first, second = np.asarray(layers.layers[layer])
        assert np.isfinite(first).all()
        assert np.abs(first - second).max() > 1e-3, layer
