"""Models are named by a short text; what a model does not say about its inputs is asked for, never guessed."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import twin_models as twins

from repsim_jax.activations.extract import extract
from repsim_jax.activations.specs import open_model, prepared
from repsim_jax.data import Batch
from repsim_jax.data.sources import Source, open_source
from repsim_jax.errors import BadArrayError, FileError, RepsimError, UnknownNameError

FACTORIES = """
import numpy as np
from repsim_jax.data import Batch

def function():
    return (lambda w, x: {"x": x * w}), 2.0

def tapped():
    return function()[0], 3.0

class Prepared:
    name, model, layers, layout = "mine", function(), ("x",), {}
    @staticmethod
    def prepare(raw, ids):
        return Batch(tuple(ids), np.array([[len(one)] for one in raw], np.float32))

def broken():
    raise ZeroDivisionError("no weights")

def leaving():
    raise SystemExit(0)

def number():
    return 3

constant = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "spec_factories.py").write_text(FACTORIES)
    (tmp_path / "spec_program.py").write_text("import sys; sys.exit(0)")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("spec_factories", None)


def images(channels=3):
    Image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 6, channels), np.uint8)
    return [Image.fromarray(one) for one in pixels], ("a", "b")


def test_a_factory_of_the_working_folder_is_found_and_the_path_put_back(here):
    path = list(sys.path)
    tap, prepare = open_model("spec_factories:function")
    assert sys.path == path
    batch = prepare([np.ones(3, np.float32)] * 2, ("a", "b"))
    np.testing.assert_array_equal(tap.read(batch.inputs, ("x",))["x"], np.full((2, 3), 2))


def test_an_object_with_a_preparation_brings_it(here):
    tap, prepare = open_model("spec_factories:Prepared")
    assert (tap.name, tap.default_layers) == ("mine", ("x",))
    assert prepare(["abc", "d"], ("p", "q")).inputs.tolist() == [[3], [1]]
    with pytest.raises(RepsimError, match="a size of 8 cannot be chosen"):
        open_model("spec_factories:Prepared", size=8)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("spec_factories:fnction", UnknownNameError, "Did you mean 'function'"),
        ("spec_factories:constant", UnknownNameError, "no function of spec_factories is called 'constant'"),
        ("spec_factories:broken", RepsimError, r"broken\(\) raised ZeroDivisionError: no weights"),
        ("spec_factories:leaving", RepsimError, r"leaving\(\) raised SystemExit: 0"),
        ("spec_program:f", RepsimError, r"'spec_program' ends the program when imported \(sys.exit\).*__main__"),
        ("spec_factories:number", RepsimError, "got builtins.int"),
        ("no_such_module:f", UnknownNameError, "tried to import the module 'no_such_module' from the working folder"),
        ("clip-vit-b17", UnknownNameError, "Did you mean 'clip-vit-b16'.*hf:FOLDER, FILE.onnx, or module:factory"),
        ("nothing.onnx", FileError, "no such file"),
        ("hf:nothing", FileError, "nothing"),
    ],
)
def test_a_name_that_leads_nowhere_says_what_was_tried(here, spec, error, message):
    with pytest.raises(error, match=message):
        open_model(spec)


def test_an_onnx_file_takes_images_with_channels_first(tmp_path):
    pytest.importorskip("onnxruntime")
    raw, ids = images()
    path = twins.onnx_twin(twins.weights(), tmp_path / "twin.onnx")
    batch = open_model(str(path), size=4).prepare(raw, ids)
    assert batch.inputs.shape == (2, 3, 4, 4)
    assert 0 <= batch.inputs.min() < batch.inputs.max() <= 1


def test_images_are_squeezed_to_the_size_and_scaled_to_one(here):
    raw, ids = images()
    batch = open_model("spec_factories:function", size=5).prepare(raw, ids)
    assert (batch.ids, batch.inputs.shape, batch.inputs.dtype) == (ids, (2, 5, 5, 3), np.float32)
    expected = np.asarray(raw[0].resize((5, 5), 2), np.float32) / 255
    np.testing.assert_allclose(batch.inputs[0], expected, atol=1e-6)


def test_what_the_model_does_not_say_is_asked_for(here):
    raw, ids = images()
    prepare = open_model("spec_factories:function").prepare
    with pytest.raises(BadArrayError, match=r"Give the side in pixels \(--size 224\)"):
        prepare(raw, ids)
    with pytest.raises(BadArrayError, match="does not say how text becomes numbers"):
        prepare(["a text"], ("a",))
    with pytest.raises(BadArrayError, match=r"example 'b' has shape \(3,\), example 'a' \(2,\)"):
        prepare([np.ones(2), np.ones(3)], ("a", "b"))
    with pytest.raises(BadArrayError, match="size must be at least 1"):
        open_model("spec_factories:function", size=0)


def test_batches_of_a_source_begin_at_any_row_and_read_no_row_before():
    asked = []
    source = Source("s", "array", tuple("abcdefg"), lambda row: (asked.append(row), np.full(2, row, np.float32))[1])
    batches = list(prepared(source, lambda raw, ids: Batch(tuple(ids), np.stack(raw)), 3)(2))
    assert [batch.ids for batch in batches] == [("c", "d", "e"), ("f", "g")]
    assert asked == [2, 3, 4, 5, 6]
    with pytest.raises(BadArrayError, match="batch_size must be at least 1"):
        prepared(source, None, 0)


def test_a_source_and_a_model_make_an_extraction(here):
    tap, prepare = open_model("spec_factories:function")
    np.save("x.npy", np.arange(30, dtype=np.float32).reshape(10, 3))
    source = open_source("x.npy")
    got = extract(tap, prepared(source, prepare, 4))
    assert got.ids == source.ids
    np.testing.assert_array_equal(got.read("x")[9], 2 * source.get(9))
