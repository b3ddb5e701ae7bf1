"""Every notebook is what its .py file says, without outputs; `make notebooks` runs them."""

import json
from pathlib import Path

import jupytext
import pytest
from house.source import ROOT

SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_notebook_is_what_its_script_says(script: Path):
    written = json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))
    expected = jupytext.read(script, fmt="py:percent")
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in written["cells"]] == [
        (cell.cell_type, cell.source) for cell in expected.cells
    ], "run make notebooks"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_notebook_is_committed_without_outputs(script: Path):
    cells = json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    assert [cell["id"] for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


def test_every_notebook_has_a_script():
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == {script.stem for script in SCRIPTS}
