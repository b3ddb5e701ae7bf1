"""``repsim canonicalize``: from images to a page and back upright; bad input is refused with what to do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from repsim_jax.cli import app

N = 24
QUICK = ("--steps", "4", "--batch-size", "8", "--held-out", "0.25")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["canonicalize", *arguments])


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small images, the last of which is not finite."""
    x = np.random.default_rng(0).uniform(0, 1, (N + 1, 8, 8)).astype(np.float32)
    x[N, 0, 0] = np.nan
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, x)
    return path


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "canonical"
    done = run("fit", str(data), *QUICK, "--out", str(out), "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["result"]["examples"], told["result"]["held_out"]) == (18, 6)
    assert set(told["result"]["skipped"]) == {str(N)}
    return out


def test_turned_images_are_brought_into_the_same_pose(folder: Path, data: Path, tmp_path: Path):
    x = np.load(data)[:4]
    np.save(tmp_path / "turned.npy", np.concatenate([np.rot90(x, k, axes=(1, 2)) for k in range(4)]))
    done = run("apply", str(folder), str(tmp_path / "turned.npy"), "--out", str(tmp_path / "upright"), "--json")
    assert done.exit_code == 0, done.output
    forms = np.load(tmp_path / "upright" / "canonical.npz")["x"].reshape(4, 4, 8, 8, 1)
    np.testing.assert_array_equal(forms, np.broadcast_to(forms[0], forms.shape))
    rows = [line.split(",") for line in (tmp_path / "upright" / "elements.csv").read_text().splitlines()]
    assert rows[0] == ["id", "element", "degrees", "mirrored", "margin", "ties", "gated", "file"]
    degrees = np.array([float(row[2]) for row in rows[1:]]).reshape(4, 4)
    np.testing.assert_allclose((degrees - degrees[0]) % 360, 90 * np.arange(4)[:, None] * np.ones(4), atol=1e-6)
    pictures = [(tmp_path / "upright" / row[-1]).read_bytes() for row in rows[1:]]
    assert pictures[0] == pictures[4]


@pytest.mark.slow
def test_a_report_of_images_without_labels_is_about_the_canonical_form(folder: Path, tmp_path: Path):
    done = run("report", str(folder), "--out", str(tmp_path), "--batch", "2", "--no-curve", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["ways"][0]["max_error"] == 0
    assert told["examples"] == 6
    assert "canonical forms themselves" in told["model"]
    assert Path(told["page"]).read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "digits", "--group", "c5x"), "no group"),
        (("fit", "digits", "--objective", "best"), "no objective"),
        (("fit", "EMPTY"), "holds no images"),
        (("fit", "RANK"), "canonicalize takes images"),
        (("fit", "WIDE"), "needs square ones"),
        (("fit", "NAN"), "can be used"),
        (("fit", "DATA", *QUICK, "--out", "RUN", "--seed", "1"), "holds another run"),
        (("apply", "EMPTY", "digits"), "holds no canonicalizer"),
        (("apply", "RUN", "COLOR"), "takes images of shape (8, 8, 1)"),
        (("report", "RUN", "--data", "WIDE"), "fitted on other images"),
    ],
)
def test_bad_input_is_refused_in_words(
    arguments: tuple[str, ...], message: str, folder: Path, data: Path, tmp_path: Path
):
    places = {"RUN": str(folder), "DATA": str(data), "EMPTY": str(tmp_path / "empty")}
    (tmp_path / "empty").mkdir()
    for name, x in (
        ("RANK", np.zeros((4, 10))), ("WIDE", np.zeros((4, 8, 6, 1))), ("NAN", np.full((4, 8, 8, 1), np.nan)),
        ("COLOR", np.zeros((4, 8, 8, 3))),
    ):  # fmt: skip
        places[name] = str(tmp_path / f"{name}.npy")
        np.save(places[name], x.astype(np.float32))
    given = [places.get(one, one) for one in arguments]
    done = run(*given, *(() if "--out" in given else ("--out", str(tmp_path / "out"))))
    assert done.exit_code == 2, done.output
    assert message in flat(done.stderr)
