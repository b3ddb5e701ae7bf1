"""A fit learns what there is to learn, repeats itself, streams, and says what it cannot do."""

from dataclasses import replace

import contrasim_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import oracles_contrasim as oracles
import pytest

from repsim_jax import training as loops
from repsim_jax.activations.layers import Layers
from repsim_jax.activations.writer import StoreWriter
from repsim_jax.errors import AlignmentError, BadArrayError, UnknownNameError
from repsim_jax.similarity.contrasim import (
    FAITHFUL,
    FAITHFUL_EXAMPLES,
    FAITHFUL_LAYERS,
    Training,
    collect,
    encode_layers,
    fit,
    score,
    score_pairs,
)
from repsim_jax.similarity.contrasim.objectives import _examples, draw
from repsim_jax.similarity.contrasim.tables import _runs, preparation, table

QUICK = replace(cases.SHORT, num_steps=20)
KEY = jax.random.key(0)


def quickly(sources, *, options=None, training=QUICK, **more):
    """A fit without a diagnosis."""
    return fit(KEY, sources, options=options or cases.options(), training=training, **{"test_share": 0, **more})


def accuracy(measure, one: Layers, other: Layers, rows: np.ndarray) -> float:
    """How often the most similar layer of another network is the same layer, from the public scores alone."""
    sides = [[side.read(layer)[rows] for layer in side.names] for side in (one, other)]
    more = {}
    if measure.anchor_ids:
        more = {
            f"anchors_{which}": [cases.of(side, layer, measure.anchor_ids) for layer in side.names]
            for which, side in zip("xy", (one, other), strict=True)
        }
    scores = np.asarray(score_pairs(measure, *sides, **more))
    return float(np.mean(scores.argmax(1) == np.arange(len(scores))))


def retrieval(measure, sides: dict[str, Layers]) -> float:
    """How often the most similar row of the other side shows the same example, over examples that were not learned."""
    one, other = sides.values()
    new = np.flatnonzero(~measure.trained_on(one.ids or ()))
    z = []
    for side in (one, other):
        more = {"sources": [(side.name, "x")]}
        if measure.anchor_ids:
            more = {"anchors": [cases.of(side, "x", measure.anchor_ids)]}
        z.append(np.asarray(encode_layers(measure, [side.read("x")[new]], **more))[0])
    return float(np.mean((z[0] @ z[1].T).argmax(1) == np.arange(len(new))))


def test_relative_input_carries_over_to_a_network_in_another_basis(layer_fit):
    """The last network was held out; the examples were not seen either."""
    nets = cases.networks()
    new = np.flatnonzero(~layer_fit.measure.trained_on(cases.ids()))
    for name in ("net_0", "net_1", "net_2"):
        assert accuracy(layer_fit.measure, nets["net_3"], nets[name], new) > 0.9
        assert accuracy(layer_fit.measure, nets[name], nets["net_3"], new) > 0.9


def test_raw_input_does_well_on_what_it_was_fitted_on_and_is_at_chance_elsewhere(raw_fit):
    nets = cases.networks(8)
    new = np.flatnonzero(~raw_fit.measure.trained_on(cases.ids()))
    fitted = ("net_0", "net_1", "net_2")
    seen = [accuracy(raw_fit.measure, nets[a], nets[b], new) for a in fitted for b in fitted if a != b]
    unseen = [accuracy(raw_fit.measure, nets[a], nets[f"net_{b}"], new) for a in fitted for b in range(3, 8)]
    assert np.mean(seen) > 0.9
    assert np.mean(unseen) < 1 / 3 + 0.25


def test_paired_examples_of_other_widths_find_each_other(example_fit, projected_fit):
    for one in (example_fit, projected_fit):
        assert retrieval(one.measure, cases.pairs()) > 0.8


def test_training_lowers_the_loss(layer_fit, raw_fit, projected_fit):
    for one in (layer_fit, raw_fit, projected_fit):
        assert one.losses.shape == (40,)
        assert np.mean(one.losses[-5:]) < 0.8 * np.mean(one.losses[:2])


