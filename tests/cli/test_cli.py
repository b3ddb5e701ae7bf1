"""The command line as a whole: light to ask for help, clear in its errors, reliable in its exit status."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import repsim_jax
from repsim_jax.cli import app
from repsim_jax.errors import RepsimError

COMMANDS = ("extract", "compare", "layers", "inspect", "measures", "models")
HEAVY = ("jax", "flax", "matplotlib", "numpy", "tensorstore", "jinja2")


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def process(*arguments: str, **others) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from repsim_jax.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **others)


@pytest.fixture
def failing(monkeypatch):
    """Makes ``repsim measures`` raise what the test wants."""
    from repsim_jax import similarity

    def fail_with(error: BaseException) -> None:
        def fail() -> None:
            raise error

        monkeypatch.setattr(similarity, "measures", fail)

    return fail_with


@pytest.mark.parametrize("arguments", [(), *((command,) for command in COMMANDS)])
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]):
    code = f"""
import sys
from repsim_jax.cli import app
try:
    app([*{arguments!r}, "--help"], prog_name="repsim")
except SystemExit as end:
    assert end.code == 0
assert not [name for name in {HEAVY!r} if name in sys.modules], sorted(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: repsim" in done.stdout


def test_help_names_every_command():
    text = run("--help").stdout
    assert all(f"\n  {command} " in text for command in COMMANDS)


def test_the_version_is_told():
    done = run("--version")
    assert (done.exit_code, done.stdout) == (0, f"repsim_jax {repsim_jax.__version__}\n")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RepsimError("expected this, got that. Do so."), "repsim: expected this, got that. Do so.\n"),
        (PermissionError(13, "Permission denied", "/x/y"), "repsim: /x/y: Permission denied.\n"),
        (OSError("odd"), "repsim: odd.\n"),
        (MemoryError(), "repsim: out of memory."),
        (RepsimError("line one\nline \x1b[2Jtwo"), "repsim: line one\nline \N{REPLACEMENT CHARACTER}[2Jtwo\n"),
    ],
)
def test_an_expected_error_is_one_message_without_traceback(failing, error: Exception, message: str):
    failing(error)
    done = run("measures")
    assert done.exit_code == 2
    assert done.stderr.startswith(message)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_developers_can_see_where_an_error_arose(failing):
    failing(RepsimError("no"))
    done = run("--traceback", "measures")
    assert done.exit_code == 2
    assert "Traceback" in done.stderr
    shown = process("--traceback", "compare", "none.npy", "none.npy", "--out", os.devnull)
    assert "Traceback" in shown.stderr
    assert shown.returncode == 2


def test_a_bug_is_never_taken_for_a_failed_gate(failing):
    failing(KeyError("oh"))
    done = run("measures")
    assert done.exit_code == 2
    assert "a bug in repsim: KeyError: 'oh'" in done.stderr
    assert "Traceback" in done.stderr


def test_an_exit_of_a_command_passes_through(failing):
    failing(typer.Exit(1))
    assert run("measures").exit_code == 1


@pytest.mark.parametrize("code", [0, 1, None, "bye"])
def test_code_of_the_user_that_ends_the_program_is_never_taken_for_a_verdict(failing, code):
    failing(SystemExit(code))
    done = run("measures")
    assert done.exit_code == 2
    assert f"code that was run ended the program (sys.exit, {code!r})" in done.stderr


def test_an_interrupted_run_says_how_to_go_on(failing):
    failing(KeyboardInterrupt())
    done = run("measures")
    assert done.exit_code == 130
    assert "the same command goes on from there" in done.stderr


@pytest.mark.parametrize("arguments", [("compare",), ("nothing",), ("measures", "--no-such-option"), ()])
def test_wrong_usage_is_an_error(arguments: tuple[str, ...]):
    assert run(*arguments).exit_code == 2


def test_a_reader_that_stops_early_gets_no_traceback():
    command = f"{sys.executable} -c 'from repsim_jax.cli import main; main()' measures --json | head -c 5"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "[\n {\n"
    assert "Traceback" not in done.stderr


def test_measures_are_listed_with_their_direction():
    listed = json.loads(run("measures", "--json").stdout)
    assert {"measure", "direction", "range", "what it is"} == set(listed[0])
    assert "linear_cka_unbiased" in {one["measure"] for one in listed}
    assert {one["direction"] for one in listed} == {"higher = more alike"}
    assert "linear_cka" in run("measures").stdout


def test_models_are_listed_without_their_packages():
    from repsim_jax import pretrained

    listed = json.loads(run("models", "--json").stdout)
    assert [one["model"] for one in listed] == list(pretrained.names())
    assert {one["installed"] for one in listed} <= {"yes", "no"}
    assert "clip" in run("models").stdout


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGINT"), reason="no signals here")
def test_ctrl_c_ends_with_130(tmp_path: Path):
    code = "import signal, time, repsim_jax.cli.lists as lists; from repsim_jax import cli, similarity\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs are born ignoring it
    code += "similarity.measures = lambda: (print('here', flush=True), time.sleep(60))\ncli.app(['measures'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as one:
        assert one.stdout is not None
        one.stdout.readline()
        time.sleep(0.2)
        one.send_signal(signal.SIGINT)
        _, said = one.communicate(timeout=30)
        assert one.returncode == 130
    assert "Traceback" not in said
