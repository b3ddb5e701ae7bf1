"""Which images are in a folder, and what is in one? Files are opened one at a time, and a bad one is named."""

import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from repsim_jax.errors import CorruptFileError, FileError, MissingPackageError

if TYPE_CHECKING:
    from PIL.Image import Image

# First letters of Pillow's modes of 16 and 32 bits.
_DEEP = frozenset("IF")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


def image_files(folder: Path) -> tuple[str, ...]:
    """Lists the images in a folder and below it.

    Args:
        folder: Where to look; links to folders are not followed.

    Returns:
        Relative paths with "/", sorted, so that every machine gives the same order.
    """
    found = []
    for root, _, names in os.walk(folder):
        inside = Path(root).relative_to(folder)
        found.extend((inside / name).as_posix() for name in names if Path(name).suffix.lower() in SUFFIXES)
    return tuple(sorted(found))


def open_image(path: Path) -> "Image":
    """Reads an image file.

    Args:
        path: Of an image.

    Returns:
        The decoded RGB image, pixels in the order of the file (EXIF orientation is not applied).

    Raises:
        FileError: If the file cannot be opened.
        CorruptFileError: If it cannot be decoded.
        MissingPackageError: If Pillow is not installed.
    """
    try:
        return decode_image(path.read_bytes(), path)
    except OSError as error:
        raise FileError(path, f"cannot be opened ({error.strerror or error}).") from error


def decode_image(data: bytes, where: str | os.PathLike[str]) -> "Image":
    """Decodes an image.

    Args:
        data: An encoded image in any format that Pillow reads.
        where: File, or file and row, for the message.

    Returns:
        The decoded RGB image.

    Raises:
        CorruptFileError: If it cannot be decoded, claims so many pixels that it would fill the memory, or has more than
            8 bits a channel, which Pillow would cut off at white.
        MissingPackageError: If Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPackageError.of("pillow", "to read images", "images") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a doubtful EXIF block or palette does not change the pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(data))
            if opened.mode[0] not in _DEEP:
                return opened.convert("RGB")
    except Exception as error:
        told = str(error).split(" <_io.")[0]  # Pillow names our buffer by its address, which tells nobody anything
        reason = f"cannot be decoded as an image ({type(error).__name__}: {told})."
        raise CorruptFileError(where, f"{reason} Replace it, or skip bad examples (--skip-bad).") from error
    reason = f"has more than 8 bits a channel (mode {opened.mode}), of which most would become plain white."
    raise CorruptFileError(where, f"{reason} Save it with 8 bits, or skip bad examples (--skip-bad).")
