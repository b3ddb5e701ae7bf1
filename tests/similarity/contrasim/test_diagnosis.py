"""The diagnosis counts right decisions, knows what chance gives, and says what a measure cannot be believed about."""

from dataclasses import replace

import contrasim_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from repsim_jax.activations.layers import Layers
from repsim_jax.similarity.contrasim import ContraSim, Diagnosis, collect, wilson
from repsim_jax.similarity.contrasim.diagnosis import (
    Item,
    _calibration,
    _diversity,
    _example_decisions,
    _layer_decisions,
    _total,
    diagnose,
    verdict,
)

KEY = jax.random.key(0)


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (1, 10), (5, 10), (10, 10), (0, 1), (1, 1), (333, 1000)])
def test_the_interval_is_wilsons(correct: int, total: int):
    found = wilson(correct, total, chance=0.25)
    expected = stats.binomtest(correct, total).proportion_ci(confidence_level=0.95, method="wilson")
    np.testing.assert_allclose((found.low, found.high), (expected.low, expected.high), atol=1e-6)
    assert (found.correct, found.total, found.chance, found.share) == (correct, total, 0.25, correct / total)


def test_nothing_decided_says_nothing():
    assert wilson(0, 0)[3:] == (0.0, 1.0)
    assert wilson(0, 0).share == 0


def units(seed: int, n: int = 30, q: int = 8) -> jax.Array:
    z = np.random.default_rng(seed).standard_normal((n, q))
    return jnp.asarray(z / np.linalg.norm(z, axis=1, keepdims=True), jnp.float32)


def made(positives: str = "layer", **more) -> ContraSim:
    return ContraSim({}, cases.options(positives=positives, **more), {})


def test_decisions_between_layers_and_what_guessing_gets():
    """Source b has one layer, so that its choice is always right: chance must say so."""
    a, b = [units(i) for i in range(4)], units(0)
    items = [Item("a", f"{i}", z) for i, z in enumerate(a)] + [Item("b", "0", b)]
    found = {one[:2]: one[2:] for one in _layer_decisions(made(), items)}
    assert found == {("a", "b"): (1, 1, 1.0), ("b", "a"): (1, 1, 0.25)}
    total = _total(_layer_decisions(made(), items))
    assert (total.correct, total.total, total.chance) == (2, 2, 0.625)
    wrong = [items[1]._replace(name="0"), items[0]._replace(name="1"), *items[2:]]
    assert _total(_layer_decisions(made(), wrong)).correct == 1


def test_guessing_between_layers_of_one_class_is_easier():
    items = [Item("a", "0", units(0)), Item("a", "0", units(1)), Item("a", "1", units(2)), Item("b", "0", units(0))]
    found = {one[:2]: one[2:] for one in _layer_decisions(made(), items)}
    np.testing.assert_allclose(found[("b", "a")], (1, 1, 2 / 3))


def test_decisions_between_examples():
    z = units(0)
    swapped = jnp.concatenate([z[1:2], z[0:1], z[2:]])
    items = [Item("a", "c", z), Item("b", "c", swapped), Item("b", "other", units(5))]
    total = _total(_example_decisions(made("example"), items))
    assert (total.correct, total.total) == (56, 60)
    np.testing.assert_allclose(total.chance, 1 / 30)


@pytest.mark.parametrize("positives", ["layer", "example"])
def test_chance_is_what_permuted_rows_score(positives: str):
    """With permuted rows the expected score of two layers is the product of their mean vectors."""
    z, other = units(0) + jnp.asarray([1.0] + 7 * [0.0]), units(1) + jnp.asarray([0.5] + 7 * [0.0])
    z, other = (side / jnp.linalg.norm(side, axis=1, keepdims=True) for side in (z, other))
    items = [Item("a", "0", z), Item("b", "0", other), Item("a", "1", units(2)), Item("b", "1", units(2))]
    positive, negative, null = _calibration(KEY, made(positives), items)
    assert null.shape == (200,)
    scores = [float(np.mean(np.sum(one * two, axis=1))) for one, two in ((z, other), (units(2), units(2)))]
    np.testing.assert_allclose(positive, np.mean(scores), atol=1e-5)
    expected = np.mean(
        [np.asarray(one).mean(0) @ np.asarray(two).mean(0) for one, two in ((z, other), (units(2), units(2)))]
    )
    np.testing.assert_allclose(null.mean(), expected, atol=4 * null.std() / np.sqrt(200))
    assert np.isfinite(negative)


def test_a_measure_that_ignores_rows_has_positives_no_better_than_permuted_ones():
    constant = jnp.ones((30, 8)) / np.sqrt(8)
    items = [Item(source, name, constant) for source in "ab" for name in "01"]
    positive, _, null = _calibration(KEY, made(), items)
    np.testing.assert_allclose(positive, 1, rtol=1e-5)
    np.testing.assert_allclose(null, 1, rtol=1e-5)
    assert any("does not look at which example is which" in one for one in said(positive_mean=1.0, chance_high=1.0))


def test_no_negatives_are_told_as_such():
    items = [Item("a", "0", units(0)), Item("b", "0", units(1))]
    assert np.isnan(_calibration(KEY, made(), items)[1])


