"""The tour ends by naming a report that is there, and its gate tells a harmless update from a harmful one."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from repsim_jax.activations import open_store
from repsim_jax.cli import app
from repsim_jax.evaluation import load_policy


@pytest.mark.slow
@pytest.mark.timeout(2400)  # two to five minutes of processor time
def test_the_tour_passes_the_new_seed_and_fails_the_shuffled_labels(tmp_path: Path):
    result = CliRunner().invoke(app, ["tour", "--out", str(tmp_path), "--seed", "0"])
    assert result.exit_code == 0, result.output
    assert result.output.index("Gate PASSED") < result.output.index("Gate FAILED")
    page = Path(result.output.strip().splitlines()[-1].removeprefix("Report: "))
    assert page.read_text().startswith("<!doctype html>")
    accuracies = [float(value) for value in re.findall(r"([\d.]+)% of 597", result.output)]
    assert min(accuracies[:2]) > 90 > 30 > accuracies[2]
    assert len(open_store(tmp_path / "seed-1.store").ids) == 597
    assert load_policy(tmp_path / "policy.toml").min_examples == 500
    ours, paper = (re.search(rf"ContraSim, {name}.* (\d+)% of 96", result.output) for name in ("relative", "as in"))
    assert ours is not None
    assert paper is not None
    assert int(ours[1]) > int(paper[1]) + 20
    assert "copies: 16 of 16 found" in result.output
    area = re.search(r"curve ([\d.]+) by the combined score", result.output)
    assert area is not None
    assert float(area[1]) > 0.9
    repaired, alone = (
        re.search(rf"{name}: [\d.]+% upright, ([\d.]+)% over", result.output) for name in ("repaired", "model alone")
    )
    assert repaired is not None
    assert alone is not None
    assert float(repaired[1]) > float(alone[1]) + 40
    for told in (
        "The learned measure: ", "Two networks that it has not seen: ", "Which examples made a representation: ",
        "Digits in any pose: ",
    ):  # fmt: skip
        (line,) = (line for line in result.output.splitlines() if line.startswith(told))
        assert Path(line.removeprefix(told)).read_text().startswith("<!doctype html>")
