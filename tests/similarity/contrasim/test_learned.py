"""A fitted measure beside closed-form ones: its rows, its sources and what it says about itself; it never flatters."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import contrasim_cases as cases
import numpy as np
import pytest

from repsim_jax import similarity
from repsim_jax.activations import StoreWriter, open_store
from repsim_jax.activations.layers import Layers
from repsim_jax.errors import AlignmentError, BadArrayError, UnknownNameError
from repsim_jax.similarity.contrasim import ContraSim, Learned, score
from repsim_jax.similarity.contrasim.measure import FittedSource

Measures = Callable[[str], ContraSim]
NETWORKS, PAIRS = cases.networks(6), cases.pairs()
FITTED, OTHER, UNSEEN = NETWORKS["net_0"], NETWORKS["net_1"], NETWORKS["net_5"]


def compared(a: Layers, b: Layers, *measures: Any, **others: Any) -> similarity.Comparison:
    return similarity.compare(a, b, measures=measures, **others)


def test_all_measures_are_computed_on_the_rows_that_the_learned_one_may_see(measures: Measures):
    measure = measures("relative")
    found = compared(FITTED, OTHER, "linear_cka", Learned(measure, on_seen="drop"))
    assert found.measures == ("linear_cka", "contrasim")
    left = np.flatnonzero(~measure.trained_on(FITTED.ids or ()))
    assert found.num_examples == len(left) == 13
    x, y = (side.read("layer_1", left) for side in (FITTED, OTHER))
    anchors = [cases.of(side, "layer_1", measure.anchor_ids) for side in (FITTED, OTHER)]
    expected = score(measure, x, y, anchors_x=anchors[0], anchors_y=anchors[1])
    assert found.matrix("contrasim")[1, 1] == pytest.approx(float(expected), abs=1e-6)
    assert found.matrix("linear_cka")[1, 1] == pytest.approx(float(similarity.linear_cka(x, y)), abs=1e-5)


def test_rows_in_another_order_are_matched_by_id(measures: Measures):
    order = np.random.default_rng(0).permutation(cases.NUM_EXAMPLES)
    shuffled = Layers(
        "net_1", {name: OTHER.read(name, order) for name in OTHER.names}, tuple((OTHER.ids or ())[row] for row in order)
    )
    learned = Learned(measures("relative"), on_seen="drop")
    np.testing.assert_allclose(
        compared(FITTED, shuffled, learned).values, compared(FITTED, OTHER, learned).values, atol=1e-6
    )


@pytest.mark.parametrize("kind", ["relative", "raw", "example", "projected"])
def test_every_kind_of_input_can_be_compared(measures: Measures, kind: str):
    sides = (FITTED, OTHER) if kind in ("relative", "raw") else tuple(PAIRS.values())
    found = compared(*sides, Learned(measures(kind), on_seen="drop"))
    assert found.num_examples == 13
    assert (np.abs(found.values) <= 1).all()


def test_max_rows_picks_among_the_rows_that_are_left(measures: Measures):
    found = compared(FITTED, OTHER, Learned(measures("relative"), on_seen="drop"), max_rows=5)
    assert found.num_examples == 5
    assert found.notes[0] == "5 of 13 examples were compared, evenly spaced."


def test_training_examples_are_refused_dropped_or_told(measures: Measures):
    measure = measures("relative")
    with pytest.raises(BadArrayError, match=r"was trained on 35 of these 64 examples .* \(13 are left\)"):
        compared(FITTED, OTHER, Learned(measure))
    kept = compared(FITTED, OTHER, Learned(measure, on_seen="keep"))
    assert kept.num_examples == 48
    assert any("trained on 35 of them: their scores flatter" in note for note in kept.notes)


def test_rows_that_were_not_trained_on_need_no_word(measures: Measures):
    measure = measures("raw")
    left = np.flatnonzero(~measure.trained_on(FITTED.ids or ()))
    a, b = (
        Layers(one.name, {"layer_0": one.read("layer_0", left)}, tuple((one.ids or ())[row] for row in left))
        for one in (FITTED, OTHER)
    )
    assert compared(a, b, Learned(measure)).num_examples == 13
    with pytest.raises(AlignmentError, match="lacks 16 of them, the first is 'example"):
        compared(a, b, Learned(measures("relative")))


def test_too_few_rows_that_are_left_are_refused(measures: Measures):
    measure = measures("raw")
    rows = np.flatnonzero(measure.trained_on(FITTED.ids or ()))
    a, b = (
        Layers(one.name, {"layer_0": one.read("layer_0", rows)}, tuple((one.ids or ())[row] for row in rows))
        for one in (FITTED, OTHER)
    )
    with pytest.raises(BadArrayError, match="has 0 of 51 rows left to score"):
        compared(a, b, Learned(measure, on_seen="drop"))


def test_a_model_that_was_not_fitted_is_refused_unless_allowed(measures: Measures):
    measure = measures("relative")
    with pytest.raises(UnknownNameError, match="not fitted for 'net_5', which is none of its sources"):
        compared(FITTED, UNSEEN, Learned(measure, on_seen="drop"))
    found = compared(FITTED, UNSEEN, Learned(measure, on_seen="drop", allow_unfitted=True))
    assert any("has not seen net_5 at its fit; on models held out at the fit it is right" in one for one in found.notes)


def test_projected_input_has_no_map_for_others_whatever_is_allowed(measures: Measures):
    stranger = PAIRS["side_1"]._replace(name="other")
    with pytest.raises(UnknownNameError, match="it has no map for others"):
        compared(PAIRS["side_0"], stranger, Learned(measures("projected"), on_seen="drop", allow_unfitted=True))


def test_a_name_with_other_widths_is_another_model(measures: Measures):
    wide = {name: np.concatenate([OTHER.read(name)] * 2, axis=1) for name in OTHER.names}
    with pytest.raises(UnknownNameError, match="the name of a fitted source but other widths"):
        compared(FITTED, Layers("net_1", wide, OTHER.ids), Learned(measures("relative"), on_seen="drop"))


def stored(path: Path, side: Layers, weights: str | None) -> Layers:
    with StoreWriter(path, metadata={} if weights is None else {"weights_sha256": weights}) as writer:
        writer.append(side.ids or (), {name: side.read(name) for name in side.names})
        writer.finish()
    return Layers(path.name, open_store(path), side.ids)


def with_weights(measure: ContraSim, name: str, weights: str) -> ContraSim:
    sources: dict[str, FittedSource] = {**measure.sources, name: measure.sources[name]._replace(weights_sha256=weights)}
    return replace(measure, sources=sources)


def test_a_store_is_known_by_its_weights_and_else_by_its_name(measures: Measures, tmp_path: Path):
    learned = Learned(with_weights(measures("relative"), "net_1", "a" * 64), on_seen="drop")
    renamed = stored(tmp_path / "renamed.store", OTHER, "a" * 64)
    told = compared(FITTED, renamed, learned).notes
    assert "ContraSim was trained on renamed.store at its fit." in told
    assert "ContraSim was trained on net_0 at its fit (known by its name alone)." in told
    with pytest.raises(UnknownNameError, match="the name of a fitted source but other weights"):
        compared(FITTED, stored(tmp_path / "net_1.store", OTHER, "b" * 64), learned)
    assert compared(FITTED, stored(tmp_path / "net_2.store", OTHER, "b" * 64), learned).num_examples == 13
    assert compared(FITTED, stored(tmp_path / "net_0.store", OTHER, None), learned).num_examples == 13


def test_ids_are_needed_where_rows_must_be_told_apart(measures: Measures):
    bare = [side._replace(ids=None) for side in (FITTED, OTHER)]
    with pytest.raises(AlignmentError, match="to tell its anchors"):
        compared(*bare, Learned(measures("relative"), on_seen="keep"))
    with pytest.raises(AlignmentError, match="to tell what it was trained on"):
        compared(*bare, Learned(measures("raw"), on_seen="drop"))
    found = compared(*bare, Learned(measures("raw"), on_seen="keep"))
    assert found.num_examples == cases.NUM_EXAMPLES
    assert "Without ids it is not known which of them it was trained on." in found.notes[0]


def test_rows_that_show_one_example_are_told_by_it(measures: Measures):
    measure = measures("relative")
    sides = [side._replace(ids=tuple(f"{one}#0" for one in side.ids or ())) for side in (FITTED, OTHER)]
    learned = Learned(measure, on_seen="drop", examples=lambda one: one.partition("#")[0])
    assert compared(*sides, learned).num_examples == 13


def test_the_comparison_says_how_far_the_measure_can_be_trusted(measures: Measures):
    measure = measures("relative")
    assert measure.diagnosis is not None
    found = compared(FITTED, NETWORKS["net_3"], Learned(measure, on_seen="drop"))
    told = " ".join(found.notes)
    assert "computed on 13 of 64 examples; its 16 anchors are not scored. It was trained on none of them." in told
    assert "tested but not trained on net_3" in told
    assert f"rows were permuted is {measure.diagnosis.chance_mean:.2f} on average" in told
    assert measure.diagnosis.verdict[0] in told
    assert found.settings["contrasim"]["accuracy on fitted sources"] == measure.diagnosis.seen.share


def test_layers_that_took_no_part_are_named(measures: Measures):
    more = Layers(
        "net_1", {**{name: OTHER.read(name) for name in OTHER.names}, "new": OTHER.read("layer_0")}, OTHER.ids
    )
    told = compared(FITTED, more, Learned(measures("relative"), on_seen="drop")).notes
    assert any("net_1 at its fit (known by its name alone), but not on its layers new." in one for one in told)


def test_a_measure_without_a_diagnosis_says_so(measures: Measures):
    learned = Learned(replace(measures("relative"), diagnosis=None), on_seen="drop", allow_unfitted=True)
    found = compared(FITTED, UNSEEN, learned)
    assert "ContraSim was fitted without a diagnosis: nothing is known about what its scores mean." in found.notes
    assert found.settings["doubts"] == {"contrasim": "it was fitted without a diagnosis (test_share=0)"}


def test_what_speaks_against_a_measure_is_told_to_the_gate(measures: Measures):
    measure = measures("relative")
    found = measure.diagnosis
    assert found is not None
    assert found.unseen is not None
    blind = found.seen._replace(low=0.0)
    assert "on new examples of its own sources" in (
        Learned(replace(measure, diagnosis=found._replace(seen=blind))).doubt(FITTED, OTHER) or ""
    )
    for unseen, reason in (
        (None, "nothing is known about models"),
        (found.unseen._replace(low=0.0), "not above chance"),
    ):
        learned = Learned(replace(measure, diagnosis=found._replace(unseen=unseen)))
        assert learned.doubt(FITTED, OTHER) is None
        assert reason in (learned.doubt(FITTED, UNSEEN) or "")


def test_an_unknown_choice_about_seen_rows_is_refused(measures: Measures):
    choice: Any = "dorp"
    with pytest.raises(UnknownNameError, match="Did you mean 'drop'"):
        Learned(measures("raw"), on_seen=choice)


def test_a_learned_measure_must_be_fitted_first():
    with pytest.raises(UnknownNameError, match="must be fitted first"):
        compared(FITTED, OTHER, "contrasim")
    assert "contrasim" not in similarity.measures()
    assert similarity.measure("contrasim").range == (-1, 1)


def test_two_learned_measures_of_one_name_are_refused(measures: Measures):
    with pytest.raises(BadArrayError, match="got contrasim twice"):
        compared(FITTED, OTHER, Learned(measures("raw")), Learned(measures("relative")))


def test_a_layer_that_cannot_be_scored_is_named(measures: Measures):
    broken = {name: OTHER.read(name).copy() for name in OTHER.names}
    broken["layer_1"][:] = np.nan
    with pytest.raises(BadArrayError, match="layer 'layer_1' of net_1"):
        compared(FITTED, Layers("net_1", broken, OTHER.ids), Learned(measures("relative"), on_seen="drop"))
