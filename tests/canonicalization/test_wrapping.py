"""A wrapped model is equivariant for every kind of model and output, per image, and says what does not fit."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from canonicalization_cases import KEY, photographs, turned
from flax import linen, nnx

from repsim_jax import canonicalization as canon
from repsim_jax.errors import BadArrayError, RepsimError

D4 = canon.dihedral(4)
SIZE = 8
X = photographs(SIZE)
ORBIT = np.concatenate([turned(X, i) for i in range(8)])
WEIGHTS = np.random.default_rng(0).normal(size=(SIZE, SIZE, 3, 5)).astype(np.float32)
OUT = {"map": canon.Images(), "boxes": canon.Boxes(SIZE, SIZE), "logits": canon.Trivial(), "forces": canon.Vectors()}


@pytest.fixture(scope="module")
def canonicalizer() -> canon.Canonicalizer:
    return canon.untrained(KEY, (SIZE, SIZE, 3), D4, widths=(4,), num_outputs=8)


def read(xp: Any, x: Any) -> dict[str, Any]:
    """A model of no symmetry at all: a shifted map, the box of what is bright, logits, and a vector."""
    logits = xp.einsum("bijc,ijck->bk", x, WEIGHTS)
    bright = x.sum(-1) > 1.5
    rows, columns = xp.arange(SIZE) + 0.0 * x[:, :, 0, 0], xp.arange(SIZE) + 0.0 * x[:, 0, :, 0]
    up, left = (xp.where(bright.any(axis), at, SIZE).min(1) for axis, at in ((2, rows), (1, columns)))
    down, right = (xp.where(bright.any(axis), at + 1, 0).max(1) for axis, at in ((2, rows), (1, columns)))
    boxes = xp.stack([left, up, right, down], -1)[:, None]
    return {"map": xp.roll(x, 1, 2) * 2, "boxes": boxes, "logits": logits, "forces": logits[:, :2]}


@jax.jit
def in_jax(x: jax.Array) -> dict[str, Any]:
    return read(jnp, x)


def on_host(x: np.ndarray) -> dict[str, Any]:
    assert type(x) is np.ndarray
    return read(np, x)


def assert_equivariant(outputs: dict[str, Any], atol: float) -> None:
    """What is said of each pose of X is what is said of X itself, moved as the pose says."""
    first = {name: np.tile(one[: len(X)], (8, *[1] * (one.ndim - 1))) for name, one in outputs.items()}
    for name, moved in all_moved(first).items():
        np.testing.assert_allclose(outputs[name], moved, atol=atol)


@jax.jit
def all_moved(first: dict[str, Any]) -> dict[str, Any]:
    every = D4.elements(np.repeat(np.arange(8), len(X)))
    return {name: action.act(D4, every, first[name]) for name, action in OUT.items()}  # pyright: ignore


def test_a_function_of_jax_becomes_equivariant_inside_jit_and_out(canonicalizer: canon.Canonicalizer):
    wrapped = canon.equivariant(in_jax, canonicalizer, out_action=OUT)
    answer = wrapped(ORBIT)
    assert_equivariant(answer.outputs, 1e-5)
    plain = in_jax(jnp.asarray(ORBIT))["logits"]
    assert np.ptp(np.asarray(plain).reshape(8, len(X), -1), axis=0).max() > 1
    np.testing.assert_array_equal(answer.canonicalized.canonical[: len(X)], answer.canonicalized.canonical[-len(X) :])
    inside = jax.jit(lambda x: wrapped(x).outputs["boxes"])(ORBIT)
    np.testing.assert_allclose(inside, answer.outputs["boxes"], atol=1e-5)


def test_a_model_on_the_host_sees_and_gives_numpy_in_its_own_precision(canonicalizer: canon.Canonicalizer):
    wrapped = canon.equivariant(on_host, canonicalizer, out_action=OUT, on_host=True)
    outputs = wrapped(ORBIT).outputs
    assert {type(one) for one in outputs.values()} == {np.ndarray}
    assert outputs["boxes"].dtype == read(np, X)["boxes"].dtype == np.float64
    assert_equivariant(outputs, 1e-5)
    with pytest.raises(RepsimError, match=r"inside jax\.jit"):
        jax.jit(lambda x: wrapped(x).outputs["map"])(X)


class Dropping(nnx.Module):
    """A module that would draw at random if it were not told that this is inference."""

    def __init__(self, rngs: nnx.Rngs):
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.linear = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.linear(self.drop(x[:, 0, 1]))


class Plain(linen.Module):
    """The same in flax.linen."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.Dense(2)(x[:, 0, 1])


