"""Which pictures does a fit of ContraSim need? Losses, accuracies with intervals, calibration, and what it rests on."""

from typing import TYPE_CHECKING

import numpy as np

from repsim_jax.report.plots import LIGHT, settings
from repsim_jax.report.row_charts import ACCENT, SECOND, WEAK, Chart, frame, name_rows
from repsim_jax.report.tables import number
from repsim_jax.report.text import shorten

if TYPE_CHECKING:
    from repsim_jax.similarity.contrasim import Accuracy, ContraSim

_MOST_ROWS = 24
_SMOOTH = 40  # parts of a loss curve that are averaged


def charts(measure: "ContraSim", losses: np.ndarray) -> tuple[Chart, ...]:
    """All pictures of a fit.

    Args:
        measure: With its diagnosis, or without.
        losses: (num_steps,), of each step.

    Returns:
        Losses first; accuracies, calibration and sensitivity where a diagnosis was made.
    """
    made = [_losses(losses)]
    if measure.diagnosis is not None:
        made += [_accuracies(measure), _calibration(measure)]
        made += [_sensitivity(measure)] if measure.diagnosis.sensitivity else []
    return tuple(made)


def _losses(losses: np.ndarray) -> Chart:
    with settings():
        figure, axes = frame(9, LIGHT, "Loss of each step", f"{len(losses):,} steps · lower = better on its batch")
        steps = np.arange(1, len(losses) + 1)
        axes.plot(steps, losses, color=ACCENT, lw=0.6, alpha=0.45)
        parts = [part for part in np.array_split(np.arange(len(losses)), min(_SMOOTH, len(losses))) if len(part)]
        axes.plot([steps[p].mean() for p in parts], [losses[p].mean() for p in parts], color=ACCENT, lw=1.8)
        axes.set_xlabel("step", color=LIGHT.muted)
        axes.set_ylabel("loss", color=LIGHT.muted)
        axes.margins(x=0.01)
        axes.grid(axis="y", color=LIGHT.muted, alpha=0.2, lw=0.6)
    caption = f"From {number(float(losses[0]), 2)} to {number(float(losses[-1]), 2)}; the thick line is a running mean."
    return Chart("losses", "Loss of each step", caption, "Line chart of the training loss over steps.", figure)


def _accuracies(measure: "ContraSim") -> Chart:
    found = measure.diagnosis
    assert found is not None
    rows: list[tuple[str, Accuracy, str]] = [
        ("training examples", found.training, WEAK),
        ("new examples, fitted models", found.seen, ACCENT),
    ]
    rows += [("new examples, held-out models", found.unseen, SECOND)] if found.unseen is not None else []
    for name, one in list(found.by_source.items())[: _MOST_ROWS - len(rows)]:
        held_out = measure.sources[name].held_out
        rows.append((f"{shorten(name, 18)}{' (held out)' if held_out else ''}", one, SECOND if held_out else ACCENT))
    title, chance = "How often is it right?", found.seen.chance
    with settings():
        subtitle = f"share of decisions, 95 % intervals · higher = better, chance {chance:.0%}"
        figure, axes = frame(len(rows), LIGHT, title, subtitle)
        for place, (_, one, color) in enumerate(rows):
            axes.plot((100 * one.low, 100 * one.high), (place, place), color=color, lw=2, solid_capstyle="round")
            axes.plot(100 * one.share, place, "o", color=color, ms=5.5)
        axes.axvline(100 * chance, color=LIGHT.muted, lw=1, ls=(0, (4, 3)))
        name_rows(axes, [label for label, _, _ in rows], LIGHT)
        axes.set_xlim(-2, 102)
        axes.set_xlabel("right decisions, %  (dashed: chance)", color=LIGHT.muted)
    unseen = f", {found.unseen.total:,} with a held-out one" if found.unseen is not None else ""
    caption = f"Over {found.seen.total:,} decisions between fitted models{unseen}. Each model: against all others."
    return Chart("accuracies", title, caption, "Accuracies with intervals, and the chance level.", figure)


def _calibration(measure: "ContraSim") -> Chart:
    found = measure.diagnosis
    assert found is not None
    rows = [
        ("positives, rows permuted", found.chance_mean, WEAK),
        ("negatives", found.negative_mean, SECOND),
        ("positives", found.positive_mean, ACCENT),
    ]
    title = "What does a score say?"
    with settings():
        figure, axes = frame(len(rows), LIGHT, title, "mean score on held-out examples · higher = more alike")
        for place, (_, value, color) in enumerate(rows):
            axes.barh(place, value, height=0.56, color=color)
            shift = 0.02 if value >= 0 else -0.02
            side = "left" if value >= 0 else "right"
            axes.text(
                value + shift, place - 0.16, number(value, 2), va="center", ha=side, color=LIGHT.ink, fontsize=7.5
            )
        axes.plot((found.chance_high,) * 2, (-0.5, 2.5), color=LIGHT.muted, lw=1, ls=(0, (4, 3)))
        axes.axvline(0, color=LIGHT.muted, lw=0.8)
        name_rows(axes, [label for label, _, _ in rows], LIGHT)
        lowest = min(0.0, *(value for _, value, _ in rows))
        axes.set_xlim(lowest - (0.15 if lowest < 0 else 0), 1.12)
        axes.set_xlabel("score  (dashed: 95 % of permuted scores are below)", color=LIGHT.muted)
    caption = (
        f"With permuted rows, which say nothing about each other, positives score {number(found.chance_mean, 2)} on "
        f"average and 95 % of the time below {number(found.chance_high, 2)}: only what lies above is about examples."
    )
    return Chart("calibration", title, caption, "Mean scores of positives, negatives and permuted positives.", figure)


def _sensitivity(measure: "ContraSim") -> Chart:
    found = measure.diagnosis
    assert found is not None
    title, rows = "What does it rest on?", list(found.sensitivity.items())
    with settings():
        subtitle = "change in accuracy of a shorter fit without it · left = it is needed"
        figure, axes = frame(len(rows), LIGHT, title, subtitle)
        values = [100 * change for _, change in rows]
        axes.barh(range(len(rows)), values, height=0.56, color=[SECOND if v < -10 else ACCENT for v in values])
        reach = max(12.0, *(1.25 * abs(value) for value in values))
        for place, value in enumerate(values):
            side, shift = ("left", 0.02 * reach) if value >= 0 else ("right", -0.02 * reach)
            axes.text(value + shift, place, f"{value:+.0f}", va="center", ha=side, color=LIGHT.ink, fontsize=7.5)
        axes.axvline(0, color=LIGHT.muted, lw=0.8)
        axes.set_xlim(-reach, reach)
        name_rows(axes, [name for name, _ in rows], LIGHT)
        axes.set_xlabel("percentage points, among the others", color=LIGHT.muted)
    name, change = min(rows, key=lambda row: row[1])
    caption = f"Most is lost without {shorten(name, 60)}: {100 * change:+.0f} points." if change < 0 else (
        "Nothing is lost where any one of them is left out."
    )  # fmt: skip
    return Chart("sensitivity", title, caption, "Bar chart of the change in accuracy without each source.", figure)
