"""Examples of several rows, and what ``repsim contrasim`` refuses since it would flatter or be lost."""

import json
from pathlib import Path

import numpy as np
import pytest
from contrasim_commands import FILES, NETWORKS, QUICK, run

from repsim_jax.similarity.contrasim import load


def test_captions_belong_to_their_images_by_the_mark_in_their_ids(here: Path):
    """Three captions an image, in another order than the images: the fit takes all, the score the first of each."""
    side = NETWORKS["net_1"]
    ids = np.asarray(side.ids)
    spoken = np.repeat(np.arange(len(ids)), 3)[::-1]
    numbers = np.tile(np.arange(3), len(ids))
    layers = {name: side.read(name)[spoken] + np.float32(0.01) * numbers[:, None] for name in side.names}
    np.savez("words.npz", ids=[f"{ids[i]}#{k}" for i, k in zip(spoken, numbers, strict=True)], **layers)
    both = ("net_0.npz", "words.npz", "--example-mark", "#")
    pairs = ("--positives", "example", "--class", "*=any")
    done = run("contrasim", "fit", *both, *pairs, *QUICK, "--out", "pairs")
    assert done.exit_code == 0, done.output
    assert set(load("pairs").anchor_ids) <= set(ids)
    done = run("contrasim", "score", "pairs", *both, "--seen", "drop", "--measures", "procrustes", "--json")
    document = json.loads(done.stdout)
    assert document["num_examples"] == 13
    first = {name: side.read(name)[::-1] for name in side.names}
    np.savez("firsts.npz", ids=ids[::-1], **first)
    done = run("contrasim", "score", "pairs", "net_0.npz", "words=firsts.npz", "--seen", "drop", "--measures",
               "procrustes", "--json", "--out", "again")  # fmt: skip
    again = json.loads(done.stdout)
    for got, wanted in zip(document["measures"], again["measures"], strict=True):
        np.testing.assert_allclose(got["values"], wanted["values"], atol=1e-5)
    assert run("compare", *both, "--measures", "procrustes", "--out", "third").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("contrasim", "fit", *FILES, "--example-mark", "#"), "for --positives example"),
        (("contrasim", "fit", *FILES, "--positives", "example", "--example-mark", ""), "such as '#'"),
        (("compare", *FILES[:2], "--example-mark", ""), "such as '#'"),
        (("compare", "net_0.npz", "bare.npz", "--example-mark", "#"), "bare has none"),
    ],
)
def test_a_mark_that_marks_nothing_is_refused(here: Path, arguments: tuple[str, ...], message: str):
    np.savez("bare.npz", x=np.eye(64, 4))
    refused = run(*arguments)
    assert refused.exit_code == 2
    assert message in " ".join(refused.stderr.split())


def test_a_score_says_the_mark_of_its_fit(here: Path):
    """Otherwise it could not know which of its rows it was trained on."""
    marked = NETWORKS["net_0"], NETWORKS["net_1"]
    for side in marked:
        np.savez(f"marked_{side.name}.npz", ids=[f"{one}#0" for one in side.ids or ()], **dict(side.layers))
    both, fit = ("marked_net_0.npz", "marked_net_1.npz"), ("--faithful", "--positives", "example", *QUICK[:4])
    done = run("contrasim", "fit", *both, *fit, "--class", "*=any", "--example-mark", "#", "--out", "marked")
    assert done.exit_code == 0, done.output
    without = run("contrasim", "score", "marked", *both)
    assert "was fitted with --example-mark '#'" in " ".join(without.stderr.split())
    with_it = run("contrasim", "score", "marked", *both, "--example-mark", "#")
    assert "was trained on" in " ".join(with_it.stderr.split())
    other = run("contrasim", "fit", *both, *fit, "--example-mark", "@", "--out", "other")
    assert "'@' is in no id of" in " ".join(other.stderr.split())
    assert {done.exit_code for done in (without, with_it, other)} == {2}


def test_a_copy_of_a_fitted_source_cannot_be_held_out(here: Path):
    done = run("contrasim", "fit", *FILES[:3], "copy=net_0.npz", *QUICK, "--out", "copied")
    assert done.exit_code == 2
    assert "'copy' holds the numbers of 'net_0' in all its layers, and would flatter" in " ".join(done.stderr.split())


def test_nothing_of_others_is_lost(here: Path):
    Path("mine/figures").mkdir(parents=True)
    Path("mine/figures/mine.png").write_text("mine")
    Path("theirs").mkdir()
    Path("theirs/manifest.json").write_text("{}")
    Path("theirs/measure.safetensors").write_text("theirs")
    for folder in ("mine", "theirs", "said.txt/new"):
        done = run("contrasim", "fit", *FILES, *QUICK, "--out", folder)
        assert done.exit_code == 2, folder
    assert Path("mine/figures/mine.png").read_text() == "mine"
    assert Path("theirs/measure.safetensors").read_text() == "theirs"
    manifest = Path("measure/manifest.json").read_bytes()
    score = ("contrasim", "score", "measure", "net_0.npz", "net_1.npz", "--seen", "drop", "--csv")
    for table in ("measure/manifest.json", "measure/new.csv", "net_4.npz"):
        assert run(*score, table).exit_code == 2, table
    assert Path("measure/manifest.json").read_bytes() == manifest
    assert np.load("net_4.npz")["ids"].size == 64


@pytest.mark.parametrize("arguments", [("--only", ""), ("--only", ","), ("--seed", "9" * 20), ("--out", "said.txt")])
def test_a_benchmark_that_cannot_be_ends_at_once(here: Path, arguments: tuple[str, ...]):
    done = run("contrasim", "benchmark", "--models", "6", "--steps", "1", *arguments)
    assert done.exit_code == 2
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_benchmark_over_digits_runs_to_the_end(tmp_path: Path):
    """Six networks, few updates: every contestant has its lines, and the paper's measure knows its own models."""
    out, results = tmp_path / "out", tmp_path / "results"
    given = ("contrasim", "benchmark", "--only", "layers-digits", "--models", "6", "--steps", "20")
    done = run(*given, "--out", str(out), "--results", str(results))
    assert done.exit_code == 0, done.output
    document = json.loads((results / "contrasim_layers_digits.json").read_text())
    assert document == json.loads((out / "contrasim_layers_digits.json").read_text())
    lines = document["standings"]
    assert {one["size"] for one in lines} == {8, 32, 128, 240}
    assert all(0 <= one["low"] <= one["mean"] <= one["high"] <= 1 for one in lines)
    paper = {one["trained_on"]: one["mean"] for one in lines if one["contestant"] == "ContraSim, as in the paper"}
    assert paper["the tested models"] > paper["other models"]
    ours = [one for one in lines if one["contestant"] == "ContraSim, ours" and one["trained_on"] == "other models"]
    assert all(one["mean"] > one["chance"] and "lead_low" in one for one in ours)
    assert "layers of digits networks: n = 240, chance 0.17" in done.stdout