def test_positives_within_one_source_are_calibrated_too():
    items = [Item("a", "0", units(0)), Item("a", "0", units(0)), Item("b", "1", units(1)), Item("b", "1", units(1))]
    positive, _, null = _calibration(KEY, made(), items)
    np.testing.assert_allclose(positive, 1, rtol=1e-5)
    assert np.isfinite(null).all()


def diversity(x: np.ndarray) -> tuple[float, float]:
    sources = {"one": x, "two": x + 0}
    return _diversity(collect(sources, cases.options(positives="example")), np.arange(len(x)))


def test_twins_are_counted_and_narrow_layers_have_none():
    x = np.random.default_rng(0).standard_normal((40, 6))
    assert diversity(x)[1] == 0
    assert diversity(np.concatenate([x, x[:10]]))[1] == pytest.approx(20 / 50)
    assert diversity(np.linspace(-1, 1, 41)[:, None] ** 3 * 5)[1] < 0.5


def test_effective_examples_are_a_participation_ratio():
    x = np.random.default_rng(0).standard_normal((4000, 5)) * np.sqrt([4.0, 1, 1, 1, 1])
    np.testing.assert_allclose(diversity(x)[0], 8**2 / 20, rtol=0.05)


GOOD = Diagnosis(
    task="", training=wilson(95, 100, chance=0.1), seen=wilson(95, 100, chance=0.1),
    unseen=wilson(90, 100, chance=0.1), by_source={}, chance_mean=0.1, chance_high=0.2, positive_mean=0.9,
    negative_mean=0.0, positives=(1, 1, 1), negatives=10, effective_examples=50.0, twins=0.0, sensitivity={},
    verdict=(),
)  # fmt: skip


def said(measure: ContraSim | None = None, **changes) -> list[str]:
    return verdict(GOOD._replace(**changes), measure or made())


def test_a_good_measure_gets_one_good_sentence():
    (sentence,) = said()
    assert sentence.startswith("Carries over to the model that was held out: right 90% of the time (83% to 94%")


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"unseen": wilson(10, 100, chance=0.1)}, "Does not carry over to models that it has not seen: right 10%"),
        ({"unseen": wilson(60, 100, chance=0.1)}, "Weaker on models that it has not seen: right 60%"),
        ({"unseen": None}, "No source was held out"),
        ({"seen": wilson(12, 100, chance=0.1)}, "Not usable: on new examples of its own sources it is right 12%"),
        ({"seen": wilson(0, 0)}, "Nothing could be tested"),
    ],
)
def test_what_matters_most_comes_first(changes, first: str):
    assert said(**changes)[0].startswith(first)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"training": wilson(100, 100), "seen": wilson(50, 100, chance=0.1)}, "learned its examples by heart"),
        ({"twins": 0.2}, "20% of the training examples have a twin"),
        ({"effective_examples": 3.2}, "vary in about 3 directions only"),
        ({"sensitivity": {"web": -0.3, "books": 0.0}}, "Rests on web: without it"),
    ],
)
def test_every_weakness_is_told(changes, part: str):
    assert any(part in one for one in said(**changes))


@pytest.mark.parametrize("objective", ["deep_dot", "deep_cka"])
def test_positives_alone_are_told(objective: str):
    assert any("Fitted on positives alone" in one for one in said(made(objective=objective)))


def test_the_measures_of_the_fixtures_are_judged_right(layer_fit, raw_fit, example_fit, projected_fit):
    carries, fails, pairs, projected = (
        one.measure.diagnosis for one in (layer_fit, raw_fit, example_fit, projected_fit)
    )
    assert carries.unseen.share > 0.9
    assert carries.verdict[0].startswith("Carries over")
    assert fails.verdict[0].startswith(("Does not carry over", "Weaker on models"))
    assert projected.unseen is None
    assert pairs.verdict[0].startswith("No source was held out")
    assert set(carries.by_source) == {"net_0", "net_1", "net_2", "net_3"}
    assert carries.positives == (2, 2, 2)
    assert carries.negatives == 6
    assert carries.seen.total == 3 * 2 * 3
    assert carries.unseen.total == 3 * 2 * 3
    assert carries.seen.chance == pytest.approx(1 / 3)


def test_noise_is_found_to_be_no_better_than_chance(layer_fit):
    """Networks without anything in common: the same measure, asked about them, must not be believed."""
    noise = {
        f"net_{seed}": Layers(
            "?",
            {
                layer: np.random.default_rng(10 * seed + i).standard_normal((cases.NUM_EXAMPLES, 12))
                for i, layer in enumerate(cases.LAYERS)
            },
            cases.ids(),
        )
        for seed in range(4)
    }
    collection = collect(noise, cases.options())
    rows = np.arange(cases.NUM_EXAMPLES)
    measure = replace(layer_fit.measure, diagnosis=None)
    found = diagnose(KEY, measure, collection, ("net_3",), rows[51:], rows[:16], rows[:51])
    assert found.seen.low <= found.seen.chance
    assert found.verdict[0].startswith("Not usable")
    np.testing.assert_allclose(found.positive_mean, found.chance_mean, atol=0.2)
