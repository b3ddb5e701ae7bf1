"""A saved measure scores as the one that was fitted; whatever is damaged, missing or foreign is refused, never read."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import contrasim_cases as cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as tensors_of
from safetensors.numpy import save as bytes_of

from repsim_jax.activations import StoreWriter
from repsim_jax.activations.manifest import FileSum, seal, unseal
from repsim_jax.errors import BadArrayError, CorruptFileError, FileError, IncompleteStoreError, RepsimError
from repsim_jax.similarity.contrasim import ContraSim, encode_layers, load, save
from repsim_jax.similarity.contrasim.files import diagnosis_to_json

SOURCE = {"name": "a", "layers": ["x"], "widths": [3], "weights_sha256": None, "held_out": False}
KINDS = ("relative", "raw", "example", "projected")


@pytest.fixture
def saved(measures: Callable[[str], ContraSim], tmp_path: Path) -> Path:
    return save(measures("relative"), tmp_path / "measure")


def changed(folder: Path, **values: Any) -> None:
    """Writes another manifest whose checksum fits: damage of the content, not of the bytes."""
    path = folder / "manifest.json"
    entry = unseal(path.read_bytes())
    path.write_bytes(seal({**entry, **values}))


def with_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Writes other tensors, and a manifest that vouches for them."""
    path = folder / "measure.safetensors"
    tensors = {name: array.copy() for name, array in tensors_of(path.read_bytes()).items()}
    change(tensors)
    path.write_bytes(bytes_of(tensors))
    changed(folder, measure=FileSum.of(path.read_bytes()))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_loaded_is_what_was_saved(measures: Callable[[str], ContraSim], tmp_path: Path, kind: str):
    measure = measures(kind)
    again = load(save(measure, tmp_path / "m"))
    assert (again.options, again.sources, again.anchor_ids) == (measure.options, measure.sources, measure.anchor_ids)
    assert again.settings == json.loads(json.dumps(measure.settings))
    assert again.diagnosis == measure.diagnosis
    np.testing.assert_array_equal(again.training_examples, measure.training_examples)
    name, side = next(iter((cases.networks() if kind in ("relative", "raw") else cases.pairs()).items()))
    layer = side.names[0]
    others: dict[str, Any] = {"sources": [(name, layer)]} if kind == "projected" else {}
    if measure.anchor_ids:
        others["anchors"] = [cases.of(side, layer, measure.anchor_ids)]
    x = side.read(layer)
    np.testing.assert_array_equal(encode_layers(again, [x], **others), encode_layers(measure, [x], **others))


def test_names_never_reach_the_files(measures: Callable[[str], ContraSim], tmp_path: Path):
    measure = measures("projected")
    hostile = {"../../etc/passwd": "side_0", "a/b\x00\ud800": "side_1"}
    sources = {new: measure.sources[old]._replace(layers=("../x",)) for new, old in hostile.items()}
    params = {
        "trunk": measure.params["trunk"],
        "projections": {new: measure.params["projections"][old] for new, old in hostile.items()},
        "standards": {new: {"../x": measure.params["standards"][old]["x"]} for new, old in hostile.items()},
    }
    diagnosis = measure.diagnosis and measure.diagnosis._replace(by_source={}, sensitivity={})
    folder = save(replace(measure, sources=sources, params=params, diagnosis=diagnosis), tmp_path / "m")
    assert sorted(one.name for one in folder.iterdir()) == ["manifest.json", "measure.safetensors"]
    assert all(".." not in name for name in tensors_of((folder / "measure.safetensors").read_bytes()))
    assert list(load(folder).sources) == list(hostile)


def test_a_number_that_is_none_survives(measures: Callable[[str], ContraSim], tmp_path: Path):
    measure = measures("relative")
    assert measure.diagnosis is not None
    odd = replace(measure, diagnosis=measure.diagnosis._replace(negative_mean=float("nan")))
    again = load(save(odd, tmp_path / "m")).diagnosis
    assert again is not None
    assert np.isnan(again.negative_mean)
    assert diagnosis_to_json(None) is None
    assert load(save(replace(measure, diagnosis=None), tmp_path / "m")).diagnosis is None


