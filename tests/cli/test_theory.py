"""``repsim theory verify``: from examples to verdicts, a page and a document."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from repsim_jax.cli import app
from repsim_jax.cli.theory import _sources

QUICK = ("--widths", "16,32,64", "--seeds", "3", "--triplets", "4", "--horizon", "0.25")


def run(*arguments: str):
    return CliRunner().invoke(app, ["theory", "verify", *arguments])


@pytest.mark.slow
def test_claims_become_a_page_a_document_and_pictures(tmp_path: Path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 6)))
    done = run("--data", str(tmp_path / "x.npy"), *QUICK, "--out", str(tmp_path / "out"), "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["schema"] == "repsim.theory.claims/1"
    assert document == json.loads((tmp_path / "out" / "claims.json").read_text())
    assert [one["verdict"] in ("holds", "holds until", "does not hold", "undecided") for one in document["claims"]] == [
        True
    ] * 5
    assert {one["origin"].split(" (")[0] for one in document["claims"]} <= {"the paper", "our measurement"}
    assert len(document["claims"][0]["series"][0]["values"]) == 3
    page = (tmp_path / "out" / "claims.html").read_text()
    assert all(one["name"] in page for one in document["claims"])
    assert 5 <= len(list((tmp_path / "out" / "figures").glob("*.png"))) <= 7
    assert len(document["claims"][2]["courses"]) == 6


def test_a_folder_is_the_sets_that_are_known_in_it_unless_a_column_says_otherwise(tmp_path: Path):
    np.savez(tmp_path / "mnist.npz", x_train=np.zeros((4, 2, 2)))
    folder = str(tmp_path)
    assert _sources(folder, None) == [("mnist", str(tmp_path / "mnist.npz"), "x_train")]
    assert _sources(folder, "jpeg") == [("", folder, "jpeg")]
    assert _sources("digits", None) == [("", "digits", None)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--widths", "64"), "three rising widths"),
        (("--widths", "a,b"), "--widths takes whole numbers"),
        (("--triplets", "999"), "2 to n / 2 triplets"),
        (("--view-noise", "0"), "view_noise > 0"),
        (("--data", "none.npy"), "no such file"),
        (("--components", "64"), "num_components < the smallest width"),
    ],
)
def test_what_cannot_be_tested_is_refused(tmp_path: Path, arguments: tuple[str, ...], message: str):
    done = run(*arguments, "--out", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_a_place_that_cannot_be_written_is_told_before_anything_is_trained(tmp_path: Path):
    (tmp_path / "out").write_text("a file")
    done = run("--out", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert "out" in done.stderr
