"""The page of an audit shows what was found, counts what it leaves out, and lets no name act; its tables come back."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import BINARY, Browser
from comparisons import HOSTILE
from rich.console import Console

from repsim_jax.errors import CorruptFileError, FileError
from repsim_jax.influence.curation import Duplicates, Leaks, SliceTest, Wish
from repsim_jax.influence.sweeps import DampingSweep
from repsim_jax.report import (
    Audit,
    Checkpoints,
    Selection,
    Truth,
    Verdict,
    influence_summary,
    influence_to_json,
    ranked,
    write_influence,
)
from repsim_jax.report.columns import columns_to_csv, read_columns, write_columns
from repsim_jax.report.influence import audit_charts, caution, honesty
from repsim_jax.report.tiles import as_picture, thumbnail

N = 60
_rng = np.random.default_rng(0)
IMAGES = _rng.integers(0, 255, (N, 8, 8), np.uint8)
VALUES = _rng.gamma(1.0, size=N) - 0.1
SPARSE = _rng.uniform(size=N)


COPIES = Duplicates(
    (np.arange(3, 12), np.array([20, 21])), np.array([[3, 4], [20, 21]]), np.array([0.99, 1.0]),
    np.array(["embedding", "exact"]), np.zeros(2), 0.9, "a rule", np.zeros(0, int), ("look twice",),
)  # fmt: skip
LEAKS = Leaks(np.array([[7, 1]]), np.array([np.nan]), np.array(["group"]), 0.9, "a rule", ())
SLICES = SliceTest(
    np.array(["a", "b"]), np.full(2, 30), np.array([0.1, 0.2]), np.array([[0, 0.2], [0.1, 0.3]]), np.zeros(2),
    np.array([0.5, 1e-4]), np.array([0.5, 2e-4]),
)  # fmt: skip
TRUTH = Truth(
    (
        Verdict("batch", 0.7, 0.6, 0.8, 0.9, 0.08, 0.31, 0.27, 0.35, 0.04, 0.05),
        Verdict("cosine", 0.1, 0.0, 0.2, None, 0.1, 0.05, -0.07, 0.1, 0.08),
    ),
    0.95, "By it.", 0.55, 3,
)  # fmt: skip
CURVE = {
    "curves": {f"way {k}": np.full((2, 3), 80.0 + k) for k in range(9)}, "shares": np.array([0.1, 0.5]),
    "whole": np.full(3, 91.0), "what": "accuracy, %",
}  # fmt: skip
WISH = Wish(0, np.arange(9), np.arange(4), 0.15, 0.4, None, 0.1, 0.8, ("sparse",))


def audit(ids: Any = None, **more: Any) -> Audit:
    names = [f"digit_{k}" for k in range(N)] if ids is None else ids
    queries = tuple(ranked(names[k], k, _rng.normal(size=N), 0.1, _rng.normal(size=N), top=6) for k in range(2))
    known: dict[str, Any] = {
        "standard_errors": np.full(N, 0.01), "density": SPARSE, "rarity": SPARSE + VALUES, "queries": queries,
        "quadrants": np.where(SPARSE > 0.5, "memorized", "prototype"), "duplicates": COPIES, "leaks": LEAKS,
        "leak_ids": ["test_0", "test_1"], "dropped": [4, 21],
        "sweep": DampingSweep(
            np.array([0.01, 0.1, 1]), np.ones((3, N)), np.array([0.8, 0.9, 0.9]), np.full((3, 3), 0.9)
        ),
        "truth": TRUTH,
        "checkpoints": Checkpoints(np.array([50, 1000]), VALUES / 2, np.full(N, 0.02), np.array([[1, 0.6], [0.6, 1]])),
        "slices": SLICES,
        "selection": Selection(np.arange(40), "balanced"), "skipped": {"broken.png": "cannot be decoded"},
        "provenance": {"seed": "0"}, "plan": (WISH,), "pruning": CURVE,
    }  # fmt: skip
    return Audit(names, VALUES, lambda row: IMAGES[row], **known | more)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_influence(audit(), tmp_path_factory.mktemp("page"))


def test_the_page_has_every_chapter_and_counts_what_it_leaves_out(written: Path):
    page = written.read_text()
    for chapter in (
        "self",
        "quadrants",
        "rare",
        "queries",
        "duplicates",
        "leaks",
        "selection",
        "slices",
        "plan",
        "retraining",
        "damping",
        "honesty",
    ):
        assert f'<section id="{chapter}">' in page
        assert f'href="#{chapter}"' in page
    for told in (
        "18 of 60",
        "3 more",
        "look twice",
        "By it.",
        "test_1",
        "40 of 60",
        "9 examples (15 %)",
        "Score over the share that was dropped",
        "cannot be decoded",
        ">drop<",
    ):
        assert told in page
    assert page.count(">drop<") == 2
    assert len(page) < 2_000_000


def test_a_chapter_of_which_nothing_is_known_is_not_there(tmp_path: Path):
    page = write_influence(Audit(["a", "b", "c"], np.arange(3.0), lambda _: None), tmp_path).read_text()
    for chapter in ("quadrants", "queries", "duplicates", "leaks", "retraining", "damping", "skipped"):
        assert f'id="{chapter}"' not in page
    assert "no image" in page


def test_a_model_that_was_given_is_not_said_to_have_memorized(tmp_path: Path):
    given = audit(trained=False, truth=None, quadrants=np.where(SPARSE > 0.5, "singular", "prototype"))
    page = write_influence(given, tmp_path).read_text()
    assert "memori" not in page
    assert "The model was given" in page
    for chart in audit_charts(given):
        axes = chart.figure.axes[0]
        assert "memori" not in chart.caption + axes.get_xlabel() + axes.get_ylabel()
    known = audit()
    assert "memorized" in write_influence(known, tmp_path).read_text()


def test_self_influence_that_is_mostly_noise_is_told_so(tmp_path: Path):
    assert caution(audit()) is None
    noisy = audit(standard_errors=np.full(N, 21.3))
    page = write_influence(noisy, tmp_path).read_text()
    assert "<strong>Mostly noise" in page
    assert "± 20<" in page
    assert "--num-views" in str(influence_to_json(noisy)["caution"])
    with io.StringIO() as told:
        Console(file=told, width=300).print(influence_summary(noisy))
        assert "! Mostly noise" in told.getvalue()


def test_the_headline_is_of_the_scores_that_are_shown_and_not_of_the_best(tmp_path: Path):
    both = Truth(
        (*TRUTH.verdicts, Verdict("paper", 0.9, 0.8, 1.0, 0.2), Verdict("batch", -0.1, -0.2, 0.1, 0.1)), 1, "By."
    )
    best = write_influence(audit(truth=both, mode="paper"), tmp_path).read_text()
    assert "<dt>retraining agrees, LDS</dt><dd>0.9</dd>" in best.replace("0.90", "0.9")
    worst = audit(truth=both._replace(verdicts=both.verdicts[1:]), mode="batch")
    page = write_influence(worst, tmp_path).read_text()
    assert "<strong>Training anew does not bear these scores out: batch" in page
    assert "LDS -0.10" in str(caution(worst))


def test_only_a_wide_range_is_drawn_with_a_logarithm():
    scales = [
        next(one for one in audit_charts(audit()._replace(self_influence=values)) if one.stem == "quadrants")
        .figure.axes[0].get_yscale()
        for values in (VALUES, np.r_[VALUES[:-1], 1e3])
    ]  # fmt: skip
    assert scales == ["linear", "symlog"]


def test_a_sweep_is_compared_with_the_damping_that_was_chosen():
    captions = [
        next(one.caption for one in audit_charts(audit(damping=damping)) if one.stem == "damping")
        for damping in (0.012, None)
    ]
    assert "beside 0.01." in captions[0]
    assert "beside 0.1." in captions[1]


def test_highest_and_lowest_are_what_they_are_called(written: Path):
    document = json.loads((written.parent / "influence.json").read_text())
    order = np.argsort(-VALUES)
    assert [one["id"] for one in document["highest"]] == [f"digit_{row}" for row in order[:18]]
    assert [one["id"] for one in document["lowest"]] == [f"digit_{row}" for row in order[::-1][:18]]
    assert document["schema"] == "repsim.influence/1"


def test_tables_bring_every_number_back(written: Path):
    found = read_columns(written.parent / "scores.csv", ("self_influence", "density"))
    assert np.array_equal(found["self_influence"], VALUES)
    assert np.array_equal(found["density"], SPARSE)
    assert found["duplicate_group"][3] == "0"
    assert found["may_be_dropped"].tolist().count("True") == 2
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(written.parent / "scores.parquet")
    assert np.array_equal(table.column("self_influence").to_numpy(), VALUES)
    assert table.column("id").to_pylist()[5] == "digit_5"


def test_percentiles_and_ranks_are_those_of_a_count():
    shown = audit()
    assert np.allclose(shown.percentiles, [100 * (value >= VALUES).mean() for value in VALUES])
    values, cosines = _rng.normal(size=N), _rng.normal(size=N)
    one = ranked("q", 0, values, 0.0, cosines, top=5)
    assert set(one.helpful) == {row for row in range(N) if (values < values[row]).sum() < 5}
    assert set(one.harmful) == {row for row in range(N) if (values > values[row]).sum() < 5}
    scipy_stats = pytest.importorskip("scipy.stats")
    assert one.rank_correlation == pytest.approx(scipy_stats.spearmanr(-values, cosines)[0])
    assert ranked("q", 0, np.zeros(N), 0.0, cosines).rank_correlation == 0


def test_honesty_tells_correlations_that_are_there_and_those_that_are_not():
    same = dict(honesty(audit(density=VALUES.copy())))
    other = dict(honesty(audit(density=-VALUES)))
    assert "correlate by 1.00" in same["influence is not outlierness"]
    assert "correlate by -1.00" in other["influence is not outlierness"]
    assert "3, are among" not in other["influence is not outlierness"]
    assert "influence is not similarity" not in dict(honesty(audit(queries=())))


def test_several_seeds_and_queries_never_trained_on_are_told_with_their_spread(written: Path):
    page = written.read_text()
    for told in ("0.70 ± 0.08", "0.31 ± 0.04", "0.27 to 0.35", "0.90 ± 0.05", "least to most of 3 seeds", ">0.55<"):
        assert told in page
    document = json.loads((written.parent / "influence.json").read_text())
    assert document["retraining"]["held_out_ceiling"] == 0.55
    assert document["retraining"]["verdicts"][1]["held_out_low"] == -0.07
    # one seed, and nothing that was held out
    plain = audit(truth=Truth((Verdict("a", 0.5, 0.4, 0.6),), None, "Once."))
    chapter = write_influence(plain, written.parent / "plain").read_text().partition('id="retraining"')[2]
    assert "95 % interval" in chapter
    assert "never trained on" not in chapter


def test_every_way_to_select_is_drawn():
    from repsim_jax.report.influence_charts import pruning_chart

    labels = pruning_chart(**CURVE).figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ["all examples", *CURVE["curves"]]


def test_what_checkpoints_say_stands_beside_the_score(written: Path):
    found = read_columns(written.parent / "scores.csv", ("mean_over_checkpoints", "standard_error_over_checkpoints"))
    assert np.array_equal(found["mean_over_checkpoints"], VALUES / 2)
    assert (found["standard_error_over_checkpoints"] == 0.02).all()
    assert "by 0.60 after 50 steps" in dict(honesty(audit()))["one training"]
    assert "over training" in written.read_text()
    document = json.loads((written.parent / "influence.json").read_text())
    assert document["checkpoints"] == {"steps": [50, 1000], "agreement": [[1, 0.6], [0.6, 1]]}


def test_names_cannot_act_in_the_page_nor_in_a_spreadsheet(tmp_path: Path):
    names = [f"{HOSTILE[k % len(HOSTILE)]}{k}" for k in range(N)]
    page = write_influence(audit(names), tmp_path).read_text()
    assert "<script" not in page.replace("default-src", "")
    rows = list(csv.reader(io.StringIO(columns_to_csv({"id": np.array(["=1+1", "@x", "ok"])}).decode())))
    assert rows[1:] == [["'=1+1"], ["'@x"], ["ok"]]


def test_tables_that_are_missing_or_damaged_are_named(tmp_path: Path):
    with pytest.raises(FileError, match="no such file"):
        read_columns(tmp_path / "none.csv")
    (path, *_) = write_columns(tmp_path / "made", "t", {"a": np.array([1.5, np.nan]), "b": np.array(["x", "y"])})
    assert np.isnan(read_columns(path, ("a",))["a"][1])
    path.write_text("a,b\n1\n2,3\n")
    with pytest.raises(CorruptFileError, match="not the table"):
        read_columns(path)


@pytest.mark.parametrize(
    ("example", "shape"),
    [
        (np.zeros(64), (8, 8)),
        (np.zeros((8, 8, 1)), (8, 8)),
        (np.zeros((5, 4, 3), np.uint8), (5, 4, 3)),
        (np.zeros(65), None),
        (np.zeros((3, 3, 7)), None),
    ],
)
def test_what_looks_like_an_image_is_one(example: np.ndarray, shape: Any):
    made = as_picture(example)
    assert (None if made is None else made.shape) == shape


def test_a_thumbnail_is_never_larger_than_its_place_and_keeps_small_pixels():
    image = pytest.importorskip("PIL.Image")
    import base64

    def opened(source: str) -> Any:
        return image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))

    assert np.array_equal(np.asarray(opened(thumbnail(IMAGES[0]))), IMAGES[0])
    assert opened(thumbnail(np.zeros((400, 200, 3), np.uint8))).size == (48, 96)


def test_the_summary_names_both_ends():
    from rich.console import Console

    console = Console(width=120, record=True, file=io.StringIO())
    console.print(influence_summary(audit()))
    text = console.export_text()
    assert f"digit_{np.argmax(VALUES)}" in text
    assert f"digit_{np.argmin(VALUES)}" in text


def test_the_document_is_plain_json_even_where_a_number_is_none():
    document = influence_to_json(audit(truth=Truth((Verdict("a", float("nan"), 0.0, 1.0),), None, "x")))
    assert document["retraining"]["verdicts"][0]["score"] is None


@pytest.mark.skipif(BINARY is None, reason="no Chromium or Chrome is installed")
@pytest.mark.parametrize("width", [1280, 390, 320])
def test_the_page_never_scrolls_sideways_and_asks_for_nothing(written: Path, tmp_path: Path, width: int):
    with Browser(tmp_path / "profile") as browser:
        browser.open(written, width=width, dark=width == 390)
        assert browser.value("document.documentElement.scrollWidth") <= width
        asked = {event["params"]["request"]["url"] for event in browser.methods("Network.requestWillBeSent")}
        assert {url for url in asked if not url.startswith("data:")} == {written.resolve().as_uri()}
        assert browser.methods("Log.entryAdded", "Runtime.exceptionThrown") == []
