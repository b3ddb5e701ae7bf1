"""``repsim extract``, ``inspect`` and ``layers``: one clear line when all is well, and one when something is wrong."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from repsim_jax.activations import open_store
from repsim_jax.activations.extract import recorded
from repsim_jax.cli import app
from repsim_jax.cli.extract import parse_layout

typer_testing = pytest.importorskip("typer.testing")
RUN = typer_testing.CliRunner()

MODELS = """
import jax.numpy as jnp
import time

def network(w, x):
    hidden = jnp.tanh(x @ w)
    return {"hidden": hidden, "deep/tokens": jnp.stack([hidden, x], 1), "winner": hidden.argmax(1)}

def make():
    return network, jnp.eye(64)

def talkative():
    print("hello")
    return make()

def hostile():
    return (lambda w, x: {"\x1b[2J<b>" + "n" * 300: x}), ()

def nothing():
    return (lambda w, x: {}), ()

class Unprepared:
    model = make()
    @staticmethod
    def prepare(raw, ids):
        raise KeyError("token")

class Slow:
    model, layers, layout = make(), ("hidden",), {}
    @staticmethod
    def prepare(raw, ids):
        import numpy as np
        from repsim_jax.data import Batch
        time.sleep(0.05)
        return Batch(tuple(ids), np.stack(raw))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "cli_models.py").write_text(MODELS)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("cli_models", None)


def repsim(*arguments):
    return RUN.invoke(app, [str(one) for one in arguments])


def test_extract_then_inspect(here):
    done = repsim("extract", "cli_models:make", "--data", "x.npy", "--layout", "deep*=cls", "--out", "s")
    assert done.exit_code == 0, done.output
    assert "s written: 2 layers, 40 rows, float32" in done.output
    assert "passed over winner: it holds int32" in done.output
    store = open_store("s")
    np.testing.assert_allclose(store.read("hidden"), store.read("deep/tokens"), atol=1e-6)
    assert store.metadata["model"] == "cli_models:make"
    assert store.metadata["data"]["num_examples"] == 40

    seen = repsim("inspect", "s", "--verify")
    assert seen.exit_code == 0, seen.output
    assert "deep/tokens" in seen.output
    assert "every byte" in seen.output
    told = json.loads(repsim("inspect", "s", "--json").stdout)
    assert told["layers"][1] == {"layer": "deep/tokens", "width": "64", "layout": "cls", "shape": "(n, 2, 64)"}
    assert told["rows"] == 40


def test_the_same_command_again_changes_nothing(here):
    command = (
        "extract",
        "cli_models:make",
        "--data",
        "x.npy",
        "--layers",
        "hidden",
        "--out",
        "s",
        "--dtype",
        "bfloat16",
    )
    assert repsim(*command).exit_code == 0
    again = repsim(*command)
    assert again.exit_code == 0
    assert "s was complete already: 1 layers, 40 rows, bfloat16" in again.output


def test_layers_lists_shapes_and_the_policies_that_fit(here):
    seen = repsim("layers", "cli_models:make", "--data", "x.npy", "--json")
    assert seen.exit_code == 0, seen.output
    lines = {line["layer"]: line for line in json.loads(seen.stdout)}
    assert lines["hidden"] == {
        "default": "*", "layer": "hidden", "shape": "(n, 64)", "dtype": "float32", "layout policies": "none needed"
    }  # fmt: skip
    assert lines["deep/tokens"]["layout policies"] == "cls, token_mean, flatten, space_as_samples"
    assert lines["winner"]["default"] == ""
    assert "hidden" in repsim("layers", "cli_models:make", "--data", "x.npy").output


def test_what_a_model_prints_stays_out_of_the_json(here):
    seen = repsim("layers", "cli_models:talkative", "--data", "x.npy", "--json")
    assert len(json.loads(seen.stdout)) == 3
    assert "hello" in seen.stderr


