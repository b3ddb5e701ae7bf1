"""Extraction streams every example once, in memory or to a store, and a stopped run goes on to the same bytes."""

import hashlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax.activations import Layers, Store, StoreWriter, open_store
from repsim_jax.activations.extract import extract, recorded
from repsim_jax.data import Batch, batched
from repsim_jax.errors import AlignmentError, BadArrayError, RepsimError, StoreMismatchError, UnknownNameError

N, D = 23, 6
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
IDS = tuple(f"photo_{row}" for row in range(N))
W = np.random.default_rng(1).normal(size=(D, D)).astype(np.float32)


def network(w, x):
    hidden = jnp.tanh(x @ w)
    return {
        "hidden": hidden,
        "deep": {"mlp": hidden @ w, "tokens": jnp.stack([hidden, x], 1)},
        "winner": hidden.argmax(1),
    }


MODEL = (network, W)
EXPECTED = {"hidden": np.tanh(X @ W), "deep/mlp": np.tanh(X @ W) @ W}


def stream(size, ids=IDS, x=X):
    return batched(x, batch_size=size, ids=ids)


def from_row(size):
    return lambda start: (Batch(IDS[i : i + size], X[i : i + size]) for i in range(start, N, size))


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_example_is_read_once_and_in_order():
    got = extract(MODEL, stream(5), layers=["hidden", "deep/mlp"])
    assert isinstance(got, Layers)
    assert got.ids == IDS
    assert got.name == "network"
    assert got.names == ("hidden", "deep/mlp")
    for name, expected in EXPECTED.items():
        np.testing.assert_allclose(got.read(name), expected, atol=1e-5)


@pytest.mark.parametrize(
    "batches",
    [
        X,
        jnp.asarray(X),
        [X[:9], X[9:]],
        batched(X, batch_size=4),
        [Batch(tuple(map(str, range(N))), X)],
        Batch(tuple(map(str, range(N))), X),
        lambda start: [X[start:]],
        (X[i : i + 1] for i in range(N)),
        [X[:9], X[:0], X[9:]],
    ],
    ids=["numpy", "jax", "arrays", "batched", "list", "batch", "callable", "generator", "empty_batch"],
)
def test_batches_come_in_many_forms_and_ids_default_to_row_numbers(batches):
    got = extract(MODEL, batches, layers="hidden")
    assert got.ids == tuple(map(str, range(N)))
    np.testing.assert_allclose(got.read("hidden"), EXPECTED["hidden"], atol=1e-5)


def test_layers_come_in_depth_order_whatever_the_order_of_the_globs():
    assert extract(MODEL, X, layers=["deep/m*", "hid*"]).names == ("hidden", "deep/mlp")


def test_a_last_smaller_batch_costs_no_second_trace():
    traces = []

    def counted(w, x):
        traces.append(x.shape)
        return network(w, x)

    extract((counted, W), stream(5), layers="hidden")
    before_reading = 2  # two abstract evaluations, with 5 and 6 rows, choose the layers
    assert traces[:before_reading] == [(5, D), (6, D)]
    assert traces[before_reading:] == [(5, D)]


def test_layers_that_are_not_asked_for_are_not_computed():
    def heavy(w, x):
        return {"cheap": x @ w, "huge": jnp.ones((len(x), 50_000_000_000)) * x.sum()}

    assert extract((heavy, W), X, layers="cheap").names == ("cheap",)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_dtype_is_the_one_asked_for_in_memory_and_in_a_store(dtype, tmp_path):
    memory = extract(MODEL, X, layers="hidden", dtype=dtype).read("hidden")
    store = extract(MODEL, X, layers="hidden", dtype=dtype, store=tmp_path / "s").read("hidden")
    assert memory.dtype.name == store.dtype.name == dtype
    np.testing.assert_array_equal(memory, store)


def test_a_store_tells_model_layouts_versions_data_and_what_was_passed_over(tmp_path):
    store = extract(
        MODEL, stream(5), layout="token_mean", store=tmp_path / "s", metadata={"model": "mine", "data": "x.npy"}
    )
    assert isinstance(store, Store)
    assert store.layers == ("hidden", "deep/mlp", "deep/tokens")
    told = store.metadata
    assert told["model"] == "mine"
    assert told["data"] == "x.npy"
    assert told["layers"]["deep/tokens"] == {"layout": "token_mean", "shape": [2, D], "dtype": "float32"}
    assert told["layers"]["hidden"]["layout"] == "none"
    assert told["versions"]["jax"] == jax.__version__
    assert {"flax", "repsim_jax", "python"} <= told["versions"].keys()
    assert "int32" in told["passed_over"]["winner"]
    assert told["batch_size"] == 5


