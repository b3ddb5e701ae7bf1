"""Pictures of a comparison: heat maps with axes, direction, range and n written on them, in light and dark."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from repsim_jax.report.panels import MOST_NUMBERED, Panel, panels, path_kind
from repsim_jax.report.tables import number
from repsim_jax.report.text import labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from repsim_jax.report.findings import Digest

_LABEL_LENGTH = 24
# Above these a cell has no room for its gap, or every tick for its label.
_MOST_GAPPED, _MOST_TICKS = 900, 20
_FONT_INCHES = 0.082  # advance of a DejaVu Sans letter at 8 points, in inches, rounded up
_LINE_INCHES = 0.17  # a line of such letters
_SUBTITLE_INCHES, _BAR_INCHES = 3.9, 1.7  # about 48 letters across, 20 letters up
# matplotlib's own defaults, whatever the user's matplotlibrc says: usetex would hand layer names to LaTeX.
_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "repsim_jax",
    "text.parse_math": False,
    "text.usetex": False,
    "font.size": 8,
    "axes.unicode_minus": False,
}


class Scheme(NamedTuple):
    """Colors of a picture.

    Attributes:
        name: "light" or "dark".
        paper: Background.
        ink: Text.
        muted: Secondary text and lines.
    """

    name: str
    paper: str
    ink: str
    muted: str


LIGHT = Scheme("light", "#fdfcfa", "#1c2429", "#5a666d")
DARK = Scheme("dark", "#14191c", "#e4e8e7", "#98a4a9")


def figures(found: "Digest", scheme: Scheme = LIGHT) -> "dict[str, Figure]":
    """Draws all pictures.

    Args:
        found: From ``digest``.
        scheme: Colors.

    Returns:
        matplotlib figures that no pyplot knows of, by file stem.
    """
    return {panel.stem: draw(panel, scheme) for panel in panels(found)}


def draw(panel: Panel, scheme: Scheme = LIGHT) -> "Figure":
    """Draws one heat map.

    Args:
        panel: What to draw.
        scheme: Colors.

    Returns:
        A matplotlib figure that no pyplot knows of.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with settings():
        rows, columns = panel.matrix.shape
        cell = float(np.clip(4.3 / max(rows, columns), 0.05, 0.95))
        width, height = (max(count * max(cell, min(_LINE_INCHES, 4.3 / count)), 0.5) for count in (columns, rows))
        if width < _SUBTITLE_INCHES:
            height = max(height, _BAR_INCHES)  # or the label of the color bar would run into the subtitle
        left = 0.45 + _FONT_INCHES * max(map(len, _labels(panel.rows)))
        bottom = 0.55 + 0.75 * _FONT_INCHES * max(map(len, _labels(panel.columns)))
        size = left + width + 1.1, bottom + height + 0.65
        figure = Figure(figsize=size, facecolor=scheme.paper)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
        mesh = _cells(axes, panel, scheme)
        _name_axes(axes, panel, scheme)
        _mark_path(axes, panel)
        _number_cells(axes, panel, mesh)
        bar_height = max(height, _BAR_INCHES)
        bar_axes = figure.add_axes(
            (
                (left + width + 0.18) / size[0],
                (bottom + (height - bar_height) / 2) / size[1],
                0.14 / size[0],
                bar_height / size[1],
            )
        )
        _color_bar(figure, bar_axes, mesh, panel, scheme)
    return figure


def encode(figure: "Figure") -> tuple[bytes, bytes]:
    """A figure as the bytes of two files, cropped to what was drawn.

    Args:
        figure: From ``draw``.

    Returns:
        PNG and SVG; the same bytes for the same figure: no date, no random ids.
    """
    png, svg = io.BytesIO(), io.BytesIO()
    with settings():
        # Measured once; bbox_inches="tight" would draw everything again for each file.
        box = figure.get_tightbbox().padded(0.1)
        figure.savefig(png, format="png", dpi=200, bbox_inches=box, metadata={"Software": "repsim_jax"})
        figure.savefig(svg, format="svg", dpi=200, bbox_inches=box, metadata={"Creator": "repsim_jax", "Date": None})
    return png.getvalue(), svg.getvalue()


def recolored(svg: bytes, old: Scheme, new: Scheme) -> bytes:
    """An SVG of ours in another scheme, without drawing it again.

    Args:
        svg: From ``encode``.
        old: The scheme it was drawn in.
        new: The scheme wanted.

    Returns:
        The SVG with the three colors of the scheme exchanged; colors of cells stay.
    """
    for before, after in zip(old[1:], new[1:], strict=True):
        svg = svg.replace(before.encode(), after.encode())
    return svg


