"""The layout policies against plain NumPy, for maps with channels last and first, and for tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax.activations.layout import POLICIES, apply_policy, policy_for, positions, suitable
from repsim_jax.errors import BadArrayError, UnknownNameError

MAPS = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype(np.float32)
TOKENS = np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float32)


def apply(x, policy, **options):
    return np.asarray(
        jax.jit(lambda x, mask: apply_policy(x, policy, mask=mask, **options))(x, options.pop("mask", None))
    )


@pytest.mark.parametrize("channel_axis", [-1, 1])
@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("flatten", MAPS.reshape(3, -1)),
        ("spatial_mean", MAPS.mean((1, 2))),
        ("space_as_samples", MAPS.reshape(3, 8, 5)),
    ],
)
def test_maps_give_the_same_features_wherever_their_channels_are(policy, expected, channel_axis):
    got = apply(np.moveaxis(MAPS, -1, channel_axis), policy, channel_axis=channel_axis)
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("channel_axis", [-1, 1])
@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("flatten", TOKENS.reshape(3, -1)),
        ("cls", TOKENS[:, 0]),
        ("token_mean", TOKENS.mean(1)),
        ("space_as_samples", TOKENS),
    ],
)
def test_tokens_are_rows_of_rank_three_in_every_framework(policy, expected, channel_axis):
    np.testing.assert_allclose(apply(TOKENS, policy, channel_axis=channel_axis), expected, atol=1e-6)


def test_token_mean_counts_real_tokens_only_and_ignores_nan_in_padding():
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    x = np.where(mask[..., None] > 0, TOKENS, np.nan).astype(np.float32)
    expected = np.stack([row[keep > 0].mean(0) for row, keep in zip(TOKENS, mask, strict=True)])
    got = jax.jit(lambda x, mask: apply_policy(x, "token_mean", mask=mask))(x, mask)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_means_of_half_precision_do_not_overflow():
    x = jnp.full((1, 64, 64, 2), 1000, jnp.float16)
    np.testing.assert_array_equal(apply_policy(x, "spatial_mean"), [[1000, 1000]])
    np.testing.assert_array_equal(apply_policy(x[:, 0], "token_mean"), [[1000, 1000]])


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(BadArrayError, match=r"got a mask \(3, 5\) for a layer \(3, 4, 5\)"):
        apply_policy(jnp.asarray(TOKENS), "token_mean", mask=jnp.ones((3, 5)))


def test_positions_name_rows_columns_and_tokens_in_reading_order():
    assert positions((3, 2, 3, 5)) == ("0,0", "0,1", "0,2", "1,0", "1,1", "1,2")
    assert positions((3, 5, 2, 3), channel_axis=1) == positions((3, 2, 3, 5))
    assert positions((3, 4, 5), channel_axis=1) == ("0", "1", "2", "3")


def test_the_first_matching_glob_wins():
    layout = {"block_0/mlp": "cls", "block_*": "token_mean", "*": "flatten"}
    assert policy_for("block_0/mlp", (2, 3, 4), layout) == "cls"
    assert policy_for("block_1/mlp", (2, 3, 4), layout) == "token_mean"
    assert policy_for("stem", (2, 3, 4, 5), layout) == "flatten"


def test_names_with_brackets_are_matched_literally_too():
    assert policy_for("w[0]", (2, 3, 4), {"w[0]": "cls"}) == "cls"


@pytest.mark.parametrize("layout", [None, "cls", {"*": "spatial_mean"}])
def test_matrices_need_no_policy(layout):
    assert policy_for("head", (2, 3), layout) == "none"


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5, 6)])
def test_a_layer_without_a_policy_is_an_error_that_names_layer_shape_and_policies(shape):
    with pytest.raises(BadArrayError) as error:
        policy_for("stem/conv", shape, {"head*": "cls"})
    assert "'stem/conv'" in str(error.value)
    assert str(shape) in str(error.value)
    assert all(policy in str(error.value) for policy in suitable(len(shape)))


@pytest.mark.parametrize(
    ("policy", "shape"), [("spatial_mean", (2, 3, 4)), ("cls", (2, 3, 4, 5)), ("token_mean", (2, 3, 4, 5))]
)
def test_a_policy_for_another_rank_is_refused(policy, shape):
    with pytest.raises(BadArrayError, match=f"'{policy}' is not for rank {len(shape)}"):
        policy_for("stem", shape, policy)


def test_an_unknown_policy_is_refused_with_a_suggestion():
    for layout in ("spatial_man", {"*": "spatial_man"}):
        with pytest.raises(UnknownNameError, match="Did you mean 'spatial_mean'"):
            policy_for("stem", (2, 3), layout)


def test_every_policy_is_for_some_rank():
    assert set(POLICIES) == set(suitable(3)) | set(suitable(4))
    assert suitable(2) == ()
