"""A comparison as a terminal summary, as CSV and as JSON: the same numbers for people, spreadsheets and programs."""

import csv
import io
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from repsim_jax.report.text import csv_cell, shorten, styled

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from repsim_jax.evaluation.gate import Check, GateResult
    from repsim_jax.report.findings import Digest
    from repsim_jax.similarity.comparison import ByExample, Comparison

SCHEMA = "repsim.compare/1"
# More lines than this scroll the verdict off a terminal; the page and the CSV have them all.
_TERMINAL_ROWS, _TERMINAL_FINDINGS = 12, 20
# Examples that changed most, in the document and at the terminal.
_MOST_CHANGED, _MOST_TOLD = 100, 5


def number(value: float, digits: int = 3) -> str:
    """A value as people read it: fixed digits, no negative zero, a dash where it is undefined.

    Args:
        value: Any float.
        digits: Digits after the point.

    Returns:
        A short string.
    """
    if not math.isfinite(value):
        return "\N{EN DASH}" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def to_csv(comparison: "Comparison") -> str:
    """The tidy table, a row per layer pair and measure; values in full precision.

    Args:
        comparison: The table.

    Returns:
        CSV text with a header; names that a spreadsheet could take for a formula start with an apostrophe.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["layer_a", "layer_b", "measure", "value", "num_examples", "width_a", "width_b"])
    for row in comparison.rows():
        writer.writerow(
            [csv_cell(row.layer_a), csv_cell(row.layer_b), csv_cell(row.measure), repr(row.value), *row[4:]]
        )
    return out.getvalue()


def to_json(
    found: "Digest", *, gate: "GateResult | None" = None, provenance: dict[str, str] | None = None
) -> dict[str, Any]:
    """The comparison as a document with a stable schema, ``"schema": "repsim.compare/1"``.

    Args:
        found: From ``digest``.
        gate: The verdict of a policy, if one was asked for.
        provenance: How the numbers came about, as label and text.

    Returns:
        Plain dicts, lists, strings, finite numbers and None: ``json.dumps(..., allow_nan=False)`` accepts it.
    """
    comparison = found.comparison
    layers_b = comparison.layers_b
    measures = [
        {
            "name": one.name,
            "title": one.title,
            "range": [_finite(limit) for limit in one.range],
            "larger_is_more_similar": one.larger_is_more_similar,
            "values": one.matrix.tolist(),
            "best": [
                {"layer_a": layer, "layer_b": layers_b[j], "value": float(value), "margin": _finite(float(margin))}
                for layer, j, value, margin in zip(
                    comparison.layers_a, one.best.layers, one.best.values, one.best.margins, strict=True
                )
            ],
            "path": [layers_b[j] for j in one.path.layers],
            "path_mean": one.path.mean,
            "mean_rank_correlation": _finite(one.agreement),
        }
        for one in found.readings
    ]
    document = {
        "schema": SCHEMA,
        "name_a": comparison.name_a,
        "name_b": comparison.name_b,
        "num_examples": int(comparison.num_examples),
        "layers_a": [
            {"name": n, "width": int(w)} for n, w in zip(comparison.layers_a, comparison.widths_a, strict=True)
        ],
        "layers_b": [{"name": n, "width": int(w)} for n, w in zip(layers_b, comparison.widths_b, strict=True)],
        "measures": measures,
        "rank_correlations": [[_finite(float(value)) for value in row] for row in found.correlations],
        "by_example": None if comparison.by_example is None else _by_example_json(comparison.by_example),
        "gate": None if gate is None else _gate_json(gate),
        "notes": list(comparison.notes),
        "settings": comparison.settings,
        "provenance": dict(provenance or {}),
    }
    return json.loads(json.dumps(document, default=str, allow_nan=True), parse_constant=lambda _: None)


def _by_example_json(one: "ByExample") -> dict[str, Any]:
    listed = [{"id": name, "mean": mean} for name, mean in one.changed_most(_MOST_CHANGED)]
    medians = dict(zip(one.layers, np.median(one.scores, axis=1).tolist(), strict=True))
    return {"measure": one.measure, "chance": one.chance, "medians": medians, "changed_most": listed}


def _gate_json(gate: "GateResult") -> dict[str, Any]:
    checks = [{**one._asdict(), "value": _finite(one.value)} for one in gate.checks]
    return {"policy": gate.policy, "passed": gate.passed, "num_failed": len(gate.findings), "checks": checks}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def summary(found: "Digest", *, gate: "GateResult | None" = None) -> "Group":
    """What a person at an 80-column terminal wants to see.

    Args:
        found: From ``digest``.
        gate: The verdict of a policy, if one was asked for.

    Returns:
        A rich renderable, in which no user text is interpreted.
    """
    from rich.console import Group
    from rich.text import Text

    from repsim_jax.report import words

    parts: list[Any] = [styled(words.heading(found), "bold"), Text(), styled(words.verdict(found)), Text()]
    if gate is not None:
        parts += [gate_summary(gate), Text()]
    parts += [styled(f"Nearest layers by {found.lead.title} ({found.lead.direction})", "bold"), _best_table(found)]
    if len(found.readings) > 1:
        parts += [styled("Measures, from most to least in agreement with the others", "bold"), _measure_table(found)]
    if found.comparison.by_example is not None:
        listed = found.comparison.by_example.changed_most(_MOST_TOLD)
        told = ", ".join(f"{shorten(one, 24)} ({number(mean, 2)})" for one, mean in listed)
        parts += [styled("Examples that the two see most differently, mean over layers", "bold"), styled(told), Text()]
    warnings = words.conclusions(found).cautions
    if warnings:
        parts += [*(Text("! ", style="yellow").append(styled(one)) for one in warnings)]
    return Group(*parts)


def gate_summary(gate: "GateResult") -> "Text":
    """The verdict of a policy with its evidence.

    Args:
        gate: From ``evaluation.check``.

    Returns:
        One line for the verdict and one for each failed check.
    """
    style = "bold green" if gate.passed else "bold red"
    text = styled(f"Gate {'PASSED' if gate.passed else 'FAILED'}", style)
    text.append(styled(f": {len(gate.checks) - len(gate.findings)} of {len(gate.checks)} checks hold ({gate.policy})"))
    for one in gate.findings[:_TERMINAL_FINDINGS]:
        text.append("\n  ").append(styled("x ", "red")).append(styled(check_sentence(one)))
    if len(gate.findings) > _TERMINAL_FINDINGS:
        text.append(f"\n  and {len(gate.findings) - _TERMINAL_FINDINGS} more; the report has them all")
    return text


def check_sentence(one: "Check") -> str:
    """A check as a phrase: what was measured, and what was wanted.

    Args:
        one: A check of a gate.

    Returns:
        For example "rule 1: linear_cka of block_3 and block_3 is 0.8123, wanted >= 0.9".
    """
    if one.measure == "examples":
        return f"{one.rule}: {one.value:.0f} examples, wanted {one.bound} {one.threshold:.0f}"
    pair = f"{one.layer_a} and {one.layer_b}" if one.layer_b else one.layer_a
    return f"{one.rule}: {one.measure} of {pair} is {number(one.value, 4)}, wanted {one.bound} {one.threshold:g}"


def _best_table(found: "Digest") -> "Table":
    comparison, lead = found.comparison, found.lead
    table = _table()
    table.add_column(styled(shorten(comparison.name_a, 24)), no_wrap=True)
    table.add_column(styled(shorten(comparison.name_b, 24)), no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("lead over 2nd", justify="right")
    shown = _spread(len(comparison.layers_a), _TERMINAL_ROWS)
    for i in shown:
        names = shorten(comparison.layers_a[i], 26), shorten(comparison.layers_b[lead.best.layers[i]], 26)
        table.add_row(*map(styled, names), number(lead.best.values[i]), number(lead.best.margins[i]))
    if len(shown) < len(comparison.layers_a):
        table.caption = f"{len(shown)} of {len(comparison.layers_a)} layers; the report has them all"
    return table


def _measure_table(found: "Digest") -> "Table":
    table = _table()
    table.add_column("measure", no_wrap=True)
    table.add_column("lowest", justify="right")
    table.add_column("highest", justify="right")
    table.add_column("on best path", justify="right")
    table.add_column("agreement", justify="right")
    for one in found.ranked:
        values = one.matrix.min(), one.matrix.max(), one.path.mean, one.agreement
        table.add_row(styled(one.name), *(number(float(value)) for value in values))
    return table


def _table() -> "Table":
    from rich import box
    from rich.table import Table

    return Table(caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _spread(count: int, most: int) -> list[int]:
    if count <= most:
        return list(range(count))
    return sorted({round(k * (count - 1) / (most - 1)) for k in range(most)})
