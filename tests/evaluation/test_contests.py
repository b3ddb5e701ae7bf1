"""The contests run on small made-up models, find what is there to be found, and keep test examples out of the fit."""

from pathlib import Path

import jax
import numpy as np
import pytest

from repsim_jax.activations import Layers, Store, StoreWriter
from repsim_jax.errors import AlignmentError, BadArrayError, UnknownNameError
from repsim_jax.evaluation.contests import caption_contest, language_contest, layer_contest, layers
from repsim_jax.evaluation.contests.captions import paired
from repsim_jax.evaluation.contests.paired import paired_standings
from repsim_jax.evaluation.contests.parts import Parts
from repsim_jax.evaluation.contests.standings import Line, Recipe, Standing
from repsim_jax.similarity.contrasim import ContraSim, Options, Training, fit

N = 96
TRAINING = Training(num_steps=40, batch_size=32)
LATENT = np.random.default_rng(0).normal(size=(3, N, 6)).astype(np.float32)


def store(path: Path, layers: dict[str, np.ndarray], ids: list[str]) -> Store:
    writer = StoreWriter(path, chunk_rows=32)
    writer.append(ids, layers)
    return writer.finish()


def rotated(x: np.ndarray, width: int, seed: int, noise: float = 0.1) -> np.ndarray:
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.normal(size=(width, width)))[0][: x.shape[1]]
    return (x @ basis + noise * generator.normal(size=(len(x), width))).astype(np.float32)


def lines(standings: list[Standing], contestant: str, **wanted: object) -> list[Standing]:
    found = [
        one
        for one in standings
        if one.contestant == contestant and all(getattr(one, name) == value for name, value in wanted.items())
    ]
    assert found, contestant
    return found


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    folder = tmp_path_factory.mktemp("networks")
    ids = [f"example-{i}" for i in range(N)]
    return {
        f"seed-{m}": store(
            folder / f"{m}.store", {f"block_{k}": rotated(LATENT[k], 8, 10 * m + k) for k in range(3)}, ids
        )
        for m in range(6)
    }


def test_layer_contest_tells_unseen_models_apart(networks: dict[str, Store]):
    recipes = [
        Recipe("ours", Options(hidden=(16,), width=8), TRAINING),
        Recipe("raw", Options(input="raw", hidden=(16,), width=8), TRAINING),
    ]
    told: list[str] = []
    standings = layer_contest(
        "toy", networks, num_folds=2, num_anchors=24, recipes=recipes, closed=["procrustes"], on_progress=told.append
    )
    whole = {one.size for one in standings}
    assert whole == {8, 32, N - int(0.6 * N)}
    assert lines(standings, "ours", trained_on="other models", size=max(whole))[0].interval.mean > 0.9
    assert lines(standings, "procrustes", size=max(whole))[0].interval.mean > 0.9
    raw = {
        who: lines(standings, "raw", trained_on=who, size=max(whole))[0]
        for who in ("other models", "the tested models")
    }
    assert raw["the tested models"].interval.mean > raw["other models"].interval.mean + 0.2
    assert all(one.chance == pytest.approx(1 / 3) for one in standings)
    assert any("fold 2 of 2: ours" in line for line in told)


def test_layer_contest_refuses_too_few_networks(networks: dict[str, Store]):
    with pytest.raises(BadArrayError, match="at least 6 networks, got 2"):
        layer_contest("toy", dict(list(networks.items())[:2]))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, tuple[Store, str]]]:
    folder = tmp_path_factory.mktemp("pictures")
    ids = [f"{i}.jpg" for i in range(N)]
    spoken = [f"{one}#{k}" for one in ids for k in range(2)]
    meaning = LATENT[0]
    twice = np.repeat(meaning, 2, axis=0)
    return {
        "images": {
            name: (store(folder / name, {"last": rotated(meaning, width, seed)}, ids), "last")
            for name, width, seed in (("camera", 8, 1), ("eye", 10, 2))
        },
        "texts": {
            name: (store(folder / name, {"last": rotated(twice, width, seed)}, spoken), "last")
            for name, width, seed in (("poet", 8, 3), ("clerk", 12, 4))
        },
    }


@pytest.mark.slow
def test_caption_contest_asks_about_models_that_no_fit_saw(pictures: dict[str, dict[str, tuple[Store, str]]]):
    data = paired(**pictures, example=lambda one: one.rpartition("#")[0])
    assert data.texts["poet"].shape == (N, 2, 8)
    recipes = [
        Recipe("ours", Options(positives="example"), TRAINING),
        Recipe("projected", Options(positives="example", input="projected", hidden=(16,), width=8), TRAINING),
    ]
    standings = caption_contest(data, elsewhere=data, seeds=(0,), recipes=recipes, closed=["linear_cka"])
    easy = lines(standings, "ours", trained_on="other models", negatives="hard", size=8, contest="image and caption")
    assert easy[0].interval.mean > 0.9
    assert easy[0].interval.units == 4
    assert {one.trained_on for one in lines(standings, "projected")} == {"the tested models"}
    assert {one.contest for one in standings} == {"image and caption", "image and caption, other data set"}


def test_caption_contest_refuses_a_single_model(pictures: dict[str, dict[str, tuple[Store, str]]]):
    one = {"images": dict([*pictures["images"].items()][:1]), "texts": pictures["texts"]}
    with pytest.raises(BadArrayError, match="two image models and two text models"):
        caption_contest(paired(**one, example=lambda name: name.rpartition("#")[0]))