def test_a_very_long_name_is_shown_whole_beside_its_shape(here):
    seen = repsim("layers", "cli_models:hostile", "--data", "x.npy")
    assert seen.stdout.count("n") > 300
    assert "(n, 64)" in seen.stdout
    assert "none needed" in " ".join(seen.stdout.split())
    assert "\x1b" not in seen.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cli_models:mak", "--data", "x.npy", "--out", "s"), "Did you mean 'make'"),
        (("cli_models:make", "--data", "y.npy", "--out", "s"), "no such file"),
        (("cli_models:make", "--data", "x.npy", "--out", "s"), "layer 'deep/tokens' has shape"),
        (("cli_models:make", "--data", "x.npy", "--out", "s", "--layers", "hiden"), "Did you mean 'hidden'"),
        (("cli_models:make", "--data", "x.npy", "--out", "s", "--layout", "clss"), "Did you mean 'cls'"),
        (("cli_models:make", "--data", "x.npy", "--out", "s", "--dtype", "int8"), "no dtype is called 'int8'"),
        (("cli_models:make", "--data", "x.npy", "--out", "s", "--batch-size", "0"), "batch_size must be at least 1"),
        (("\x1b[31mred", "--data", "x.npy", "--out", "s"), "no built-in model is called"),
        (("x.npy", "--data", "x.npy", "--out", "s"), "a model is FILE.onnx, hf:FOLDER, or module:factory"),
        ((".", "--data", "x.npy", "--out", "s"), "named so: hf:."),
        (("cli_models:nothing", "--data", "x.npy", "--out", "s"), "the model returned no layers at all"),
        (("cli_models:make", "--data", "narrow.npy", "--out", "s"), "raised TypeError on inputs float32 (32, 3): dot_"),
        (("cli_models:Unprepared", "--data", "x.npy", "--out", "s"), "failed on examples '0' to '31': KeyError: 'tok"),
    ],
)
def test_a_mistake_is_one_clear_message_and_leaves_nothing(here, arguments, message):
    np.save("narrow.npy", np.ones((40, 3), np.float32))
    done = repsim("extract", *arguments)
    assert done.exit_code == 2
    assert message in done.output.replace("\n", " ")
    assert "Traceback" not in done.output
    assert "\x1b" not in done.output
    assert not (here / "s").exists()


def test_examples_that_cannot_be_read_are_left_out_and_named(here):
    (here / "t.txt").write_text("one\n\nthree\n")
    (here / "cli_models.py").write_text(
        MODELS + "    prepare = staticmethod(lambda raw, ids: __import__('repsim_jax').data.Batch(tuple(ids), "
        "jnp.ones((len(ids), 64))))\n"
    )
    assert "line 2 is blank" in repsim("extract", "cli_models:Slow", "--data", "t.txt", "--out", "s").output
    done = repsim("extract", "cli_models:Slow", "--data", "t.txt", "--out", "s", "--skip-bad")
    assert "left out 2:" in done.output
    assert open_store("s").ids == ("1", "3")


def test_layouts_are_read_in_the_order_written():
    assert parse_layout(None) is parse_layout([]) is None
    assert parse_layout(["cls"]) == "cls"
    assert parse_layout(["flatten", "a/*=cls", "x=y=token_mean"]) == {"a/*": "cls", "x=y": "token_mean", "*": "flatten"}
    assert list(parse_layout(["flatten", "a/*=cls"])) == ["a/*", "*"]


def test_help_and_import_leave_jax_alone():
    code = "import sys, repsim_jax.cli; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.slow
def test_a_killed_run_is_resumed_by_the_same_command_to_the_same_bytes(here):
    np.save(here / "x.npy", np.random.default_rng(0).normal(size=(800, 64)).astype(np.float32))
    code = "from repsim_jax.cli import main; main()"
    command = [sys.executable, "-c", code, "extract", "cli_models:Slow", "--data", "x.npy", "--out"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen([*command, "killed"], env=environment)
    deadline = time.monotonic() + 120
    while recorded("killed") is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    rows = recorded("killed").num_rows
    assert 0 < rows < 800
    again = subprocess.run([*command, "killed"], env=environment, capture_output=True, text=True, check=True)
    assert f"resuming at row {rows}" in again.stderr
    subprocess.run([*command, "whole"], env=environment, check=True)
    names = sorted(path.relative_to(here / "whole") for path in (here / "whole").rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(here / "killed") for path in (here / "killed").rglob("*") if path.is_file())
    assert all((here / "whole" / one).read_bytes() == (here / "killed" / one).read_bytes() for one in names)
