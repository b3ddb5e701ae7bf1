"""Every tap is put through the same protocol: the same network in each framework has the same hidden layers."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import twin_models as twins

from repsim_jax.activations.extract import extract
from repsim_jax.activations.tap import Tap, tap
from repsim_jax.data import Batch
from repsim_jax.errors import UnknownNameError

SAME = {name: name for name in twins.PARTS}
ONNX = {**SAME, "fc": "fc_out", "head": "head_out"}


def _torch(w, _folder):
    pytest.importorskip("torch")
    return twins.torch_twin(w)


def _onnx(w, folder, **options):
    pytest.importorskip("onnxruntime")
    return twins.onnx_twin(w, folder / "twin.onnx", **options)


CASES = {
    "nnx": (lambda w, _: twins.NnxTwin(w), SAME),
    "linen": (lambda w, _: twins.linen_twin(w), SAME),
    "function": (lambda w, _: twins.function_twin(w), SAME),
    "onnx": (_onnx, ONNX),
    "onnx_external": (lambda w, folder: _onnx(w, folder, external=True), ONNX),
    "onnx_fixed_batch": (lambda w, folder: _onnx(w, folder, batch=2), ONNX),
    "torch": (_torch, SAME),
}


@pytest.fixture(params=list(CASES))
def case(request, tmp_path):
    """(model, {part of the twin: layer name}, inputs in the model's own axis order, expected values)."""
    build, names = CASES[request.param]
    w, x = twins.weights(), twins.images()
    model = build(w, tmp_path)
    return model, names, np.moveaxis(x, -1, tap(model).channel_axis), twins.numpy_twin(w, x)


def test_every_tap_is_a_tap(case):
    found = tap(case[0])
    assert isinstance(found, Tap)
    assert tap(found) is found
    assert found.name


def test_the_same_weights_have_the_same_checksum(case):
    told = tap(case[0]).weights_sha256()
    assert len(told) == 64
    assert tap(case[0]).weights_sha256() == told


@pytest.mark.parametrize("kind", list(CASES))
def test_one_changed_weight_changes_the_checksum(kind, tmp_path):
    build, _ = CASES[kind]
    first = tap(build(twins.weights(), tmp_path)).weights_sha256()
    for changed in range(len(jax.tree.leaves(twins.weights()))):
        leaves, kind_of_tree = jax.tree.flatten(jax.tree.map(np.array, twins.weights()))
        leaves[changed].flat[0] += 1e-3
        assert tap(build(jax.tree.unflatten(kind_of_tree, leaves), tmp_path)).weights_sha256() != first


def test_layers_come_in_the_order_of_computation_with_their_shapes(case):
    model, names, x, expected = case
    found = tap(model)
    layers = found.layers(x)
    order = [list(layers).index(names[part]) for part in twins.PARTS]
    assert order == sorted(order)
    for part, name in names.items():
        assert isinstance(layers[name], jax.ShapeDtypeStruct)
        shape = np.moveaxis(expected[part], -1, found.channel_axis).shape if part == "conv" else expected[part].shape
        assert layers[name].shape == shape
        assert layers[name].dtype == np.float32


def test_read_agrees_with_the_numpy_twin(case):
    model, names, x, expected = case
    found = tap(model)
    for part, name in names.items():
        got = np.asarray(found.read(x, (name,))[name])
        got = np.moveaxis(got, found.channel_axis, -1) if part == "conv" else got
        np.testing.assert_allclose(got, expected[part], atol=1e-5)


def test_layers_asked_for_together_equal_layers_asked_for_alone(case):
    model, names, x, _ = case
    found = tap(model)
    together = found.read(x, tuple(names.values()))
    assert list(together) == list(names.values())
    for name in names.values():
        np.testing.assert_array_equal(np.asarray(together[name]), np.asarray(found.read(x, (name,))[name]))


def test_an_unknown_layer_is_refused_with_a_suggestion(case):
    model, _, x, _ = case
    with pytest.raises(UnknownNameError, match=r"no layer is called 'convv'. Did you mean 'conv'"):
        tap(model).read(x, ("convv",))


@pytest.mark.parametrize("policy", ["flatten", "spatial_mean", "space_as_samples"])
def test_extract_gives_equal_features_whatever_the_framework(case, policy):
    model, names, x, expected = case
    conv = expected["conv"]
    wanted = {
        "flatten": conv.reshape(len(x), -1),
        "spatial_mean": conv.mean((1, 2)),
        "space_as_samples": conv.reshape(-1, conv.shape[-1]),
    }[policy]
    batches = [Batch(tuple("abcdefg"[rows]), x[rows]) for rows in (slice(0, 3), slice(3, 6), slice(6, 7))]
    got = extract(model, batches, layers=names["conv"], layout=policy)
    np.testing.assert_allclose(got.read(names["conv"]), wanted, atol=1e-5)
    assert got.ids[-1] == ("g@5,3" if policy == "space_as_samples" else "g")


def test_default_selection_takes_layers_of_rank_two_and_more(case):
    model, names, x, _ = case
    got = extract(model, [x], layout="spatial_mean")
    assert set(names.values()) <= set(got.names)
    assert "winner" not in got.names
    assert all(got.read(name).shape[0] == len(x) for name in got.names)
