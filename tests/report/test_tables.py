"""The terminal summary, CSV and JSON of a comparison."""

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from comparisons import HOSTILE, MEASURES, hostile, made_up
from rich.console import Console

from repsim_jax.evaluation import Check, GateResult
from repsim_jax.report import digest, tables

FAILED = Check("rule 1", "block_0", "[bold]b\x1b", "linear_cka", 0.8123, ">=", 0.9, False)
GATE = GateResult(False, (FAILED,), (FAILED,) * 3, "[red]policy\x1b.toml")


def printed(comparison, gate=None, width: int = 80) -> str:
    console = Console(width=width, force_terminal=True, color_system="truecolor", file=io.StringIO())
    console.print(tables.summary(digest(comparison), gate=gate))
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_the_csv_has_a_row_per_layer_pair_and_measure_in_full_precision():
    comparison = made_up(3, 4)
    header, *rows = csv.reader(io.StringIO(tables.to_csv(comparison)))
    assert header == ["layer_a", "layer_b", "measure", "value", "num_examples", "width_a", "width_b"]
    assert [float(row[3]) for row in rows] == comparison.values.ravel().tolist()
    assert rows[0] == ["block_0/mlp", "stage_0/block_0", "linear_cka_unbiased", rows[0][3], "1000", "64", "64"]


def test_no_cell_of_the_csv_is_a_formula_or_an_escape():
    text = tables.to_csv(hostile())
    assert not any(character in text for character in "\x1b\x07\x00\r")
    for row in csv.reader(io.StringIO(text)):
        assert not any(cell.startswith(("=", "+", "@", "-")) for cell in row)


@pytest.mark.parametrize("comparison", [made_up(), hostile(), made_up(1, 1), made_up(2, 1, MEASURES)])
def test_the_json_is_strict_and_round_trips(comparison):
    document = tables.to_json(digest(comparison), gate=GATE, provenance={"made": "today"})
    text = json.dumps(document, allow_nan=False)
    assert json.loads(text) == document
    assert document["schema"] == "repsim.compare/1"
    assert document["layers_a"][0] == {"name": comparison.layers_a[0], "width": 64}
    for k, measure in enumerate(document["measures"]):
        np.testing.assert_array_equal(measure["values"], comparison.values[k])
    assert not {c for c in text if ord(c) < 32 or ord(c) > 126}


def test_the_json_holds_the_evidence_of_the_gate():
    gate = tables.to_json(digest(made_up()), gate=GATE)["gate"]
    assert (gate["passed"], gate["num_failed"], len(gate["checks"])) == (False, 1, 3)
    assert gate["checks"][0]["value"] == 0.8123


def test_infinite_ranges_and_missing_margins_are_null_in_json():
    document = tables.to_json(digest(made_up(2, 1, ("linear_predictivity",))))
    assert document["measures"][0]["range"] == [None, 1.0]
    assert document["measures"][0]["best"][0]["margin"] is None
    assert document["rank_correlations"] == [[1.0]]


def test_the_summary_fits_a_terminal_and_names_the_findings():
    text = printed(made_up(40, 50, MEASURES), GATE)
    plain = _without_styles(text)
    assert max(map(len, plain.splitlines())) <= 80
    assert "Gate FAILED: 2 of 3 checks hold" in plain
    assert "linear_cka of block_0 and [bold]b" in plain
    assert "12 of 40 layers" in plain


def test_a_gate_that_fails_everywhere_does_not_fill_the_terminal():
    plain = _without_styles(printed(made_up(2, 2), GateResult(False, (FAILED,) * 500, (FAILED,) * 500, "p")))
    assert "and 480 more" in plain
    assert len(plain.splitlines()) < 60


def test_no_name_reaches_the_terminal_as_a_command():
    text = printed(hostile(), GATE, width=200)
    assert "owned" in text
    allowed = _without_styles(text)
    assert not [c for c in allowed if ord(c) < 32 and c != "\n"]
    assert "\u202e" not in text
    assert "\x9b" not in text
    assert HOSTILE[10] in allowed


def _without_styles(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_a_settings_value_that_is_no_json_becomes_text():
    comparison = replace(made_up(2, 2), settings={"when": np.float32(1.5), "nan": float("nan")})
    settings = tables.to_json(digest(comparison))["settings"]
    assert settings == {"when": "1.5", "nan": None}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (-0.0001, "0.000"), (-0.5, "-0.500"), (float("nan"), "\N{EN DASH}"), (float("-inf"), "-∞")],
)
def test_numbers_read_well(value: float, text: str):
    assert tables.number(value) == text
