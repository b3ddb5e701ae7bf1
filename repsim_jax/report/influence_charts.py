"""Pictures of an audit: how self-influence is spread, where examples lie, what pruning costs, what damping does."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from repsim_jax.report.audits import Audit, Truth
from repsim_jax.report.plots import LIGHT, drawable, settings
from repsim_jax.report.row_charts import ACCENT, SECOND, WEAK, Chart, frame, name_rows
from repsim_jax.report.tables import number
from repsim_jax.report.text import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from repsim_jax.influence import DampingSweep

_ROWS = 8  # of a picture without named rows, in units of the others
_COLORS = (ACCENT, SECOND, "#5b5f97", WEAK, "#8c2f39", "#4f772d", "#b79f00", "#a05195")
_MARKERS = ("o", "s")
_MOST_DOTS = 4000
_WIDE = 30  # times the median: where some are larger, a straight axis would press the others together


def spread_chart(audit: Audit) -> Chart:
    """Self-influence of all examples, the highest first, with standard errors.

    Args:
        audit: All that is known.

    Returns:
        The picture.
    """
    order = np.argsort(-audit.self_influence, kind="stable")
    shown = order[np.unique(np.linspace(0, len(order) - 1, min(len(order), 600)).round().astype(int))]
    places = 100 * (np.searchsorted(-audit.self_influence[order], -audit.self_influence[shown]) + 1) / len(order)
    with settings():
        figure, axes = frame(_ROWS, LIGHT, "Self-influence of the training examples", f"n = {len(order):,}")
        values = audit.self_influence[shown]
        if audit.standard_errors is not None:
            errors = audit.standard_errors[shown]
            axes.fill_between(places, values - errors, values + errors, color=ACCENT, alpha=0.2, lw=0)
        axes.plot(places, values, color=ACCENT, lw=1.4)
        axes.axhline(0, color=WEAK, lw=0.8)
        axes.set_xlabel("share of the examples that are at least as high, %", color=LIGHT.muted)
        told = "more memorized" if audit.trained else "training would move it more"
        axes.set_ylabel(f"self-influence\n(higher: {told})", color=LIGHT.muted)
        axes.grid(color=LIGHT.muted, alpha=0.2, lw=0.6)
    tenth = order[: max(1, len(order) // 10)]
    positive = np.clip(audit.self_influence, 0, None)
    share = 100 * positive[tenth].sum() / positive.sum() if positive.any() else float("nan")
    told = "" if audit.standard_errors is None else " The band is one standard error."
    caption = (
        f"The highest tenth of the examples holds {number(float(share), 0)} % of all positive self-influence.{told}"
    )
    return Chart("self-influence", "Self-influence", caption, "Self-influence over the rank of the examples.", figure)


def quadrant_chart(audit: Audit) -> Chart:
    """Sparseness against self-influence, a dot for each example, in the colors of the quadrants.

    Args:
        audit: With density and quadrants.

    Returns:
        The picture.
    """
    from matplotlib.ticker import FormatStrFormatter

    assert audit.density is not None
    assert audit.quadrants is not None
    names = list(dict.fromkeys(np.asarray(audit.quadrants).tolist()))
    # every so many: a random choice would need a key, and the order of examples has nothing to do with either axis
    shown = np.arange(0, len(audit.ids), -(-len(audit.ids) // _MOST_DOTS))
    with settings():
        subtitle = f"n = {len(audit.ids):,}" + ("" if len(shown) == len(audit.ids) else f", {len(shown):,} shown")
        figure, axes = frame(_ROWS + 2, LIGHT, "Where examples lie", subtitle)
        for name, color in zip(names, _COLORS, strict=False):
            inside = shown[np.asarray(audit.quadrants)[shown] == name]
            count = int((np.asarray(audit.quadrants) == name).sum())
            x, y = audit.density[inside], audit.self_influence[inside]
            axes.plot(x, y, ".", color=color, ms=3.5, alpha=0.6, label=drawable(f"{name}: {count:,}"))
        low, top = abs(np.quantile(audit.self_influence, 0.01)), np.abs(audit.self_influence).max()
        bent = top > _WIDE * np.median(np.abs(audit.self_influence))
        if bent:
            axes.set_yscale("symlog", linthresh=max(low, top * 1e-3, 1e-30))
            axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.set_xlabel("cosine distance to the nearest others (right: sparse)", color=LIGHT.muted)
        told = "up: memorized" if audit.trained else "up: training would move it"
        scale = "\nlogarithmic, but around zero" if bent else ""
        axes.set_ylabel(f"self-influence ({told}){scale}", color=LIGHT.muted)
        axes.grid(color=LIGHT.muted, alpha=0.2, lw=0.6)
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncols": len(names)}
        axes.legend(fontsize=7, frameon=False, labelcolor=LIGHT.ink, markerscale=2, **place)
    caption = (
        "Each dot is a training example. The two axes are different things: the panel on honesty has their correlation."
    )
    return Chart("quadrants", "Quadrants", caption, "Self-influence over sparseness, colored by quadrant.", figure)


def sweep_chart(sweep: "DampingSweep", damping: float | None = None) -> Chart:
    """How much the ranking hangs on the damping.

    Args:
        sweep: From ``influence.damping_sweep``.
        damping: With which the nearest of the sweep is compared to the others; None: the one in the middle.

    Returns:
        The picture.
    """
    relative = np.asarray(sweep.relative)
    middle = len(relative) // 2 if not damping else int(np.argmin(np.abs(np.log(relative / damping))))
    with settings():
        n = np.asarray(sweep.values).shape[1]
        figure, axes = frame(_ROWS, LIGHT, "How much does the ranking hang on the damping?", f"n = {n:,}")
        told = f"agreement with damping {sweep.relative[middle]:g}"
        axes.semilogx(sweep.relative, sweep.agreement[middle], "o-", color=ACCENT, ms=4, lw=1.2, label=told)
        axes.semilogx(sweep.relative, sweep.split_half, "s--", color=SECOND, ms=4, lw=1.2, label="halves of the views")
        axes.set_ylim(min(0.0, float(np.min(sweep.agreement)), float(np.min(sweep.split_half))) - 0.03, 1.03)
        axes.set_xticks(sweep.relative, [f"{share:g}" for share in sweep.relative])
        axes.minorticks_off()
        axes.set_xlabel("damping, as a share of the mean eigenvalue", color=LIGHT.muted)
        axes.set_ylabel("Spearman's correlation\n(higher: firmer)", color=LIGHT.muted)
        axes.grid(color=LIGHT.muted, alpha=0.2, lw=0.6)
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 2}
        axes.legend(fontsize=7, frameon=False, labelcolor=LIGHT.ink, **place)
    lowest = float(np.min(sweep.agreement[middle]))
    caption = (
        f"Self-influence is ranked alike, with a correlation of {number(lowest, 2)} or more, over all of these "
        f"dampings beside {sweep.relative[middle]:g}. What the two halves of the views do not share is their noise."
    )
    return Chart("damping", "Damping", caption, "Correlation of rankings over the damping.", figure)


def truth_chart(truth: Truth) -> Chart:
    """How well each way foretells training anew, with intervals and the ceiling.

    Args:
        truth: The check.

    Returns:
        The picture.
    """
    verdicts = sorted(truth.verdicts, key=lambda one: -one.score)
    others = any(one.held_out is not None for one in verdicts)
    with settings():
        ends = "95 % intervals over subsets" if truth.seeds == 1 else f"least and most of {truth.seeds} seeds"
        subtitle = f"linear datamodeling score (right is better), {ends}"
        figure, axes = frame(len(verdicts) + others, LIGHT, "What does training anew say?", subtitle)
        name_rows(axes, [one.name for one in verdicts], LIGHT)
        for row, one in enumerate(verdicts):
            _dot(axes, row - 0.13 * others, (one.score, one.low, one.high), ACCENT, "o")
            if one.held_out is not None:
                _dot(axes, row + 0.13, (one.held_out, one.held_out_low, one.held_out_high), SECOND, "D")
        axes.axvline(0, color=WEAK, lw=0.8)
        for ceiling, color in ((truth.ceiling, ACCENT), (truth.held_out_ceiling, SECOND)):
            if ceiling is not None:
                axes.axvline(ceiling, color=color, lw=1, ls="--", alpha=0.8)
        lowest = [one.low for one in verdicts] + [one.held_out_low or 0.0 for one in verdicts]
        axes.set_xlim(min(-0.1, *lowest) - 0.03, 1.03)
        if others:
            for label, color, marker in (("trained on", ACCENT, "o"), ("never trained on", SECOND, "D")):
                axes.plot([], [], marker, color=color, ms=5, label=f"queries {label}")
            place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.4, -0.16), "ncols": 2}
            axes.legend(fontsize=7, frameon=False, labelcolor=LIGHT.ink, **place)
    ceiling = "" if truth.ceiling is None else " Dashed: what a perfect predictor of the expected outcome would score."
    caption = f"{truth.told} 0 is chance.{ceiling}"
    return Chart("retraining", "Retraining", caption, "Scores of ways to foretell retraining, with intervals.", figure)


def _dot(axes: "Axes", row: float, ends: tuple[float, Any, Any], color: str, marker: str) -> None:
    """A value with its two ends."""
    value, low, high = ends
    axes.plot([low, high], [row, row], color=color, lw=2, alpha=0.5, solid_capstyle="butt")
    axes.plot(value, row, marker, color=color, ms=5)


def pruning_chart(curves: Mapping[str, np.ndarray], shares: Sequence[float], whole: np.ndarray, what: str) -> Chart:
    """Accuracy after examples were dropped by each method, and the model trained anew.

    Args:
        curves: (k, seeds) by name of the method.
        shares: (k,) of the examples that were dropped.
        whole: (seeds,) with all examples.
        what: Was measured, with its unit.

    Returns:
        The picture.
    """
    percent = 100 * np.asarray(shares)
    with settings():
        figure, axes = frame(
            _ROWS + 2,
            LIGHT,
            "What does dropping examples cost?",
            f"{len(whole)} {'seed' if len(whole) == 1 else 'seeds'}",
        )
        axes.axhline(float(np.mean(whole)), color=WEAK, lw=1, ls="--", label="all examples")
        for number, ((name, values), color) in enumerate(zip(curves.items(), cycle(_COLORS))):
            spread = values.std(1, ddof=1) if values.shape[1] > 1 else np.zeros(len(values))
            beside = percent + 0.5 * (number - (len(curves) - 1) / 2)  # bars on each other could not be told apart
            line: dict[str, Any] = {
                "color": color,
                "lw": 1.2,
                "capsize": 2,
                "marker": _MARKERS[number // len(_COLORS) % 2],
            }
            axes.errorbar(beside, values.mean(1), spread, ms=3, label=drawable(shorten(name, 30)), **line)
        axes.set_xticks(percent, [f"{share:g}" for share in percent])
        axes.set_xlabel("dropped, % of the examples", color=LIGHT.muted)
        axes.set_ylabel(drawable(what), color=LIGHT.muted)
        axes.grid(color=LIGHT.muted, alpha=0.2, lw=0.6)
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncols": 3}
        axes.legend(fontsize=7, frameon=False, labelcolor=LIGHT.ink, **place)
    spread = ", with one standard deviation" if len(whole) > 1 else ""
    caption = f"Mean over seeds{spread} (higher is better). Each point is a model that was trained anew."
    return Chart("pruning", "Pruning", caption, "Score over the share that was dropped, by method.", figure)


def slices_chart(
    names: Sequence[str], means: np.ndarray, intervals: np.ndarray, p_values: np.ndarray, *, trained: bool = True
) -> Chart:
    """Mean self-influence of groups of examples, with intervals and corrected p-values.

    Args:
        names: Of the groups.
        means: (g,).
        intervals: (g, 2).
        p_values: (g,), corrected for the number of groups.
        trained: Whether the model was trained on these examples.

    Returns:
        The picture.
    """
    rows = [f"{name} (p {'< 0.001' if p < 1e-3 else f'= {p:.2g}'})" for name, p in zip(names, p_values, strict=True)]
    with settings():
        figure, axes = frame(len(rows), LIGHT, "Groups of examples", "mean, with 95 % intervals; p by permutation")
        name_rows(axes, rows, LIGHT)
        for row, (mean, (low, high)) in enumerate(zip(means, intervals, strict=True)):
            axes.plot([low, high], [row, row], color=ACCENT, lw=2, alpha=0.5)
            axes.plot(mean, row, "o", color=ACCENT, ms=5)
        told = "right: more memorized" if trained else "right: training would move it more"
        axes.set_xlabel(f"self-influence ({told})", color=LIGHT.muted)
    other = "is memorized more, or less, than" if trained else "has more self-influence, or less, than"
    caption = f"A group whose interval stands apart {other} the others; p-values are corrected."
    return Chart("slices", "Groups", caption, "Means of groups with intervals.", figure)