def test_a_diverged_measure_is_not_saved(measures: Callable[[str], ContraSim], tmp_path: Path):
    measure = measures("raw")
    trunk = [dict(layer) for layer in measure.params["trunk"]]
    trunk[0]["bias"] = trunk[0]["bias"] * np.nan
    with pytest.raises(BadArrayError, match="the fit has diverged"):
        save(replace(measure, params={"trunk": trunk}), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_store_is_never_overwritten_by_a_measure(measures: Callable[[str], ContraSim], tmp_path: Path):
    with StoreWriter(tmp_path / "a.store", metadata={}) as writer:
        writer.append(["a", "b"], {"x": np.eye(2, dtype=np.float32)})
        writer.finish()
    with pytest.raises(FileError, match="of something else, such as a store"):
        save(measures("raw"), tmp_path / "a.store")
    with pytest.raises(FileError, match="is no fitted measure but 'repsim_jax store'"):
        load(tmp_path / "a.store")


def test_saving_that_was_stopped_is_told(saved: Path):
    (saved / "manifest.json").unlink()
    with pytest.raises(IncompleteStoreError, match="stopped before the end"):
        load(saved)


def test_a_folder_without_a_measure_is_told(tmp_path: Path):
    with pytest.raises(FileError, match="no such folder"):
        load(tmp_path / "none")
    with pytest.raises(FileError, match="holds no fitted measure"):
        load(tmp_path)


def test_a_newer_format_is_told(saved: Path):
    changed(saved, version=2)
    with pytest.raises(FileError, match="format version 2"):
        load(saved)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, has"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), "sha256 differs"),
        (lambda path: path.unlink(), "is missing or cannot be read"),
    ],
)
def test_damaged_numbers_are_refused(saved: Path, damage: Callable[[Path], Any], reason: str):
    damage(saved / "measure.safetensors")
    with pytest.raises(CorruptFileError, match=reason):
        load(saved)


def test_numbers_that_are_no_safetensors_are_refused(saved: Path):
    (saved / "measure.safetensors").write_bytes(b"\x80\x04." * 10)
    changed(saved, measure=FileSum.of(b"\x80\x04." * 10))
    with pytest.raises(CorruptFileError, match="not a whole safetensors file"):
        load(saved)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop("trunk/0/bias"), "trunk/0/bias is missing"),
        (lambda t: t.pop("training_examples"), "training_examples"),
        (lambda t: t.update({"trunk/0/bias": np.zeros(3, np.float32)}), "should be float32"),
        (lambda t: t.update({"trunk/0/bias": t["trunk/0/bias"].astype(np.float64)}), "is float64"),
        (lambda t: t["trunk/1/weight"].fill(np.nan), "NaN or infinity"),
        (lambda t: t.update({"trunk/9/bias": np.zeros(3, np.float32)}), "belongs to no part"),
        (lambda t: t.update({"training_examples": t["training_examples"][::-1].copy()}), "not sorted hashes"),
    ],
)
def test_numbers_that_do_not_fit_the_manifest_are_refused(saved: Path, change: Callable[..., Any], reason: str):
    with_tensors(saved, change)
    with pytest.raises(CorruptFileError, match=reason):
        load(saved)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("options", {"positives": "layer"}, "differ in"),
        ("options", {**cases.options().to_json(), "more": 1}, "'more'"),
        ("options", {**cases.options().to_json(), "input": "pickled"}, "pickled"),
        ("options", {**cases.options().to_json(), "width": 8.5}, "width cannot be 8.5"),
        ("options", 3, "damaged"),
        ("sources", [{"name": "a"}], "damaged"),
        ("sources", [{**SOURCE, "widths": [0]}], "malformed"),
        ("sources", [{**SOURCE, "name": 3}], "malformed"),
        ("sources", [SOURCE, SOURCE], "malformed"),
        ("anchor_ids", [1, 2], "something else"),
        ("anchor_ids", "abc", "something else"),
        ("measure", ["short", 3], "not a sha256"),
        ("diagnosis", {"seen": 1}, "other fields"),
        ("settings", 7, "damaged"),
    ],
)  # fmt: skip
def test_a_manifest_that_makes_no_sense_is_refused(saved: Path, name: str, value: Any, reason: str):
    changed(saved, **{name: value})
    with pytest.raises(CorruptFileError, match=reason):
        load(saved)


def test_a_diagnosis_without_its_accuracies_is_refused(saved: Path):
    diagnosis = unseal((saved / "manifest.json").read_bytes())["diagnosis"]
    changed(saved, diagnosis={**diagnosis, "seen": None})
    with pytest.raises(CorruptFileError, match="lacks an accuracy"):
        load(saved)


@settings(max_examples=30)
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_no_changed_byte_of_the_manifest_goes_unnoticed(
    measures: Callable[[str], ContraSim], tmp_path_factory: pytest.TempPathFactory, place: float, byte: int
):
    folder = tmp_path_factory.getbasetemp() / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    path = save(measures("raw"), folder) / "manifest.json"
    data = bytearray(path.read_bytes())
    position = int(place * len(data))
    before, data[position] = data[position], byte
    path.write_bytes(data)
    if before == byte:
        load(folder)
    else:
        with pytest.raises(RepsimError):
            load(folder)