@pytest.mark.slow
@pytest.mark.parametrize("positives", ["layer", "example"])
@pytest.mark.parametrize(
    ("objective", "similarity"),
    [
        ("contrasim", "distance"),
        ("deep_dot", "dot"),
        ("deep_cka", "dot"),
        ("max_margin", "dot"),
        ("max_margin", "distance"),
    ],
)
def test_every_objective_lowers_its_loss(objective: str, similarity: str, positives: str):
    sources = cases.networks(3) if positives == "layer" else cases.pairs(widths=(12, 12))
    options = cases.options(objective=objective, similarity=similarity, positives=positives, input="raw")
    losses = np.asarray(quickly(sources, options=options).losses)
    assert np.isfinite(losses).all()
    assert losses[-4:].mean() < losses[:2].mean()


@pytest.mark.slow
def test_the_released_settings_run_at_their_size():
    few = replace(FAITHFUL_LAYERS, num_steps=2)
    found = quickly(cases.networks(2), options=FAITHFUL, training=few).measure
    assert [layer["weight"].shape for layer in found.params["trunk"]] == [(12, 512), (512, 256), (256, 128)]
    assert found.settings["temperature"] == 0.07
    assert (FAITHFUL_LAYERS.weight_decay, FAITHFUL_LAYERS.coupled, FAITHFUL_EXAMPLES.weight_decay) == (5e-4, True, 0)


def test_the_same_key_gives_the_same_weights_and_another_does_not():
    runs = [
        fit(jax.random.key(seed), cases.networks(2), options=cases.options(), training=QUICK, test_share=0)
        for seed in (0, 0, 1)
    ]
    first, again, other = (one.measure.params["trunk"][0]["weight"] for one in runs)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert runs[0].measure.anchor_ids == runs[1].measure.anchor_ids != runs[2].measure.anchor_ids


@pytest.mark.slow
def test_the_order_of_rows_in_another_source_changes_nothing():
    nets = cases.networks(2)
    order = np.random.default_rng(0).permutation(cases.NUM_EXAMPLES)
    second = nets["net_1"]
    shuffled = Layers(
        "net_1", {name: second.read(name)[order] for name in second.names}, tuple(np.take(cases.ids(), order))
    )
    runs = [quickly({"net_0": nets["net_0"], "net_1": one}) for one in (second, shuffled)]
    np.testing.assert_array_equal(runs[0].losses, runs[1].losses)


@pytest.mark.slow
def test_float64_arrays_teach_what_their_float32_teaches():
    nets = cases.networks(2)
    wide = {
        name: Layers(name, {layer: side.read(layer).astype(np.float64) for layer in side.names}, side.ids)
        for name, side in nets.items()
    }
    for kind in ("raw", "relative"):
        options = cases.options(input=kind)
        first, second = (quickly(sources, options=options).losses for sources in (nets, wide))
        np.testing.assert_allclose(first, second, rtol=1e-5)


def test_an_anchors_cosine_to_itself_is_hidden_from_training():
    collection = collect(cases.networks(2), cases.options())
    train, anchors = np.arange(40), np.asarray([5, 2, 30])
    prepared = preparation(collection, cases.options(), train=train, anchors=anchors)
    hidden = table(collection, prepared, train, anchors=anchors)
    nothing = table(collection, prepared, train, anchors=np.full(3, -1))
    for view, shown in zip(hidden.arrays[0], nothing.arrays[0], strict=True):
        own = np.zeros((40, 3), bool)
        own[anchors, np.arange(3)] = True
        own = np.hstack([own, own])  # in both metrics
        assert not np.asarray(view)[:, own].any()
        np.testing.assert_array_equal(np.asarray(view)[:, ~own], np.asarray(shown)[:, ~own])
        np.testing.assert_allclose(np.asarray(shown)[:, own], 1, atol=1e-5)


def test_half_of_a_hard_batch_are_neighbors_of_the_other_half():
    x = np.random.default_rng(0).standard_normal((50, 4))
    near = oracles.nearest_rows(x, 3)[0]
    rows = np.asarray(_examples(jax.random.key(1), jnp.asarray(near), 20))
    assert len(set(rows[:10])) == 10
    for first, hard in zip(rows[:10], rows[10:], strict=True):
        assert hard in near[first]


@pytest.mark.slow
def test_hard_negatives_are_fitted_and_are_refused_where_not_all_fits_into_memory():
    hard = replace(QUICK, negatives="hard", batch_size=15)
    options = cases.options(positives="example")
    assert np.isfinite(quickly(cases.pairs(), options=options, training=hard).losses).all()
    with pytest.raises(BadArrayError, match="all layers in memory to find hard negatives"):
        quickly(cases.pairs(), options=options, training=hard, memory_limit=10)


