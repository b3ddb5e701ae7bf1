"""The audit finds exactness where there is some, errors where they were planted, and numbers made by hand."""

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from canonicalization_cases import KEY, photographs

from repsim_jax import canonicalization as canon
from repsim_jax.canonicalization.equivariance import ALONE, AVERAGED, RANDOM, REPAIRED
from repsim_jax.errors import BadArrayError, UnknownNameError

C4 = canon.cyclic(4)
N = 12
LABELS = np.arange(N) % 3


def brightest_side(x: jax.Array) -> jax.Array:
    """A model that no turn leaves alone: the mean of three rows."""
    return x.mean((2, 3))[:, :3]


def small(group: Any = C4) -> canon.Canonicalizer:
    return canon.untrained(KEY, (8, 8, 3), group, widths=(4,), num_outputs=4)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return photographs(8, N)


@pytest.fixture(scope="module")
def found(x: np.ndarray) -> canon.Equivariance:
    wrapped = canon.equivariant(brightest_side, small())
    told: list[Any] = []
    made = canon.equivariance_audit(
        KEY, wrapped, x, labels=LABELS, batch_size=8, on_progress=lambda *counts: told.append(counts)
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    return made


def test_a_wrapped_model_is_exact_and_the_model_alone_is_not(found: canon.Equivariance):
    assert [way.name for way in found.ways] == [REPAIRED, ALONE, AVERAGED, RANDOM]
    assert found.interpolation == "none"
    assert (found.repaired.errors == 0).all()
    assert found.followed.all()
    for row in found.by_element():
        assert (row.max_error, row.exact, row.followed, row.agrees) == (0, 1, 1, 1)
    alone, averaged, random = found.ways[1:]
    assert (alone.errors[0] == 0).all()
    assert alone.errors[1:].mean() > 0.01
    assert averaged.errors.max() < 1e-6
    assert random.errors[1:].mean() > 0.01


def test_accuracies_are_those_of_the_definition(found: canon.Equivariance, x: np.ndarray):
    answers = [np.asarray(brightest_side(jnp.asarray(np.rot90(x, k, axes=(1, 2))))).argmax(1) for k in range(4)]
    alone = found.ways[1]
    assert alone.upright == pytest.approx((answers[0] == LABELS).mean())
    assert alone.orbit == pytest.approx(np.mean([one == LABELS for one in answers]))
    np.testing.assert_array_equal(alone.agrees, [one == answers[0] for one in answers])
    assert found.upright_drop == pytest.approx((answers[0] == LABELS).mean() - (found.repaired.upright or 0))
    assert found.repaired.upright == pytest.approx(found.repaired.orbit)


def test_tenths_of_margins_hold_all_inputs_in_order(found: canon.Equivariance):
    rows = found.by_margin()
    assert len(rows) == 10
    assert sum(row.num for row in rows) == N
    assert all(a.high <= b.low for a, b in pairwise(rows))
    assert found.num_tied == 0


def test_turns_that_interpolate_are_told_and_their_errors_measured(x: np.ndarray):
    wrapped = canon.equivariant(lambda one: one, small(canon.cyclic(8)), out_action=canon.Images())
    for interpolation in ("bilinear", "nearest"):
        found = canon.equivariance_audit(KEY, wrapped, x[:4], interpolation=interpolation, baselines=False)
        assert found.interpolation == interpolation
        assert len(found.ways) == 1
        assert found.repaired.agrees is None
        assert found.upright_drop is None
        errors = [row.mean_error for row in found.by_element()]
        assert errors[0] == 0
        assert errors[1] > 1e-3


def test_an_input_that_a_turn_leaves_alone_is_counted_as_tied():
    x = np.concatenate([photographs(8, 2), np.ones((1, 8, 8, 3), np.float32)])
    wrapped = canon.equivariant(brightest_side, small())
    assert canon.equivariance_audit(KEY, wrapped, x, baselines=False).num_tied == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"interpolation": "cubic"}, UnknownNameError, "interpolation"),
        ({"labels": [1, 2]}, BadArrayError, r"needs labels \(12,\)"),
    ],
)
def test_bad_audits_are_refused(x: np.ndarray, options: Any, error: Any, message: str):
    with pytest.raises(error, match=message):
        canon.equivariance_audit(KEY, canon.equivariant(brightest_side, small()), x, **options)


def test_models_of_several_inputs_are_refused(x: np.ndarray):
    two = (canon.Images(), canon.Images())
    wrapped = canon.equivariant(lambda a, b: a, small(), in_action=two)
    for audit in (lambda: canon.equivariance_audit(KEY, wrapped, x), lambda: canon.latency_audit(wrapped, x)):
        with pytest.raises(BadArrayError, match="model of one input"):
            audit()


def test_every_part_is_timed_and_the_ratio_is_that_of_the_medians(x: np.ndarray):
    found = canon.latency_audit(canon.equivariant(brightest_side, small()), x, batches=(2,), num_repeats=3)
    names = [one.name for one in found.timings]
    assert names == [
        "views", "network", "selection", "inversion", "canonicalizer in all", "model alone", "repaired model"
    ]  # fmt: skip
    assert found.batches == (2,)
    assert all(0 < one.median_ms <= one.p90_ms for one in found.timings)
    # a program that was compiled before would take a tenth of a millisecond
    assert all(one.compile_s > 2e-3 for one in found.timings[:-1])
    assert found.of("network", 2).flops > 2 * 4 * 4 * 4 * 27 * 4  # at least the multiplications of the convolution
    wanted = found.of("canonicalizer in all", 2).median_ms / found.of("model alone", 2).median_ms
    assert found.ratio(2) == wanted
    with pytest.raises(BadArrayError, match="no timing"):
        found.of("network", 3)


def test_times_of_no_run_are_refused(x: np.ndarray):
    wrapped = canon.equivariant(brightest_side, small())
    with pytest.raises(BadArrayError, match="num_repeats and batches"):
        canon.latency_audit(wrapped, x, num_repeats=0)
