"""At which width, time and learning rate does a network leave its kernel? The phase diagram as one picture."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from repsim_jax.report.plots import LIGHT, Scheme, drawable, settings
from repsim_jax.report.text import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from repsim_jax.theory.phase import PhaseDiagram

PHASE_SCHEMA = "repsim.theory.phase/1"
# Below and above these a change says "none" and "wholly another".
_LOW, _HIGH = 1e-4, 1.0
_RICH = 0.1
_DIVERGED, _NOTHING, _LINE = "#b9a5a5", "#ececea", "#b3261e"
_PANEL_WIDTH, _PANEL_HEIGHT = 1.75, 1.45  # inches
_LEFT, _RIGHT, _TOP, _BOTTOM, _BETWEEN = 1.15, 1.15, 1.0, 0.85, 0.16
_MOST_LETTERS = 30


def phase_to_json(found: "PhaseDiagram") -> dict[str, Any]:
    """The diagram as a document, ``"schema": "repsim.theory.phase/1"``.

    Args:
        found: From ``theory.phase.phase_diagram``.

    Returns:
        Plain dicts, lists, strings, finite numbers and None; of the changes and losses the median over seeds.
    """
    told = {
        "schema": PHASE_SCHEMA,
        "losses": list(found.losses),
        "widths": list(found.widths),
        "rates": list(found.rates),
        "times": list(found.times),
        "num_seeds": found.change.shape[-1],
        "axes": "losses, widths, rates, times",
        "change_median": _rounded(_median(found.change)),
        "regimes": found.regimes.tolist(),
        "stable_rates": _rounded(found.stable_rates),
        "exponent_axes": "losses, rates, times, (value, low, high)",
        "exponents": _rounded(found.exponents),
    }
    # What is infinite or undefined has no number in JSON.
    return json.loads(json.dumps(told), parse_constant=lambda _: None)


def phase_figure(found: "PhaseDiagram", *, data: str, scheme: Scheme = LIGHT) -> "Figure":
    """One panel for each loss and learning rate: the change of the kernel over time and width.

    Args:
        found: From ``theory.phase.phase_diagram``.
        data: What the networks were trained on: "16 triplets of digits".
        scheme: Colors.

    Returns:
        A matplotlib figure that no pyplot knows of.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = len(found.rates), len(found.losses)
    width = _LEFT + columns * (_PANEL_WIDTH + _BETWEEN) + _RIGHT
    height = _TOP + rows * (_PANEL_HEIGHT + _BETWEEN) + _BOTTOM
    with settings():
        figure = Figure(figsize=(width, height), facecolor=scheme.paper)
        FigureCanvasAgg(figure)
        drawn = None
        for row in range(rows):
            for column in range(columns):
                left = _LEFT + column * (_PANEL_WIDTH + _BETWEEN)
                bottom = height - _TOP - (row + 1) * (_PANEL_HEIGHT + _BETWEEN) + _BETWEEN
                place = left / width, bottom / height, _PANEL_WIDTH / width, _PANEL_HEIGHT / height
                axes = figure.add_axes(place)
                drawn = _panel(axes, found, column, row)
                _name_axes(axes, found, column, row, scheme)
        _heading(figure, found, data, scheme)
        _bar(figure, drawn, height, width, scheme)
        _legend(figure, scheme)
    return figure


def _panel(axes: "Axes", found: "PhaseDiagram", loss: int, rate: int) -> Any:
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    change, regimes = _median(found.change)[loss, :, rate], found.regimes[loss, :, rate]
    shown = np.where(np.isin(regimes, ("lazy", "rich")), np.clip(change, _LOW, _HIGH), np.nan)
    across, up = len(found.times), len(found.widths)
    drawn = axes.imshow(
        shown, origin="lower", aspect="auto", extent=(0, across, 0, up), cmap="viridis",
        norm=LogNorm(_LOW, _HIGH), interpolation="nearest",
    )  # fmt: skip
    for (i, j), regime in np.ndenumerate(regimes):
        if regime == "diverged":
            axes.add_patch(Rectangle((j, i), 1, 1, facecolor=_DIVERGED, edgecolor="#5c2a2a", hatch="////", linewidth=0))
    _boundary(axes, regimes)
    return drawn


def _boundary(axes: "Axes", regimes: np.ndarray) -> None:
    """A line between lazy cells and those that are not, along the edges of cells."""
    from matplotlib.collections import LineCollection

    lazy, known = regimes == "lazy", regimes != "within a step"
    lines = []
    for (i, j), is_lazy in np.ndenumerate(lazy):
        for di, dj, line in ((1, 0, ((j, i + 1), (j + 1, i + 1))), (0, 1, ((j + 1, i), (j + 1, i + 1)))):
            near = i + di, j + dj
            inside = near[0] < lazy.shape[0] and near[1] < lazy.shape[1]
            if inside and is_lazy != lazy[near] and known[i, j] and known[near]:
                lines.append(line)
    for color, thick in (("white", 2.8), (_LINE, 1.5)):
        axes.add_collection(LineCollection(lines, colors=color, linewidths=thick, capstyle="projecting"))