def test_the_rows_of_a_batch_are_the_same_examples_in_all_views():
    """Rows are made to tell their example, of which the second source has two rows each."""
    n = 20
    numbers = np.arange(n, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    twice = np.concatenate([numbers + 0.25, numbers + 0.5])
    names = [f"{i}" for i in range(n)]
    sources = {
        "image": Layers("?", {"a": numbers}, tuple(names)),
        "text": Layers("?", {"a": twice}, tuple([f"{i}#0" for i in names] + [f"{i}#1" for i in names])),
    }
    options = cases.options(positives="example", input="raw")
    collection = collect(sources, options, examples=lambda one: one.split("#")[0])
    prepared = preparation(collection, options, train=np.arange(n), anchors=np.arange(0))
    whole = table(collection, prepared, np.arange(n), anchors=np.arange(0))
    batch = draw(jax.random.key(0), whole, options=options, batch_size=16)
    image, text = (np.asarray(array)[0, :, 0] for array in batch.arrays[0])
    np.testing.assert_array_equal(image, batch.examples)
    np.testing.assert_array_equal(np.floor(text), batch.examples)
    assert set(text - image) == {0.25, 0.5}


def stored(tmp_path, sources: dict[str, Layers]) -> dict:
    stores = {}
    for name, side in sources.items():
        with StoreWriter(tmp_path / name, chunk_rows=16) as writer:
            writer.append(side.ids or (), {layer: side.read(layer) for layer in side.names})
            stores[name] = writer.finish()
    return stores


@pytest.mark.slow
def test_a_fit_that_streams_does_as_well_as_one_in_memory(tmp_path, layer_fit):
    nets = cases.networks()
    limit = 40_000  # of 36 kB for each network: parts of 16 rows
    streamed = fit(
        KEY, stored(tmp_path, nets), options=cases.options(), training=replace(cases.SHORT, num_steps=120),
        memory_limit=limit, sensitivity=False,
    ).measure  # fmt: skip
    assert streamed.anchor_ids == layer_fit.measure.anchor_ids
    found, expected = streamed.diagnosis, layer_fit.measure.diagnosis
    assert found.seen.share >= expected.seen.share - 0.1
    assert found.unseen.share >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 9])
def test_the_smallest_sources_stream_too(n: int):
    nets = cases.networks(2, n=n)
    found = quickly(nets, training=replace(QUICK, num_steps=2), memory_limit=1, test_share=0.2)
    assert np.isfinite(found.losses).all()


