"""Tables, inverses and matrices are those of groups, to the last bit where angles are quarters."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from repsim_jax._compat import enable_x64
from repsim_jax.canonicalization.groups import (
    Group,
    cyclic,
    dihedral,
    exponential,
    inverse_matrix,
    o2,
    o3,
    product,
    scalings,
    so2,
    so3,
)
from repsim_jax.errors import BadArrayError, UnknownNameError

CLOSED = [
    cyclic(1), cyclic(2), cyclic(3), cyclic(4), cyclic(8), dihedral(1), dihedral(2), dihedral(3), dihedral(4),
    dihedral(8), so2(), o2(), so3("tetrahedral"), so3(), so3("icosahedral"), o3(),
    product(cyclic(4), scalings(1, 1, 1)),
]  # fmt: skip
LISTS = [scalings(0.5, 2.0, 5), scalings(1.0, 4.0, 3), product(cyclic(4), scalings(0.5, 2.0, 3))]


def name(group: Group) -> str:
    return group.name


@pytest.mark.parametrize("group", CLOSED, ids=name)
def test_a_group_obeys_the_axioms(group: Group):
    places = np.arange(group.order)
    assert group.is_closed
    assert group.is_orthogonal
    np.testing.assert_array_equal(group.table[0], places)
    np.testing.assert_array_equal(group.table[:, 0], places)
    np.testing.assert_array_equal(group.table[places, group.inverses], 0)
    np.testing.assert_array_equal(group.table[group.inverses, places], 0)
    assert all(sorted(row) == places.tolist() for row in group.table)
    left, right = group.table[group.table], group.table[:, group.table]
    np.testing.assert_array_equal(left.reshape(-1), right.reshape(-1))


@pytest.mark.parametrize("group", CLOSED + LISTS, ids=name)
def test_the_table_is_that_of_the_matrices(group: Group):
    np.testing.assert_array_equal(group.matrices[0], np.eye(group.dim))
    products = group.matrices[:, None] @ group.matrices[None]
    known = group.table >= 0
    np.testing.assert_allclose(products[known], group.matrices[group.table[known]], atol=1e-12)
    apart = np.abs(products[:, :, None] - group.matrices).max((-2, -1)).min(-1)
    assert (apart[~known] > 1e-3).all()
    distances = np.abs(group.matrices[:, None] - group.matrices).max((-2, -1))
    assert (distances + np.eye(group.order) > 0.1).all()


@pytest.mark.parametrize(
    ("group", "order"), [(so3("tetrahedral"), 12), (so3(), 24), (so3("icosahedral"), 60), (o3(), 48)]
)
def test_solids_have_their_order_and_determinant(group: Group, order: int):
    determinants = np.linalg.det(group.matrices)
    assert group.order == order
    np.testing.assert_allclose(np.abs(determinants), 1, atol=1e-12)
    assert ((determinants < 0).sum() == order / 2) == group.name.startswith("O")


def test_quarters_are_whole_numbers_and_mirror_images_come_first():
    np.testing.assert_array_equal(cyclic(8).matrices[2], [[0, -1], [1, 0]])
    np.testing.assert_array_equal(dihedral(4).matrices[4], [[-1, 0], [0, 1]])
    np.testing.assert_array_equal(dihedral(4).matrices[5], [[0, -1], [-1, 0]])
    assert set(np.unique(dihedral(4).matrices)) == {-1, 0, 1}
    assert set(np.unique(so3().matrices)) == {-1, 0, 1}


def test_equal_groups_are_one_constant_of_a_program():
    traces = []

    def order(x: jax.Array, group: Group) -> jax.Array:
        traces.append(group)
        return x * group.order

    program = jax.jit(order, static_argnums=1)
    program(jnp.ones(()), cyclic(4))
    program(jnp.ones(()), cyclic(n=4))
    assert cyclic(n=4) is cyclic(4)
    assert len(traces) == 1
    assert {cyclic(4), dihedral(4), so2(4)} == {so2(grid=4), cyclic(4), dihedral(4)}
    with pytest.raises(ValueError, match="read-only"):
        cyclic(4).matrices[0, 0, 0] = 2


def test_a_list_of_scalings_says_that_it_is_no_group():
    group = scalings(0.5, 2.0, 5)
    assert not group.is_closed
    assert not group.is_orthogonal
    np.testing.assert_allclose(group.matrices[:, 0, 0], [1, 0.5, 0.5**0.5, 2**0.5, 2])
    assert group.table[4, 4] == -1
    assert scalings(1.0, 4.0, 3).inverses.tolist() == [0, -1, -1]


@pytest.mark.parametrize("group", [dihedral(4), so3(), product(cyclic(4), scalings(0.5, 2.0, 3))], ids=name)
def test_elements_compose_and_invert_as_the_table_says(group: Group):
    index = np.arange(group.order)
    elements = group.elements(index)
    back = group.compose(elements, group.inverse(elements))
    np.testing.assert_allclose(back.matrix, np.broadcast_to(np.eye(group.dim), back.matrix.shape), atol=1e-6)
    np.testing.assert_array_equal(back.index, 0)
    np.testing.assert_array_equal(group.identity(3).index, 0)
    composed = group.compose(elements, group.elements(index[::-1].copy()))
    known = np.asarray(composed.index) >= 0
    np.testing.assert_allclose(composed.matrix[known], group.matrices[composed.index[known]], atol=1e-6)


@pytest.mark.parametrize("group", [so2(), scalings(0.5, 2.0, 3), so3()], ids=name)
def test_the_exponential_is_scipys(group: Group):
    coefficients = np.random.default_rng(0).uniform(-1, 1, size=(5, len(group.generators)))
    wanted = [scipy.linalg.expm(np.tensordot(row, group.generators, 1)) for row in coefficients]
    np.testing.assert_allclose(
        jax.jit(partial(exponential, group))(jnp.asarray(coefficients, jnp.float32)), wanted, atol=5e-6
    )
    with enable_x64():
        np.testing.assert_allclose(jax.jit(partial(exponential, group))(jnp.asarray(coefficients)), wanted, atol=1e-13)
        inverses = jax.jit(inverse_matrix)(jnp.asarray(np.stack(wanted)))
        np.testing.assert_allclose(inverses, np.linalg.inv(wanted), atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cyclic(0), "cyclic needs a whole number"),
        (lambda: dihedral(2.0), "dihedral needs a whole number"),  # pyright: ignore[reportArgumentType]
        (lambda: so2(-1), "so2 needs a whole number"),
        (lambda: o2(True), "o2 needs a whole number"),
        (lambda: scalings(0.5, 2.0, 4), "factor 1 on its geometric grid"),
        (lambda: scalings(2.0, 0.5, 3), "0 < low <= 1 <= high"),
        (lambda: scalings(0.5, 2.0, 1), "0 < low <= 1 <= high"),
        (lambda: product(cyclic(4), so3()), "same axes"),
        (lambda: product(cyclic(4), dihedral(4)), "commute"),
        (lambda: product(cyclic(4), cyclic(2)), "share the identity alone"),
    ],
)
def test_what_is_no_group_is_refused(make: object, message: str):
    with pytest.raises(BadArrayError, match=message):
        make()  # pyright: ignore[reportCallIssue]


def test_an_unknown_solid_is_named_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="octahedral"):
        so3("octahedron")