def test_positions_become_examples_with_their_own_ids():
    got = extract(MODEL, [Batch(("a", "b"), X[:2])], layers="deep/tokens", layout="space_as_samples")
    assert got.ids == ("a@0", "a@1", "b@0", "b@1")
    np.testing.assert_allclose(got.read("deep/tokens")[2], np.tanh(X[1] @ W), atol=1e-5)


def test_padding_is_no_position():
    mask = np.array([[1, 0], [1, 1]])
    got = extract(MODEL, [Batch(("a", "b"), X[:2], mask)], layers="deep/tokens", layout="space_as_samples")
    assert got.ids == ("a@0", "b@0", "b@1")
    np.testing.assert_allclose(got.read("deep/tokens")[2], X[1], atol=1e-5)


def test_token_mean_uses_the_mask_of_each_batch():
    masks = np.array([[1, 0], [1, 1], [0, 1]])
    batches = (Batch((str(row),), X[row : row + 1], masks[row : row + 1]) for row in range(3))
    got = extract(MODEL, batches, layers="deep/tokens", layout="token_mean").read("deep/tokens")
    np.testing.assert_allclose(got[0], np.tanh(X[0] @ W), atol=1e-5)
    np.testing.assert_allclose(got[1], (np.tanh(X[1] @ W) + X[1]) / 2, atol=1e-5)
    np.testing.assert_allclose(got[2], X[2], atol=1e-5)


def test_token_inputs_of_changing_length_are_read_batch_by_batch():
    def tokens(_, x):
        return {"t": x}

    batches = [np.ones((2, t, 3), np.float32) * t for t in (4, 2, 4)]
    got = extract((tokens, None), batches, layout="token_mean")
    np.testing.assert_array_equal(got.read("t")[:, 0], [4, 4, 2, 2, 4, 4])
    with pytest.raises(BadArrayError, match="layer 't' has width 6 where 12 was expected"):
        extract((tokens, None), batches, layout="flatten")
    with pytest.raises(BadArrayError, match="layer 't' has 2 positions where 4 were expected"):
        extract((tokens, None), batches, layout="space_as_samples")