def _name_axes(axes: "Axes", found: "PhaseDiagram", loss: int, rate: int, scheme: Scheme) -> None:
    axes.set_facecolor(_NOTHING)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=2, colors=scheme.ink, color=scheme.muted)
    is_lowest, is_first = rate == len(found.rates) - 1, loss == 0
    shown = range(0, len(found.times), max(1, len(found.times) // 4))
    axes.set_xticks([k + 0.5 for k in shown], [f"{found.times[k]:.3g}" for k in shown] if is_lowest else [])
    widths = range(0, len(found.widths), 1 if len(found.widths) < 5 else 2)
    axes.set_yticks([k + 0.5 for k in widths], [f"{found.widths[k]:,}" for k in widths] if is_first else [])
    if rate == 0:
        title = found.losses[loss].replace("_", " ")
        axes.set_title(drawable(shorten(title, _MOST_LETTERS)), fontsize=9, fontweight="bold", color=scheme.ink)
    if is_first:
        axes.set_ylabel("width", color=scheme.muted, labelpad=3)
        axes.annotate(
            f"learning rate:\n{_as_share(found.rates[rate])}", (0, 0.5), (-0.98 * 72, 0), xycoords="axes fraction",
            textcoords="offset points", rotation=90, ha="center", va="center", fontweight="bold", color=scheme.ink,
            multialignment="center",
        )  # fmt: skip


def _as_share(rate: float) -> str:
    """A learning rate relative to the edge, in words."""
    if rate == 1:
        return "the edge"
    return f"{rate:g} x edge" if rate > 1 else f"edge / {1 / rate:g}"


def _heading(figure: "Figure", found: "PhaseDiagram", data: str, scheme: Scheme) -> None:
    height = figure.get_figheight()
    left = _LEFT / figure.get_figwidth()
    seeds = found.change.shape[-1]
    figure.text(
        left, 1 - 0.22 / height, "How much of its tangent kernel does a network lose while it trains?", fontsize=12,
        fontweight="bold", color=scheme.ink, va="center",
    )  # fmt: skip
    figure.text(
        left, 1 - 0.43 / height,
        drawable(f"{data}; median of {seeds} seeds; each column is a loss, each row a learning rate relative to the "
                 "largest stable one at the start (the edge)"),
        color=scheme.muted, va="center",
    )  # fmt: skip
    middle = left + len(found.losses) * (_PANEL_WIDTH + _BETWEEN) / 2 / figure.get_figwidth()
    figure.text(
        middle, (_BOTTOM - 0.4) / height, "training time: steps x learning rate (log scale)", ha="center",
        color=scheme.ink,
    )  # fmt: skip


def _bar(figure: "Figure", drawn: Any, height: float, width: float, scheme: Scheme) -> None:
    axes = figure.add_axes(
        (
            (width - _RIGHT + 0.12) / width,
            (_BOTTOM + 0.1) / height,
            0.13 / width,
            (height - _TOP - _BOTTOM - 0.3) / height,
        )
    )
    bar = figure.colorbar(drawn, cax=axes)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    ticks = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    bar.set_ticks(ticks, labels=["≤ 0.0001", "0.001", "0.01", "0.1", "≥ 1"])
    bar.ax.minorticks_off()
    bar.ax.axhline(_RICH, color="white", lw=2.6)
    bar.ax.axhline(_RICH, color=_LINE, lw=1.4)
    axes.tick_params(length=2, colors=scheme.ink, color=scheme.muted)
    axes.set_ylabel("relative change of the kernel (Frobenius)", color=scheme.muted, labelpad=8)


def _legend(figure: "Figure", scheme: Scheme) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries = [
        Line2D([], [], color=_LINE, lw=1.4, label="change of 0.1: dark side lazy (a kernel), bright side rich"),
        Patch(facecolor=_DIVERGED, edgecolor="#5c2a2a", hatch="////", linewidth=0,
              label="diverged: not finite, or a loss above the start"),
        Patch(facecolor=_NOTHING, label="shorter than one step"),
    ]  # fmt: skip
    figure.legend(
        handles=entries, loc="lower left", bbox_to_anchor=(_LEFT / figure.get_figwidth(), 0.0), ncols=3, frameon=False,
        fontsize=8, labelcolor=scheme.ink, borderaxespad=0.3,
    )  # fmt: skip


def _median(change: np.ndarray) -> np.ndarray:
    finite = np.nan_to_num(change, nan=np.inf, posinf=np.inf)
    ordered = np.sort(finite, axis=-1)
    # Of an even number the lower one, so that an infinite half does not make the other half infinite.
    return ordered[..., (change.shape[-1] - 1) // 2]


def _rounded(array: np.ndarray) -> Any:
    """Four digits, in lists."""
    flat = [float(f"{value:.4g}") for value in np.asarray(array, float).ravel()]
    return np.asarray(flat).reshape(array.shape).tolist()
