"""``repsim influence``: from examples to a page; another run, model or size of memory is refused with what to do."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from house.source import ROOT
from PIL import Image
from typer.testing import CliRunner

from repsim_jax.cli import app
from repsim_jax.cli.influence_audits import _swept
from repsim_jax.cli.influence_curate import read_leaks, read_selection
from repsim_jax.cli.influence_curve import _check_left
from repsim_jax.cli.influence_fit import _check_memory
from repsim_jax.cli.influence_query import _named
from repsim_jax.cli.influence_score import scores_of
from repsim_jax.cli.sizes import parse_bytes
from repsim_jax.errors import CorruptFileError, RepsimError, UnknownNameError
from repsim_jax.influence.costs import Memory
from repsim_jax.influence.stored import save_arrays

N = 24
QUICK = ("--steps", "4", "--batch-size", "12", "--num-views", "3", "--samples", "16")
ENTRY = "import sys; from repsim_jax.cli import main; sys.argv = ['repsim', *sys.argv[1:]]; main()"


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["influence", *arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small images with one copy and one row that is not finite."""
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (N + 1, 6, 6)).astype(np.float32)
    x[5], x[N, 0, 0] = x[4], np.nan
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, x)
    return path


@pytest.mark.slow
def test_a_run_from_the_examples_to_the_page(data: Path, tmp_path: Path):
    folder = tmp_path / "run"
    done = run("fit", str(data), *QUICK, "--num-views", "4", "--checkpoints", "2", "--out", str(folder), "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["examples"] == N
    assert set(told["skipped"]) == {str(N)}
    assert "GiB to fit ekfac" in done.stderr
    for command in (("score", "--block", "6", "--sweep"), ("query", "--rows", "3,7", "--top", "4"), ("dedup",)):
        done = run(command[0], str(folder), *command[1:])
        assert done.exit_code == 0, done.output
    groups = (folder / "duplicates.csv").read_text().splitlines()
    assert {line.split(",")[1] for line in groups[1:]} >= {"4", "5"}
    assert sum(line.endswith("True") for line in groups) >= 1
    rows = (folder / "scores.csv").read_text().splitlines()
    assert len(rows) == N + 1
    assert "standard_error_over_checkpoints" in rows[0]
    with np.load(folder / "sweep.npz") as swept:
        np.testing.assert_allclose(swept["relative"], [1e-4, 1e-3, 1e-2, 0.1, 1])  # around the damping of the run
    queries = (folder / "queries.csv").read_text().splitlines()
    assert len(queries) == 1 + 2 * 2 * 4
    done = run("report", str(folder))
    assert done.exit_code == 0, done.output
    page = (folder / "report" / "influence.html").read_text()
    for chapter in ("self", "queries", "duplicates", "quadrants", "rare", "honesty", "skipped"):
        assert f'id="{chapter}"' in page
    again = run("fit", str(data), *QUICK, "--num-views", "4", "--checkpoints", "2", "--out", str(folder))
    assert again.exit_code == 0, again.output


@pytest.mark.slow
def test_what_belongs_to_another_run_is_refused(data: Path, tmp_path: Path):
    folder = tmp_path / "run"
    assert run("fit", str(data), *QUICK, "--out", str(folder), "--memory", "1K").exit_code == 2
    assert not folder.exists()  # refused before the training, and no other curvature is barred
    assert run("fit", str(data), *QUICK, "--out", str(folder), "--curvature", "identity").exit_code == 0
    strange = run("dedup", str(folder), "--test", "digits")
    assert "test examples have the shape (8, 8, 1)" in " ".join(strange.stderr.split())
    assert "--limit would be ignored" in " ".join(run("dedup", str(folder), "--limit", "3").stderr.split())
    other = run("fit", str(data), *QUICK, "--out", str(folder), "--curvature", "identity", "--seed", "1")
    assert other.exit_code == 2
    assert "--seed 0, not 1" in " ".join(other.stderr.split())
    changed = tmp_path / "changed.npy"
    np.save(changed, np.load(data)[:, ::-1])
    moved = run("score", str(folder), "--data", str(changed))
    assert moved.exit_code == 2
    assert "another data" in " ".join(moved.stderr.split())
    missing = run("query", str(folder), "--rows", "nobody")
    assert missing.exit_code == 2
    assert "no training example is called 'nobody'" in " ".join(missing.stderr.split())
    unscored = run("report", str(folder))
    assert unscored.exit_code == 2
    assert "has no scores yet" in " ".join(unscored.stderr.split())
    (folder / "run.json").write_text("{}")
    damaged = run("score", str(folder))
    assert damaged.exit_code == 2
    assert "no record of an influence run" in " ".join(damaged.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "none.npy"), "no such file"),
        (("fit", "digits", "--objective", "simsclr"), "Did you mean 'simclr'"),
        (("fit", "digits", "--curvature", "kfac"), "Did you mean 'ekfac'"),
        (("fit", "digits", "--of", "hessian"), "no matrix is called 'hessian'"),
        (("fit", "digits", "--model", "model.onnx"), "JAX differentiates"),
        (("fit", "digits", "--seed", str(2**70)), "64 bits"),
        (("fit", "digits", "--damping", "0"), "not both zero"),
        (("fit", "digits", "--damping", "nan"), "The default is Damping(relative=0.001"),
        (("fit", "digits", "--memory", "many"), "500M or 4G"),
        (("fit", "digits", "--layers", "head"), "none was given"),
        (("fit", "digits", "--layers", "(", "--model", "m"), "no regular expression"),
        (("fit", "digits", "--views", "os:getcwd"), "must return augment(key, x), got str"),
        (("fit", "digits", "--limit", "1"), "one example that can be used"),
        (("dedup", "digits", "--keep", "influence"), "needs the scores of a run"),
        (("score", "."), "holds no influence run"),
        (("query", ".", "--measurement", "size"), "no measurement is called 'size'"),
        (("dedup", "none"), "no such file"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, tuple) else "",
)
def test_what_cannot_be_done_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_equal_examples_are_refused_before_the_training(tmp_path: Path):
    np.save(tmp_path / "x.npy", np.full((5, 6, 6), 0.3, np.float32))
    done = run("fit", str(tmp_path / "x.npy"), *QUICK, "--out", str(tmp_path / "run"))
    assert done.exit_code == 2
    assert "all 5 examples of x are equal" in " ".join(done.stderr.split())
    assert not (tmp_path / "run").exists()


