"""When does the tangent kernel stay? One small picture for each loss: change over time, a line for each width."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repsim_jax.report.plots import LIGHT, drawable, plain_ticks, settings
from repsim_jax.report.row_charts import SECOND, Chart
from repsim_jax.report.sheets import environment, picture_of, shortened, write_files
from repsim_jax.report.tables import number
from repsim_jax.report.text import shorten

if TYPE_CHECKING:
    from rich.table import Table

    from repsim_jax.theory.courses import Course

_COLUMNS, _PANEL = 4, (2.05, 1.75)  # inches
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.85, 0.15, 0.95, 0.85
_GAP = (0.18, 0.55)
# From the narrowest to the widest.
_RANGE = (0.85, 0.1)
_MOST_LETTERS = 30
COURSES_PAGE, COURSES_DOCUMENT = "courses.html", "courses.json"
SCHEMA = "repsim.theory.courses/1"
_TITLE = "When does the tangent kernel stay?"
_HEADS = ("setting", "kernel", "change, narrowest", "change, widest", "exponent in the width")


def write_courses(
    courses: "Sequence[Course]", out: str | os.PathLike[str], *, provenance: Mapping[str, str] | None = None
) -> Path:
    """Writes a page about how kernels drift, its picture and the document (``courses.json``) into a folder.

    Args:
        courses: From ``theory.drift``.
        out: The folder, made where it does not exist.
        provenance: How the numbers came about, as label and text.

    Returns:
        Path of the page.

    Raises:
        FileError: If the folder cannot be written; NoSpaceError if the disk is full.
    """
    import repsim_jax

    told = {str(label): str(text) for label, text in (provenance or {}).items()}
    caption = "A kernel stays where wider networks keep lower lines for all time; where it escapes, width buys little."
    chart = courses_chart(courses, stem="kernel-in-time", title=_TITLE, caption=caption)
    drawn = picture_of(chart, chart.figure)
    staying = [one for one in courses if one.kept_until == one.times[-1]]
    page = environment().get_template("courses.html.j2").render(
        version=repsim_jax.__version__, title=_TITLE, drawn=drawn, provenance=shortened(told), columns=_HEADS,
        lead=f"It stays in {len(staying)} of {len(courses)} settings, up to t = {courses[0].times[-1]:g}.",
        rows=[_row(one) for one in courses],
    )  # fmt: skip
    document = {"schema": SCHEMA, "courses": [course_to_json(one) for one in courses], "provenance": told}
    files = {
        **drawn.files,
        COURSES_DOCUMENT: (json.dumps(document, indent=1, allow_nan=False) + "\n").encode(),
        COURSES_PAGE: page.encode(),
    }
    return write_files(Path(out), files, page=COURSES_PAGE)


def course_to_json(course: "Course") -> dict[str, Any]:
    """A course as a document.

    Args:
        course: From ``theory``.

    Returns:
        Plain dicts, lists, strings, finite numbers and None, which stands for infinite and undefined numbers.
    """
    told = {
        "label": course.label,
        "widths": list(course.widths),
        "times": course.times.tolist(),
        "change": course.change.tolist(),
        "slopes": [None if one is None else one._asdict() for one in course.slopes],
        "errors": course.errors.tolist(),
        "kept_until": course.kept_until,
        "followed_until": course.followed_until,
    }
    return json.loads(json.dumps(told), parse_constant=lambda _: None)


def courses_summary(courses: "Sequence[Course]") -> "Table":
    """What a person at a terminal wants to see of courses.

    Args:
        courses: From ``theory.drift``.

    Returns:
        A rich renderable.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in _HEADS:
        table.add_column(name, overflow="fold")
    for one in courses:
        table.add_row(*_row(one))
    return table


def _row(course: "Course") -> tuple[str, ...]:
    """Setting, what became of the kernel, its change at the ends of the widths, the exponent."""
    slope = course.slopes[-1]
    ends = [np.median(change[-1]) for change in (course.change[0], course.change[-1])]
    told = ["escaped" if np.isinf(end) else "unknown" if np.isnan(end) else f"{end:.2g}" for end in ends]
    exponent = "" if slope is None else f"{slope.value:.2f} ({slope.low:.2f} to {slope.high:.2f})"
    return course.label, _told(course).partition(":")[0].partition(" by")[0], *told, exponent


