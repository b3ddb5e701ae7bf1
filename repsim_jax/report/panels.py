"""Which pictures does a comparison need, and what is written on each?  Heat maps with axes, direction, range and n."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from repsim_jax.report import words
from repsim_jax.report.tables import number
from repsim_jax.report.text import file_name, shorten

if TYPE_CHECKING:
    from repsim_jax.report.findings import Digest, MeasureReading

# Above this a cell has no room for its number or an outline.
MOST_NUMBERED = 110


class Panel(NamedTuple):
    """A heat map before it is drawn.

    Attributes:
        stem: Safe file name without extension.
        title: What it shows.
        subtitle: n, direction and range.
        matrix: (rows, columns) numbers to color.
        rows: Names of the rows.
        columns: Names of the columns.
        row_axis: What the rows are.
        column_axis: What the columns are.
        bar: What the color means, and a line on its direction.
        limits: Values at the ends of the color bar.
        bright_is_high: Whether large values get the bright end.
        colormap: A sequential, perceptually uniform map of matplotlib.
        digits: Digits of the numbers in the cells.
        upward: Whether the first row is at the bottom, as for layers by depth.
        path: Column index for each row, or None.
        caption: What to read off it, in a sentence or two.
        alt: What kind of picture it is; with the caption, the picture in words for those who do not see it.
    """

    stem: str
    title: str
    subtitle: str
    matrix: np.ndarray
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    row_axis: str
    column_axis: str
    bar: str
    limits: tuple[float, float]
    bright_is_high: bool
    colormap: str
    digits: int
    upward: bool
    path: np.ndarray | None
    caption: str
    alt: str


def panels(found: "Digest") -> tuple[Panel, ...]:
    """All pictures of a comparison: a heat map per measure, nearest layers, agreement and disagreement of measures.

    Args:
        found: From ``digest``.

    Returns:
        Heat maps first, in the order of the measures; then what needs several measures or layer pairs.
    """
    made = [heat_panel(found, one) for one in found.readings]
    if min(found.lead.matrix.shape) > 1:
        made.append(_nearest_panel(found))
    if len(found.readings) > 2 and np.isfinite(found.correlations).all():
        made.append(_agreement_panel(found))
    if found.disagreements:
        made.append(_disagreement_panel(found))
    return tuple(made)


def path_kind(panel: Panel) -> str | None:
    """How the best path is drawn, for captions.

    Args:
        panel: A heat map.

    Returns:
        "outline" around cells, "line" through their centers, or None where there is no path to show.
    """
    if panel.path is None or panel.matrix.size == 1:
        return None
    return "outline" if panel.matrix.size <= MOST_NUMBERED else "line"


def heat_panel(found: "Digest", reading: "MeasureReading") -> Panel:
    """The heat map of one measure over all layer pairs, with its best path.

    Args:
        found: From ``digest``.
        reading: One of its readings.

    Returns:
        What to draw.
    """
    comparison = found.comparison
    a, b = words.names(found)
    lowest, highest = float(reading.matrix.min()), float(reading.matrix.max())
    i, j = np.unravel_index(
        (np.argmax if reading.larger_is_more_similar else np.argmin)(reading.matrix), reading.matrix.shape
    )
    seen = f"{number(lowest, 2)} to {number(highest, 2)}"
    possible = f"{number(reading.range[0], 0)} to {number(reading.range[1], 0)}"
    return Panel(
        stem=f"heat_{file_name(reading.name)}",
        title=reading.title,
        subtitle=f"n = {comparison.num_examples:,} · seen {seen}, possible {possible}",
        matrix=reading.matrix,
        rows=comparison.layers_a,
        columns=comparison.layers_b,
        row_axis=f"{shorten(a, 40)}, layers by depth",
        column_axis=f"{shorten(b, 40)}, layers by depth",
        bar=f"{reading.title}\n{reading.direction}",
        limits=_limits(lowest, highest, reading.range),
        bright_is_high=reading.larger_is_more_similar,
        colormap="viridis",
        digits=2,
        upward=True,
        path=reading.path.layers,
        caption=f"Most alike: {shorten(comparison.layers_a[i], 60)} and {shorten(comparison.layers_b[j], 60)} "
        f"({number(float(reading.matrix[i, j]), 2)}). The best path averages {number(reading.path.mean, 2)}.",
        alt=f"Heat map of {reading.title} between {len(comparison.layers_a)} layers of {a} (rows) and "
        f"{len(comparison.layers_b)} layers of {b} (columns), {seen}, {reading.direction}.",
    )


def _nearest_panel(found: "Digest") -> Panel:
    comparison = found.comparison
    a, b = words.names(found)
    deepest = len(comparison.layers_b)
    return Panel(
        stem="nearest_layers",
        title="Nearest layer, by every measure",
        subtitle=f"n = {comparison.num_examples:,} · 1 = first layer of {shorten(b, 30)}, {deepest} = last",
        matrix=np.stack([one.best.layers + 1 for one in found.readings]).astype(float),
        rows=tuple(one.title for one in found.readings),
        columns=comparison.layers_a,
        row_axis="measures",
        column_axis=f"{shorten(a, 40)}, layers by depth",
        bar="depth of\nnearest layer",
        limits=(1.0, float(deepest)),
        bright_is_high=True,
        colormap="cividis",
        digits=0,
        upward=False,
        path=None,
        caption="Where a column has one color, the measures agree on which layer is nearest.",
        alt=f"For each measure (rows) and layer of {a} (columns), the depth of its nearest of {deepest} layers of {b}.",
    )


def _agreement_panel(found: "Digest") -> Panel:
    titles = tuple(one.title for one in found.readings)
    off = found.correlations[~np.eye(len(titles), dtype=bool)]
    return Panel(
        stem="agreement",
        title="Do the measures rank layer pairs alike?",
        subtitle=f"Spearman rank correlation over {found.lead.matrix.size:,} layer pairs",
        matrix=found.correlations,
        rows=titles,
        columns=titles,
        row_axis="measures",
        column_axis="measures",
        bar="rank correlation\n1 = same ranking",
        limits=_limits(float(off.min()), 1.0, (-1.0, 1.0)),
        bright_is_high=True,
        colormap="cividis",
        digits=2,
        upward=False,
        path=None,
        caption=f"From {number(float(off.min()), 2)} to {number(float(off.max()), 2)} between two measures.",
        alt=f"Rank correlations between {len(titles)} measures.",
    )


def _disagreement_panel(found: "Digest") -> Panel:
    from repsim_jax.evaluation.agreement import normalized_ranks

    comparison = found.comparison
    a, b = words.names(found)
    ranks = normalized_ranks(comparison.values, tuple(one.larger_is_more_similar for one in found.readings))
    most = found.disagreements[0]
    return Panel(
        stem="disagreement",
        title="Where the measures part",
        subtitle=f"n = {comparison.num_examples:,} · largest difference of rank (0 to 1) between two measures",
        matrix=np.ptp(ranks, axis=0),
        rows=comparison.layers_a,
        columns=comparison.layers_b,
        row_axis=f"{shorten(a, 40)}, layers by depth",
        column_axis=f"{shorten(b, 40)}, layers by depth",
        bar="difference of rank\nlower = more agreement",
        limits=(0.0, 1.0),
        bright_is_high=True,
        colormap="magma",
        digits=2,
        upward=True,
        path=None,
        caption=f"Largest for {shorten(comparison.layers_a[most.layer_a], 60)} and "
        f"{shorten(comparison.layers_b[most.layer_b], 60)} "
        f"({number(most.rank_higher - most.rank_lower, 2)}); 0 = all measures give the pair the same rank.",
        alt=f"Heat map of the disagreement of measures over layer pairs of {a} and {b}.",
    )


def _limits(lowest: float, highest: float, possible: tuple[float, float]) -> tuple[float, float]:
    """Ends of the color bar: what was seen, rounded outwards, and wide enough that noise stays pale."""
    if not np.isfinite(possible).all() and highest - lowest > 2:
        return lowest, highest
    missing = max(0.2 - (highest - lowest), 0.0) / 2
    low, high = np.floor((lowest - missing) * 20) / 20, np.ceil((highest + missing) * 20) / 20
    return float(max(low, possible[0])), float(min(high, possible[1]))
