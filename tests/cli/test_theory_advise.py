"""``repsim theory advise``: from examples and labels of any kind to a verdict, a page and a document."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from repsim_jax.cli import app
from repsim_jax.cli.theory_advise import _labels, _opened

X = np.random.default_rng(0).normal(size=(60, 6))
LABELS = np.arange(60) % 3
QUICK = ("--train", "40", "--test", "20", "--seeds", "3", "--steps", "5", "--widths", "8", "--components", "3")


def run(*arguments: str):
    return CliRunner().invoke(app, ["theory", "advise", *arguments])


@pytest.mark.slow
def test_advice_becomes_a_page_a_document_and_pictures(tmp_path: Path):
    np.savez(tmp_path / "x.npz", x=X + 3 * LABELS[:, None], kind=LABELS, other=X + 0.1)
    done = run(
        "--data", str(tmp_path / "x.npz"), "--column", "x", "--labels", "kind", "--views", str(tmp_path / "x.npz"),
        "--views-column", "other", *QUICK, "--out", str(tmp_path / "out"), "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "out" / "advice.json").read_text())
    assert document["schema"] == "repsim.theory.advice/1"
    assert (document["metric"], document["num_train"], document["num_test"]) == ("probe", 40, 20)
    assert document["settings"]["views"] == "given, one of each example"
    assert document["reason"] in (tmp_path / "out" / "advice.html").read_text()
    assert document["provenance"]["data"] == "x.npz"
    shown = run("--data", str(tmp_path / "x.npz"), "--column", "x", *QUICK, "--out", str(tmp_path / "again"))
    assert shown.exit_code == 0, shown.output
    assert "retrieval@1" in shown.stdout
    assert "ridge" not in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--widths", "a"), "--widths takes whole numbers"),
        (("--widths", "1"), "whole numbers >= 2"),
        (("--components", "2000"), "fewer components than random features"),
        (("--margin", "0"), "margin > 0"),
        (("--view-noise", "-1"), "view_noise > 0"),
        (("--data", "none.npy"), "no such file"),
        (("--labels", "none.txt"), "no .txt or .npy file of labels"),
    ],
)
def test_what_cannot_be_advised_on_is_refused(tmp_path: Path, arguments: tuple[str, ...], message: str):
    done = run(*arguments, "--out", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_views_and_labels_of_other_examples_are_refused(tmp_path: Path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "short.npy", X[:50])
    np.save(tmp_path / "labels.npy", LABELS[:50])
    for name, message in (("--views", "one view of each example"), ("--labels", "one class for each example")):
        file = tmp_path / ("short.npy" if name == "--views" else "labels.npy")
        done = run("--data", str(tmp_path / "x.npy"), name, str(file), "--out", str(tmp_path / "out"))
        assert done.exit_code == 2
        assert message in " ".join(done.stderr.split())


def test_labels_come_from_columns_files_folders_and_the_data_themselves(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    from PIL import Image
    from pyarrow import parquet

    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", x=X, kind=LABELS)
    np.save(tmp_path / "kind.npy", LABELS)
    (tmp_path / "kind.txt").write_text("\n".join(map(str, LABELS)))
    parquet.write_table(pyarrow.table({"x": X.tolist(), "kind": LABELS}), tmp_path / "x.parquet")
    for place in ("cat/1.png", "cat/2.png", "dog/1.png"):
        (tmp_path / "images" / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / "images" / place)

    def found(spec: str | None, data: str, column: str | None = None):
        path = data if data == "digits" else str(tmp_path / data)
        return _labels(spec, path, _opened(path, column))

    for spec, data, column in (
        ("kind", "x.npz", "x"), ("kind", "x.parquet", "x"), (str(tmp_path / "kind.npy"), "x.npy", None)
    ):  # fmt: skip
        np.testing.assert_array_equal(found(spec, data, column), LABELS)
    assert found(str(tmp_path / "kind.txt"), "x.npy").tolist() == [str(one) for one in LABELS]
    assert found("folder", "images").tolist() == ["cat", "cat", "dog"]
    assert found(None, "x.npy") is None
    assert found("none", "digits") is None
    assert len(found(None, "digits")) == 1797


@pytest.mark.parametrize("data", ["x.npz", "x.parquet"])
def test_a_column_of_labels_that_is_not_there_names_those_that_are(tmp_path: Path, data: str):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    np.savez(tmp_path / "x.npz", x=X, kind=LABELS)
    parquet.write_table(pyarrow.table({"x": X.tolist(), "kind": LABELS}), tmp_path / "x.parquet")
    done = run("--data", str(tmp_path / data), "--column", "x", "--labels", "kin", "--out", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert "Did you mean 'kind'" in " ".join(done.stderr.split())


def test_labels_that_are_objects_or_texts_of_no_use_are_refused(tmp_path: Path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "bad.npy", np.array([{}] * 60, dtype=object), allow_pickle=True)
    (tmp_path / "t.txt").write_text("one\ntwo")
    for arguments, message in (
        (("--data", str(tmp_path / "x.npy"), "--labels", str(tmp_path / "bad.npy")), "no labels that can be read"),
        (("--data", str(tmp_path / "t.txt")), "holds text"),
    ):
        done = run(*arguments, "--out", str(tmp_path / "out"))
        assert done.exit_code == 2
        assert message in " ".join(done.stderr.split())
