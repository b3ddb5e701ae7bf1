"""``repsim contrasim fit`` and ``score``, and ``repsim compare --learned``, from array files to verdicts."""

import json
from pathlib import Path

import numpy as np
import pytest
from comparisons import HOSTILE
from contrasim_commands import FILES, NETWORKS, QUICK, run

from repsim_jax.activations import StoreWriter
from repsim_jax.similarity.contrasim import Options, Training, load


def policy(rule: str) -> str:
    Path("policy.toml").write_text(f'[[rule]]\nmeasure = "contrasim"\n{rule}\n')
    return "policy.toml"


def test_a_fit_writes_the_measure_its_diagnosis_and_a_page(here: Path):
    said = Path("said.txt").read_text()
    assert "ContraSim fitted on net_0, net_1, net_2" in said
    assert "net_3 (held out)" in said
    assert "Verdict" in said
    assert {one.name for one in Path("measure").iterdir()} == {
        "diagnosis.json", "figures", "fit.html", "manifest.json", "measure.safetensors"
    }  # fmt: skip
    document = json.loads(Path("measure/diagnosis.json").read_text())
    measure = load("measure")
    assert measure.diagnosis is not None
    assert document["schema"] == "repsim.contrasim.fit/1"
    assert document["diagnosis"]["seen"]["share"] == measure.diagnosis.seen.share
    assert len(document["losses"]) == 20
    assert measure.sources["net_3"].held_out
    page = Path("measure/fit.html").read_text()
    assert measure.diagnosis.verdict[0].split(":")[0] in page
    assert sorted(one.name for one in Path("measure/figures").glob("*.svg")) == [
        "accuracies.svg", "calibration.svg", "losses.svg"
    ]  # fmt: skip


def test_a_score_leads_with_the_learned_measure(here: Path):
    done = run("contrasim", "score", "measure", "net_0.npz", "net_1.npz", "--seen", "drop", "--measures", "procrustes")
    assert done.exit_code == 0, done.output
    assert "Nearest layers by ContraSim (learned)" in done.stdout
    assert "It was trained on none of them." in " ".join(done.stdout.split())
    assert "ContraSim (learned)" in Path("repsim-report/report.html").read_text()


