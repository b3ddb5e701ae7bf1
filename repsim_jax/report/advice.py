"""PCA, a kernel or a network? The advice as a terminal table, a document, pictures and one page."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repsim_jax.report.panels import Panel
from repsim_jax.report.plots import LIGHT, draw, settings
from repsim_jax.report.row_charts import ACCENT, SECOND, WEAK, Chart, frame, name_rows
from repsim_jax.report.sheets import Picture, environment, picture_of, shortened, write_files
from repsim_jax.report.tables import number
from repsim_jax.report.text import styled

if TYPE_CHECKING:
    from rich.console import Group

    from repsim_jax.theory import Advice, Learner

ADVICE_PAGE, ADVICE_DOCUMENT = "advice.html", "advice.json"
SCHEMA = "repsim.theory.advice/1"
VERDICTS = {
    "pca": "Start from PCA",
    "kernel": "A kernel does it",
    "network": "The network pays",
    "undecided": "Undecided",
}
_COLORS = {"pca": WEAK, "kernel": ACCENT, "network": SECOND}
# Metrics that get a picture, and columns of tables.
_SHOWN = ("probe", "nearest", "retrieval")
_ROWS = 9  # of the picture of kernels, in units of the other charts


def write_advice(advice: "Advice", out: str | os.PathLike[str], *, provenance: Mapping[str, str] | None = None) -> Path:
    """Writes the page of the advice, its pictures and the document (``advice.json``) into a folder.

    Args:
        advice: From ``theory.advise``.
        out: The folder, made where it does not exist.
        provenance: How the numbers came about, as label and text.

    Returns:
        Path of the page.

    Raises:
        FileError: If the folder cannot be written; NoSpaceError if the disk is full.
    """
    drawn = advice_pictures(advice)
    files = {path: content for picture in drawn for path, content in picture.files.items()}
    document = advice_to_json(advice, provenance=provenance)
    files[ADVICE_DOCUMENT] = (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()
    files[ADVICE_PAGE] = _page(advice, drawn, provenance or {}).encode()
    return write_files(Path(out), files, page=ADVICE_PAGE)


def advice_to_json(advice: "Advice", *, provenance: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The advice as a document with a stable schema, ``"schema": "repsim.theory.advice/1"``.

    Args:
        advice: From ``theory.advise``.
        provenance: How the numbers came about, as label and text.

    Returns:
        Plain dicts, lists, strings and finite numbers.
    """
    learners = [
        {
            "name": one.name,
            "kind": one.kind,
            "num_components": one.num_components,
            "seconds": one.seconds.tolist(),
            "reached": one.reached.tolist(),
            "scores": {name: values.tolist() for name, values in one.scores.items()},
            "ntk_change": [{"steps": m.steps.tolist(), "change": m.change.tolist()} for m in one.motion],
        }
        for one in advice.learners
    ]
    return {
        "schema": SCHEMA,
        "verdict": advice.verdict,
        "reason": advice.reason,
        "metric": advice.metric,
        "margin": advice.margin,
        "num_train": advice.num_train,
        "num_test": advice.num_test,
        "num_features": advice.num_features,
        "learners": learners,
        "gains": [one._asdict() for one in advice.gains],
        "alike": {name: matrix.tolist() for name, matrix in advice.alike.items()},
        "settings": json.loads(json.dumps(advice.settings)),
        "provenance": dict(provenance or {}),
    }


