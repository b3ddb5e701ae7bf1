"""Pictures with a named row for each thing: dots, bars or ranges side by side, drawn alike in every report."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from repsim_jax.report.plots import Scheme, drawable
from repsim_jax.report.text import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Reads on light and on dark paper.
ACCENT, SECOND, WEAK = "#2c8c8c", "#c2762b", "#8a979c"
_WIDTH, _ROW, _FRAME = 4.4, 0.3, 0.95  # inches
_LABEL_LENGTH = 30


class Chart(NamedTuple):
    """A picture before it is encoded.

    Attributes:
        stem: Safe file name without extension.
        title: What it shows.
        caption: What to read off it.
        alt: What kind of picture it is, for those who do not see it.
        figure: The drawing, in the light scheme.
    """

    stem: str
    title: str
    caption: str
    alt: str
    figure: "Figure"


def frame(rows: int, scheme: Scheme, title: str, subtitle: str) -> "tuple[Figure, Axes]":
    """Axes with our heading, tall enough for so many rows.

    Args:
        rows: How many.
        scheme: Colors.
        title: What is shown.
        subtitle: n, unit and direction.

    Returns:
        The figure and its axes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = max(rows, 3) * _ROW
    size = _WIDTH + 2.6, height + _FRAME
    figure = Figure(figsize=size, facecolor=scheme.paper)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((2.4 / size[0], 0.45 / size[1], _WIDTH / size[0], height / size[1]))
    axes.set_facecolor("none")
    for name in ("top", "right", "left"):
        axes.spines[name].set_visible(False)
    axes.spines["bottom"].set_color(scheme.muted)
    axes.tick_params(colors=scheme.ink, color=scheme.muted, length=2)
    place: dict[str, Any] = {
        "xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom", "annotation_clip": False,
        "parse_math": False,
    }  # fmt: skip
    axes.annotate(drawable(title), (0, 1), (0, 20), fontsize=11, fontweight="bold", color=scheme.ink, **place)
    axes.annotate(drawable(subtitle), (0, 1), (0, 7), color=scheme.muted, **place)
    return figure, axes


def name_rows(axes: "Axes", names: Sequence[str], scheme: Scheme) -> None:
    """Puts the names of the rows at their side, the first on top.

    Args:
        axes: From ``frame``.
        names: Of the rows.
        scheme: Colors.
    """
    axes.set_yticks(range(len(names)), [drawable(shorten(name, _LABEL_LENGTH)) for name in names])
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, pad=6, colors=scheme.ink)
    axes.grid(axis="x", color=scheme.muted, alpha=0.2, lw=0.6)
    axes.set_axisbelow(True)
