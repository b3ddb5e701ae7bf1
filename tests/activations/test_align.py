"""Rows are paired by id, whatever their order; other examples are an error that names the first."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repsim_jax.activations import align
from repsim_jax.errors import AlignmentError


@given(ids=st.lists(st.text(), unique=True), data=st.data())
def test_paired_rows_have_the_same_id_in_the_order_of_the_first(ids, data):
    shuffled = data.draw(st.permutations(ids))
    rows_a, rows_b = align(ids, shuffled)
    assert [ids[row] for row in rows_a] == ids
    assert [shuffled[row] for row in rows_b] == ids
    assert rows_a.dtype == rows_b.dtype == np.int64


REFUSED = [
    (["a", "b"], ["a", "c"], r"1 id is not in the second set; the first is 'b' \(row 1 of the first set\)"),
    (
        ["a"],
        ["a", "c", "d"],
        r"got 1 and 3 ids, and 2 ids are not in the first set; the first is 'c' \(row 1 of the second",
    ),
    (["a", "b", "a"], ["a", "b"], "'a' stands at rows 0 and 2 of the first set"),
    (["a", "b"], ["b", "b"], "'b' stands at rows 0 and 1 of the second set"),
    ([], ["a"], "got 0 and 1 ids"),
    (["a\x1b[31m"], ["b"], r"'a\\x1b\[31m'"),
]


@pytest.mark.parametrize(("ids_a", "ids_b", "message"), REFUSED)
def test_other_examples_are_refused_by_name(ids_a, ids_b, message):
    with pytest.raises(AlignmentError, match=message):
        align(ids_a, ids_b)
