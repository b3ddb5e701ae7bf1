"""``compare`` scores every layer pair as the measure of two arrays does, aligns by id, and names what is wrong."""

import numpy as np
import oracles
import pytest
from bad_inputs import pair
from judging import value_of

from repsim_jax import similarity
from repsim_jax.activations.layers import Layers
from repsim_jax.activations.store import StoreWriter
from repsim_jax.errors import AlignmentError, BadArrayError, UnknownNameError

X, Y = pair()
IDS = tuple(f"image {i}" for i in range(64))
WIDE = np.random.default_rng(3).standard_normal((64, 100)).astype(np.float32) + 2 * Y[:, :1]
A = {"stem": X, "wide": WIDE, "head": np.tanh(X)}
B = {"first": Y, "second": X[:, :12]}


@pytest.mark.parametrize("name", similarity.measures())
def test_every_layer_pair_scores_as_two_arrays_do(name: str):
    comparison = similarity.compare(A, B, measures=[name])
    for row in comparison:
        np.testing.assert_allclose(row.value, value_of(name, A[row.layer_a], B[row.layer_b]), atol=3e-5)
    assert [row.layer_a for row in comparison][::2] == list(A)


def test_two_arrays_are_enough():
    comparison = similarity.compare(X, Y, measures=["procrustes"])
    assert comparison.matrix("procrustes").item() == pytest.approx(value_of("procrustes", X, Y))
    assert (comparison.name_a, comparison.layers_b, comparison.widths_b) == ("x", ("y",), (12,))


def test_the_table_is_tidy_and_exports_to_pandas_and_pyarrow():
    comparison = similarity.compare(A, B, measures=["procrustes", "linear_cka"])
    frame, table = comparison.to_pandas(), comparison.to_arrow()
    assert len(frame) == table.num_rows == len(comparison) == 12
    assert list(frame.columns) == table.column_names == list(similarity.Row._fields)
    assert frame[(frame.layer_a == "head") & (frame.layer_b == "first")].value.tolist() == [
        comparison.matrix(name)[2, 0] for name in ("procrustes", "linear_cka")
    ]
    with pytest.raises(UnknownNameError, match="linear_cka"):
        comparison.matrix("linear_ckaa")


def test_rows_are_aligned_by_id_and_not_by_position():
    order = np.random.default_rng(0).permutation(64)
    shuffled = Layers("b", {"first": Y[order]}, tuple(IDS[i] for i in order))
    comparison = similarity.compare(Layers("a", {"stem": X}, IDS), shuffled, measures=["procrustes"])
    assert comparison.values.item() == pytest.approx(value_of("procrustes", X, Y), abs=1e-6)


def test_a_store_on_disk_scores_as_its_arrays_do(tmp_path):
    with StoreWriter(tmp_path / "a.store", dtype="float16", chunk_rows=10) as writer:
        writer.append(IDS, {"stem": X, "head": np.tanh(X)})
        store = writer.finish()
    comparison = similarity.compare(store, Layers("b", B, IDS), measures=["procrustes"])
    assert comparison.name_a == "a.store"
    assert comparison.matrix("procrustes")[0, 0] == pytest.approx(value_of("procrustes", X, Y), abs=1e-3)


def test_fewer_rows_are_spread_evenly_and_said_in_the_notes():
    comparison = similarity.compare(A, B, measures=["procrustes"], max_rows=22)
    picked = np.linspace(0, 63, 22).round().astype(int)
    expected = value_of("procrustes", X[picked], Y[picked])
    assert comparison.matrix("procrustes")[0, 0] == pytest.approx(expected, abs=1e-5)
    assert comparison.notes == ("22 of 64 examples were compared, evenly spaced.",)


@pytest.mark.parametrize("scale", [1.0, 1e-40])
def test_measures_that_see_means_and_those_that_do_not_share_no_centered_copy(scale: float):
    x = (X + 3) * np.float32(scale)
    comparison = similarity.compare(x, Y, measures=["rsa", "procrustes"])
    for name in ("rsa", "procrustes"):
        assert comparison.matrix(name).item() == pytest.approx(oracles.TWINS[name](X + 3, Y), abs=1e-3)


def test_progress_is_told_before_every_measure_and_at_the_end():
    told = []
    names = ["procrustes", "linear_cka"]
    similarity.compare(A, B, measures=names, on_progress=lambda *said: told.append(said))
    assert told == [("procrustes", 0, 2), ("linear_cka", 1, 2), ("", 2, 2)]


@pytest.mark.parametrize(
    ("a", "b", "options", "error", "said"),
    [
        (A, {"first": Y[:60]}, {}, AlignmentError, "x has 64 rows, y 60"),
        (Layers("a", A, IDS), Layers("b", B, (*IDS[:-1], "image 99")), {}, AlignmentError, "image"),
        (A, {}, {}, BadArrayError, "at least one layer"),
        (A, {"dead": Y * 0}, {}, BadArrayError, "layer 'dead' of y"),
        (A, {"first": np.where(Y > 5, np.nan, Y)}, {}, BadArrayError, "NaN in layer 'first' of y"),
        (A, {"flat": np.r_[Y[:63], Y[:1] * 0]}, {"measures": ["rsa"]}, BadArrayError, "layer 'flat' of y .* row 63"),
        (A, {"eye": np.eye(64)}, {"measures": ["rsa"]}, BadArrayError, "layer 'stem' of x and layer 'eye' of y"),
        (A, B, {"measures": ["linear_kca"]}, UnknownNameError, "Did you mean 'linear_cka'"),
        (A, B, {"measures": []}, BadArrayError, "at least one measure"),
        (A, B, {"max_rows": 0}, BadArrayError, "max_rows >= 1"),
        (A, B, {"max_rows": 2}, BadArrayError, "at least 5 examples"),
        (X[:, 0], Y, {}, BadArrayError, r"\(64,\)"),
        (A, {"maps": np.ones((64, 2, 2))}, {}, BadArrayError, "layer 'maps'.*layout"),
    ],
)
def test_what_cannot_be_compared_is_named(a, b, options, error, said):
    with pytest.raises(error, match=said):
        similarity.compare(a, b, **options)