def test_images_without_captions_are_refused(pictures: dict[str, dict[str, tuple[Store, str]]]):
    with pytest.raises(AlignmentError, match="same number of captions"):
        paired(**pictures, example=lambda one: one)


@pytest.fixture(scope="module")
def speakers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    folder = tmp_path_factory.mktemp("speakers")
    ids = [f"s{i}" for i in range(N)]
    return {
        code: store(folder / code, {f"block_{k}": rotated(LATENT[k], 8, 50 + k, 0.05 * i) for k in range(2)}, ids)
        for i, code in enumerate(("en", "de", "fr"))
    }


def test_language_contest_fits_one_pair_and_asks_about_others_and_about_another_model(speakers: dict[str, Store]):
    recipes = [
        Recipe("ours", Options(positives="example"), TRAINING),
        Recipe("faithful", Options(positives="example", input="raw", hidden=(16,), width=8), TRAINING),
    ]
    options = {"layers": ("block_0", "block_1"), "fits": (("en", "de"),), "recipes": recipes, "closed": ["linear_cka"]}
    standings, measures = language_contest("toy", speakers, **options)
    assert [title for title, _ in measures] == ["ours"]
    again, _ = language_contest("toy", speakers, elsewhere=measures, **options)
    for made, who in ((standings, "other languages"), (again, "another model")):
        assert lines(made, "ours", trained_on=who, negatives="random", size=8)[0].interval.mean > 0.9
    assert lines(standings, "cosine of raw features", negatives="random", size=8)[0].interval.mean > 0.9


def test_language_contest_names_a_language_without_a_store(speakers: dict[str, Store]):
    with pytest.raises(UnknownNameError, match="no language is called 'tlh'"):
        language_contest("toy", speakers, layers=("block_0",), fits=(("en", "tlh"),))


def test_a_standing_is_json(networks: dict[str, Store]):
    line = layer_contest("toy", networks, num_folds=2, recipes=[], closed=["linear_cka"])[0].to_json()
    assert {"contestant", "mean", "low", "high", "decisions", "units", "chance"} <= set(line)


def test_the_lead_is_the_difference_to_the_best_closed_form_on_the_same_decisions():
    def line(name: str, family: str, trained_on: str = "") -> Line:
        return Line("toy", name, family, trained_on, "hard", 8)

    generator = np.random.default_rng(0)
    ours = [generator.random(50) < 0.9 for _ in range(6)]
    best = [generator.random(50) < 0.6 for _ in range(6)]
    decisions = {
        line("worse", "closed form"): [np.zeros(50) for _ in range(6)],
        line("best", "closed form"): best,
        line("ours", "learned", "other models"): ours,
        line("ours", "learned", "the tested models"): ours,
    }
    made = paired_standings(decisions, seed=0)
    assert [one.lead is None for one in made] == [True, True, False, True]
    lead = made[2].lead
    assert lead is not None
    assert lead.mean == pytest.approx(np.mean(ours) - np.mean(best))
    assert 0 < lead.low < lead.mean < lead.high
    assert made[2].to_json()["lead_low"] == round(lead.low, 4)


def test_an_interrupted_contest_goes_on_with_the_answers_it_has(
    networks: dict[str, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    options = {"num_folds": 2, "recipes": [], "closed": ["linear_cka", "procrustes"]}
    whole = layer_contest("toy", networks, **options)

    def stop(line: str) -> None:
        if "fold 2" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        layer_contest("toy", networks, **options, on_progress=stop, parts=Parts(tmp_path, version="1"))
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 4
    kept[0].write_text("cut sh")
    kept[1].write_text(kept[1].read_text().replace("0.", "1.", 1))
    assert layer_contest("toy", networks, **options, parts=Parts(tmp_path, version="1")) == whole
    monkeypatch.setattr(layers, "_asked", lambda *given: pytest.fail("answered again"))
    assert layer_contest("toy", networks, **options, parts=Parts(tmp_path, version="1")) == whole
    with pytest.raises(pytest.fail.Exception, match="answered again"):
        layer_contest("toy", networks, **options, parts=Parts(tmp_path, version="2"))
    with pytest.raises(pytest.fail.Exception, match="answered again"):
        layer_contest("toy", networks, **options, seed=1, parts=Parts(tmp_path, version="1"))


def test_a_kept_measure_scores_as_the_one_that_was_fitted(speakers: dict[str, Store], tmp_path: Path):
    parts = Parts(tmp_path).of([LATENT], {"seed": 0})
    data = {code: Layers(code, {"x": one.read("block_0")}, one.ids) for code, one in speakers.items()}

    def make() -> ContraSim:
        return fit(
            jax.random.key(0), data, options=Options(positives="example"), training=TRAINING, held_out=()
        ).measure

    first = parts.measure("en, de", make)
    again = parts.measure("en, de", lambda: pytest.fail("fitted again"))
    jax.tree.map(np.testing.assert_array_equal, again.params, first.params)
    (tmp_path / next(tmp_path.iterdir()).name / "measure.safetensors").write_bytes(b"cut")
    assert parts.measure("en, de", make).anchor_ids == first.anchor_ids
