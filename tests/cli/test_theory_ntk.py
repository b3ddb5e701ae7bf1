"""``repsim theory ntk``: from a model and data to a kernel on the disk, a page and a document."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from repsim_jax.cli import app
from repsim_jax.cli.theory_ntk import _duration
from repsim_jax.kernels import kernel_alignment, ntk

MODELS = """
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

W = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)


def apply(params, x):
    return jnp.tanh(x @ params["v"]) @ params["w"]


def function():
    return apply, {"v": W, "w": W[:3]}


def module():
    return nnx.Linear(5, 3, rngs=nnx.Rngs(0))


class Prepared:
    model = function()

    @staticmethod
    def prepare(raw, ids):
        from repsim_jax.data import Batch

        return Batch(tuple(ids), np.stack([np.asarray(one, np.float32) / 2 for one in raw]))


class Several(Prepared):
    @staticmethod
    def prepare(raw, ids):
        from repsim_jax.data import Batch

        return Batch(tuple(ids), {"x": np.stack(raw)})


def plain():
    return lambda params, x: np.asarray(x) @ params, W


def names():
    return "model.onnx"
"""
X = np.random.default_rng(1).standard_normal((12, 5)).astype(np.float32)
X[11] = X[4]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "ntk_models.py").write_text(MODELS)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", np.asarray(["cat", "dog", "cat"] * 4))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str):
    return CliRunner().invoke(app, ["theory", "ntk", *arguments])


def test_a_kernel_becomes_a_file_a_page_a_document_and_a_picture(here: Path):
    done = run("ntk_models:function", "--data", "x.npy", "--labels", "y.npy", "--out", "out", "--block", "5", "--json")
    assert done.exit_code == 0, done.output
    import ntk_models

    kernel = np.load(here / "out" / "kernel.npy")
    np.testing.assert_allclose(kernel, ntk(*ntk_models.function(), X), rtol=1e-5, atol=1e-5)
    document = json.loads(done.stdout)
    assert document == json.loads((here / "out" / "ntk.json").read_text())
    assert document["schema"] == "repsim.theory.ntk/1"
    values = np.linalg.eigvalsh(kernel.astype(np.float64))[::-1]
    np.testing.assert_allclose(document["eigenvalues"], values, atol=1e-5)
    np.testing.assert_allclose(document["trace"], np.trace(kernel), rtol=1e-6)
    assert document["first_repeated_pairs"] == [["4", "11"]]
    assert document["definiteness"]["verdict"] == "positive semidefinite up to rounding"
    assert 0 < document["label_alignment"] < 1
    page = (here / "out" / "ntk.html").read_text()
    assert "4 = 11" in page
    assert "ntk_models:function" in page
    assert (here / "out" / "figures" / "spectrum.png").stat().st_size > 1000
    assert "3 strips of 5 rows" in done.stderr
    assert "floating-point operations" in done.stderr


def test_the_summary_says_what_was_found_and_a_second_call_computes_nothing_anew(here: Path):
    arguments = ("ntk_models:Prepared", "--data", "x.npy", "--outputs", "sum", "--out", "out")
    first = run(*arguments)
    assert first.exit_code == 0, first.output
    kept = (here / "out" / "kernel.npy").stat().st_mtime_ns
    again = run(*arguments)
    assert again.stdout == first.stdout
    assert (here / "out" / "kernel.npy").stat().st_mtime_ns == kept
    said = " ".join(first.stdout.split())
    for part in (
        "12 x 12, float32",
        "effective rank",
        "make it singular: 4 = 11",
        "Solve with a ridge",
        "Page:",
    ):
        assert part in said
    assert "label alignment" not in said


def test_parameters_and_an_output_are_chosen(here: Path):
    done = run("ntk_models:module", "--data", "x.npy", "--layers-matching", "kernel", "--outputs", "1", "--out", "out")
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(np.load(here / "out" / "kernel.npy"), X @ X.T, rtol=1e-5, atol=1e-5)


def test_digits_bring_their_labels(here: Path):
    (here / "wide.py").write_text("from flax import nnx\ndef make():\n    return nnx.Linear(64, 2, rngs=nnx.Rngs(0))\n")
    done = run("wide:make", "--data", "digits", "--limit", "20", "--out", "out", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["label_alignment"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ntk_models:function", "--out", "kernel.npy"), "--out is a folder"),
        (("ntk_models:function", "--memory", "much"), "--memory takes bytes"),
        (("ntk_models:function", "--memory", "100"), "do not hold the tangents"),
        (("ntk_models:function", "--outputs", "full"), "all pairs of outputs make a file"),
        (("ntk_models:function", "--outputs", "first"), "no outputs is called 'first'"),
        (("ntk_models:function", "--outputs", "7"), "none of the 3 outputs"),
        (("ntk_models:function", "--layers-matching", "head"), "no parameter's path matches 'head'. Paths are: v, w."),
        (("ntk_models:plain",), "your model raised TracerArrayConversionError"),
        (("wide:make",), "your model raised TypeError"),
        (("ntk_models:function", "--labels", "none.npy"), "holds no array of labels"),
        (("ntk_models:function", "--labels", "x.npy"), "one label for each of 12 examples"),
        (("ntk_models:function", "--labels", "one.npy"), "one label for each of 12 examples, got shape ()"),
        (("ntk_models:function", "--labels", "long.npy"), "one label for each of 12 examples, got shape (13,)"),
        (("ntk_models:function", "--labels", "long.npy", "--limit", "9"), "each of 9 examples, got shape (13,)"),
        (("ntk_models:function", "--labels", "real.npy"), "takes classes, got numbers that are not whole"),
        (("ntk_models:function", "--labels", "many.npy"), "got 12 classes of 12 examples. Leave --labels out"),
        (("ntk_models:function", "--labels", "same.npy"), "got 1 classes of 12 examples"),
        (("ntk_models:function", "--labels", "class"), "a column where --data is a .parquet"),
        (("ntk_models:names",), "ONNX files and PyTorch modules are not"),
        (("ntk_models:Several",), "takes several arrays"),
        (("ntk_models:nothing",), "no function of ntk_models is called 'nothing'"),
        (("ntk_models:function", "--block", "0"), "positive integer block"),
    ],
)
def test_what_cannot_be_computed_is_refused(here: Path, arguments: tuple[str, ...], message: str):
    (here / "wide.py").write_text("from flax import nnx\ndef make():\n    return nnx.Linear(64, 2, rngs=nnx.Rngs(0))\n")
    bad = {"one": 3, "long": [0, 1] * 6 + [0], "real": X[:, 0], "many": np.arange(12), "same": np.ones(12)}
    for name, labels in bad.items():
        np.save(here / f"{name}.npy", labels)
    done = run(*arguments, "--data", "x.npy")
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_labels_of_all_examples_serve_the_first_of_them(here: Path):
    done = run("ntk_models:function", "--data", "x.npy", "--labels", "y.npy", "--limit", "9", "--out", "out", "--json")
    assert done.exit_code == 0, done.output
    kernel, targets = np.load(here / "out" / "kernel.npy"), np.eye(2, dtype=np.float32)[[0, 1, 0] * 3]
    np.testing.assert_allclose(json.loads(done.stdout)["label_alignment"], kernel_alignment(kernel, targets), rtol=1e-4)


def test_labels_come_from_a_column_of_the_data(here: Path):
    table = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(table.table({"x": list(X.tolist()), "class": ["a", "b"] * 6}), here / "x.parquet")
    done = run("ntk_models:function", "--data", "x.parquet", "--column", "x", "--labels", "class", "--json")
    assert done.exit_code == 0, done.output
    kernel, targets = np.load(here / "repsim-ntk" / "kernel.npy"), np.eye(2, dtype=np.float32)[[0, 1] * 6]
    np.testing.assert_allclose(json.loads(done.stdout)["label_alignment"], kernel_alignment(kernel, targets), rtol=1e-4)
    missing = run("ntk_models:function", "--data", "x.parquet", "--column", "x", "--labels", "kind")
    assert "no column is called 'kind'" in " ".join(missing.stderr.split())


def test_durations_are_told_in_their_unit():
    assert [_duration(seconds) for seconds in (3, 600, 36000)] == ["3 s", "10 minutes", "10.0 hours"]
