"""``repsim influence verify`` tells means over seeds with their spread, and goes on from the seeds that are kept."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from repsim_jax.cli import app
from repsim_jax.cli.influence_audits import truth_of
from repsim_jax.cli.influence_verify import _parts, _tell, document
from repsim_jax.errors import RepsimError

ASKED = {"examples": 8, "subsets": 6, "steps": 2, "held_out": 4}


def seed(score: float, held_out: float) -> dict[str, np.ndarray]:
    ends = lambda value: np.array([[value, value - 0.1, value + 0.2]] * 2)  # noqa: E731
    return {"names": np.array(["batch", "own presence"]), "scores": ends(score), "held_out": ends(held_out),
            "memorization": np.array([score, np.nan]), "ceilings": np.array([0.9, 0.5])}  # fmt: skip


def test_one_seed_has_its_interval_and_several_have_least_and_most():
    one = document([seed(0.5, 0.2)], ASKED, {})
    assert (one["verdicts"][0]["low"], one["verdicts"][0]["high"]) == pytest.approx((0.4, 0.7))
    assert one["verdicts"][0]["deviation"] is None
    three = document([seed(0.5, 0.2), seed(0.7, 0.1), seed(0.6, 0.6)], ASKED, {"model": "m"})
    first = three["verdicts"][0]
    assert (first["score"], first["low"], first["high"], first["deviation"]) == pytest.approx((0.6, 0.5, 0.7, 0.1))
    assert (first["held_out"], first["held_out_low"], first["held_out_high"]) == pytest.approx((0.3, 0.1, 0.6))
    assert three["verdicts"][1]["memorization"] is None
    assert (three["ceiling"], three["held_out_ceiling"], three["seeds"]) == pytest.approx((0.9, 0.5, 3))
    assert "3 seeds" in three["told"]
    assert json.loads(json.dumps(three, allow_nan=False)) == three
    truth = truth_of(three)
    assert (truth.seeds, truth.held_out_ceiling, truth.verdicts[0].memorization_deviation) == pytest.approx(
        (3, 0.5, 0.1)
    )


def test_without_held_out_queries_there_is_nothing_told_of_them():
    held = {**seed(0.5, 0.2), "held_out": np.zeros((0, 3))}
    told = document([held], {**ASKED, "held_out": 0}, {})
    assert told["held_out_ceiling"] is None
    assert truth_of(told).verdicts[0].held_out is None


def test_what_foretells_nothing_is_told_so(capsys: pytest.CaptureFixture[str]):
    _tell(document([seed(0.05, 0.2)], ASKED, {}))
    assert "! batch foretells no better than chance here" in capsys.readouterr().out
    _tell(document([seed(0.5, 0.2)], ASKED, {}))
    assert "!" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("total", "given", "parts"), [(400, (None, None), (96, 32)), (128, (None, None), (96, 32)),
    (60, (None, None), (45, 15)), (9, (None, None), (8, 1)), (60, (50, 4), (50, 4))]
)  # fmt: skip
def test_few_examples_are_parted_without_being_told(total: int, given: Any, parts: tuple[int, int]):
    assert tuple(_parts(total, *given).values()) == parts


def test_more_than_there_are_is_refused():
    with pytest.raises(RepsimError, match=r"more than the run has \(7\)"):
        _parts(7, None, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("verify")
    np.save(home / "x.npy", np.random.default_rng(0).uniform(-0.5, 0.5, (14, 6, 6)).astype(np.float32))
    quick = ("--steps", "2", "--batch-size", "8", "--num-views", "2", "--curvature", "identity")
    done = run("fit", str(home / "x.npy"), *quick, "--out", str(home / "run"))
    assert done.exit_code == 0, done.output
    return home / "run"


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["influence", *arguments])


@pytest.mark.slow
def test_seeds_are_kept_and_more_of_them_can_be_asked_for(folder: Path):
    given = ("verify", str(folder), "--examples", "8", "--subsets", "6", "--steps", "2", "--json")
    few = json.loads(run(*given).stdout)
    done = run(*given, "--seeds", "2")
    assert done.exit_code == 0, done.output
    more = json.loads(done.stdout)
    assert more["each"][0] == few["each"][0]
    assert more["each"][1] != few["each"][0]
    assert {one["name"] for one in more["verdicts"]} >= {"own presence", "embedding cosine"}
    assert more["verdicts"][-1]["held_out"] == 0
    told = run(*given[:-1], "--seeds", "2")
    assert "±" in told.stdout
    assert "ceiling" in told.stdout
    too_many = run("verify", str(folder), "--examples", "8", "--held-out", "9")
    assert too_many.exit_code == 2
    assert "more than the run has" in " ".join(too_many.stderr.split())
