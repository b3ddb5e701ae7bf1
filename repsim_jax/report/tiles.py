"""How are examples shown by the hundred on a page that stays small? As thumbnails with a line or two below."""

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from repsim_jax.errors import MissingPackageError
from repsim_jax.report.audits import Audit
from repsim_jax.report.tables import number
from repsim_jax.report.text import shorten

if TYPE_CHECKING:
    from repsim_jax.report.audits import Picture

_SIDE = 96  # pixels of the longer side of a thumbnail
_PIXELATED = 32  # up to here an image is shown by its pixels, without smoothing
_ID_LENGTH = 26


class Tile(NamedTuple):
    """An example on a page.

    Attributes:
        source: Its thumbnail as a data URI; "" where it is no image.
        name: Its id, shortened.
        full_name: Its id.
        lines: What is told about it.
        mark: One word in a corner ("drop"); "" for none.
        pixelated: Whether it is so small that its pixels are to be seen.
    """

    source: str
    name: str
    full_name: str
    lines: tuple[str, ...]
    mark: str
    pixelated: bool


def tile(picture: "Picture", row: int, name: str, lines: Sequence[str], mark: str = "") -> Tile:
    """Makes the tile of one example.

    Args:
        picture: Gives the image of a row.
        row: Which.
        name: Its id.
        lines: What to tell about it.
        mark: One word in a corner.

    Returns:
        The tile.

    Raises:
        MissingPackageError: If Pillow is not installed.
    """
    image = picture(row)
    small = image is not None and max(image.shape[:2]) <= _PIXELATED
    source = "" if image is None else thumbnail(image)
    # of a path the last part: the folders are in the full name
    return Tile(source, shorten(str(name).rpartition("/")[2] or name, _ID_LENGTH), str(name), tuple(lines), mark, small)


def thumbnail(image: np.ndarray) -> str:
    """A small PNG as a data URI.

    Args:
        image: uint8 (h, w), (h, w, 1) or (h, w, 3).

    Returns:
        "data:image/png;base64,...".

    Raises:
        MissingPackageError: If Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPackageError.of("pillow", "to show images on a page", "images") from error
    made = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    made.thumbnail((_SIDE, _SIDE))  # never enlarges
    buffer = io.BytesIO()
    made.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def as_picture(example: np.ndarray) -> np.ndarray | None:
    """An example as an image, if it looks like one.

    Args:
        example: uint8, or floating-point numbers of any range: (h, w), (h, w, 1 or 3), or flat and square.

    Returns:
        uint8 (h, w) or (h, w, 3), stretched over the range of the example where that was not uint8; None where it is
        no image.
    """
    example = np.asarray(example)
    side = round(example.size**0.5)
    if example.ndim == 1:
        if side * side != example.size or side < 4:
            return None
        example = example.reshape(side, side)
    if example.ndim == 3 and example.shape[2] == 1:
        example = example[..., 0]
    if example.ndim not in (2, 3) or (example.ndim == 3 and example.shape[2] != 3):
        return None
    if example.dtype == np.uint8:
        return example
    values = example.astype(np.float64)
    low, high = values.min(), values.max()
    return np.rint(255 * (values - low) / (high - low if high > low else 1)).astype(np.uint8)


def scored(audit: Audit, rows: Sequence[int] | np.ndarray, *, marks: Sequence[int] = ()) -> list[Tile]:
    """Tiles of training examples with their self-influence.

    Args:
        audit: All that is known.
        rows: Which examples.
        marks: Those that may be dropped.

    Returns:
        A tile for each.
    """
    dropped, percentiles = {int(row) for row in marks}, audit.percentiles
    return [
        tile(
            audit.picture, int(row), audit.ids[row], _lines(audit, int(row), percentiles),
            "drop" if int(row) in dropped else "",
        )
        for row in rows
    ]  # fmt: skip


def _lines(audit: Audit, row: int, percentiles: np.ndarray) -> list[str]:
    lines = [f"{audit.self_influence[row]:.3g}"]
    if audit.standard_errors is not None:
        lines[0] += f" ± {_rounded(audit.standard_errors[row])}"
    if audit.checkpoints is not None:
        over = audit.checkpoints
        lines.append(f"over training {over.means[row]:.3g} ± {_rounded(over.standard_errors[row])}")
    lines.append(f"percentile {number(float(percentiles[row]), 0)}")
    if audit.labels is not None:
        lines.append(f"label {audit.labels[row]}")
    return lines


def _rounded(error: float) -> str:
    """One digit, and no exponent where the value beside it has none: 20, not 2e+01."""
    return f"{float(f'{error:.1g}'):g}"


def rare(audit: Audit, rows: Sequence[int] | np.ndarray) -> list[Tile]:
    """Tiles of rare examples with both columns: the combined score, and self-influence alone.

    Args:
        audit: All that is known.
        rows: Which examples.

    Returns:
        A tile for each.
    """
    assert audit.rarity is not None
    percentiles = audit.percentiles
    return [
        tile(
            audit.picture, int(row), audit.ids[row],
            (f"rarity {audit.rarity[row]:.3g}", f"influence: percentile {percentiles[row]:.0f}"),
        )
        for row in rows
    ]  # fmt: skip


def influential(audit: Audit, rows: np.ndarray, values: np.ndarray) -> list[Tile]:
    """Tiles of training examples with their influence on a query.

    Args:
        audit: All that is known.
        rows: Which examples.
        values: Their influence.

    Returns:
        A tile for each.
    """
    return [
        tile(audit.picture, int(row), audit.ids[int(row)], (f"{value:+.2e}",))
        for row, value in zip(rows, values, strict=True)
    ]
