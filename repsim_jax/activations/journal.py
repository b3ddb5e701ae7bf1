"""Which rows of a half-written store are safe? A file of sealed lines, where one line commits one block of rows."""

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repsim_jax.activations.manifest import FileSum, check_format, checked_count, file_sums, seal, unseal
from repsim_jax.durable import replace_file, write_all, writing
from repsim_jax.errors import CorruptFileError

JOURNAL_FILE = "journal.jsonl"


@dataclass
class Progress:
    """What a journal says.

    Attributes:
        header: First line: format, version, dtype, chunk_rows and metadata.
        widths: Layer name to width in depth order; empty before the first rows came.
        ids: Of the committed rows.
        blocks: Per committed block, the sums of its chunk files in layer order.
        num_bytes: Length of the part of the file that is whole.
    """

    header: dict[str, Any]
    widths: dict[str, int] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    blocks: list[tuple[FileSum, ...]] = field(default_factory=list)
    num_bytes: int = 0

    def take(self, entry: dict[str, Any]) -> None:
        """Adds one line after the header.

        Args:
            entry: A "layers" or a "rows" entry.

        Raises:
            ValueError: If the line does not follow from those before it.
            KeyError: If a key is missing.
            TypeError: If a value has the wrong type.
        """
        if entry["kind"] == "layers" and not self.widths:
            self.widths = {str(name): checked_count(width) for name, width in entry["layers"]}
            return
        ids, sums = entry["ids"], file_sums(entry["chunks"])
        follows = entry["kind"] == "rows" and entry["start"] == len(self.ids)
        if not follows or len(sums) != len(self.widths) or len(ids) != self.header["chunk_rows"]:
            raise ValueError("a line does not follow from the line before it")
        self.ids.extend(ids)
        self.blocks.append(sums)


class Journal:
    """The journal of a store that is being written; each ``add`` is on the disk when it returns.

    Args:
        path: Of an existing journal.
        progress: What it says, as ``read_journal`` found it; a torn last line is cut off.

    Raises:
        FileError: If the file cannot be opened for writing.
    """

    def __init__(self, path: Path, progress: Progress):
        self.path = path
        self.progress = progress
        with writing(path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
            os.ftruncate(self._descriptor, progress.num_bytes)
            os.fsync(self._descriptor)

    def add(self, entry: dict[str, Any]) -> None:
        """Commits one entry.

        Args:
            entry: As ``Progress.take`` wants it.

        Raises:
            NoSpaceError: If there is no room; the journal is as before.
            FileError: If writing fails in another way.
        """
        line = seal(entry)
        with writing(self.path):
            try:
                write_all(self._descriptor, line)
                os.fsync(self._descriptor)
            except OSError:
                os.ftruncate(self._descriptor, self.progress.num_bytes)
                raise
        self.progress.take(entry)
        self.progress.num_bytes += len(line)

    def close(self) -> None:
        """Closes the file; the journal stays."""
        os.close(self._descriptor)


def new_journal(path: Path, header: dict[str, Any]) -> Progress:
    """Writes a journal that holds only its header, replacing what was there.

    Args:
        path: Where.
        header: As in ``Progress``.

    Returns:
        Its progress.

    Raises:
        NoSpaceError: If there is no room.
        FileError: If writing fails in another way.
    """
    line = seal(header)
    replace_file(path, line)
    return Progress(header, num_bytes=len(line))


def read_journal(path: Path) -> Progress:
    """Reads a journal, leaving out a torn last line.

    Args:
        path: Of an existing journal.

    Returns:
        What it says.

    Raises:
        CorruptFileError: If a line before the last is damaged, or lines do not follow from each other.
    """
    try:
        lines = io.BytesIO(path.read_bytes()).readlines()
        header = unseal(lines[0]) if lines else {}
        check_format(header)
        checked_count(header["chunk_rows"])
        progress = Progress(header, num_bytes=len(lines[0]))
        for number, line in enumerate(lines[1:], start=1):
            try:
                entry = unseal(line)
            except ValueError:
                if number == len(lines) - 1:
                    break  # the writer died inside this line; its rows were never promised
                raise
            progress.take(entry)
            progress.num_bytes += len(line)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        reason = f"is damaged ({error or type(error).__name__}). Delete the store and extract it again."
        raise CorruptFileError(path, reason) from error
    return progress