def test_ids_with_commas_are_asked_for_as_they_are():
    known = {"a": 0, "a, b.png": 1, "c": 2, "d,": 3}
    assert _named("a, b.png, c,a,d,", known) == ["a, b.png", "c", "a", "d,"]
    with pytest.raises(UnknownNameError, match="no training example is called 'b'"):
        _named("a,b,c", known)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"ids": 3}', "\xff"])
def test_a_damaged_record_of_a_run_is_named(tmp_path: Path, content: str):
    path = tmp_path / "selection.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(CorruptFileError, match=r"selection\.json: is damaged or not ours"):
        read_selection(tmp_path, ("a", "b"))


def test_a_test_set_that_shrank_is_shown_without_its_pictures(tmp_path: Path):
    train, test = tmp_path / "train", tmp_path / "test"
    for folder in (train, test):
        folder.mkdir()
        for k in range(2):
            Image.fromarray(np.random.default_rng(k).integers(0, 255, (9, 9), np.uint8)).save(folder / f"{k}.png")
    done = run("dedup", str(train), "--test", str(test), "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    (test / "0.png").unlink()
    found = read_leaks(tmp_path / "out", ("0.png", "1.png"))
    shown = {found["leak_ids"][copy]: found["leak_picture"](copy) is not None for _, copy in found["leaks"].pairs}
    assert shown == {"0.png": False, "1.png": True}


def test_a_sweep_without_enough_views_is_refused_before_the_scores():
    with pytest.raises(RepsimError, match=r"--sweep needs 4 views.*this run has 3"):
        scores_of(SimpleNamespace(options={"num_views": 3}), sweep=True)  # pyright: ignore[reportArgumentType]


def test_a_sweep_of_other_scores_is_not_shown(tmp_path: Path):
    one = SimpleNamespace(folder=tmp_path, fingerprints={"model": "m"})
    swept = {"relative": np.ones(1), "values": np.ones((1, 2)), "split_half": np.ones(1), "agreement": np.ones((1, 1))}
    save_arrays(tmp_path / "sweep.npz", swept, {"mode": "batch", "fingerprints": {"model": "m"}})
    assert _swept(one, "batch")["sweep"].relative == 1  # pyright: ignore[reportArgumentType]
    assert _swept(one, "paper") == {}  # pyright: ignore[reportArgumentType]
    one.fingerprints = {"model": "another"}
    assert _swept(one, "batch") == {}  # pyright: ignore[reportArgumentType]


def test_a_share_that_leaves_nothing_is_refused_before_the_first_training():
    _check_left(52, 0.9)
    with pytest.raises(RepsimError, match=r"--drops 0\.99 leaves fewer than two of the 39"):
        _check_left(52, 0.99)


class _Large:
    """A problem of more parameters than any machine holds the curvature of."""

    def num_params(self) -> int:
        return 40_000_000_000


def _needed(_: Any, kind: str, *, block: int = 32, **__: Any) -> Memory:
    gib = 2**30
    return Memory({"identity": 0, "logra": 2, "ekfac": 900}[kind] * gib, 0, block * gib // 4)


@pytest.mark.parametrize(("allowed", "advice"), [("4G", "--curvature logra"), ("1G", "identity"), ("1M", "--layers")])
def test_too_little_memory_is_told_with_a_flag_that_would_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], allowed: str, advice: str
):
    monkeypatch.setattr("repsim_jax.influence.costs.memory_of", _needed)
    options = {"curvature": "ekfac", "rank": None, "samples": 64, "of": "objective", "model": "m"}
    with pytest.raises(RepsimError, match=rf"needs about 900.00 GiB.*{advice}"):
        _check_memory(_Large(), options, parse_bytes(allowed))  # pyright: ignore[reportArgumentType]
    assert "40,000,000,000 parameters" in capsys.readouterr().err


