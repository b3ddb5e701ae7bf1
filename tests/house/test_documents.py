"""The README's examples run, every command shows an example, and the documents agree on the version."""

import re
from pathlib import Path

import pytest
import typer
from house.source import ROOT

import repsim_jax
from repsim_jax import cli, similarity


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


README = read("README.md")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


def test_the_first_example_takes_five_lines_and_no_download():
    lines = [line for line in EXAMPLES[0].splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 5
    assert lines[0].startswith(("import", "from"))


def test_the_examples_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    for number, example in enumerate(EXAMPLES):
        exec(compile(example, f"README.md example {number + 1}", "exec"), names)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_help_of_a_command_shows_an_example(name: str):
    assert re.search(rf"\brepsim {name}\b", f"{COMMANDS[name].help} {COMMANDS[name].epilog}")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md"])
def test_links_between_the_documents_lead_somewhere(page: str):
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", read(page))
    assert [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()] == []


def test_make_targets_that_the_documents_name_exist():
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    pages = [README, read("CONTRIBUTING.md"), read("benchmarks/README.md")]
    assert {name for page in pages for name in re.findall(r"`make ([a-z-]+)", page)} <= targets


def test_every_measure_is_in_the_readme():
    assert [name for name in similarity.measures() if name not in README] == []


def test_the_documents_agree_on_the_version():
    version = re.escape(repsim_jax.__version__)
    assert re.search(rf"^version: {version}$", read("CITATION.cff"), re.MULTILINE)
    heading = rf"^## \[({version}\] - \d{{4}}-\d\d-\d\d|Unreleased\] \(to be {version}\))$"
    assert re.search(heading, read("CHANGELOG.md"), re.MULTILINE)
