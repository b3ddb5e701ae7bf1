"""What cannot be stored is refused by name, before anything of it reaches the disk."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from repsim_jax.activations import StoreWriter
from repsim_jax.errors import BadArrayError, RepsimError


def ids_of(count: int) -> list[str]:
    return [f"image {number}" for number in range(count)]


def files_under(path: Path) -> list[str]:
    return sorted(str(one.relative_to(path)) for one in path.rglob("*"))


X = np.ones((3, 2), np.float32)
BAD_ROWS: dict[str, tuple[list, dict[str, object], str]] = {
    "NaN": (
        ["a", "b", "c"],
        {"l": np.array([[1, 2], [3, np.nan], [5, 6]], "f4")},
        r"'l' must be finite.*row 1 \(id 'b'\)",
    ),
    "Inf": (["a", "b", "c"], {"l": np.array([[1, 2], [3, 4], [-np.inf, 6]], "f4")}, r"got -inf at row 2 \(id 'c'\)"),
    "integers": (["a", "b", "c"], {"l": X.astype(int)}, "got int64.*astype"),
    "booleans": (["a", "b", "c"], {"l": X > 0}, "got bool.*mask"),
    "complex": (["a", "b", "c"], {"l": X.astype(complex)}, "got complex128.*x.real"),
    "objects": (["a", "b", "c"], {"l": X.astype(object)}, "got object.*np.stack"),
    "text": (["a", "b", "c"], {"l": X.astype(str)}, "got <U"),
    "token map": (["a", "b", "c"], {"l": np.ones((3, 4, 2), "f4")}, "layout policy"),
    "vector": (["a", "b", "c"], {"l": np.ones(3, "f4")}, r"got shape \(3,\)"),
    "no features": (["a", "b", "c"], {"l": np.ones((3, 0), "f4")}, "at least one feature"),
    "no layers": (["a", "b", "c"], {}, "at least one layer"),
    "nameless layer": (["a", "b", "c"], {"": X}, "non-empty strings"),
    "too few ids": (["a", "b"], {"l": X}, "got 3 rows and 2 ids"),
    "repeated id": (["a", "b", "a"], {"l": X}, "unique: got 'a' twice"),
    "empty id": (["a", "", "c"], {"l": X}, "an empty string at row 1"),
    "integer id": (["a", 1, "c"], {"l": X}, "1 of type int at row 1"),
    "one string": ("abc", {"l": X}, "single string 'abc'"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_rows_that_cannot_be_stored_are_refused_and_leave_no_trace(tmp_path, case):
    ids, layers, message = BAD_ROWS[case]
    with pytest.raises(BadArrayError, match=message), StoreWriter(tmp_path / "s") as writer:
        writer.append(ids, layers)
    assert files_under(tmp_path) == []


def test_a_refused_batch_leaves_the_rows_before_it_untouched(tmp_path):
    with StoreWriter(tmp_path / "s", chunk_rows=2) as writer:
        writer.append(ids_of(3), {"l": X})
        for bad in ({"l": X * np.nan}, {"l": np.ones((3, 9), "f4")}, {"other": X}):
            with pytest.raises(BadArrayError):
                writer.append(["u", "v", "w"], bad)
        with pytest.raises(BadArrayError, match="'image 0' again"):
            writer.append(["image 0", "v", "w"], {"l": X})
        writer.append(["u", "v", "w"], {"l": 2 * X})
        store = writer.finish()
    assert store.ids == ("image 0", "image 1", "image 2", "u", "v", "w")
    np.testing.assert_array_equal(store.read("l"), np.concatenate([X, 2 * X]))


def test_the_row_in_an_error_counts_from_the_start_of_the_store(tmp_path):
    with StoreWriter(tmp_path / "s", chunk_rows=2) as writer:
        writer.append(ids_of(3), {"l": X})
        with pytest.raises(BadArrayError, match=r"row 5 \(id 'w'\), feature 0; 1 of these 1 rows"):
            writer.append(["u", "v", "w"], {"l": np.array([[1, 1], [1, 1], [np.nan, 1]], "f4")})


@pytest.mark.parametrize(
    ("dtype", "value", "advice"),
    [("float16", 70000.0, "Store as bfloat16 or float32"), ("bfloat16", 1e39, "Scale"), ("float32", 1e300, "Scale")],
)
def test_overflow_of_the_stored_dtype_is_an_error_with_advice(tmp_path, dtype, value, advice):
    with (
        pytest.raises(BadArrayError, match=f"does not fit into {dtype}.*{advice}"),
        StoreWriter(tmp_path, dtype=dtype) as w,
    ):
        w.append(["a"], {"l": np.array([[value]], np.float64)})


@pytest.mark.parametrize("source", [np.float16, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_every_floating_input_dtype_is_taken(tmp_path, source):
    with StoreWriter(tmp_path / "s") as writer:
        writer.append(ids_of(3), {"a": np.ones((3, 2)).astype(source)})
        assert (writer.finish().read("a") == 1).all()


def test_a_store_without_examples_is_refused(tmp_path):
    with pytest.raises(BadArrayError, match="at least one example"), StoreWriter(tmp_path / "s") as writer:
        writer.finish()
    assert files_under(tmp_path) == []


BAD_SETTINGS: list[tuple[dict[str, object], str]] = [
    ({"dtype": "int8"}, "float32, float16, bfloat16: got dtype 'int8'"),
    ({"chunk_rows": 0}, "positive integer: got 0"),
    ({"chunk_rows": True}, "positive integer: got True"),
    ({"metadata": {"x": {1, 2}}}, "metadata must be JSON"),
    ({"metadata": {"x": float("nan")}}, "metadata must be JSON"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD_SETTINGS)
def test_settings_that_cannot_be_used_are_refused_before_the_disk_is_touched(tmp_path, wrong, message):
    with pytest.raises(RepsimError, match=message):
        StoreWriter(tmp_path / "s", **wrong)
    assert files_under(tmp_path) == []
