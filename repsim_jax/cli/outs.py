"""Where results go: what is found out before hours of work, and not after them."""

import tempfile
from pathlib import Path


def check_writable(out: Path) -> None:
    """Writes where a folder is or will be, to see that it can be done, and leaves nothing behind.

    Args:
        out: Where results are to go.

    Raises:
        FileError: If it is a file, or cannot be made or written; NoSpaceError if the disk is full.
    """
    from repsim_jax.durable import writing
    from repsim_jax.errors import FileError

    there = next(one for one in (out, *out.absolute().parents) if one.exists())
    if not there.is_dir():
        raise FileError(there, "results need a folder, and this is a file. Choose another --out.")
    with writing(out), tempfile.TemporaryFile(prefix=".repsim-", dir=there) as file:
        file.write(b"0")


def check_table(csv: Path | None, folder: Path | None) -> None:
    """Refuses a table in the place of something that is no table, or inside of a measure.

    Args:
        csv: Where the table is to go.
        folder: Of the measure that is used.

    Raises:
        FileError: If something would be lost.
    """
    from repsim_jax.errors import FileError

    if csv is None:
        return
    if csv.exists() and csv.suffix.lower() not in (".csv", ".txt"):
        raise FileError(csv, "is there already and is no .csv file; it would be replaced. Choose another --csv.")
    if folder is not None and csv.resolve().is_relative_to(folder.resolve()):
        raise FileError(csv, "lies in the folder of the learned measure. Choose another --csv.")