def courses_chart(courses: "Sequence[Course]", *, stem: str, title: str, caption: str) -> Chart:
    """Relative change of the kernel over time, a panel for each setting, a line for each width.

    Args:
        courses: From ``theory``.
        stem: Safe file name without extension.
        title: What is shown.
        caption: What to read off it.

    Returns:
        The picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(courses))
    rows = -(-len(courses) // columns)
    size = (
        _LEFT + columns * _PANEL[0] + (columns - 1) * _GAP[0] + _RIGHT,
        _TOP + rows * _PANEL[1] + (rows - 1) * _GAP[1] + _BOTTOM,
    )
    seeds = courses[0].change.shape[2]
    with settings():
        figure = Figure(figsize=size, facecolor=LIGHT.paper)
        FigureCanvasAgg(figure)
        limits = _limits(courses)
        for place, course in enumerate(courses):
            row, column = divmod(place, columns)
            corner = _LEFT + column * (_PANEL[0] + _GAP[0]), _BOTTOM + (rows - 1 - row) * (_PANEL[1] + _GAP[1])
            axes = figure.add_axes(
                (corner[0] / size[0], corner[1] / size[1], _PANEL[0] / size[0], _PANEL[1] / size[1])
            )  # fmt: skip
            _draw(axes, course, limits)
            axes.tick_params(labelleft=column == 0, labelbottom=place + columns >= len(courses))
        _head(figure, size, title, f"geometric mean of {seeds} seeds at each width; gradient flow from the start")
        _legend(figure, size, courses[0].widths)
    alt = "Relative change of the tangent kernel over time, a panel for each loss, a line for each width."
    return Chart(stem, title, caption, alt, figure)


def _limits(courses: "Sequence[Course]") -> tuple[float, float]:
    seen = np.concatenate([one.change[np.isfinite(one.change) & (one.change > 0)] for one in courses])
    return (10.0 ** np.floor(np.log10(seen.min())), 2.0) if len(seen) else (1e-4, 2.0)


def _draw(axes: Any, course: "Course", limits: tuple[float, float]) -> None:
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LIGHT.muted)
    axes.tick_params(colors=LIGHT.ink, color=LIGHT.muted, length=2, labelsize=7)
    for color, change in zip(_colors(len(course.widths)), course.change, strict=True):
        with np.errstate(divide="ignore"):
            mean = np.exp(np.log(change).mean(1))  # infinite as soon as one network has escaped
        axes.plot(course.times, np.where(np.isinf(mean), 10 * limits[1], mean), color=color, lw=1.3)
    axes.axhline(0.1, color=SECOND, lw=0.8, ls=(0, (3, 2)))
    axes.set(xscale="log", yscale="log", ylim=limits, xlim=(course.times[0], course.times[-1]))
    plain_ticks(axes.xaxis, axes.yaxis)
    axes.grid(color=LIGHT.muted, alpha=0.15, lw=0.5)
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "parse_math": False}
    name = drawable(shorten(course.label, _MOST_LETTERS))
    axes.annotate(name, (0, 1), (0, 13), fontweight="bold", color=LIGHT.ink, fontsize=7.5, **place)
    axes.annotate(_told(course), (0, 1), (0, 4), color=LIGHT.muted, fontsize=7, **place)


def _told(course: "Course") -> str:
    """What became of the kernel, in a line."""
    times = course.escape_times()
    if course.kept_until == course.times[-1]:
        slope = course.slopes[-1]
        return "stays" + ("" if slope is None else f": change falls like width^{number(slope.value, 2)}")
    if np.isfinite(times).all():
        mean = times.mean(1)
        return f"escapes by t = {mean[0]:.2g} (narrow), {mean[-1]:.2g} (wide)"
    if course.followed_until < course.times[-1]:
        return f"known until t = {course.followed_until:.2g}"
    return f"stays until t = {course.kept_until:.2g}"


def _colors(count: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["viridis"](place) for place in np.linspace(*_RANGE, count)]


def _head(figure: Any, size: tuple[float, float], title: str, subtitle: str) -> None:
    left, top = _LEFT / size[0], 1 - 0.32 / size[1]
    figure.text(left, top, drawable(title), fontsize=11, fontweight="bold", color=LIGHT.ink, parse_math=False)
    figure.text(left, top - 0.2 / size[1], drawable(subtitle), color=LIGHT.muted, parse_math=False)
    middle = (_BOTTOM + size[1] - _TOP) / 2 / size[1]
    label: dict[str, Any] = {"color": LIGHT.muted, "va": "center", "ha": "center"}
    figure.text(0.2 / size[0], middle, "relative change of the tangent kernel", rotation=90, **label)
    figure.text((_LEFT + size[0] - _RIGHT) / 2 / size[0], 0.52 / size[1], "time t of gradient flow", **label)


def _legend(figure: Any, size: tuple[float, float], widths: Sequence[int]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=color, lw=1.5) for color in _colors(len(widths))]
    lines.append(Line2D([], [], color=SECOND, lw=0.8, ls=(0, (3, 2))))
    names = [f"width {width:,}" for width in widths] + ["a change of 0.1"]
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (_LEFT / size[0], 0.05 / size[1])}
    figure.legend(lines, names, ncols=len(names), frameon=False, fontsize=7, labelcolor=LIGHT.ink, **place)