@pytest.mark.parametrize(("n", "size"), [(4, 1), (40, 10), (41, 10), (100, 3), (7, 1)])
def test_runs_of_neighbors_visit_every_row_in_turn(n: int, size: int):
    runs = _runs(jax.random.key(0), n, size)
    drawn = [next(runs) for _ in range(6 * (n // size))]
    for rows in drawn:
        assert len(rows) == len(set(rows)) == 4 * size
        assert 0 <= rows.min() <= rows.max() < n
    assert set(np.concatenate(drawn)) == set(range(n))


def test_progress_is_told_to_the_end():
    told = []
    quickly(cases.networks(2), training=replace(QUICK, num_steps=60), on_progress=lambda *said: told.append(said))
    assert told == [(50, 60), (60, 60)]


@pytest.mark.slow
def test_sensitivity_is_told_for_each_source_or_for_each_class_of_two():
    options, training = cases.options(), replace(QUICK, num_steps=8)
    found = fit(KEY, cases.networks(4), options=options, training=training).measure.diagnosis
    assert found is not None
    assert set(found.sensitivity) == {"net_0", "net_1", "net_2"}
    two = fit(KEY, cases.networks(2), options=cases.options(positives="example"), training=training).measure.diagnosis
    assert two is not None
    assert set(two.sensitivity) == set(cases.LAYERS)
    assert all(np.isfinite(list(one.sensitivity.values())).all() for one in (found, two))


def test_the_last_of_four_sources_is_held_out_unless_told_otherwise(layer_fit, projected_fit):
    assert [name for name, one in layer_fit.measure.sources.items() if one.held_out] == ["net_3"]
    assert not any(one.held_out for one in projected_fit.measure.sources.values())
    few = replace(QUICK, num_steps=1)
    named = quickly(cases.networks(3), training=few, held_out="net_0").measure
    assert [name for name, one in named.sources.items() if one.held_out] == ["net_0"]
    none = quickly(cases.networks(4), training=few, held_out=()).measure
    assert not any(one.held_out for one in none.sources.values())


@pytest.mark.slow
def test_what_is_held_out_does_not_teach():
    nets = cases.networks(3)
    noise = np.random.default_rng(3).standard_normal((cases.NUM_EXAMPLES, 12))
    other = Layers("net_2", {layer: noise + i for i, layer in enumerate(cases.LAYERS)}, cases.ids())
    runs = [quickly({**nets, "net_2": one}, held_out=["net_2"]) for one in (nets["net_2"], other)]
    np.testing.assert_array_equal(runs[0].losses, runs[1].losses)


def test_the_measure_knows_what_it_was_trained_on(layer_fit):
    measure = layer_fit.measure
    known = measure.trained_on(cases.ids())
    assert known.sum() == measure.settings["training_examples"] == 51
    assert measure.trained_on(measure.anchor_ids).all()
    assert not measure.trained_on(["somebody else"]).any()


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 50])
def test_anchors_may_be_chosen_and_count_as_seen(count: int):
    """Even where there are more of them than the training share has room for."""
    chosen = cases.ids()[:count][::-1]
    found = quickly(cases.networks(2), anchors=chosen, training=replace(QUICK, num_steps=1), test_share=0.5).measure
    assert found.anchor_ids == chosen
    assert found.trained_on(chosen).all()
    assert found.params["trunk"][0]["weight"].shape[0] == 2 * count  # in both metrics


@pytest.mark.slow
def test_a_source_with_layers_of_several_widths_is_fitted():
    nets = cases.networks(2)
    wide = {name: {**side.layers, "wide": np.hstack([side.read("layer_0")] * 2)} for name, side in nets.items()}
    measure = quickly(wide).measure
    x = wide["net_0"]
    rows = [list(map(int, measure.anchor_ids))] * 2
    one = score(
        measure, x["wide"], x["layer_0"], anchors_x=x["wide"][rows[0]], anchors_y=x["layer_0"][rows[1]]
    )  # the same rows twice: all cosines agree, but for the ridge
    assert float(one) > 0.9


def refused(error, message: str, sources=None, **more):
    with pytest.raises(error, match=message):
        quickly(cases.networks(2) if sources is None else sources, **more)


def test_what_cannot_be_fitted_is_refused():
    projected = cases.options(input="projected")
    refused(UnknownNameError, "no source to hold out is called 'net_7'", held_out=["net_7"])
    refused(BadArrayError, "cannot be tested on a source that is held out", held_out=["net_1"], options=projected)
    refused(BadArrayError, "held_out= leave no class of two", held_out=["net_1"])
    refused(BadArrayError, "leave no class of two layers", held_out=["net_0", "net_1"])
    refused(BadArrayError, r"test_share in \[0, 1\), got 1.5", test_share=1.5)
    refused(BadArrayError, "left to learn from; lower test_share", test_share=0.99)
    refused(BadArrayError, "two different anchors among the examples: 'z' is none", anchors=["example 0", "z"])
    refused(BadArrayError, "got 2, 1 of them different", anchors=["example 0", "example 0"])
    several = {name: {"a": x, "b": np.hstack([x, x])} for name, x in (("one", np.eye(9)), ("two", np.eye(9)[::-1]))}
    refused(BadArrayError, "its layers must have one width: 'one' has several", several, options=projected)
    refused(BadArrayError, "NaN in layer", {"one": np.eye(9), "two": np.full((9, 9), np.nan)})
    refused(AlignmentError, "no ids to match them by", {"one": np.eye(9), "two": np.eye(8)})


def test_training_compiles_once_for_all_temperatures_and_keys():
    options = cases.options(width=7)
    first = quickly(cases.networks(2), options=options, training=Training(num_steps=3, batch_size=16))
    before = loops._minimize._cache_size()
    sweep = Training(num_steps=3, batch_size=16, temperature=0.5)
    second = fit(jax.random.key(5), cases.networks(2), options=options, training=sweep, test_share=0)
    assert not np.allclose(first.losses, second.losses)
    assert loops._minimize._cache_size() == before