@contextmanager
def settings() -> Iterator[None]:
    """Makes matplotlib draw our pictures alike, whatever the user's matplotlibrc says.

    Yields:
        Nothing; the body draws.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def plain_ticks(*axes: Any) -> None:
    """Ticks of logarithmic axes as plain numbers: 0.01 rather than a formula, which is not typeset here.

    Args:
        *axes: matplotlib's x- or y-axis of axes that are logarithmic.
    """
    from matplotlib.ticker import FormatStrFormatter, NullFormatter

    for axis in axes:
        axis.set_major_formatter(FormatStrFormatter("%g"))
        axis.set_minor_formatter(NullFormatter())


def _labels(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(drawable, labels(names, _LABEL_LENGTH)))


@lru_cache(maxsize=1)
def _letters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap())


def drawable(text: str) -> str:
    """Text in which letters that the font lacks are boxes, as matplotlib would draw them with a warning.

    Args:
        text: Printable text.

    Returns:
        As many characters.
    """
    return "".join(letter if ord(letter) in _letters() else "□" for letter in text)


def _cells(axes: "Axes", panel: Panel, scheme: Scheme) -> Any:
    name = panel.colormap if panel.bright_is_high else f"{panel.colormap}_r"
    rows, columns = panel.matrix.shape
    low, high = panel.limits
    # An image, not a mesh: a tenth of the bytes in an SVG, and no hairlines between cells.
    extent = (0, columns, 0, rows) if panel.upward else (0, columns, rows, 0)
    origin = "lower" if panel.upward else "upper"
    drawn = axes.imshow(
        panel.matrix,
        cmap=name,
        vmin=low,
        vmax=high,
        aspect="auto",
        interpolation="nearest",
        origin=origin,
        extent=extent,
    )
    if panel.matrix.size <= _MOST_GAPPED:
        axes.vlines(np.arange(columns + 1), 0, rows, colors=scheme.paper, lw=0.7)
        axes.hlines(np.arange(rows + 1), 0, columns, colors=scheme.paper, lw=0.7)
    return drawn


def _name_axes(axes: "Axes", panel: Panel, scheme: Scheme) -> None:
    for side, names in ((axes.xaxis, panel.columns), (axes.yaxis, panel.rows)):
        shown, all_labels = np.arange(0, len(names), -(-len(names) // _MOST_TICKS)), _labels(names)
        side.set_ticks(shown + 0.5, [all_labels[k] for k in shown])
    slanted = max(map(len, _labels(panel.columns))) > 3
    axes.tick_params(length=0, pad=3, colors=scheme.ink)
    axes.tick_params(axis="x", rotation=45 if slanted else 0)
    for label in axes.get_xticklabels() if slanted else ():
        label.set(ha="right", rotation_mode="anchor")
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_parse_math(False)
    axes.spines[:].set_visible(False)
    plain: dict[str, Any] = {"parse_math": False}
    axes.set_ylabel(drawable(panel.row_axis), color=scheme.muted, labelpad=8, **plain)
    axes.set_xlabel(drawable(panel.column_axis), color=scheme.muted, labelpad=8, **plain)
    heading = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "va": "bottom",
        "annotation_clip": False,
        **plain,
    }
    axes.annotate(drawable(panel.title), (0, 1), (0, 20), fontsize=11, fontweight="bold", color=scheme.ink, **heading)
    axes.annotate(drawable(panel.subtitle), (0, 1), (0, 7), color=scheme.muted, **heading)


def _mark_path(axes: "Axes", panel: Panel) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Normal, Stroke

    kind = path_kind(panel)
    if panel.path is None or kind is None:
        return
    around = [Stroke(linewidth=3.4, foreground="#10181c"), Normal()]
    if kind == "outline":
        for i, j in enumerate(panel.path):
            axes.add_patch(
                Rectangle((j + 0.06, i + 0.06), 0.88, 0.88, fill=False, edgecolor="white", lw=1.6, path_effects=around)
            )
    else:
        axes.plot(
            panel.path + 0.5,
            np.arange(len(panel.path)) + 0.5,
            color="white",
            lw=1.6,
            path_effects=around,
            solid_joinstyle="round",
        )


def _number_cells(axes: "Axes", panel: Panel, mesh: Any) -> None:
    if panel.matrix.size > MOST_NUMBERED or max(panel.matrix.shape) > 12:
        return
    for (i, j), value in np.ndenumerate(panel.matrix):
        red, green, blue, _ = mesh.cmap(mesh.norm(value))
        is_bright = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45
        text = number(value, panel.digits)
        color = "#10181c" if is_bright else "white"
        axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=color, fontsize=7.5, parse_math=False)


def _color_bar(figure: "Figure", axes: "Axes", mesh: Any, panel: Panel, scheme: Scheme) -> None:
    bar = figure.colorbar(mesh, cax=axes)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    axes.tick_params(length=2, colors=scheme.ink, color=scheme.muted)
    axes.set_ylabel("\n".join(map(drawable, panel.bar.splitlines())), color=scheme.muted, labelpad=8, parse_math=False)
    if panel.digits == 0:
        from matplotlib.ticker import MaxNLocator

        bar.locator = MaxNLocator(integer=True, nbins=8)
        bar.update_ticks()