def test_progress_is_reported_after_every_batch():
    seen = []
    extract(MODEL, list(stream(10)), layers="hidden", on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(10, N), (20, N), (N, N)]
    seen.clear()
    extract(MODEL, stream(10), layers="hidden", on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (N, None)


class StopError(Exception):
    pass


def interrupted(folder, stop_after, size, **options):
    def stop(done, _):
        if done > stop_after:
            raise StopError

    with pytest.raises(StopError):
        extract(MODEL, stream(size), store=folder, on_progress=stop, chunk_rows=4, **options)


@pytest.mark.parametrize("layout", ["token_mean", "space_as_samples"])
@pytest.mark.parametrize("stop_after", [0, 14])
@pytest.mark.parametrize(
    "batches", [lambda: stream(5), lambda: stream(3), lambda: from_row(7)], ids=["5", "3", "from_row_7"]
)
def test_a_resumed_run_writes_the_same_bytes_whatever_its_batch_size(tmp_path, layout, stop_after, batches):
    options = {"layout": layout, "layers": "*" if layout == "token_mean" else "deep/tokens"}
    extract(MODEL, stream(5), store=tmp_path / "whole", chunk_rows=4, **options)
    interrupted(tmp_path / "resumed", stop_after, 5, **options)
    begun = recorded(tmp_path / "resumed")
    assert begun is None or not begun.finished
    extract(MODEL, batches(), store=tmp_path / "resumed", chunk_rows=4, **options)
    if begun is None:  # nothing was committed: the new run chose its own batch size
        assert open_store(tmp_path / "resumed").ids == open_store(tmp_path / "whole").ids
    else:
        assert digest(tmp_path / "resumed") == digest(tmp_path / "whole")


def test_committed_batches_are_not_computed_again(tmp_path):
    interrupted(tmp_path / "s", 14, 5, layers="hidden")
    rows = []
    marked = from_row(5)
    extract(
        MODEL,
        lambda start: (rows.append(start), marked(start))[1],
        layers="hidden",
        store=tmp_path / "s",
        chunk_rows=4,
    )
    assert rows == [0, 10]  # a look at the first batch; of the third, rows 12 to 14 were not committed


def test_a_finished_store_is_returned_as_it_is(tmp_path):
    extract(MODEL, stream(5), layers="hidden", store=tmp_path / "s")
    before = digest(tmp_path / "s")
    assert extract(MODEL, stream(5), layers="hidden", store=tmp_path / "s").ids == IDS
    assert digest(tmp_path / "s") == before
    assert recorded(tmp_path / "s").finished


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": "deep/mlp"}, "layers"),
        ({"dtype": "float16"}, "dtype"),
        ({"metadata": {"data": "others"}}, "data"),
        ({"batches": stream(5, IDS[:20], X[:20])}, "the data end"),
        (
            {"batches": stream(5, (*IDS[:20], "x", "y", "z"))},
            "row 20 is 'photo_20' in the store, and the data give 'x'",
        ),
        ({"batches": itertools.chain(stream(5), [Batch(("more",), X[:1])])}, "the data go on with 'more'"),
    ],
)
def test_a_finished_store_of_something_else_is_refused(tmp_path, change, message):
    extract(MODEL, stream(5), layers="hidden", store=tmp_path / "s")
    before = digest(tmp_path / "s")
    options = {"batches": stream(5), "layers": "hidden", **change}
    with pytest.raises(StoreMismatchError, match=message):
        extract(MODEL, options.pop("batches"), store=tmp_path / "s", **options)
    assert digest(tmp_path / "s") == before


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (lambda: stream(5, ("x", *IDS[1:])), "row 0 is 'photo_0' in the store, and the data give 'x'"),
        (lambda: stream(5, (*IDS[:11], "x", *IDS[12:])), "row 11 is 'photo_11' in the store, and the data give 'x'"),
        (
            lambda: stream(5, IDS[:10], X[:10]),
            "row 10 is 'photo_10' in the store, and the data give nothing: the data end",
        ),
    ],
)
def test_resuming_with_other_examples_is_refused(tmp_path, batches, message):
    interrupted(tmp_path / "s", 14, 5, layers="hidden")
    with pytest.raises(StoreMismatchError, match=message):
        extract(MODEL, batches(), layers="hidden", store=tmp_path / "s", chunk_rows=4)
    extract(MODEL, stream(5), layers="hidden", store=tmp_path / "s", chunk_rows=4).verify()


def test_another_writers_store_is_compared_by_its_settings(tmp_path):
    with StoreWriter(tmp_path / "s", chunk_rows=2, metadata={"model": "other"}) as writer:
        writer.append(["a", "b"], {"hidden": X[:2]})
    with pytest.raises(StoreMismatchError, match="other settings"):
        extract(MODEL, stream(5), layers="hidden", store=tmp_path / "s", chunk_rows=2)


def test_an_unknown_layer_is_refused_with_a_suggestion():
    with pytest.raises(UnknownNameError, match="Did you mean 'deep/mlp'"):
        extract(MODEL, X, layers=["hidden", "deep/mpl"])


@pytest.mark.parametrize(
    ("outputs", "layers", "message"),
    [
        (lambda x: {"a": x.astype(int)}, None, "layer 'a' cannot be used: it holds int32"),
        (lambda x: {"a": x.astype(int), "b": x}, "a", "layer 'a' cannot be used: it holds int32"),
        (lambda x: {"a": x + 1j}, None, "complex64"),
        (lambda x: {"a": x > 0}, None, "bool"),
        (lambda x: {"a": x[:, 0]}, None, "a layer is .examples, features."),
        (lambda x: {"a": x[:, :0]}, None, r"it is empty, of shape \(23, 0\)"),
        (lambda x: {"a": x[:5]}, None, "the leading axis is not the batch of 23"),
        (lambda x: {"table": jnp.ones((N, 3))}, None, "the leading axis is not the batch of 23"),
        (lambda x: {}, None, "returned no layers at all"),
        (lambda x: {"a": x}, [], "no layer is asked for"),
        (lambda x: {"a": jnp.stack([x, x], 1)}, None, "no layout policy is given"),
        (lambda x: x, None, r"must return a dict \{layer: array\}"),
    ],
)
def test_a_layer_that_is_no_representation_is_refused(outputs, layers, message):
    with pytest.raises(RepsimError, match=message):
        extract((lambda _, x: outputs(x), None), X, layers=layers)