def advice_summary(advice: "Advice") -> "Group":
    """What a person at a terminal wants to see of the advice.

    Args:
        advice: From ``theory.advise``.

    Returns:
        A rich renderable.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    columns, rows = _table(advice)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for k, column in enumerate(columns):
        table.add_column(column, justify="left" if k == 0 else "right", no_wrap=k == 0)
    for row in rows:
        table.add_row(*map(styled, row))
    colors = {"pca": "green", "kernel": "cyan", "network": "magenta", "undecided": "yellow"}
    sizes = (
        f"{advice.settings['num_seeds']} random splits into {advice.num_train} training and {advice.num_test} test "
        "examples; mean and half of its 95 % interval; embeddings of k dimensions"
    )
    return Group(
        Text(VERDICTS[advice.verdict], f"bold {colors[advice.verdict]}"), styled(advice.reason), Text(), table,
        styled(sizes, "dim"), *map(styled, _notes(advice)),
    )  # fmt: skip


def _notes(advice: "Advice") -> list[str]:
    """What a reader must know before concluding."""
    return [f"Left out: {reason}" for reason in advice.settings["left_out"].values()] + [
        f"The training of {one.name} ended early in {int((one.reached < 1 - 1e-6).sum())} of {len(one.reached)} splits"
        f", at {number(float(one.reached.min()), 2)} of its time at the earliest: an embedding came near zero."
        for one in advice.learners
        if (one.reached < 1 - 1e-6).any()
    ]


def advice_pictures(advice: "Advice") -> list[Picture]:
    """All pictures: each metric by learner, how alike they see, and how far kernels moved.

    Args:
        advice: From ``theory.advise``.

    Returns:
        Encoded pictures.
    """
    charts = [_scores(advice, name) for name in _SHOWN if name in advice.learners[0].scores]
    moved = [_motion(advice)] if any(one.motion for one in advice.learners) else []
    panel = _alike(advice)
    return [
        *(picture_of(chart, chart.figure) for chart in charts),
        picture_of(panel, draw(panel)),
        *(picture_of(chart, chart.figure) for chart in moved),
    ]


def _scores(advice: "Advice", metric: str) -> Chart:
    from repsim_jax.theory.probes import METRICS

    told = METRICS[metric]
    with settings():
        title = told.title[0].upper() + told.title[1:]
        subtitle = f"{advice.settings['num_seeds']} splits, {advice.num_test} test examples each · higher = better"
        figure, axes = frame(len(advice.learners), LIGHT, title, subtitle)
        for place, one in enumerate(advice.learners):
            values, (low, high), color = one.scores[metric], _interval(advice, one, metric), _COLORS[one.kind]
            axes.barh(place, high - low, left=low, height=0.62, color=color, alpha=0.3)
            axes.plot([values.mean()] * 2, [place - 0.31, place + 0.31], color=color, lw=2)
            axes.plot(values, np.full(len(values), place), ".", color=color, ms=5)
        name_rows(axes, [one.name for one in advice.learners], LIGHT)
        if metric == advice.metric:
            axes.axvline(advice.settings["chance"], color=LIGHT.muted, lw=0.8, ls=":")
        axes.set_xlabel(f"share of {told.unit}", color=LIGHT.muted)
    best = max(advice.learners, key=lambda one: one.scores[metric].mean())
    caption = (
        f"Highest mean: {best.name} with {number(float(best.scores[metric].mean()), 3)}. Dots are splits, strokes "
        "means, bars 95 % intervals of the mean. PCA is gray, kernels are green, networks orange; a dotted line is "
        "chance."
    )
    return Chart(f"score-{metric}", title, caption, f"Dots and intervals of {told.title} by learner.", figure)


def _interval(advice: "Advice", one: "Learner", metric: str) -> tuple[float, float]:
    from repsim_jax.theory.verdicts import interval

    low, high = interval(one.scores[metric], ratio=advice.num_test / advice.num_train)
    return max(low, 0.0), min(high, 1.0)


def _alike(advice: "Advice") -> Panel:
    names = tuple(one.name for one in advice.learners)
    matrix = advice.alike["linear_cka_unbiased"]
    to_pca = matrix[0, 1:]
    place = int(to_pca.argmin()) + 1
    return Panel(
        stem="alike",
        title="How alike the learners see",
        subtitle=f"linear CKA, unbiased · n = {advice.num_test} test examples · mean of splits",
        matrix=matrix,
        rows=names,
        columns=names,
        row_axis="learner",
        column_axis="learner",
        bar="linear CKA\nhigher = more alike",
        limits=(0.0, 1.0),
        bright_is_high=True,
        colormap="viridis",
        digits=2,
        upward=False,
        path=None,
        caption=f"Least like PCA: {names[place]} ({number(float(matrix[0, place]), 2)}). Procrustes and mutual nearest "
        "neighbors stand in the document.",
        alt=f"Heat map of linear CKA between held-out embeddings of {len(names)} learners.",
    )


def _motion(advice: "Advice") -> Chart:
    networks = [one for one in advice.learners if one.motion]
    with settings():
        title = "Change of the tangent kernel in training"
        figure, axes = frame(_ROWS, LIGHT, title, "relative Frobenius norm, unseen examples · 0 = a kernel machine")
        for one, color in zip(networks, (SECOND, ACCENT, "#5b5f97", "#8c2f39", WEAK), strict=False):
            changes = np.stack([motion.change for motion in one.motion])
            steps = np.concatenate([[0], one.motion[0].steps])
            for change in changes:
                axes.plot(steps, [0.0, *change], color=color, lw=0.6, alpha=0.45)
            axes.plot(steps, [0.0, *changes.mean(0)], color=color, lw=1.8, label=one.name)
        axes.set_ylim(0)
        axes.set_xlabel("step of Adam", color=LIGHT.muted)
        axes.set_ylabel("relative change of the NTK", color=LIGHT.muted)
        axes.grid(color=LIGHT.muted, alpha=0.2, lw=0.6)
        axes.legend(fontsize=7, frameon=False, labelcolor=LIGHT.ink)
    ends = ", ".join(f"{one.name}: {number(float(np.mean([m.change[-1] for m in one.motion])), 2)}" for one in networks)
    caption = f"At the end {ends}. Thick lines are means over splits."
    return Chart("kernel-change", title, caption, "Line chart of kernel change over training steps.", figure)


def _table(advice: "Advice") -> tuple[list[str], list[list[str]]]:
    from repsim_jax.theory.probes import METRICS
    from repsim_jax.theory.verdicts import interval

    shown = [name for name in _SHOWN if name in advice.learners[0].scores]
    rows = []
    for one in advice.learners:
        cells = []
        for name in shown:
            low, high = interval(one.scores[name], ratio=advice.num_test / advice.num_train)
            cells.append(f"{number(float(one.scores[name].mean()), 3)} ± {number((high - low) / 2, 3)}")
        rows.append([one.name, str(one.num_components), *cells, f"{np.median(one.seconds):.2g}"])
    return ["learner", "k", *(METRICS[name].title for name in shown), "seconds"], rows


def _page(advice: "Advice", drawn: list[Picture], provenance: Mapping[str, str]) -> str:
    import repsim_jax

    columns, rows = _table(advice)
    facts = {
        "examples": f"{advice.num_train} for training and {advice.num_test} for testing in each of "
        f"{advice.settings['num_seeds']} random splits; {advice.num_features} features",
        "views": str(advice.settings["views"]),
        "gain that matters": number(advice.margin, 3),
        "recipe": ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in advice.settings["recipe"].items()),
        **provenance,
    }
    return environment().get_template("advice.html.j2").render(
        version=repsim_jax.__version__,
        title=VERDICTS[advice.verdict],
        lead=advice.reason,
        columns=columns,
        rows=rows,
        gains=[(one.learner, one.reference, one.told) for one in advice.gains],
        notes=_notes(advice),
        pictures=drawn,
        provenance=shortened({str(label): str(text) for label, text in facts.items()}),
    )  # fmt: skip
