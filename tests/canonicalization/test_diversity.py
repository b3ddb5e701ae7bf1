"""Histograms, shifts and curves are those of the formulas; planted copies and self-symmetric inputs are found."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from canonicalization_cases import KEY

from repsim_jax import canonicalization as canon
from repsim_jax.canonicalization.diversity import QUANTILES, entropy_of, extrapolated, jensen_shannon
from repsim_jax.canonicalization.equivariance import ALONE, REPAIRED, Way
from repsim_jax.errors import BadArrayError

C4 = canon.cyclic(4)
N = 16


@pytest.fixture(scope="module")
def canonicalizer() -> canon.Canonicalizer:
    return canon.untrained(KEY, (8, 8, 3), C4, widths=(4,), num_outputs=4)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).uniform(size=(N, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def found(canonicalizer: canon.Canonicalizer, x: np.ndarray) -> canon.Diversity:
    test = np.asarray(canonicalizer(jnp.asarray(x)).canonical)
    return canon.diversity_audit(KEY, canonicalizer, x, test, refit=lambda rows: 0.5 + 0.1 * np.log2(len(rows)) / 4)


def test_what_was_chosen_is_counted(found: canon.Diversity, canonicalizer: canon.Canonicalizer, x: np.ndarray):
    chosen = canonicalizer(jnp.asarray(x))
    np.testing.assert_array_equal(found.train.counts, np.bincount(chosen.elements.index, minlength=4))
    np.testing.assert_allclose(found.train.margins, np.quantile(chosen.margin, QUANTILES), rtol=1e-5)
    assert found.train.median_margin == pytest.approx(float(np.median(chosen.margin)))
    assert found.train.num == N
    # canonical forms are where they belong
    assert found.test is not None
    assert (found.test.identity_rate, found.test.entropy, found.test.coverage) == (1, 0, 0.25)
    assert found.shift == pytest.approx(jensen_shannon(found.train.counts, np.array([N, 0, 0, 0])))


def test_a_curve_has_nested_parts_and_goes_on_as_its_gains_did(canonicalizer: canon.Canonicalizer, x: np.ndarray):
    seen: list[set[int]] = []

    def refit(rows: np.ndarray) -> float:
        seen.append(set(rows.tolist()))
        return {4: 0.5, 8: 0.7, 16: 0.8}[len(rows)]

    curve = canon.diversity_audit(KEY, canonicalizer, x, refit=refit).curve
    assert curve is not None
    assert curve.sizes == (4, 8, 16)
    assert seen[0] < seen[1] < seen[2]
    assert curve.per_doubling == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [((0.5, 0.7, 0.8), 0.85), ((0.5, 0.6, 0.7), 0.8), ((0.5, 0.5, 0.6), 0.7), ((0.5, 0.6, 0.6), 0.6)],
)
def test_gains_that_shrink_shrink_on_and_others_stay(scores: Any, wanted: float):
    assert extrapolated(scores) == pytest.approx(wanted)


def test_entropy_and_shift_have_their_ends():
    even, one, other = np.array([3, 3, 3, 3]), np.array([5, 0, 0, 0]), np.array([0, 0, 9, 0])
    assert entropy_of(even) == pytest.approx(1)
    assert entropy_of(one) == 0
    assert jensen_shannon(one, other) == pytest.approx(1)
    assert jensen_shannon(even, 7 * even) == pytest.approx(0, abs=1e-12)
    assert jensen_shannon(np.array([10, 0]), np.array([9, 1])) == pytest.approx(0.052, abs=1e-3)


def test_planted_copies_in_other_poses_and_symmetric_images_are_found(
    canonicalizer: canon.Canonicalizer, x: np.ndarray, found: canon.Diversity
):
    assert found.copies == 0
    assert found.train.symmetric == 0
    symmetric = (x[:2] + x[:2, ::-1, ::-1]) / 2
    planted = np.concatenate([x[:12], 0.9 * np.rot90(x[2:4], axes=(1, 2)), symmetric])
    again = canon.diversity_audit(KEY, canonicalizer, planted)
    assert again.copies == pytest.approx(4 / N)
    assert again.train.symmetric == pytest.approx(2 / N)
    assert again.shift is None


def test_too_few_for_a_curve_are_refused(canonicalizer: canon.Canonicalizer, x: np.ndarray):
    with pytest.raises(BadArrayError, match="at least 8"):
        canon.diversity_audit(KEY, canonicalizer, x[:4], refit=lambda rows: 0.0)


def test_each_warning_comes_where_its_threshold_is_passed(found: canon.Diversity):
    fine = found._replace(
        train=found.train._replace(identity_rate=0.95, margins=np.full(len(QUANTILES), 0.5)), shift=0.0, curve=None
    )
    assert canon.cautions(fine) == ()
    bad = fine._replace(
        train=fine.train._replace(identity_rate=0.5, margins=np.full(len(QUANTILES), 0.05), symmetric=0.2),
        shift=0.3, copies=0.5, curve=canon.Curve((4, 8, 16), (0.5, 0.6, 0.7), 0.8),
    )  # fmt: skip
    names = [one.name for one in canon.cautions(bad)]
    assert names == [
        "not upright", "small margins", "other poses", "self-symmetric", "near copies", "more data would help"
    ]  # fmt: skip
    assert "not upright" not in [one.name for one in canon.cautions(bad, is_upright=False)]


def test_answers_and_times_are_judged_too():
    right = np.ones((4, 10), bool)
    worse = right.copy()
    worse[:, 0] = False
    ways = (Way(REPAIRED, np.zeros((4, 10)), worse, worse), Way(ALONE, np.zeros((4, 10)), right, right))
    audit = canon.Equivariance(C4, "none", ways, worse & ~right, np.ones(10), np.ones(10, int), 1.0)
    timing = canon.Timing("canonicalizer in all", 1, 3.0, 4.0, 1.0, 1.0)
    latency = canon.Latency((timing, timing._replace(name="model alone", median_ms=1.0)), 3, "cpu")
    told = canon.cautions(equivariance=audit, latency=latency)
    assert [one.name for one in told] == ["upright accuracy lost", "poses do not follow", "slow"]
    assert "3.0 times as long at batch 1" in told[-1].told
    tied = audit._replace(num_ties=np.full(10, 2), followed=right, ways=(ways[1], ways[1]))
    assert [one.name for one in canon.cautions(equivariance=tied)] == ["ties"]
