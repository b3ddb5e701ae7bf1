"""What does this model's tangent kernel look like on these data? A terminal summary, a document, a picture, a page."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repsim_jax.report.plots import LIGHT, plain_ticks, settings
from repsim_jax.report.row_charts import ACCENT, SECOND, WEAK, Chart, frame
from repsim_jax.report.sheets import environment, picture_of, shortened, write_files
from repsim_jax.report.tables import number
from repsim_jax.report.text import shorten, styled

if TYPE_CHECKING:
    from rich.console import Group

    from repsim_jax.kernels import KernelSummary

NTK_PAGE, NTK_DOCUMENT = "ntk.html", "ntk.json"
SCHEMA = "repsim.theory.ntk/1"
_ROWS = 8  # of the picture, in units of the other charts
_MOST_PAIRS = 20


def write_ntk(
    summary: "KernelSummary",
    out: str | os.PathLike[str],
    *,
    ids: Sequence[str],
    provenance: Mapping[str, str] | None = None,
) -> Path:
    """Writes the page of a kernel, its spectrum and the document (``ntk.json``) into a folder.

    Args:
        summary: From ``kernels.summarize_kernel``.
        out: The folder, made where it does not exist.
        ids: Of the examples.
        provenance: How the numbers came about, as label and text.

    Returns:
        Path of the page.

    Raises:
        FileError: If the folder cannot be written; NoSpaceError if the disk is full.
    """
    drawn = picture_of(chart := spectrum_chart(summary), chart.figure)
    document = ntk_to_json(summary, ids=ids, provenance=provenance)
    files = {**drawn.files, NTK_DOCUMENT: (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()}
    files[NTK_PAGE] = _page(summary, drawn, ids, provenance or {}).encode()
    return write_files(Path(out), files, page=NTK_PAGE)


def ntk_to_json(
    summary: "KernelSummary", *, ids: Sequence[str], provenance: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The summary as a document with a stable schema, ``"schema": "repsim.theory.ntk/1"``.

    Args:
        summary: From ``kernels.summarize_kernel``.
        ids: Of the examples.
        provenance: How the numbers came about, as label and text.

    Returns:
        Plain dicts, lists, strings, finite numbers and None.
    """
    return {
        "schema": SCHEMA,
        "examples": summary.num_examples,
        "dtype": summary.dtype,
        "trace": summary.trace,
        "effective_rank": {name: float(value) for name, value in summary.rank._asdict().items()},
        "definiteness": summary.definiteness._asdict(),
        "repeated_pairs": summary.repeats.num_pairs,
        "first_repeated_pairs": [[ids[i], ids[j]] for i, j in summary.repeats.pairs],
        "zero_rows": [ids[i] for i in summary.repeats.zero_rows],
        "label_alignment": summary.alignment,
        "eigenvalues": summary.eigenvalues.tolist(),
        "provenance": dict(provenance or {}),
    }


def ntk_summary(summary: "KernelSummary", *, ids: Sequence[str]) -> "Group":
    """What a person at a terminal wants to see of a kernel.

    Args:
        summary: From ``kernels.summarize_kernel``.
        ids: Of the examples.

    Returns:
        A rich renderable.
    """
    from rich.console import Group
    from rich.text import Text

    lines = [(label, value) for label, value in _told(summary, ids)]
    wide = max(len(label) for label, _ in lines)
    return Group(*(Text.assemble((f"{label:<{wide}}  ", "bold"), styled(value)) for label, value in lines))


def spectrum_chart(summary: "KernelSummary") -> Chart:
    """Eigenvalues over their number, on logarithmic axes, with the level of rounding.

    Args:
        summary: From ``kernels.summarize_kernel``.

    Returns:
        The picture.
    """
    values, rounding = summary.eigenvalues, summary.definiteness.rounding
    order = np.arange(1, len(values) + 1)
    with settings():
        figure, axes = frame(_ROWS, LIGHT, "Spectrum of the tangent kernel", f"n = {len(values):,}, {summary.dtype}")
        axes.loglog(order[values > 0], values[values > 0], ".", color=ACCENT, ms=4, label="eigenvalue")
        if (values < 0).any():
            axes.loglog(order[values < 0], -values[values < 0], "x", color=SECOND, ms=4, label="negative, its size")
        if rounding > 0:
            axes.axhline(rounding, color=WEAK, lw=1, ls="--", label="what rounding explains")
        plain_ticks(axes.xaxis, axes.yaxis)
        axes.set_xlabel("number of the eigenvalue", color=LIGHT.muted)
        axes.set_ylabel("eigenvalue", color=LIGHT.muted)
        axes.grid(color=LIGHT.muted, alpha=0.2, lw=0.6)
        axes.legend(fontsize=6.5, frameon=False, labelcolor=LIGHT.ink, loc="lower left")
    caption = (
        f"The largest eigenvalue holds {number(100 * values[0] / values.sum(), 1)} % of the trace. "
        "What lies at or below the dashed line cannot be told from zero."
    )
    return Chart("spectrum", "Spectrum", caption, "Eigenvalues over their number, both logarithmic.", figure)


def _told(summary: "KernelSummary", ids: Sequence[str]) -> list[tuple[str, str]]:
    """Label and text of everything but the spectrum."""
    found, repeats, rank = summary.definiteness, summary.repeats, summary.rank
    told = [
        ("size", f"{summary.num_examples:,} x {summary.num_examples:,}, {summary.dtype}, trace {summary.trace:.4g}"),
        ("eigenvalues", f"{found.largest:.4g} to {found.smallest:.4g}, {found.num_negative:,} below zero"),
        ("effective rank", f"{number(float(rank.participation), 1)} (participation), "
                           f"{number(float(rank.entropy), 1)} (entropy), of {summary.num_examples:,}"),
        ("definiteness", f"{found.verdict}; rounding explains {found.rounding:.2g}. {found.advice}".strip()),
    ]  # fmt: skip
    if repeats.num_pairs:
        pairs = ", ".join(f"{shorten(ids[i], 30)} = {shorten(ids[j], 30)}" for i, j in repeats.pairs[:_MOST_PAIRS])
        more = ", ..." if repeats.num_pairs > _MOST_PAIRS else ""
        told.append(("repeated rows", f"{repeats.num_pairs:,} of all pairs make it singular: {pairs}{more}"))
    if len(repeats.zero_rows):
        zero = ", ".join(shorten(ids[i], 30) for i in repeats.zero_rows[:_MOST_PAIRS])
        told.append(("zero rows", f"no parameter responds to {len(repeats.zero_rows):,} examples: {zero}"))
    if summary.alignment is not None:
        told.append(("label alignment", f"{number(summary.alignment)} (centered; 1 is best)"))
    return told


def _page(summary: "KernelSummary", drawn: Any, ids: Sequence[str], provenance: Mapping[str, str]) -> str:
    import repsim_jax

    return environment().get_template("ntk.html.j2").render(
        version=repsim_jax.__version__,
        title="The tangent kernel of a model",
        lead=f"{summary.num_examples:,} examples; {summary.definiteness.verdict}.",
        told=_told(summary, ids),
        drawn=drawn,
        provenance=shortened({str(label): str(text) for label, text in provenance.items()}),
    )  # fmt: skip
