"""What is written comes back bit for bit, whatever the batches, names and ids; what cannot be stored is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import ml_dtypes
import numpy as np
import pytest
import tensorstore
from hypothesis import given, settings
from hypothesis import strategies as st

from repsim_jax.activations import Layers, Store, StoreWriter, memory_needed, open_store
from repsim_jax.errors import (
    BadArrayError,
    CorruptFileError,
    FileError,
    IncompleteStoreError,
    RepsimError,
    StoreMismatchError,
    UnknownNameError,
)

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
NASTY_NAMES = [
    "../../etc/passwd",
    "/",
    ".",
    "..",
    "Layer",
    "layer",
    "x" * 200,
    "c.0.0",
    "manifest.json",
    "a\0b\nc",
    "中" * 90,
]


def ids_of(count: int) -> list[str]:
    return [f"image {number}" for number in range(count)]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def written(path: Path, layers: dict[str, np.ndarray], **settings: object) -> Store:
    with StoreWriter(path, **settings) as writer:
        writer.append(ids_of(len(next(iter(layers.values())))), layers)
        return writer.finish()


def files_under(path: Path) -> list[str]:
    return sorted(str(one.relative_to(path)) for one in path.rglob("*"))


@settings(max_examples=40)
@given(
    ids=st.lists(st.text(st.characters(), min_size=1), min_size=1, max_size=30, unique=True),
    names=st.lists(st.text(st.characters(), min_size=1), min_size=1, max_size=3, unique=True),
    dtype=st.sampled_from(sorted(DTYPES)),
    chunk_rows=st.integers(1, 12),
    batch=st.integers(1, 40),
    block=st.integers(1, 40),
    interrupt=st.booleans(),
    data=st.data(),
)
def test_whatever_is_written_comes_back_bit_for_bit(ids, names, dtype, chunk_rows, batch, block, interrupt, data):
    widths = data.draw(st.lists(st.integers(1, 5), min_size=len(names), max_size=len(names)))
    arrays = {
        name: np.random.default_rng(width).normal(size=(len(ids), width)).astype(DTYPES[dtype])
        for name, width in zip(names, widths, strict=True)
    }
    with TemporaryDirectory() as folder:
        done = 0
        if interrupt:
            with StoreWriter(folder, dtype=dtype, chunk_rows=chunk_rows) as writer:
                writer.append(ids[: len(ids) // 2], {name: array[: len(ids) // 2] for name, array in arrays.items()})
        with StoreWriter(folder, dtype=dtype, chunk_rows=chunk_rows) as writer:
            done = writer.num_committed
            assert writer.committed_ids == tuple(ids[:done])
            for start in range(done, len(ids), batch):
                some = slice(start, start + batch)
                writer.append(ids[some], {name: array[some] for name, array in arrays.items()})
            store = writer.finish()
        assert store.ids == tuple(ids)
        assert store.layers == tuple(names)
        store.verify()
        rows = data.draw(st.slices(len(ids)))
        for name, array in arrays.items():
            assert store.read(name).dtype == DTYPES[dtype]
            assert store.read(name).tobytes() == array.tobytes()
            assert store.read(name, rows).tobytes() == array[rows].tobytes()
        gathered = [layers for _, layers in store.blocks(block)]
        for name, array in arrays.items():
            assert np.concatenate([layers[name] for layers in gathered]).tobytes() == array.tobytes()


def test_the_bytes_on_disk_do_not_depend_on_batches_or_interruptions(tmp_path):
    x = normal(50, 4)
    written(tmp_path / "whole", {"a": x}, chunk_rows=8)
    for start in range(0, 50, 10):  # every run but the last leaves without finish()
        with StoreWriter(tmp_path / "pieces", chunk_rows=8) as writer:
            some = slice(writer.num_committed, start + 10)
            writer.append(ids_of(50)[some], {"a": x[some]})
            if start == 40:
                writer.finish()
    assert files_under(tmp_path / "whole") == files_under(tmp_path / "pieces")
    for name in files_under(tmp_path / "whole"):
        if (tmp_path / "whole" / name).is_file():
            assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "pieces" / name).read_bytes()


def test_a_layer_is_an_ordinary_zarr3_array(tmp_path):
    x = normal(20, 3)
    written(tmp_path / "s", {"a": x}, chunk_rows=8)
    (folder,) = (one for one in (tmp_path / "s").iterdir() if one.is_dir())
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/"}}
    array = tensorstore.open(spec).result()
    np.testing.assert_array_equal(array.read().result(), x)
    codecs = [one["name"] for one in json.loads((folder / "zarr.json").read_text())["codecs"]]
    assert codecs == ["bytes", "zstd", "crc32c"]


def test_layer_names_never_lead_out_of_the_store_nor_collide(tmp_path):
    layers = {name: np.full((3, 2), number, np.float32) for number, name in enumerate(NASTY_NAMES)}
    store = written(tmp_path / "deep" / "store", layers)
    assert files_under(tmp_path)[0] == "deep"
    assert [one.name for one in (tmp_path / "deep").iterdir()] == ["store"]
    folders = [one.name for one in store.path.iterdir() if one.is_dir()]
    assert len({name.lower() for name in folders}) == len(NASTY_NAMES)
    for number, name in enumerate(NASTY_NAMES):
        assert (store.read(name) == number).all()


def test_a_dead_layer_is_stored_as_chunks_so_that_a_lost_chunk_is_not_zeros(tmp_path):
    store = written(tmp_path / "s", {"dead": np.zeros((20, 3), np.float32)}, chunk_rows=8)
    assert (store.read("dead") == 0).all()
    (tmp_path / "s" / "0000_dead" / "c.1.0").unlink()
    with pytest.raises(CorruptFileError, match="missing"):
        store.read("dead", slice(8, 9))
    with pytest.raises(CorruptFileError, match="missing"):
        open_store(tmp_path / "s")


def test_one_run_may_append_more_rows_at_once_than_a_chunk_holds(tmp_path):
    x = normal(1000, 2)
    store = written(tmp_path / "s", {"a": x}, chunk_rows=7)
    np.testing.assert_array_equal(store.read("a", np.array([999, 0, 13, -1, 13])), x[[999, 0, 13, -1, 13]])


def test_metadata_and_versions_are_kept(tmp_path):
    store = written(tmp_path / "s", {"a": normal(2, 2)}, metadata={"model": "m", "layout": {"a": "flatten"}})
    assert open_store(tmp_path / "s").metadata == {"model": "m", "layout": {"a": "flatten"}}
    assert set(store.versions) == {"repsim_jax", "numpy", "tensorstore"}
    assert (store.num_examples, len(store), store.width("a"), store.dtype) == (2, 2, 2, np.float32)
    assert "1 layers, 2 examples" in repr(store)


def test_reading_holds_one_block_in_memory(tmp_path):
    x = normal(64, 4)
    store = written(tmp_path / "s", {"a": x, "b": x}, chunk_rows=16)
    sizes = [(len(ids), set(layers), layers["a"].shape) for ids, layers in store.blocks(24, ["a"])]
    assert sizes == [(24, {"a"}, (24, 4)), (24, {"a"}, (24, 4)), (16, {"a"}, (16, 4))]
    assert memory_needed(store) == 2 * 64 * 4 * 4
    assert memory_needed(store, ["a"], limit=1024) == 1024
    with pytest.raises(BadArrayError, match="Compare fewer layers"):
        memory_needed(store, limit=1024)


def test_the_store_is_read_and_written_without_jax():
    code = "import sys, repsim_jax.activations.files; sys.exit('jax' in sys.modules or 'pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_activations_tap_stays_the_function_after_its_module_was_imported():
    import repsim_jax.activations.tap  # binds the submodule's name on the package
    from repsim_jax import activations

    assert activations.tap is repsim_jax.activations.tap
    assert callable(activations.tap)


X = np.ones((3, 2), np.float32)


@pytest.fixture
def half(tmp_path) -> Path:
    """A store of which four rows are committed."""
    with StoreWriter(tmp_path / "half", chunk_rows=2, metadata={"model": "m"}) as writer:
        writer.append(ids_of(5), {"a": normal(5, 3)})
    return tmp_path / "half"


def test_a_half_written_store_is_not_read(half):
    with pytest.raises(IncompleteStoreError, match="resumes"):
        open_store(half)
    assert not list(half.rglob("zarr.json"))  # so other zarr readers find no array either


DIFFERENT: list[tuple[dict[str, object], str]] = [
    ({"dtype": "float16"}, "dtype was 'float32', now 'float16'"),
    ({"chunk_rows": 4}, "chunk_rows was 2, now 4"),
    ({"metadata": {"model": "other"}}, "metadata 'model' was 'm', now 'other'"),
    ({"metadata": {"model": "m", "extra": None}}, "metadata 'extra' was absent, now None"),
]


@pytest.mark.parametrize(("change", "message"), DIFFERENT)
def test_going_on_with_other_settings_says_what_differs(half, change, message):
    before = files_under(half)
    with pytest.raises(StoreMismatchError, match=message):
        StoreWriter(half, **({"chunk_rows": 2, "metadata": {"model": "m"}} | change))
    assert files_under(half) == before


@pytest.mark.parametrize(
    ("layers", "message"),
    [({"b": X}, "'a' is missing; layer 'b' is new"), ({"a": X}, "'a' has width 2, not 3")],
)
def test_going_on_with_other_layers_says_what_differs(half, layers, message):
    with (
        StoreWriter(half, chunk_rows=2, metadata={"model": "m"}) as writer,
        pytest.raises(StoreMismatchError, match=message),
    ):
        writer.append(["x", "y", "z"], layers)
    assert files_under(half) == ["0000_a", "0000_a/c.0.0", "0000_a/c.1.0", "journal.jsonl"]


def test_a_store_without_committed_rows_binds_nobody(tmp_path):
    (tmp_path / "s").mkdir()
    with StoreWriter(tmp_path / "s", dtype="float16") as writer:
        writer.append(["a"], {"old": X[:1]})
        journal = (tmp_path / "s" / "journal.jsonl").read_bytes()
    assert files_under(tmp_path) == ["s"]
    (tmp_path / "s" / "journal.jsonl").write_bytes(journal)  # as a killed writer would have left it
    (tmp_path / "s" / "0000_old").mkdir()
    with StoreWriter(tmp_path / "s", metadata={"new": 1}) as writer:
        writer.append(["a"], {"new": X[:1]})
        assert writer.finish().layers == ("new",)
    assert files_under(tmp_path / "s") == ["0000_new", "0000_new/c.0.0", "0000_new/zarr.json", "manifest.json"]


def test_a_finished_store_is_not_overwritten(tmp_path):
    written(tmp_path / "s", {"a": X})
    with pytest.raises(StoreMismatchError, match="is finished"):
        StoreWriter(tmp_path / "s")
    assert len(open_store(tmp_path / "s")) == 3


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreMismatchError, match=r"holds 'thesis\.tex'"):
        StoreWriter(tmp_path)
    assert files_under(tmp_path) == ["thesis.tex"]


def test_a_finished_or_closed_writer_takes_nothing_more(tmp_path):
    with StoreWriter(tmp_path / "s") as writer:
        writer.append(["a"], {"l": X[:1]})
        writer.finish()
        with pytest.raises(RepsimError, match="is finished"):
            writer.append(["b"], {"l": X[:1]})
    writer = StoreWriter(tmp_path / "t")
    writer.close()
    writer.close()
    with pytest.raises(RepsimError, match="is closed"):
        writer.finish()


READS: list[tuple[Callable[[Store], object], type[RepsimError], str]] = [
    (lambda store: store.read("hiden"), UnknownNameError, "Did you mean 'hidden'"),
    (lambda store: store.width("hiden"), UnknownNameError, "Did you mean 'hidden'"),
    (lambda store: next(store.blocks(layers=["hiden"])), UnknownNameError, "Did you mean 'hidden'"),
    (lambda store: next(store.blocks(0)), BadArrayError, "rows=0"),
    (lambda store: store.read("hidden", np.array([3])), BadArrayError, r"lie in \[0, 3\)"),
    (lambda store: store.read("hidden", np.array([0.5])), BadArrayError, "row numbers: got float64"),
]


@pytest.mark.parametrize(("read", "error", "message"), READS)
def test_a_read_that_cannot_be_answered_says_why(tmp_path, read, error, message):
    store = written(tmp_path / "s", {"hidden": X})
    with pytest.raises(error, match=message):
        read(store)
    assert store.read("hidden", slice(3, 9)).shape == (0, 2)


def test_opening_what_is_no_store_says_why(tmp_path):
    with pytest.raises(FileError, match="does not exist"):
        open_store(tmp_path / "nothing")
    with pytest.raises(CorruptFileError, match=r"no manifest\.json"):
        open_store(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CorruptFileError, match=r"no manifest\.json"):
        open_store(tmp_path / "file")
    with pytest.raises(FileError, match="cannot be written"):
        StoreWriter(tmp_path / "file" / "below")


def test_layers_read_a_store_and_arrays_alike(tmp_path):
    x = normal(6, 2)
    store = written(tmp_path / "s", {"a": x})
    for layers in (Layers("m", store, store.ids), Layers("m", {"a": x})):
        assert (layers.names, layers.num_examples, layers.width("a")) == (("a",), 6, 2)
        np.testing.assert_array_equal(layers.read("a", slice(2, 4)), x[2:4])
        with pytest.raises(UnknownNameError):
            layers.read("b")
    with pytest.raises(BadArrayError, match="layout policy"):
        Layers("m", {"map": np.ones((2, 3, 4))}).read("map")
