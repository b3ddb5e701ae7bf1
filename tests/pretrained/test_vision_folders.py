"""Local Hugging Face folders of image models load exactly, or fail with the name of what is wrong."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import oracles_vision as oracle
import pytest

from repsim_jax import activations, pretrained
from repsim_jax.errors import CorruptFileError, FileError, RepsimError, UnknownNameError, UnsafeFileError

SHAPE = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "image_size": 12,
    "patch_size": 4,
}
# model_type: (configuration, prefix in the file, options of the parameters, activation, epsilon, more tensors)
FAMILIES: dict[str, tuple[dict[str, Any], str, dict[str, Any], str, float, dict[str, tuple[int, ...]]]] = {
    "vit": (SHAPE, "", {}, "gelu", 1e-12, {"pooler.dense.weight": (8, 8), "pooler.dense.bias": (8,)}),
    "vit_mae": (SHAPE, "vit.", {}, "gelu", 1e-12, {"decoder.mask_token": (1, 1, 4), "decoder.decoder_pred.bias": (3,)}),
    "dinov2": (
        {**SHAPE, "mlp_ratio": 2, "hidden_act": "relu"},
        "",
        {"layer_scale": True, "mlp_width": 16},
        "relu",
        1e-6,
        {"embeddings.mask_token": (1, 8)},
    ),
    "clip_vision_model": (
        SHAPE,
        "vision_model.",
        {"pre_norm": True, "patch_bias": False, "embedding": 5},
        "quick_gelu",
        1e-5,
        {"vision_model.embeddings.position_ids": (1, 10)},
    ),
    "clip": (
        {"vision_config": SHAPE, "text_config": {}, "projection_dim": 5},
        "vision_model.",
        {"pre_norm": True, "patch_bias": False, "embedding": 5},
        "quick_gelu",
        1e-5,
        {"text_model.final_layer_norm.bias": (4,), "logit_scale": (), "text_projection.weight": (5, 4)},
    ),
}


def written(folder: Path, family: str) -> tuple[Path, oracle.Params]:
    """A folder of the family with random weights, and these weights under neutral names."""
    config, prefix, options, _, _, more = FAMILIES[family]
    params = oracle.vit_params(np.random.default_rng(3), **options)
    naming = "clip" if family.startswith("clip") else "dinov2" if family == "dinov2" else "vit"
    tensors = oracle.hugging_face_tensors(params, naming, prefix)
    tensors |= {name: np.ones(shape, np.float32) for name, shape in more.items()}
    return oracle.write_folder(folder, {"model_type": family, **config}, tensors), params


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("vit"), "vit")[0]


@pytest.fixture
def folder(vit_folder: Path, tmp_path: Path) -> Path:
    """A copy of a sound folder, for a test to spoil."""
    return Path(shutil.copytree(vit_folder, tmp_path / "model"))


@pytest.mark.parametrize(
    ("family", "size"), [*((family, (12, 12)) for family in FAMILIES), ("vit", (17, 8)), ("dinov2", (8, 12))]
)
def test_every_hidden_layer_equals_the_numpy_twin(family: str, size: tuple[int, int], tmp_path: Path):
    path, params = written(tmp_path, family)
    activation, epsilon = FAMILIES[family][3:5]
    images = np.random.default_rng(4).normal(size=(2, *size, 3)).astype(np.float32)
    expected = oracle.vit_hidden(params, images, num_heads=2, activation=activation, epsilon=epsilon)
    found = activations.tap(pretrained.load_local(path).model).read(images, tuple(expected))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=3e-5, rtol=3e-5, err_msg=name)


def test_default_layers_exist_and_have_a_layout(vit_folder: Path):
    loaded = pretrained.load_local(vit_folder)
    batch = loaded.prepare([np.zeros((20, 30, 3), np.uint8)], ["a"])
    assert loaded.layers == ("stem", "block_0", "block_1", "norm")
    layers = activations.extract(loaded.model, [batch], layers=loaded.layers, layout=loaded.layout)
    assert {name: array.shape for name, array in layers.layers.items()} == dict.fromkeys(loaded.layers, (1, 8))


def test_a_clip_without_projection_embeds_with_its_class_token(tmp_path: Path):
    path, _ = written(tmp_path, "clip_vision_model")
    change_tensors(path, lambda tensors: tensors.pop("visual_projection.weight"))
    loaded = pretrained.load_local(path)
    assert loaded.layers[-1] == "norm"
    assert loaded.model(np.ones((1, 12, 12, 3), np.float32)).shape == (1, 8)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_files_load_as_float32(folder: Path, dtype: Any):
    change_tensors(folder, lambda tensors: tensors.update({name: x.astype(dtype) for name, x in tensors.items()}))
    token = pretrained.load_local(folder).model.stem.class_token[...]
    assert token.dtype == np.float32
    np.testing.assert_allclose(token, read(folder)["embeddings.cls_token"].astype(np.float32)[0, 0])


def test_a_folder_in_parts_loads_as_one(folder: Path, vit_folder: Path):
    from safetensors.numpy import save_file

    tensors = read(folder)
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    (folder / "model.safetensors").unlink()
    places = {name: file for file, held in parts.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    whole, images = pretrained.load_local(vit_folder), np.ones((1, 12, 12, 3), np.float32)
    np.testing.assert_array_equal(pretrained.load_local(folder).model(images), whole.model(images))


@pytest.mark.parametrize(
    ("processor", "size", "short_side", "resample"),
    [
        ({"size": {"height": 12, "width": 12}, "resample": 2}, 12, None, "bilinear"),
        ({"size": {"shortest_edge": 16}, "crop_size": {"height": 12, "width": 12}, "resample": 3}, 12, 16, "bicubic"),
        ({"size": 16, "crop_size": 12, "do_center_crop": True}, 12, 16, "bilinear"),
        ({"size": 16, "crop_size": 12, "do_center_crop": False}, 16, None, "bilinear"),
        ({"size": {"shortest_edge": 16}}, 16, 16, "bilinear"),
    ],
)
def test_the_folders_own_preprocessing_is_used(
    folder: Path, processor: dict[str, Any], size: int, short_side: int | None, resample: str
):
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | {"image_mean": [0.1, 0.2, 0.3]}))
    prepare = pretrained.load_local(folder).prepare
    assert (prepare.size, prepare.short_side, prepare.resample) == (size, short_side, resample)
    assert (prepare.mean, prepare.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


def read(folder: Path) -> oracle.Params:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def change_tensors(folder: Path, change: Callable[[oracle.Params], Any]) -> None:
    from safetensors.numpy import save_file

    tensors = {name: np.array(array) for name, array in read(folder).items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def put(name: str, array: np.ndarray) -> Callable[[oracle.Params], Any]:
    return lambda tensors: tensors.update({name: array.astype(np.float32)})


def drop(name: str) -> Callable[[oracle.Params], Any]:
    return lambda tensors: tensors.pop(name)


POSITIONS, PATCHES = "embeddings.position_embeddings", "embeddings.patch_embeddings.projection.weight"
LAST_BIAS, SECOND = "encoder.layer.1.output.dense.bias", "encoder.layer.0.output.dense.weight"
BROKEN_TENSORS: dict[str, tuple[Callable[[oracle.Params], Any], str]] = {
    "missing": (drop(LAST_BIAS), f"'{LAST_BIAS}', which is missing"),
    "no class token": (drop("embeddings.cls_token"), "'embeddings.cls_token', which is missing"),
    "left over": (
        put("encoder.layer.2.output.dense.bias", np.zeros(8)),
        "also holds 'encoder.layer.2.output.dense.bias'",
    ),
    "transposed": (put(SECOND, np.zeros((12, 8))), rf"'{SECOND}' has shape \(12, 8\)"),
    "too few axes": (put(PATCHES, np.zeros((8, 48))), rf"'{PATCHES}' has shape \(8, 48\)"),
    "another grid": (put(POSITIONS, np.zeros((1, 5, 8))), rf"'{POSITIONS}' has shape \(1, 5, 8\)"),
    "another width": (put(POSITIONS, np.zeros((1, 10, 7))), rf"'{POSITIONS}' has shape \(1, 10, 7\)"),
    "empty": (put(POSITIONS, np.zeros((0, 8))), rf"'{POSITIONS}' has shape \(0, 8\)"),
    "not finite": (put("layernorm.weight", np.full(8, np.nan)), "'layernorm.weight' holds NaN or Inf"),
    "integers": (
        lambda tensors: tensors.update({"layernorm.weight": np.ones(8, np.int32)}),
        "'layernorm.weight' holds int32",
    ),
}


@pytest.mark.parametrize("case", BROKEN_TENSORS)
def test_a_tensor_that_does_not_fit_is_named(folder: Path, case: str):
    change, said = BROKEN_TENSORS[case]
    change_tensors(folder, change)
    with pytest.raises(CorruptFileError, match=said):
        pretrained.load_local(folder)


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        ({"model_type": "resnet"}, UnknownNameError, "no model_type .* is called 'resnet'"),
        ({"model_type": "vit_mea"}, UnknownNameError, "Did you mean 'vit_mae'"),
        ({"model_type": ["vit"]}, UnknownNameError, "no model_type"),
        ({"num_channels": 1}, FileError, "num_channels = 3, got 1"),
        ({"hidden_act": "swish2"}, FileError, "hidden_act to be one of .*; got 'swish2'"),
        ({"hidden_size": "8"}, CorruptFileError, "hidden_size of 1 to .*, got '8'"),
        ({"num_hidden_layers": 10**9}, CorruptFileError, "num_hidden_layers of 1 to 1000"),
        ({"num_attention_heads": 3}, CorruptFileError, "num_heads to divide width"),
        ({"layer_norm_eps": None}, CorruptFileError, "config.json"),
        ({"model_type": "dinov2", "use_swiglu_ffn": True}, FileError, "use_swiglu_ffn = false; gated MLPs"),
        ({"model_type": "clip", "vision_config": 3}, CorruptFileError, "vision_config to be an object"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(folder: Path, values: dict, error: type, said: str):
    change_config(folder, **values)
    with pytest.raises(error, match=said):
        pretrained.load_local(folder)


def remove(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).unlink()


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def point_outside(folder: Path) -> None:
    remove("model.safetensors")(folder)
    places = {"weight_map": {"a": "../../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(places))


def list_a_missing_part(folder: Path) -> None:
    remove("model.safetensors")(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "part.safetensors"}}))


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (remove("config.json"), FileError, "config.json: expected this file"),
        (remove("model.safetensors"), FileError, "model.safetensors: expected this file"),
        (as_pickle, UnsafeFileError, "can run code.*safe_serialization=True"),
        (truncate, CorruptFileError, "whole safetensors file"),
        (point_outside, CorruptFileError, "safetensors files in this folder"),
        (list_a_missing_part, FileError, "part.safetensors: expected this file"),
        (lambda folder: (folder / "config.json").write_text("{"), CorruptFileError, "cannot be parsed"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), CorruptFileError, "cannot be parsed"),
        (lambda folder: (folder / "config.json").write_text("[]"), CorruptFileError, "JSON object, got a list"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), CorruptFileError, "cannot be parsed"),
        (lambda folder: (folder / "config.json").write_text(" " * (2**23 + 1)), CorruptFileError, "kilobytes of JSON"),
        (shutil.rmtree, FileError, "there is no such folder"),
    ],
)
def test_a_spoiled_folder_says_what_is_wrong(folder: Path, spoil: Callable[[Path], Any], error: type, said: str):
    spoil(folder)
    with pytest.raises(error, match=said):
        pretrained.load_local(folder)


@pytest.mark.parametrize(
    "processor",
    [
        {"size": {"height": 12, "width": 13}},
        {"size": 10**9},
        {"size": "12"},
        {"size": 12, "crop_size": 16},
        {"image_mean": [0.5]},
        {"image_std": [0.5, 0, 0.5]},
        {"resample": 9},
    ],
    ids=str,
)
def test_preprocessing_that_cannot_be_done_is_refused(folder: Path, processor: dict[str, Any]):
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(CorruptFileError, match="preprocessor_config"):
        pretrained.load_local(folder)


def test_any_damage_to_a_file_is_an_error_of_ours_or_none(folder: Path):
    rng = np.random.default_rng(5)
    sound = {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    for trial in range(60):
        name = list(sound)[trial % 2]
        content = bytearray(sound[name])
        for at in rng.integers(0, min(len(content), 3000), 3):
            content[at] = rng.integers(0, 256)
        (folder / name).write_bytes(content)
        with contextlib.suppress(RepsimError):
            pretrained.load_local(folder)
        (folder / name).write_bytes(sound[name])
