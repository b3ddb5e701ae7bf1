"""What all our pages are made of: pictures in light and dark, templates that escape everything, files moved as one."""

import base64
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from repsim_jax.errors import FileError, NoSpaceError
from repsim_jax.report import plots
from repsim_jax.report.tables import number
from repsim_jax.report.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from repsim_jax.report.panels import Panel
    from repsim_jax.report.row_charts import Chart

PICTURES = "figures"
_LONGEST_TEXT = 1200  # of a store's metadata, say; the document beside the page has all of it
_CSS_PIXELS_PER_INCH = 96 * 1.15  # pictures are drawn with 8-point letters; on the page they read best a little larger


class Picture(NamedTuple):
    """A panel or a chart, drawn.

    Attributes:
        panel: What it shows.
        light: The light SVG as a data URI.
        dark: The dark SVG as a data URI.
        png: Path of the PNG file, relative to the page.
        svg: Path of the SVG file, relative to the page.
        width: Natural width in CSS pixels.
        height: Natural height in CSS pixels.
        files: Bytes by relative path.
    """

    panel: "Panel | Chart"
    light: str
    dark: str
    png: str
    svg: str
    width: int
    height: int
    files: dict[str, bytes]


def picture_of(panel: "Panel | Chart", figure: "Figure") -> Picture:
    """Encodes what was drawn for a page, in both schemes.

    Args:
        panel: What it shows.
        figure: Drawn in the light scheme.

    Returns:
        The picture, and the files that go beside the page.
    """
    png, svg = plots.encode(figure)
    dark = plots.recolored(svg, plots.LIGHT, plots.DARK)
    width, height = _natural_size(svg)
    base = f"{PICTURES}/{panel.stem}"
    files = {f"{base}.svg": svg, f"{base}.png": png}
    return Picture(panel, _data_uri(svg), _data_uri(dark), f"{base}.png", f"{base}.svg", width, height, files)


def environment() -> Any:
    """Our templates; all that they are given is escaped and made printable.

    Returns:
        A jinja2 environment.
    """
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("repsim_jax.report"),
        autoescape=True,  # always: select_autoescape would leave *.j2 as they are
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    made.filters["number"] = number
    return made


def shortened(told: Mapping[str, str]) -> list[tuple[str, str]]:
    """Labels and texts of which none floods a page.

    Args:
        told: Label to text.

    Returns:
        The same in order, with an ellipsis where something was cut.
    """
    return [(label, text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…") for label, text in told.items()]


def write_files(out: Path, files: Mapping[str, bytes], *, page: str) -> Path:
    """Writes a page and what belongs to it: under temporary names first, then moved, the page last.

    Args:
        out: The folder, made where it does not exist; files of an earlier page are replaced, others left alone.
        files: Content by path in the folder; pictures stand in ``PICTURES``.
        page: Which of them is the page: if it is there, it is whole.

    Returns:
        Path of the page.

    Raises:
        FileError: If the folder cannot be written; NoSpaceError if the disk is full.
    """
    try:
        _write_all(out, files, page)
    except OSError as error:
        kind = NoSpaceError if error.errno in (28, 122) else FileError  # ENOSPC, EDQUOT
        raise kind(out, f"the report cannot be written: {error.strerror or error}.") from error
    return out / page


def _write_all(out: Path, files: Mapping[str, bytes], page: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".repsim-", dir=out) as folder:
        fresh = Path(folder)
        (fresh / PICTURES).mkdir()
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        (out / page).unlink(missing_ok=True)
        if (out / PICTURES).exists():
            os.replace(out / PICTURES, fresh / "old")
        os.replace(fresh / PICTURES, out / PICTURES)
        for name in sorted(name for name in files if "/" not in name and name != page):
            os.replace(fresh / name, out / name)
        os.replace(fresh / page, out / page)
        shutil.rmtree(fresh / "old", ignore_errors=True)


def _natural_size(svg: bytes) -> tuple[int, int]:
    """Width and height of one of our SVGs, which matplotlib states in points."""
    opening = svg[svg.index(b"<svg") :].split(b">", 1)[0].decode()
    points = [float(opening.split(f' {side}="', 1)[1].split("pt", 1)[0]) for side in ("width", "height")]
    return round(points[0] / 72 * _CSS_PIXELS_PER_INCH), round(points[1] / 72 * _CSS_PIXELS_PER_INCH)


def _data_uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
