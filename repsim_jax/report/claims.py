"""Do the claims on wide contrastive networks hold? Verdicts as a terminal table, a document, pictures and one page."""

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repsim_jax.report.courses import course_to_json, courses_chart
from repsim_jax.report.phase import phase_figure, phase_to_json
from repsim_jax.report.plots import LIGHT, drawable, settings
from repsim_jax.report.row_charts import ACCENT, SECOND, WEAK, Chart, frame
from repsim_jax.report.sheets import Picture, environment, picture_of, shortened, write_files
from repsim_jax.report.tables import number
from repsim_jax.report.text import shorten, styled

if TYPE_CHECKING:
    from rich.console import Group

    from repsim_jax.theory import Claim, PhaseDiagram, Series

CLAIMS_PAGE, CLAIMS_DOCUMENT = "claims.html", "claims.json"
SCHEMA = "repsim.theory.claims/1"
_COLORS = (ACCENT, SECOND, "#5b5f97", "#8c2f39", "#4f772d", WEAK, "#b79f00", "#a05195", "#6d4c41")
_STYLES = ("-", "--", ":")  # the next one where the colors begin anew
_ROWS = 9  # of a picture, in units of the other charts
_MOST_LETTERS, _AXIS_LETTERS = 44, 52


def write_claims(
    claims: "Sequence[Claim]", out: str | os.PathLike[str], *, phase: "PhaseDiagram | None" = None,
    provenance: Mapping[str, str] | None = None,
) -> Path:  # fmt: skip
    """Writes the page of the claims, a picture of each and the document (``claims.json``) into a folder.

    Args:
        claims: From ``theory.verify``.
        out: The folder, made where it does not exist.
        phase: From ``theory.phase_diagram``; a chapter of its own.
        provenance: How the numbers came about, as label and text.

    Returns:
        Path of the page.

    Raises:
        FileError: If the folder cannot be written; NoSpaceError if the disk is full.
    """
    drawn = [[picture_of(chart, chart.figure) for chart in charts] for charts in map(claim_charts, claims)]
    diagram = [] if phase is None else [_diagram(phase, (provenance or {}).get("data", ""))]
    files = {path: content for pictures in [*drawn, diagram] for one in pictures for path, content in one.files.items()}
    document = claims_to_json(claims, provenance=provenance)
    if phase is not None:
        document["phase"] = phase_to_json(phase)
    files[CLAIMS_DOCUMENT] = (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()
    files[CLAIMS_PAGE] = _page(claims, drawn, diagram, provenance or {}).encode()
    return write_files(Path(out), files, page=CLAIMS_PAGE)


def _diagram(phase: "PhaseDiagram", data: str) -> Picture:
    caption = (
        "Where a network is as good as its kernel (dark) and where it learns features (bright), by loss, learning "
        "rate, width and time."
    )
    chart = Chart(
        "phase-diagram", "How much of its tangent kernel a network loses", caption,
        "Change of the tangent kernel over time and width, a panel for each loss and learning rate.",
        phase_figure(phase, data=data),
    )  # fmt: skip
    return picture_of(chart, chart.figure)


def claims_to_json(claims: "Sequence[Claim]", *, provenance: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The claims as a document with a stable schema, ``"schema": "repsim.theory.claims/1"``.

    Args:
        claims: From ``theory.verify``.
        provenance: How the numbers came about, as label and text.

    Returns:
        Plain dicts, lists, strings, finite numbers and None.
    """
    told = []
    for claim in claims:
        series = [
            {
                "label": one.label,
                "widths": list(one.widths),
                "values": one.values.tolist(),
                "slope": None if one.slope is None else one.slope._asdict(),
            }
            for one in claim.series
        ]
        told.append({**claim._asdict(), "series": series, "courses": [course_to_json(one) for one in claim.courses]})
    document = {"schema": SCHEMA, "claims": told, "provenance": dict(provenance or {})}
    # What is infinite or undefined has no number in JSON.
    return json.loads(json.dumps(document, default=float), parse_constant=lambda _: None)


def claims_summary(claims: "Sequence[Claim]") -> "Group":
    """What a person at a terminal wants to see of the claims.

    Args:
        claims: From ``theory.verify``.

    Returns:
        A rich renderable.
    """
    from rich.console import Group
    from rich.text import Text

    colors = {"holds": "green", "holds until": "green", "does not hold": "red", "undecided": "yellow"}
    parts: list[Any] = []
    for claim in claims:
        parts += [
            Text.assemble((f"{claim.verdict_told}: ", f"bold {colors[claim.verdict]}"), (claim.name, "bold")),
            styled(f"  origin: {claim.origin}", "dim"),
            styled(f"  predicted: {claim.predicted}"),
            styled(f"  observed: {claim.observed}"),
            Text(),
        ]
    return Group(*parts)


def claim_charts(claim: "Claim") -> list[Chart]:
    """The pictures of a claim: over widths and times where that was looked at, and over widths.

    Args:
        claim: From ``theory.verify``.

    Returns:
        One or two.
    """
    charts = [_over_widths(claim)] if claim.series else []
    if claim.courses:
        title = f"When does the tangent kernel stay? {claim.name[0].upper()}{claim.name[1:]}"
        stem = f"{claim.name.replace(' ', '-').replace(',', '')}-in-time"
        told = f"{_verdict(claim)}. A kernel stays where wider networks keep lower lines for all time."
        charts.insert(0, courses_chart(claim.courses, stem=stem, title=title, caption=told))
    return charts


def _over_widths(claim: "Claim") -> Chart:
    """The evidence for a claim over the widths, every seed a dot."""
    from matplotlib.ticker import FormatStrFormatter, NullFormatter

    is_time = claim.quantity.startswith("time")
    with settings():
        seeds = max(one.values.shape[1] for one in claim.series)
        figure, axes = frame(_ROWS, LIGHT, claim.name[0].upper() + claim.name[1:], f"{seeds} seeds at each width")
        looks = itertools.cycle(itertools.product(_STYLES, _COLORS))
        for one, (style, color) in zip(claim.series, looks, strict=False):
            _draw(axes, one, color, style, logarithmic=not is_time)
        axes.set_xscale("log", base=2)
        widths = sorted({width for one in claim.series for width in one.widths})
        axes.set_xticks(widths, [f"{width:,}" for width in widths])
        axes.minorticks_off()
        if not is_time:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
            # Where no power of ten lies between, the ticks that do are the only ones to read.
            low, high = axes.get_ylim()
            is_narrow = high < 10 * low
            axes.yaxis.set_minor_formatter(FormatStrFormatter("%g") if is_narrow else NullFormatter())
        axes.set_xlabel("width of the hidden layers", color=LIGHT.muted)
        axes.set_ylabel(_wrapped(drawable(claim.quantity)), color=LIGHT.muted)
        axes.grid(color=LIGHT.muted, alpha=0.2, lw=0.6)
        place = {"loc": "upper left", "bbox_to_anchor": (0.0, -0.17), "borderaxespad": 0.0}
        axes.legend(fontsize=6.5, frameon=False, labelcolor=LIGHT.ink, **place)
    caption = f"{_verdict(claim)}. Predicted: {claim.predicted}. Observed: {claim.observed}."
    stem = claim.name.replace(" ", "-").replace(",", "")
    return Chart(stem, claim.name, caption, f"{claim.quantity} over the width, a dot for each seed.", figure)


def _verdict(claim: "Claim") -> str:
    return claim.verdict_told[0].upper() + claim.verdict_told[1:]


def _draw(axes: Any, one: "Series", color: str, style: str, *, logarithmic: bool) -> None:
    widths, values = np.asarray(one.widths, float), np.asarray(one.values, float)
    for width, row in zip(widths, values, strict=True):
        axes.plot(np.full(len(row), width), np.where(np.isfinite(row), row, np.nan), ".", color=color, ms=4, alpha=0.55)
    label = shorten(one.label, _MOST_LETTERS)
    if one.slope is None:
        axes.plot(widths, values.mean(1), style, color=color, lw=1.2, label=label)
        return
    line = one.slope.intercept + one.slope.value * np.log(widths)
    kind = "exponent" if logarithmic else "slope"
    told = f"{label}: {kind} {number(one.slope.value, 2)} ({number(one.slope.low, 2)} to {number(one.slope.high, 2)})"
    axes.plot(widths, np.exp(line) if logarithmic else line, style, color=color, lw=1.2, label=told)


def _wrapped(text: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, _AXIS_LETTERS))


def _page(
    claims: "Sequence[Claim]", drawn: list[list[Picture]], diagram: list[Picture], provenance: Mapping[str, str]
) -> str:
    import repsim_jax

    holding = sum(claim.verdict.startswith("holds") for claim in claims)
    return environment().get_template("claims.html.j2").render(
        version=repsim_jax.__version__,
        title="When is a wide contrastive network a kernel, or PCA?",
        lead=f"{holding} of {len(claims)} claims hold on these data, at these widths and times.",
        claims=list(zip(claims, drawn, strict=True)),
        diagram=diagram,
        provenance=shortened({str(label): str(text) for label, text in provenance.items()}),
    )  # fmt: skip
