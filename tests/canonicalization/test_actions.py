"""Every action is a homomorphism that its inverse undoes: exactly for quarters and mirror images."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from canonicalization_cases import photographs, turned

from repsim_jax._compat import enable_x64
from repsim_jax.canonicalization.actions import Action, Images, Masks, Points, Tensors, Trivial, Vectors
from repsim_jax.canonicalization.fields import Boxes, Keypoints, Regular, RegularMaps, VectorMaps
from repsim_jax.canonicalization.groups import Elements, Group, cyclic, dihedral, o2, product, scalings, so2, so3
from repsim_jax.canonicalization.planar import orbit, warped
from repsim_jax.errors import BadArrayError

RNG = np.random.default_rng(0)
SIZE = 6
D4 = dihedral(4)
# (action, array of 8 examples): numbers are multiples of 1/64, which turns about a middle do not round.
WHOLE = np.round(RNG.normal(size=(8, SIZE, SIZE, 16)) * 64) / 64
FIELDS: dict[str, tuple[Action, np.ndarray]] = {
    "trivial": (Trivial(), WHOLE[:, 0, 0]),
    "images": (Images(), WHOLE[..., :3]),
    "bytes": (Images(), RNG.integers(0, 255, (8, SIZE, SIZE, 3)).astype(np.uint8)),
    "masks": (Masks(), RNG.integers(0, 5, (8, SIZE, SIZE)).astype(np.int32)),
    "boxes": (Boxes(SIZE, SIZE), np.concatenate([WHOLE[:, 0, :5, :2] - 2, np.abs(WHOLE[:, 0, :5, :3])], -1)),
    "keypoints": (Keypoints(SIZE, SIZE), WHOLE[:, 0, :, :3]),
    "indices": (Keypoints(SIZE, SIZE, at_centers=True), WHOLE[:, 0, :, :2]),
    "points": (Points(), WHOLE[:, 0, :, :2]),
    "vectors": (Vectors(pixels=True), WHOLE[:, 0, 0, :2]),
    "tensors": (Tensors(rank=2), WHOLE[..., :4].reshape(8, SIZE, SIZE, 2, 2)),
    "rank 3": (Tensors(rank=3, pixels=True), WHOLE[:, 0, 0, :8].reshape(8, 2, 2, 2)),
    "regular": (Regular(), WHOLE[:, 0]),
    "regular maps": (RegularMaps(), WHOLE),
    "vector maps": (VectorMaps(), WHOLE[..., :2]),
}  # fmt: skip


@partial(jax.jit, static_argnums=0)
def acted(action: Action, x: Any) -> dict[str, Any]:
    """All 64 pairs of elements of D4, another pair for each example of a batch."""
    left, right = D4.elements(np.repeat(np.arange(8), 8)), D4.elements(np.tile(np.arange(8), 8))
    once = action.act(D4, left, x)
    return {
        "back": action.invert(D4, left, once),
        "inverted": action.invert(D4, left, x),
        "by the inverse": action.act(D4, D4.inverse(left), x),
        "twice": action.act(D4, left, action.act(D4, right, x)),
        "by the product": action.act(D4, D4.compose(left, right), x),
        "once": once,
    }


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_obeys_the_group_and_comes_back_exactly(name: str):
    action, field = FIELDS[name]
    x = np.repeat(field, 8, 0)
    x = x.astype(np.float32) if x.dtype == np.float64 else x
    action.check(D4, x)
    got = {key: np.asarray(value) for key, value in acted(action, x).items()}
    np.testing.assert_array_equal(got["back"], x)
    np.testing.assert_array_equal(got["inverted"], got["by the inverse"])
    np.testing.assert_array_equal(got["twice"], got["by the product"])
    assert got["once"].dtype == x.dtype
    if name == "images":
        for i in range(64):
            np.testing.assert_array_equal(got["once"][i], turned(x[i : i + 1], i // 8)[0])


@jax.jit
def all_acted(*fields: Any) -> list[Any]:
    elements, pixels = D4.elements(np.arange(8)), Keypoints(SIZE, SIZE, at_centers=True)
    actions = [Images(), Images(), Boxes(SIZE, SIZE), pixels, Vectors(pixels=True)]
    return [action.act(D4, elements, x) for action, x in zip(actions, fields, strict=True)]


def test_boxes_keypoints_and_vectors_move_with_the_pixels():
    """A box of ones, its corner and the step along its longer side are followed through the image itself."""
    x = np.zeros((8, SIZE, SIZE, 1), np.float32)
    x[:, 1:3, 0:4] = 1
    box, corner, along = (np.tile(np.float32(one), (8, 1, 1)) for one in ([0, 1, 4, 3], [0, 1], [4, 0]))
    marked = x.copy()
    marked[:, 1, 0] = 5
    images, marked, boxes, at, step = map(np.asarray, all_acted(x, marked, box, corner, along))
    for i in range(8):
        rows, columns = np.nonzero(images[i, ..., 0])
        wanted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_array_equal(boxes[i, 0], wanted)
        row, column = np.argwhere(marked[i, ..., 0] == 5)[0]
        np.testing.assert_array_equal(at[i, 0], [column, row])
        assert abs(step[i, 0, 0]) == (4 if wanted[2] - wanted[0] == 4 else 0)


def test_a_regular_field_moves_as_the_energies_of_an_image_do():
    """At g stands a number of g^-1 x: of h x it must be what stood at h^-1 g."""

    @jax.jit
    def both(x: Any) -> Any:
        elements = D4.elements(np.arange(8))
        of_moved = orbit(D4, Images().act(D4, elements, x))[:, :, 1, 0, 0].T
        return of_moved, Regular().act(D4, elements, orbit(D4, x)[:, :, 1, 0, 0].T)

    np.testing.assert_array_equal(*both(photographs(5, 8)))


def test_other_angles_are_scipys_interpolation_with_the_border_held():
    group, x = dihedral(12), photographs(7)[:1]
    images = np.repeat(x, 24, 0)

    @jax.jit
    def results(images: Any) -> Any:
        elements = group.elements(np.arange(24), images.dtype)
        back = Images().invert(group, elements, images)
        return Images().act(group, elements, images), orbit(group, images[:1])[:, 0], back

    with enable_x64():
        got, every, back = results(images.astype(np.float64))
    single = results(images)[0]
    for i in range(24):
        start = x[0, :, ::-1] if i >= 12 else x[0]
        wanted = scipy.ndimage.rotate(start.astype(float), 30 * (i % 12), reshape=False, order=1, mode="nearest")
        np.testing.assert_allclose(got[i], wanted, atol=1e-12)
        np.testing.assert_allclose(single[i], wanted, atol=1e-5)
    # the orbit interpolates before it turns, and an inverse after: up to rounding both are the same
    np.testing.assert_allclose(every, back, atol=1e-12)


def test_masks_of_other_angles_keep_their_labels_and_scalings_enlarge():
    mask = np.repeat(RNG.integers(0, 9, (1, 9, 9)), 8, 0)
    x = np.zeros((1, 9, 9, 1), np.float32)
    x[0, 3:6, 3:6] = 1
    twice = scalings(0.5, 2.0, 3)
    both = product(cyclic(4), twice)

    @jax.jit
    def results(mask: Any, x: Any) -> Any:
        turned_mask = Masks().act(cyclic(8), cyclic(8).elements(np.arange(8)), mask)
        return turned_mask, Images().act(twice, twice.elements([2]), x), Images().act(both, both.elements([5]), x)

    turned_mask, large, turned_large = results(mask, x)
    assert set(np.unique(turned_mask)) <= set(np.unique(mask))
    assert float(large.sum()) > 3 * float(x.sum())
    np.testing.assert_allclose(turned_large, large, atol=1e-6)


@pytest.mark.parametrize("group", [so3("icosahedral"), cyclic(8), scalings(0.5, 2.0, 3)], ids=lambda one: one.name)
def test_points_and_tensors_are_multiplied_by_the_matrix(group: Group):
    d, places = group.dim, np.arange(group.order)[:8]
    points, tensors = RNG.normal(size=(len(places), 5, d)), RNG.normal(size=(len(places), d, d))
    m = group.matrices[places]

    @jax.jit
    def results(points: Any, tensors: Any) -> Any:
        elements = group.elements(places, points.dtype)
        moved = Points().act(group, elements, points)
        return moved, Points().invert(group, elements, moved), Tensors(rank=2).act(group, elements, tensors)

    with enable_x64():
        moved, back, turned_tensors = results(points, tensors)
    np.testing.assert_allclose(moved, np.einsum("bij,bnj->bni", m, points), atol=1e-12)
    np.testing.assert_allclose(back, points, atol=1e-12)
    np.testing.assert_allclose(turned_tensors, m @ tensors @ np.swapaxes(m, 1, 2), atol=1e-12)


def test_refined_elements_differ_from_their_grid_by_the_angle():
    """An angle of 100 degrees, as a quarter and ten more; quarters of the image are exact under it."""
    group, x = o2(8), photographs(8, 2)
    angle = np.deg2rad([100.0, 100.0])
    matrix = np.float32([[[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]] for a in angle])
    later = np.float32([[0, -1], [1, 0]]) @ matrix
    first, second = np.array([2, 2]), np.array([4, 4])
    act, invert = (jax.jit(partial(one, group)) for one in (Images().act, Images().invert))
    wanted = scipy.ndimage.rotate(x[0].astype(float), 100, reshape=False, order=1, mode="nearest")
    np.testing.assert_allclose(act(Elements(first, matrix), x)[0], wanted, atol=1e-5)
    np.testing.assert_array_equal(
        invert(Elements(second, later), turned(x, 1)), invert(Elements(first, matrix), np.asarray(x))
    )


def test_images_that_are_not_square_may_be_turned_by_half_and_mirrored():
    x = photographs(8)[:, :5]
    group = dihedral(2)
    Images().check(group, x)
    got = Images().act(group, group.elements([0, 1, 2, 3]), jnp.asarray(x))
    wanted = [x[0], x[1, ::-1, ::-1], x[2, :, ::-1], x[3, ::-1]]
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("action", "group", "x", "message"),
    [
        (Images(), D4, np.zeros((2, 5, 6, 3)), "square ones: got height 5 and width 6"),
        (Images(), cyclic(3), np.zeros((2, 5, 6, 3)), "square"),
        (Images(), so2(2), np.zeros((2, 5, 6, 3)), "square"),
        (Images(), D4, np.zeros((5, 5, 3)), r"images \(b, height, width, channels\)"),
        (Images(), D4, np.zeros((2, 0, 0, 3)), "height, width, channels"),
        (Images(), cyclic(64), np.zeros((2, 8, 8, 3)), "too large for images of 8 x 8"),
        (Images(), so3(), np.zeros((2, 8, 8, 3)), "group of the plane"),
        (Images(), cyclic(8), np.zeros((2, 8, 8, 3), np.uint8), "floating-point images"),
        (Masks(), D4, np.zeros((2, 5)), "masks"),
        (Masks(), D4, np.zeros((2, 5, 4)), "square"),
        (Boxes(8, 8), D4, np.zeros((2, 4)), "b, k, 4 or more"),
        (Boxes(8, 9), D4, np.zeros((2, 3, 4)), "square"),
        (Keypoints(8, 8), D4, np.zeros((2, 3, 2), int), "b, k, 2 or more"),
        (Points(), so3(), np.zeros((2, 5, 2)), r"\(b, ..., 3\) for SO\(3\)"),
        (Points(pixels=True), so3(), np.zeros((2, 5, 3)), "group of the plane"),
        (Tensors(rank=2), so3(), np.zeros((2, 3, 2)), r"b, ..., 3, 3"),
        (Regular(), D4, np.zeros((2, 12)), "multiple of its order"),
        (Regular(), scalings(0.5, 2.0, 3), np.zeros((2, 3)), "closed group"),
        (RegularMaps(), D4, np.zeros((2, 5, 5, 4)), "multiple"),
        (VectorMaps(), D4, np.zeros((2, 5, 5, 3)), "height, width, 2"),
        (Trivial(), D4, np.zeros(()), "first axis"),
    ],
    ids=str,
)  # fmt: skip
def test_what_an_action_cannot_act_on_is_refused(action: Action, group: Group, x: Any, message: str):
    with pytest.raises(BadArrayError, match=message):
        action.check(group, x)


def test_a_warp_by_the_identity_changes_nothing():
    x = jnp.asarray(photographs(7))
    np.testing.assert_array_equal(jax.jit(warped)(x, jnp.broadcast_to(jnp.eye(2), (4, 2, 2))), x)
    assert isinstance(Images(), Action)
