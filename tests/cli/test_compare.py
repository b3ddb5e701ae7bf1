"""``repsim compare`` from files and models to a report, a document and an exit status."""

import csv
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import HOSTILE
from typer.testing import CliRunner

from repsim_jax import similarity
from repsim_jax.activations import StoreWriter, open_store
from repsim_jax.cli import app

LAYERS = ("block_0", "block_1", "head")


def layers_of(seed: int, rows: int = 60) -> dict[str, np.ndarray]:
    shared = np.random.default_rng(0).normal(size=(rows, 6))
    draws = np.random.default_rng(seed)
    return {
        name: (shared @ draws.normal(size=(6, 8)) + depth * draws.normal(size=(rows, 8))).astype(np.float32)
        for depth, name in enumerate(LAYERS)
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("old.npz", **layers_of(1))
    np.savez("new.npz", **layers_of(2))
    return tmp_path


def compare(*arguments: str, measures: str = "linear_cka"):
    return CliRunner().invoke(app, ["compare", *arguments, "--measures", measures])


def policy(here: Path, rule: str, measure: str = "linear_cka") -> str:
    path = here / "policy.toml"
    path.write_text(f'[[rule]]\nmeasure = "{measure}"\n{rule}\n')
    return str(path)


def written_store(path: Path, ids: list[str], layers: dict[str, np.ndarray]) -> None:
    with StoreWriter(path, metadata={"model": "made up", "layout": {"*": "cls"}}) as writer:
        writer.append(ids, layers)
        writer.finish()


def test_two_array_files_give_a_report_and_a_summary(here: Path):
    done = compare("old.npz", "new.npz", "--csv", "more/values.csv", "--title", "Old and new")
    assert done.exit_code == 0, done.output
    assert "How alike are old and new?" in done.stdout
    assert "Report: repsim-report/report.html" in done.stdout
    assert "Old and new" in Path("repsim-report/report.html").read_text()
    assert sorted(one.name for one in Path("repsim-report").iterdir()) == [
        "comparison.json", "figures", "report.html", "table.csv"
    ]  # fmt: skip
    rows = list(csv.DictReader(Path("more/values.csv").read_text().splitlines()))
    assert len(rows) == 9
    expected = similarity.linear_cka(layers_of(1)["block_1"], layers_of(2)["head"])
    (row,) = (row for row in rows if (row["layer_a"], row["layer_b"]) == ("block_1", "head"))
    assert float(row["value"]) == pytest.approx(float(expected), abs=1e-6)


def test_json_is_all_that_stands_on_stdout(here: Path):
    done = compare(
        "old.npz", "new.npz", "--json", "--layers-a", "block_*", "--layers-b", "head", "--layers-b", "block_0"
    )
    document = json.loads(done.stdout)
    assert document["schema"] == "repsim.compare/1"
    assert document["report"] == "repsim-report/report.html"
    assert [one["name"] for one in document["layers_a"]] == ["block_0", "block_1"]
    assert [one["name"] for one in document["layers_b"]] == ["block_0", "head"]
    assert document["provenance"]["first"] == "old.npz"


def test_stores_are_matched_by_id(here: Path):
    ids, layers = [f"photo {k}" for k in range(60)], layers_of(1)
    written_store(here / "a.layers", ids, layers)
    order = np.random.default_rng(0).permutation(60)
    written_store(here / "b.layers", [ids[k] for k in order], {name: array[order] for name, array in layers.items()})
    document = json.loads(compare("a.layers", "b.layers", "--json").stdout)
    assert [layer["value"] for layer in document["measures"][0]["best"]] == pytest.approx([1, 1, 1], abs=1e-5)
    assert document["provenance"]["first, layout"] == '{"*": "cls"}'
    written_store(here / "c.layers", ["other", *ids[1:]], layers)
    done = compare("a.layers", "c.layers", "--force")
    assert done.exit_code == 2
    assert "photo 0" in done.stderr


def test_a_gate_that_holds_exits_0_and_one_that_does_not_exits_1(here: Path):
    held = compare("old.npz", "old.npz", "--gate", policy(here, "min = 0.999"))
    assert held.exit_code == 0, held.output
    assert "Gate PASSED: 4 of 4 checks hold" in held.stdout
    failed = compare("old.npz", "new.npz", "--force", "--gate", policy(here, "min = 0.999"))
    assert failed.exit_code == 1
    assert "rule 1: linear_cka of head and head is 0." in failed.stdout
    assert "Gate failed" in Path("repsim-report/report.html").read_text()
    document = json.loads(compare("old.npz", "new.npz", "--json", "--gate", policy(here, "min = 0.999")).stdout)
    assert (document["gate"]["passed"], document["gate"]["num_failed"]) == (False, 3)


def test_the_measures_of_the_policy_are_computed_too(here: Path):
    done = compare("old.npz", "old.npz", "--json", "--gate", policy(here, "min = 0.9", "procrustes"))
    assert [one["name"] for one in json.loads(done.stdout)["measures"]] == ["linear_cka", "procrustes"]
    assert done.exit_code == 0


@pytest.mark.parametrize("rule", ["", "min = 0", "min = nan", "mni = 0.5", "min = 0.5\nlayers = 'blokc_*'"])
def test_a_policy_that_shows_nothing_exits_2_and_never_0(here: Path, rule: str):
    assert compare("old.npz", "old.npz", "--gate", policy(here, rule)).exit_code == 2


def test_a_missing_policy_stops_before_anything_is_written(here: Path):
    before = sorted(here.rglob("*"))
    assert compare("old.npz", "old.npz", "--gate", "none.toml").exit_code == 2
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.npz", "new.npz"), "none.npz"),
        (("old.npz", "clip-vit-b16"), "--data"),
        (("old.npz", "new.npz", "--layers-a", "blokc_0"), "Did you mean 'block_0'"),
        (("old.npz", "new.npz", "--out", "old.npz"), "this is a file"),
        (("old.npz", "bad.pt"), "a .pt file can run code"),
        (("old.npz", "notes.csv"), "must be one of .npy, .npz, .safetensors, .parquet"),
        (("old.npz", "bert"), "Name it so: hf:bert"),
        (("old.npz", "new.npz", "--limit", "0"), "--limit: for models only"),
        (("old.npz", "new.npz", "--data", "x", "--layout", "cls", "--skip-bad"), "--data, --layout, --skip-bad: for"),
        (("old.npz", "new.npz", "--csv", "./new.npz"), "would replace an input"),
        (("old.npz", "new.npz", "--csv", "bert"), "the table needs a file"),
    ],
)
def test_bad_input_is_refused_with_advice_and_leaves_the_disk_as_it_was(here: Path, arguments, message: str):
    Path("bad.pt").write_bytes(b"\x80\x04.")
    Path("notes.csv").write_text("a,b\n")
    Path("bert").mkdir()
    Path("bert/config.json").write_text("{}")
    before = sorted(here.rglob("*"))
    done = compare(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("typed", ["linear_kca", "Linear_CKA"])
def test_an_unknown_measure_is_refused_with_the_nearest(here: Path, typed: str):
    done = compare("old.npz", "new.npz", measures=typed)
    assert done.exit_code == 2
    assert "Did you mean 'linear_cka'" in done.stderr


def test_a_layer_whose_name_looks_like_a_glob_can_be_chosen(here: Path):
    np.savez("odd.npz", **{"block[0]": layers_of(1)["head"], "other": layers_of(1)["block_0"]})
    done = compare("old.npz", "odd.npz", "--layers-b", "block[0]")
    assert done.exit_code == 0, done.output
    chosen = json.loads(Path("repsim-report/comparison.json").read_text())["layers_b"]
    assert [one["name"] for one in chosen] == ["block[0]"]


def test_nothing_of_others_is_overwritten_without_force(here: Path):
    Path("out").mkdir()
    Path("out/thesis.tex").write_text("mine")
    assert compare("old.npz", "new.npz", "--out", "out").exit_code == 2
    assert compare("old.npz", "new.npz", "--out", "out", "--force").exit_code == 0
    assert Path("out/thesis.tex").read_text() == "mine"


def test_the_same_comparison_again_replaces_its_report_and_another_does_not(here: Path):
    assert compare("old.npz", "new.npz").exit_code == 0
    assert compare("old.npz", "new.npz").exit_code == 0
    other = compare("new.npz", "old.npz")
    assert other.exit_code == 2
    assert "another comparison" in other.stderr
    assert compare("new.npz", "old.npz", "--force").exit_code == 0


def test_files_of_the_same_name_keep_their_folders_in_the_report(here: Path):
    for folder, seed in (("v1", 1), ("v2", 2)):
        Path(folder).mkdir()
        np.savez(f"{folder}/model.npz", **layers_of(seed))
    assert "How alike are v1/model.npz and v2/model.npz?" in compare("v1/model.npz", "v2/model.npz").stdout


def test_models_are_run_over_the_data_and_resumed(here: Path, monkeypatch):
    monkeypatch.syspath_prepend(here)
    Path("my_models.py").write_text(
        "import jax.numpy as jnp\n"
        "def apply(params, x):\n"
        "    h = jnp.tanh(x @ params['w'])\n"
        "    return {'hidden': h, 'out': jnp.tanh(h @ params['v'])}\n"
        "def make(scale=1.0):\n"
        "    w = scale * jnp.sin(jnp.arange(64 * 8.0).reshape(64, 8))\n"
        "    return apply, {'w': w, 'v': jnp.cos(jnp.arange(64.0).reshape(8, 8))}\n"
        "def other():\n"
        "    return make(0.1)\n"
    )
    x = np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32)
    np.save("x.npy", x)
    arguments = ("my_models:make", "my_models:other", "--data", "x.npy", "--out", "out", "--json")
    done = compare(*arguments)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert (document["name_a"], document["name_b"]) == ("my_models:make", "my_models:other")
    assert open_store("out/a.store").layers == ("hidden", "out")
    again = json.loads(compare(*arguments).stdout)
    assert again["measures"] == document["measures"]
    assert (
        compare("my_models:make", "my_models:other", "--data", "x.npy", "--limit", "20", "--out", "out").exit_code == 2
    )


