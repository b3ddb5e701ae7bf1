"""Sources are sorted into classes of positives with their rows matched, and what cannot be learned from is refused."""

import contrasim_cases as cases
import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax.activations.layers import Layers
from repsim_jax.activations.writer import StoreWriter
from repsim_jax.errors import AlignmentError, BadArrayError, UnknownNameError
from repsim_jax.similarity.contrasim import Options, Training, collect
from repsim_jax.similarity.contrasim.tables import read

OPTIONS = cases.options()


def two(**layers) -> dict[str, dict[str, np.ndarray]]:
    """Two sources in which everything is well, but for the layers given."""
    good = {"a": rows(0), "b": rows(1)}
    return {"one": dict(good), "two": good | layers}


def rows(seed: int, n: int = 12, d: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def members(collection) -> dict[str, list[tuple[str, str]]]:
    """(source, layer) of every class."""
    return {
        name: [(view.source, view.layers[c]) for view in group.views]
        for group in collection.groups
        for c, name in enumerate(group.classes)
    }


def test_layers_of_one_name_belong_together():
    found = members(collect(two(), OPTIONS))
    assert found == {"a": [("one", "a"), ("two", "a")], "b": [("one", "b"), ("two", "b")]}


def test_single_layers_belong_together_whatever_their_names():
    sources = {"image": {"pooled": rows(0)}, "text": rows(1)}
    found = collect(sources, cases.options(positives="example"))
    assert members(found) == {"example": [("image", "pooled"), ("text", "x")]}


def test_classes_by_mapping_by_function_and_left_out():
    by_mapping = {("one", "a"): "A", ("two", "b"): "A", ("one", "b"): "B", ("two", "a"): "B"}
    crossed = {"A": [("one", "a"), ("two", "b")], "B": [("one", "b"), ("two", "a")]}
    assert {
        name: sorted(found) for name, found in members(collect(two(), OPTIONS, classes=by_mapping)).items()
    } == crossed
    assert members(collect(two(), OPTIONS, classes=lambda *pair: by_mapping[pair])) == members(
        collect(two(), OPTIONS, classes=by_mapping)
    )
    more = two(c=rows(3), d=rows(4, d=9))
    kept = {pair: pair[1] if pair[1] in "ab" else None for pair in [*by_mapping, ("two", "c"), ("two", "d")]}
    for classes in (kept, lambda *pair: kept.get(pair)):
        assert set(members(collect(more, OPTIONS, classes=classes))) == {"a", "b"}


def test_classes_of_other_widths_are_grouped_apart():
    sources = two(b=rows(1, d=9))
    found = collect(sources, OPTIONS)
    assert [group.classes for group in found.groups] == [("a",), ("b",)]
    assert [view.width for view in found.groups[1].views] == [5, 9]
    assert found.bytes_needed == 4 * 12 * (5 + 5 + 5 + 9)


def test_rows_are_matched_by_id():
    x, order = rows(0), np.random.default_rng(5).permutation(12)
    names = tuple("abcdefghijkl")
    sources = {
        "one": Layers("?", {"a": x, "b": 2 * x}, names),
        "two": Layers("?", {"a": x[order], "b": 2 * x[order]}, tuple(names[i] for i in order)),
    }
    found = collect(sources, OPTIONS)
    assert found.ids == names
    sides = [np.asarray(read(found, view, np.arange(12))) for view in found.groups[0].views]
    np.testing.assert_array_equal(sides[0], sides[1])
    np.testing.assert_array_equal(sides[0][0, :, 0], x)


def test_several_rows_may_show_one_example():
    """Two captions of most images, in any order: the caption that is alone stands for both."""
    images = Layers("?", {"a": rows(0, 8)}, tuple(f"{i}" for i in range(8)))
    captions = [f"{i}#{j}" for j in (1, 0) for i in range(8) if (i, j) != (3, 1)]
    texts = Layers("?", {"a": rows(1, 15)}, tuple(captions))
    found = collect(
        {"image": images, "text": texts}, cases.options(positives="example"), examples=lambda one: one.split("#")[0]
    )
    assert found.ids == tuple(f"{i}" for i in range(8))
    assert found.rows["image"].tolist() == [[i] for i in range(8)]
    for i in range(8):
        expected = {f"{i}#0", f"{i}#1"} & set(captions)
        assert {captions[row] for row in found.rows["text"][i]} == expected


def test_a_store_and_arrays_of_any_float_or_integer_type_are_read_alike(tmp_path):
    x = np.round(10 * rows(0))
    with StoreWriter(tmp_path / "store", chunk_rows=5) as writer:
        writer.append([f"{i}" for i in range(12)], {"a": x})
        store = writer.finish()
    sources = {"store": store} | {
        str(dtype): Layers("?", {"a": x.astype(dtype)}, tuple(map(str, range(12))))
        for dtype in (np.float64, np.float16, np.int64, np.int8)
    }
    sources["jax"] = Layers("?", {"a": jnp.asarray(x)}, tuple(map(str, range(12))))  # type: ignore[arg-type]
    found = collect(sources, cases.options(positives="example"))
    sides = [np.asarray(read(found, view, np.asarray([3, 1, 7]))) for view in found.groups[0].views]
    for side in sides:
        np.testing.assert_array_equal(side[0, :, 0], x[[3, 1, 7]])


def changed(x: np.ndarray, value: float) -> np.ndarray:
    x = x.copy()
    x[7, 2] = value
    return x


BAD_VALUES = {
    "got NaN in layer 'b' of two: 1 of 12 rows are not finite, the first are rows 7": changed(rows(1), np.nan),
    "got infinity in layer 'b' of two": changed(rows(1), np.inf),
    "undefined for layer 'b' of two": np.ones((12, 5), np.float32),
    r"\(n examples, d features\), got layer 'b' of two \(12, 5, 2\). Choose a layout": np.stack([rows(1)] * 2, -1),
    r"\(n examples, d features\), got layer 'b' of two \(12,\). Pass x\[:, None\]": rows(1)[:, 0],
    "layer 'b' of two of dtype bool": rows(1) > 0,
    "layer 'b' of two of dtype complex64": rows(1) + 1j,
    "layer 'b' of two of dtype object": rows(1).astype(object),
    "empty layer layer 'b' of two": rows(1)[:, :0],
    "masked array": np.ma.masked_less(rows(1), 0),
    r"needs arrays \(n, d\): layer 'b' of two is int": 3,
    "cannot turn layer 'b' of two into an array": [[1.0], [1.0, 2.0]],
    "same examples in all layers of a source: 'two' has rows 12 of 'a', 11 of 'b'": rows(1, 11),
    "lose the variation of layer 'b' of two in float32": rows(1).astype(np.float64) + 1e9,
}


@pytest.mark.parametrize("message", BAD_VALUES)
def test_a_layer_that_cannot_be_learned_from_is_named(message: str):
    with pytest.raises(BadArrayError, match=message):
        collect(two(b=BAD_VALUES[message]), OPTIONS)


def test_a_layer_that_is_left_out_may_be_bad():
    bad = two(c=np.full((12, 5), np.nan))
    assert set(members(collect(bad, OPTIONS, classes=lambda _, layer: None if layer == "c" else layer))) == {"a", "b"}


def test_a_constant_layer_of_a_store_is_refused(tmp_path):
    with StoreWriter(tmp_path / "store") as writer:
        writer.append([f"{i}" for i in range(12)], {"a": rows(0), "b": np.ones((12, 5), np.float32)})
        store = writer.finish()
    with pytest.raises(BadArrayError, match="undefined for layer 'b' of one"):
        collect({"one": store, "two": store}, OPTIONS)


def listed(*names: str) -> Layers:
    return Layers("?", {"a": rows(0, len(names)), "b": rows(1, len(names))}, names)


TEN = tuple("abcdefghij")
MISALIGNED = {
    "got 12 rows of one, 11 rows of two, and no ids": {"one": {"a": rows(0)}, "two": {"a": rows(0, 11)}},
    "source 'two' has no example ids": {"one": listed(*TEN), "two": {"a": rows(0, 10)}},
    "sources 'one' and 'two': .* the first is 'j'": {"one": listed(*TEN), "two": listed(*TEN[:-1])},
    "sources 'one' and 'two': .* the first is 'z'": {"one": listed(*TEN), "two": listed(*TEN, "z")},
    "source 'two': an id must name one example: 'a' stands at rows 0 and 9": {
        "one": listed(*TEN),
        "two": listed(*TEN[:-1], "a"),
    },
    "'a' stands at rows 0 and 10": {"one": listed(*TEN, "a"), "two": listed(*TEN, "a")},
}


@pytest.mark.parametrize("message", MISALIGNED)
def test_examples_that_do_not_match_are_refused(message: str):
    with pytest.raises(AlignmentError, match=message):
        collect(MISALIGNED[message], OPTIONS)


def test_ids_that_are_not_as_many_as_rows_are_refused():
    with pytest.raises(BadArrayError, match="rows 10 of 'a', 9 of 'ids'"):
        collect({"one": listed(*TEN), "two": Layers("?", {"a": rows(0, 10)}, TEN[:-1])}, OPTIONS)


@pytest.mark.parametrize("sources", [{}, {"one": {"a": rows(0)}}, [rows(0), rows(1)], rows(0)])
def test_fewer_than_two_sources_are_refused(sources):
    with pytest.raises(BadArrayError, match="learns from two sources or more"):
        collect(sources, OPTIONS)


@pytest.mark.parametrize("empty", [{}, np.zeros((0, 5), np.float32)])
def test_an_empty_source_is_refused(empty):
    with pytest.raises(BadArrayError, match="at least one layer and one example of each source, 'two' has none"):
        collect({"one": rows(0), "two": empty}, OPTIONS)


@pytest.mark.parametrize(
    ("sources", "options", "classes", "message"),
    [
        (two(c=rows(2)), OPTIONS, None, "at least two representations in every class, .*: 'c' has one"),
        (two(), OPTIONS, lambda *_: None, "leave no class of two layers"),
        (two(), OPTIONS, lambda *_: "all", "at least two classes, or there are no negatives: got 'all' alone"),
        (two(), OPTIONS, {("one", "z"): "A"}, r"classes name \('one', 'z'\), which is no"),
        (two(b=rows(1, d=9)), cases.options(input="raw"), None, r"widths must agree: got 5 \(.*\), 9 \(two 'b'\)"),
        ({"one": rows(0, 7), "two": rows(1, 7)}, cases.options(positives="example"), None, "at least 8 examples"),
    ],
)
def test_what_nothing_can_be_learned_from_is_refused(sources, options, classes, message: str):
    with pytest.raises(BadArrayError, match=message):
        collect(sources, options, classes=classes)


def test_attraction_alone_needs_no_second_class():
    found = collect(two(), cases.options(objective="deep_dot"), classes=lambda *_: "all")
    assert found.classes == ("all",)


@pytest.mark.parametrize(
    ("error", "make", "message"),
    [
        (UnknownNameError, lambda: Options(input="relativ"), "Did you mean 'relative'"),  # type: ignore[arg-type]
        (UnknownNameError, lambda: Options(objective="simclr"), "no contrasim option objective"),  # type: ignore[arg-type]
        (BadArrayError, lambda: Options(width=0), "whole numbers >= 1 for width, got 0"),
        (BadArrayError, lambda: Options(hidden=(16, 0)), "whole numbers >= 1 for hidden"),
        (BadArrayError, lambda: Options(ridge=0.0), "ridge > 0"),
        (BadArrayError, lambda: Options(ridge=float("nan")), "ridge > 0"),
        (BadArrayError, lambda: Options(input="raw", residual=True), "residual is for input='relative'"),
        (UnknownNameError, lambda: Training(negatives="hardest"), "Did you mean 'hard'"),  # type: ignore[arg-type]
        (UnknownNameError, lambda: Training(schedule="step"), "no contrasim training schedule"),  # type: ignore[arg-type]
        (BadArrayError, lambda: Training(num_steps=0), "num_steps > 0"),
        (BadArrayError, lambda: Training(num_steps=2.5), "whole number for num_steps, got 2.5"),  # type: ignore[arg-type]
        (BadArrayError, lambda: Training(temperature=float("nan")), "temperature > 0"),
        (BadArrayError, lambda: Training(learning_rate=-1.0), "learning_rate > 0"),
        (BadArrayError, lambda: Training(weight_decay=-1.0), "weight_decay >= 0"),
        (BadArrayError, lambda: Training(anchor_dropout=1.0), r"anchor_dropout in \[0, 1\)"),
    ],
)
def test_options_out_of_range_are_refused(error, make, message: str):
    with pytest.raises(error, match=message):
        make()


def test_options_survive_json_and_can_be_hashed():
    options = Options(hidden=[16, 8], positives="example")  # type: ignore[arg-type]
    assert Options.from_json(options.to_json()) == options
    assert hash(options) == hash(Options.from_json(options.to_json()))
    with pytest.raises(TypeError):
        Options.from_json({"depth": 3})