def test_two_versions_are_told_apart_example_by_example(here: Path):
    """A new version that garbles three images: these are the ones that the report names."""
    side = NETWORKS["net_0"]
    ids = np.asarray(side.ids)
    done = run("contrasim", "score", "measure", "net_0.npz", "net_0=net_0.npz", "--seen", "drop", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    left = [one["id"] for one in document["by_example"]["changed_most"]]
    assert document["by_example"]["changed_most"][0]["mean"] == pytest.approx(1, abs=1e-5)
    garbled = left[2:5]
    layers = {name: side.read(name).copy() for name in side.names}
    for layer in layers.values():
        layer[np.isin(ids, garbled)] *= -1
    np.savez("new.npz", ids=ids, **layers)
    done = run("contrasim", "score", "measure", "net_0.npz", "net_0=new.npz", "--seen", "drop", "--force")
    assert done.exit_code == 0, done.output
    told = done.stdout.split("see most differently")[1]
    assert all(one in told.split("(1.00)")[0] for one in garbled)
    assert Path("repsim-report/examples.csv").read_text().count("\n") == 14


def test_a_score_as_json_has_what_a_reader_must_know(here: Path):
    done = run("contrasim", "score", "measure", "net_0.npz", "net_3.npz", "--seen", "drop", "--json")
    document = json.loads(done.stdout)
    assert [one["name"] for one in document["measures"]][:2] == ["contrasim", "linear_cka_unbiased"]
    assert document["num_examples"] == 13
    assert document["settings"]["contrasim"]["chance level of scores"] is not None
    assert any("tested but not trained on net_3" in note for note in document["notes"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("net_0.npz", "net_1.npz"), "was trained on 35 of these 64 examples"),
        (("net_0.npz", "net_4.npz", "--seen", "drop"), "not fitted for 'net_4', which is none of its sources"),
        (("net_0.npz", "net_1.npz", "--seen", "dorp"), "Did you mean 'drop'"),
        (("net_0.npz", "net_1.npz", "--seen", "drop", "--measures", "linear_kca"), "Did you mean 'linear_cka'"),
        (("other=net_0.npz", "net_1.npz", "--seen", "drop"), "not fitted for 'other'"),
    ],
)
def test_what_would_flatter_or_mean_nothing_is_refused(here: Path, arguments: tuple[str, ...], message: str):
    done = run("contrasim", "score", "measure", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not Path("repsim-report").exists()


def test_a_stranger_is_scored_when_told_to(here: Path):
    done = run(
        "contrasim", "score", "measure", "net_0.npz", "net_4.npz", "--seen", "drop", "--allow-unfitted", "--json"
    )
    assert any("has not seen net_4" in note for note in json.loads(done.stdout)["notes"])
    named = run(
        "contrasim", "score", "measure", "net_0.npz", "net_1=net_4.npz", "--seen", "drop", "--out", "o", "--json"
    )
    assert json.loads(named.stdout)["name_b"] == "net_1"


def test_a_folder_without_a_measure_is_refused(here: Path):
    done = run("contrasim", "score", "none", "net_0.npz", "net_1.npz")
    assert done.exit_code == 2
    assert "none: no such folder" in done.stderr


def test_a_gate_judges_a_learned_measure(here: Path):
    command = ("compare", "net_0.npz", "net_1.npz", "--measures", "rsa", "--learned", "measure", "--seen", "drop")
    held = run(*command, "--gate", policy("min = 0.42"))
    assert held.exit_code == 0, held.output
    assert "Gate PASSED: 4 of 4 checks hold" in held.stdout
    assert "Nearest layers by RSA" in held.stdout
    failed = run(*command, "--gate", policy("max = -0.9"))
    assert failed.exit_code == 1
    too_few = run(*command, "--gate", policy("min = 0.42\n[policy]\nmin_examples = 14"))
    assert too_few.exit_code == 1
    assert "13 examples, wanted >= 14" in too_few.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "it judges contrasim, a learned measure: say which one by --learned FOLDER"),
        (("--learned", "measure"), "was trained on 35 of these 64 examples"),
        (("--learned", "none"), "no such folder"),
        (("--learned", "blind", "--seen", "keep"), "nothing can rest on it: it was fitted without a diagnosis"),
    ],
)
def test_a_gate_that_cannot_rest_on_its_learned_measure_exits_2(here: Path, arguments: tuple[str, ...], message: str):
    if "blind" in arguments:
        assert run("contrasim", "fit", *FILES, *QUICK, "--test-share", "0", "--out", "blind").exit_code == 0
        assert "No diagnosis was made" in Path("blind/fit.html").read_text()
    done = run("compare", "net_0.npz", "net_1.npz", "--gate", policy("min = -0.9"), *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "PASSED" not in done.stdout


def test_a_gate_asks_for_more_than_unrelated_rows_score(here: Path):
    """A threshold below what permuted rows get would pass noise under the name of a fitted source."""
    found = load("measure").diagnosis
    assert found is not None
    noise = {name: np.random.default_rng(i).normal(size=(64, 12)) for i, name in enumerate(NETWORKS["net_1"].names)}
    Path("noise").mkdir()
    np.savez("noise/net_1.npz", ids=np.asarray(NETWORKS["net_1"].ids), **noise)
    both = ("compare", "net_0.npz", "noise/net_1.npz", "--learned", "measure", "--seen", "drop", "--gate")
    below = run(*both, policy(f"min = {found.chance_high - 0.01}"))
    assert below.exit_code == 2
    assert "says nothing, since this contrasim gives unrelated rows up to" in " ".join(below.stderr.split())
    above = run(*both, policy(f"min = {(1 + found.chance_high) / 2}"), "--force")
    assert above.exit_code == 1


@pytest.mark.parametrize("arguments", [("--measures", "contrasim"), ("--seen", "drop"), ("--allow-unfitted",)])
def test_options_of_a_learned_measure_need_one(here: Path, arguments: tuple[str, ...]):
    done = run("compare", "net_0.npz", "net_1.npz", *arguments)
    assert done.exit_code == 2
    assert "--learned FOLDER" in done.stderr


def test_a_chosen_layer_of_a_store_is_still_known_by_its_weights(here: Path):
    for name, weights in (("net_0", "a" * 64), ("net_1", "b" * 64), ("renamed", "b" * 64), ("changed/net_1", "c" * 64)):
        side = NETWORKS["net_0" if name == "net_0" else "net_1"]
        Path(f"{name}.store").parent.mkdir(exist_ok=True)
        with StoreWriter(f"{name}.store", metadata={"weights_sha256": weights}) as writer:
            writer.append(side.ids or (), {layer: side.read(layer) for layer in side.names})
            writer.finish()
    assert run("contrasim", "fit", "net_0.store", "net_1.store", *QUICK, "--out", "two").exit_code == 0
    score = ("contrasim", "score", "two", "net_0.store")
    others = ("--layers-b", "layer_0", "--seen", "drop", "--measures", "rsa", "--force")
    assert run(*score, "renamed.store", *others).exit_code == 0
    refused = run(*score, "changed/net_1.store", *others)
    assert "which has the name of a fitted source but other weights" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("net_0.npz",), "learns from two sources or more, got 1 source"),
        (("net_0.npz", "none.npz"), "none.npz"),
        (("net_0.npz", "net_0.npz"), "two sources are called 'net_0'. Give each a name of its own: NAME=PATH"),
        ((*FILES, "--positives", "layers"), "Did you mean 'layer'"),
        ((*FILES, "--faithful", "--input", "relative"), "--faithful is the paper's raw input"),
        ((*FILES, "--faithful", "--anchors", "8"), "--anchors is for relative input"),
        ((*FILES, "--faithful", "--metric", "plain"), "--metric is for relative input"),
        ((*FILES, "--metric", "white"), "Did you mean 'whitened'"),
        ((*FILES, "--negatives", "hard"), "--negatives hard is for --positives example"),
        ((*FILES, "--held-out", "net_3", "--no-held-out"), "contradict each other"),
        ((*FILES, "--held-out", "net_9"), "net_9"),
        ((*FILES, "--layers", "leyer_0"), "Did you mean 'layer_0'"),
        ((*FILES, "--class", "layer_0"), "--class takes 'GLOB=CLASS'"),
        ((*FILES, "--class", "net_0:*=all", "--class", "leyer=x"), "no layer of these sources is called 'leyer'"),
        ((*FILES, "--seed", str(2**70)), "must fit into 64 bits"),
        ((*FILES, "--out", "net_4.npz"), "this is a file"),
        ((*FILES, "--out", "."), "this folder holds other things"),
    ],
)
def test_a_fit_that_cannot_be_is_refused_with_advice(here: Path, arguments: tuple[str, ...], message: str):
    before = sorted(here.iterdir())
    done = run("contrasim", "fit", *(("--out", "new") if "--out" not in arguments else ()), *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(here.iterdir()) == before


def test_an_earlier_fit_is_replaced_and_a_store_never(here: Path):
    arguments = ("contrasim", "fit", *FILES[:2], *QUICK)
    assert run(*arguments, "--out", "again").exit_code == 0
    assert run(*arguments, "--out", "again", "--no-held-out").exit_code == 0
    Path("again/thesis.tex").write_text("mine")
    assert run(*arguments, "--out", "again").exit_code == 2
    assert run(*arguments, "--out", "again", "--force").exit_code == 0
    assert Path("again/thesis.tex").read_text() == "mine"
    with StoreWriter("a.store", metadata={}) as writer:
        writer.append(["a", "b"], {"x": np.eye(2, dtype=np.float32)})
        writer.finish()
    refused = run(*arguments, "--out", "a.store", "--force")
    assert refused.exit_code == 2
    assert "of something else, such as a store" in refused.stderr


def test_layers_and_classes_are_chosen_by_globs(here: Path):
    classes = ("--class", "net_0:layer_[01]=early", "--class", "net_1:layer_0=early", "--class", "layer_2=late")
    done = run("contrasim", "fit", *FILES[:2], *QUICK, "--test-share", "0", *classes, "--out", "classes")
    assert done.exit_code == 0, done.output
    sources = load("classes").sources
    assert set(sources["net_0"].layers) == {"layer_0", "layer_1", "layer_2"}
    assert set(sources["net_1"].layers) == {"layer_0", "layer_2"}
    one = ("--positives", "example", "--negatives", "hard", "--layers", "layer_1", "--temperature", "0.1")
    done = run("contrasim", "fit", *FILES[:2], *QUICK, *one, "--out", "one")
    assert done.exit_code == 0, done.output
    measure = load("one")
    assert measure.options == Options(positives="example", num_anchors=16)
    assert measure.sources["net_0"].layers == ("layer_1",)
    assert measure.settings["temperature"] == 0.1


def test_faithful_is_the_papers(here: Path):
    quick = ("--steps", "5", "--batch-size", "32", "--test-share", "0")
    assert run("contrasim", "fit", *FILES[:2], "--faithful", *quick, "--out", "faithful").exit_code == 0
    measure = load("faithful")
    assert (measure.options.input, measure.anchor_ids) == ("raw", ())
    assert (measure.settings["temperature"], measure.settings["coupled"]) == (0.07, True)


def test_no_hostile_name_gets_through(here: Path):
    names = [name for name in HOSTILE if not set("\x00\ud800/") & set(name) and len(name) < 100]
    sides = [NETWORKS[name] for name in ("net_0", "net_1")]
    for path, side in zip(("a.store", "b.store"), sides, strict=True):
        with StoreWriter(path, metadata={}) as writer:
            arrays = {name: side.read(f"layer_{k % 3}") for k, name in enumerate(names)}
            writer.append(side.ids or (), arrays)
            writer.finish()
    sources = (f"{HOSTILE[2]}=a.store", f"{HOSTILE[11].replace(chr(0), '')}=b.store")
    done = run(
        "contrasim", "fit", *sources, "--steps", "3", "--batch-size", "32", "--out", "hostile", "--no-sensitivity"
    )
    assert done.exit_code == 0, done.output
    assert not set(done.output) & set("\x1b\x07\x9b")
    page = Path("hostile/fit.html").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert not set(page) & set("\x1b\x07\x9b")
    drawn = [path.read_text() for path in Path("hostile/figures").glob("*.svg")]
    assert drawn
    assert not any("<script" in svg or "onerror=" in svg.replace("&quot;", '"').split("<image")[0] for svg in drawn)


@pytest.mark.parametrize("arguments", [("contrasim", "fit"), ("contrasim", "score"), ("contrasim", "nothing")])
def test_wrong_usage_is_an_error(arguments: tuple[str, ...]):
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize("command", ["fit", "score"])
def test_the_help_of_a_command_shows_an_example(command: str):
    assert f"repsim contrasim {command} " in run("contrasim", command, "--help").stdout


def test_the_help_of_fit_tells_the_defaults():
    text = run("contrasim", "fit", "--help").stdout.partition("Options:")[2]
    defaults = {**vars(Options()), **vars(Training())}
    told = {
        "positives": "positives", "input": "input", "objective": "objective", "similarity": "similarity",
        "negatives": "negatives", "steps": "num_steps", "batch-size": "batch_size", "learning-rate": "learning_rate",
        "temperature": "temperature", "anchors": "num_anchors",
    }  # fmt: skip
    for option, name in told.items():
        described = text.partition(f"--{option} ")[2].partition("  --")[0]
        assert f"[{defaults[name]}]" in described, option