def test_a_table_as_long_as_the_batch_is_not_taken_for_a_layer():
    got = extract((lambda _, x: {"table": jnp.ones((N, 3)), "x": x}, None), X)
    assert got.names == ("x",)


@pytest.mark.parametrize("store", [None, "s"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_names_layer_row_and_id(tmp_path, store, value):
    x = X.copy()
    x[13, 2] = value
    with pytest.raises(BadArrayError, match=r"layer 'x' must be finite: .*row 13 \(id 'photo_13'\)"):
        extract((lambda _, x: {"x": x}, None), stream(5, x=x), store=store and tmp_path / store)


@pytest.mark.parametrize("store", [None, "s"])
def test_half_precision_overflow_names_layer_value_row_and_a_wider_dtype(tmp_path, store):
    x = X.copy()
    x[13, 2] = 7e4
    with pytest.raises(BadArrayError, match=r"layer 'x' does not fit into float16: got 70000 at row 13 .*bfloat16"):
        extract((lambda _, x: {"x": x}, None), stream(5, x=x), dtype="float16", store=store and tmp_path / store)


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], BadArrayError, "there are no examples"),
        (
            stream(5, (*IDS[:20], "photo_3", "y", "z")),
            AlignmentError,
            "'photo_3' is the id of example 3 and of example 20",
        ),
        ([Batch(("a", "b"), X[:3])], BadArrayError, "got 2 ids for 3 examples"),
        ([Batch(("a", ""), X[:2])], BadArrayError, "non-empty strings as ids"),
        ([Batch((1, 2), X[:2])], BadArrayError, "non-empty strings as ids, got 1"),
        ([Batch("ab", X[:2])], BadArrayError, "one id per example"),
        ([{"a": X[:3], "b": X[:2]}], BadArrayError, "one shared leading axis"),
        ([np.float32(1)], BadArrayError, "one shared leading axis"),
        ([Batch(("a",), X[:1], np.zeros((1, 4)))], BadArrayError, "example 'a' has no real token"),
        ([Batch(("a",), X[:1], np.ones(4))], BadArrayError, r"a token mask must be \(b, t\)"),
        (7, BadArrayError, "batches must be an iterable"),
        ("photos", BadArrayError, "batches must be an iterable"),
    ],
)
def test_malformed_batches_are_refused(batches, error, message):
    with pytest.raises(error, match=message):
        extract(MODEL, batches, layers="hidden")


def test_layers_with_different_positions_cannot_be_samples_together():
    def maps(_, x):
        return {"a": jnp.stack([x, x], 1), "b": jnp.stack([x, x, x], 1)}

    with pytest.raises(BadArrayError, match=r"layer 'b' of shape .* has other positions"):
        extract((maps, None), X, layout="space_as_samples")
    with pytest.raises(BadArrayError, match="layer 'hidden' of shape"):
        extract(MODEL, X, layout="space_as_samples")


def test_an_unknown_dtype_is_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'float32'"):
        extract(MODEL, X, dtype="float23")


def test_a_failed_run_leaves_no_store_behind(tmp_path):
    with pytest.raises(BadArrayError):
        extract((lambda _, x: {"x": x * np.nan}, None), X, store=tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


class Loaded:
    name, model, prepare = "small", MODEL, None
    layers, layout = ("hidden", "deep/tokens"), {"deep/*": "cls"}


def test_a_loaded_model_brings_its_own_layers_and_layout():
    got = extract(Loaded(), X)
    assert got.name == "small"
    assert got.names == Loaded.layers
    np.testing.assert_allclose(got.read("deep/tokens"), EXPECTED["hidden"], atol=1e-5)
    other = extract(Loaded(), X, layers="deep/tokens", layout={"deep/tok*": "flatten"})
    assert other.width("deep/tokens") == 2 * D
