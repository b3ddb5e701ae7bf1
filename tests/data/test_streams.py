"""Streams of examples are cut anew without losing, repeating or reordering any."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repsim_jax.data import Batch, batched
from repsim_jax.data.streams import Stream, padded, recut, take


def stream(sizes, with_mask):
    start = 0
    for size in sizes:
        rows = np.arange(start, start + size)
        start += size
        mask = np.stack([rows, rows], 1) + 1 if with_mask else None
        yield Batch(tuple(map(str, rows)), {"x": rows, "y": rows[:, None] * 2}, mask)


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 7), st.booleans())
def test_recut_keeps_every_example_in_order_in_batches_of_one_size(sizes, size, with_mask):
    batches = list(recut(stream(sizes, with_mask), size))
    n = sum(sizes)
    assert [len(batch.ids) for batch in batches] == [size] * (n // size) + [n % size] * bool(n % size)
    assert [one for batch in batches for one in batch.ids] == list(map(str, range(n)))
    for batch in batches:
        rows = np.array(batch.ids, int)
        np.testing.assert_array_equal(batch.inputs["x"], rows)
        np.testing.assert_array_equal(batch.inputs["y"][:, 0], 2 * rows)
        assert (batch.mask is None) != with_mask
        if batch.mask is not None:
            np.testing.assert_array_equal(batch.mask[:, 1], rows + 1)


def test_inputs_of_another_shape_or_dtype_are_never_joined():
    parts = [np.zeros((3, 2)), np.zeros((3, 4)), np.zeros((3, 4), int)]
    batches = list(recut([Batch(tuple("abc"), part) for part in parts], 2))
    assert [batch.inputs.shape for batch in batches] == [(2, 2), (1, 2), (2, 4), (1, 4), (2, 4), (1, 4)]


def test_padding_repeats_the_last_example():
    batch = Batch(("a", "b"), np.array([[1], [2]]), np.array([[1, 0], [1, 1]]))
    longer = padded(batch, 4)
    assert longer.inputs[:, 0].tolist() == [1, 2, 2, 2]
    assert longer.mask.tolist() == [[1, 0], [1, 1], [1, 1], [1, 1]]
    assert padded(batch, 2) is batch


def test_take_chooses_examples():
    batch = next(stream([4], True))
    assert take(batch, slice(1, 3)).ids == ("1", "2")
    assert take(batch, np.array([3, 0])).inputs["x"].tolist() == [3, 0]


def test_a_peek_takes_nothing_away():
    source = Stream(stream([2, 3], False))
    assert source.peek().ids == source.peek().ids == ("0", "1")
    row, batches = source.from_row(4)
    assert (row, [batch.ids for batch in batches]) == (0, [("0", "1"), ("2", "3", "4")])


def test_a_callable_begins_where_it_is_told():
    source = Stream(lambda start: [np.arange(start, 6)])
    row, batches = source.from_row(4)
    assert row == 4
    assert next(batches).ids == ("4", "5")


def test_batched_cuts_arrays_and_refuses_what_it_cannot_cut():
    batches = list(batched({"x": np.arange(5)}, batch_size=2, mask=np.ones((5, 3))))
    assert [batch.ids for batch in batches] == [("0", "1"), ("2", "3"), ("4",)]
    assert batches[-1].mask.shape == (1, 3)
    for message, inputs, options in [
        ("batch_size >= 1, got 0", np.ones((3, 2)), {"batch_size": 0}),
        ("one shared leading axis", {"a": np.ones(3), "b": np.ones(2)}, {"batch_size": 2}),
        ("one shared leading axis", np.float32(1), {"batch_size": 2}),
        ("got 2 ids for 3 examples", np.ones((3, 2)), {"batch_size": 2, "ids": ["a", "b"]}),
    ]:
        with pytest.raises(ValueError, match=message):
            list(batched(inputs, **options))