def test_modules_of_flax_are_wrapped_as_at_inference(canonicalizer: canon.Canonicalizer):
    module, plain = Dropping(nnx.Rngs(0)), Plain()
    variables = plain.init(KEY, X)
    for model, params in ((module, None), (plain, variables), (lambda p, x: p * x[:, 0, 1], jnp.ones(3))):
        outputs = canon.equivariant(model, canonicalizer, params=params)(ORBIT).outputs
        grouped = np.asarray(outputs).reshape(8, len(X), -1)
        np.testing.assert_array_equal(grouped, np.broadcast_to(grouped[0], grouped.shape))
    assert not module.drop.deterministic


def test_further_inputs_are_brought_into_the_same_pose(canonicalizer: canon.Canonicalizer):
    """Prompts of a segmenter: a point in the image, whose pixel is read."""
    pixels = canon.Keypoints(SIZE, SIZE, at_centers=True)

    def at(x: jax.Array, points: jax.Array) -> jax.Array:
        column, row = points[:, 0, 0].astype(int), points[:, 0, 1].astype(int)
        return x[jnp.arange(len(x)), row, column]

    points = np.tile(np.float32([2, 5]), (len(X), 1, 1))
    wrapped = canon.equivariant(at, canonicalizer, in_action=(canon.Images(), pixels))
    np.testing.assert_array_equal(wrapped(X, points).outputs, X[:, 5, 2])
    with pytest.raises(BadArrayError, match="takes 2 inputs, got 1"):
        wrapped(X)
    with pytest.raises(BadArrayError, match="b, k, 2 or more"):
        wrapped(X, points[:, 0])


def test_averaging_over_ties_is_equivariant_where_a_choice_is_not(canonicalizer: canon.Canonicalizer):
    """A constant image is equal to all its poses: only what does not turn may be said of it."""
    x = np.full((1, SIZE, SIZE, 3), 0.5, np.float32)
    averaging = replace(canonicalizer, selection=canon.Selection(ties="average"))
    by_choice = canon.equivariant(in_jax, canonicalizer, out_action=OUT)(x).outputs["forces"]
    for model, host in ((in_jax, False), (on_host, True)):
        by_mean = canon.equivariant(model, averaging, out_action=OUT, on_host=host)(x).outputs
        assert np.abs(np.asarray(by_choice)).max() > 0.1
        np.testing.assert_allclose(by_mean["forces"], 0, atol=1e-5)
        np.testing.assert_allclose(by_mean["logits"], in_jax(jnp.asarray(x))["logits"], atol=1e-5)
    with pytest.raises(BadArrayError, match="have no mean"):
        canon.equivariant(lambda x: jnp.argmax(x[:, 0, 0], -1), averaging)(x)


@pytest.mark.parametrize(
    ("model", "out_action", "message"),
    [
        (lambda x: x[:, 0, 0], canon.Images(), r"does not fit out_action Images.*height, width"),
        (lambda x: x[:, :4], canon.Masks(), "square"),
        (lambda x: x[:1], canon.Images(), "1 rows for 4 inputs"),
        (lambda x: {"a": x}, {"b": canon.Images()}, "another structure"),
        (lambda x: {"a": x}, canon.Images(), "holds a dict"),
    ],
)
def test_an_output_that_does_not_fit_is_told(
    canonicalizer: canon.Canonicalizer, model: Any, out_action: Any, message: str
):
    with pytest.raises(BadArrayError, match=message):
        canon.equivariant(model, canonicalizer, out_action=out_action)(X)


def test_what_is_no_model_or_no_action_is_refused(canonicalizer: canon.Canonicalizer):
    with pytest.raises(RepsimError, match=r"needs actions.*got str"):
        canon.equivariant(in_jax, canonicalizer, out_action="images")
    with pytest.raises(RepsimError, match="can be called, got int"):
        canon.equivariant(3, canonicalizer)
    stand_in = type("Module", (), {"__module__": "torch.nn", "__call__": lambda self, x: x})
    with pytest.raises(RepsimError, match="PyTorch module takes tensors"):
        canon.equivariant(stand_in(), canonicalizer)