def test_a_gate_never_judges_what_was_extracted_from_earlier_weights_or_data(here: Path, monkeypatch):
    monkeypatch.syspath_prepend(here)
    for name in ("before", "after"):
        Path(f"{name}_model.py").write_text(
            "import numpy as np\nseed = 0\n"
            "def make():\n"
            "    return (lambda w, x: {'hidden': x @ w}), np.random.default_rng(seed).normal(size=(8, 8))\n"
        )
    np.save("x.npy", layers_of(1)["head"])
    command = ("before_model:make", "after_model:make", "--data", "x.npy", "--out", "out")
    gate = ("--gate", policy(here, "min = 0.999"))
    assert compare(*command, *gate).exit_code == 0
    after: Any = importlib.import_module("after_model")
    after.seed = 1
    stale = compare(*command, *gate)
    assert stale.exit_code == 2
    assert "out/b.store: this store is finished, with weights_sha256" in stale.stderr
    after.seed = 0
    assert compare(*command, *gate).exit_code == 0
    np.save("x.npy", layers_of(2)["head"])
    stale = compare(*command, *gate)
    assert stale.exit_code == 2
    assert "out/a.store: this store is finished, with data_sha256" in stale.stderr


def test_no_hostile_name_gets_through(here: Path):
    array = layers_of(1)["block_0"].astype(np.float64)
    names = [name for name in HOSTILE if "\x00" not in name and "\ud800" not in name and "/" not in name]
    draws = np.random.default_rng(0)
    layers = {name: array + draws.normal(size=array.shape) for name in names}
    written_store(here / "a b'$(x)", [f"id {k}" for k in range(60)], layers)
    done = compare("a b'$(x)", "old.npz", "--title", HOSTILE[0])
    assert done.exit_code == 0, done.output
    assert not set(done.output) & set("\x1b\x07\x9b")
    assert "<script" not in Path("repsim-report/report.html").read_text()