def test_a_smaller_block_is_told_where_scores_alone_are_too_large(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("repsim_jax.influence.costs.memory_of", _needed)
    options = {"curvature": "logra", "rank": None, "samples": 64, "of": "objective", "model": "m"}
    _check_memory(_Large(), options, parse_bytes("3G"))  # pyright: ignore[reportArgumentType]
    assert "--block 8" in capsys.readouterr().err


def test_bytes_are_read_with_their_units():
    assert [parse_bytes(text) for text in ("5", "1K", "1.5M", "2GiB", "3 gb")] == [
        5, 1024, 3 * 2**19, 2**31, 3 * 2**30
    ]  # fmt: skip
    with pytest.raises(RepsimError, match="500M or 4G"):
        parse_bytes("many")


def _begun(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", ENTRY, "influence", *arguments]
    return subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_killed_score_goes_on_and_ends_with_the_same_bytes(data: Path, tmp_path: Path):
    fit = ("fit", str(data), *QUICK, "--curvature", "identity", "--out")
    assert _begun(tmp_path, *fit, "whole").wait(300) == 0
    assert _begun(tmp_path, "score", "whole").wait(300) == 0
    assert _begun(tmp_path, *fit, "killed").wait(300) == 0
    running = _begun(tmp_path, "score", "killed")
    parts = tmp_path / "killed" / "shards"
    deadline = time.monotonic() + 240
    while not list(parts.rglob("*-own-*.npz")) and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert list(parts.rglob("*-own-*.npz"))
    assert not (tmp_path / "killed" / "scores.csv").exists()
    assert _begun(tmp_path, "score", "killed").wait(300) == 0
    for name in ("scores.csv", "scores.npz", "curvature.npz"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_a_search_among_stored_features_answers_as_all_pairs_do(data: Path, tmp_path: Path):
    folder = tmp_path / "run"
    fit = ("fit", str(data), *QUICK, "--curvature", "logra", "--rank", "4", "--out", str(folder))
    assert run(*fit).exit_code == 0
    tables = {}
    for way in ("pairs", "exact", "inverted"):
        done = run("query", str(folder), "--rows", "3,7", "--top", "4", "--search", way, "--json")
        if way == "inverted" and "faiss" in done.stderr:
            continue
        assert done.exit_code == 0, done.output
        tables[way] = json.loads(done.stdout)
    for found in tables.values():
        assert [found[name] for name in ("query", "side", "rank", "id")] == [
            tables["pairs"][name] for name in ("query", "side", "rank", "id")
        ]
        np.testing.assert_allclose(found["influence"], tables["pairs"]["influence"], rtol=2e-3, atol=1e-7)
    refused = run("query", str(folder), "--rows", "3,7", "--search", "exact", "--measurement", "distance")
    assert refused.exit_code == 2
    assert "--measurement stability" in " ".join(refused.stderr.split())


@pytest.mark.slow
def test_a_curve_of_what_selections_cost_goes_on_and_is_drawn(data: Path, tmp_path: Path):
    folder = tmp_path / "run"
    assert run("fit", str(data), *QUICK, "--curvature", "identity", "--out", str(folder)).exit_code == 0
    assert run("score", str(folder)).exit_code == 0
    np.save(tmp_path / "labels.npy", np.arange(N + 1) % 2)
    given = ("select", str(folder), "--curve", "--drops", "0.5", "--methods", "random,influence", "--steps", "2")
    plain = run(*given, "--seeds", "1", "--json")
    assert plain.exit_code == 0, plain.output
    assert "views" in json.loads(plain.stdout)["what"]
    probed = run(*given, "--seeds", "2", "--labels", str(tmp_path / "labels.npy"))
    assert probed.exit_code == 0, probed.output
    assert "accuracy of a linear probe" in probed.stdout
    rows = (folder / "pruning.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * (1 + 3)
    assert run("report", str(folder)).exit_code == 0
    assert "Score over the share that was dropped" in (folder / "report" / "influence.html").read_text()
    refused = run("select", str(folder), "--curve", "--drops", "2")
    assert refused.exit_code == 2
