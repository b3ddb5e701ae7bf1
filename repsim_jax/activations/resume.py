"""Begin a new store, or go on with one whose writer was stopped: what is kept, what is swept away, what is refused?"""

import re
from pathlib import Path
from typing import Any

from repsim_jax.activations.chunks import ARRAY_FILE, chunk_file
from repsim_jax.activations.journal import JOURNAL_FILE, Progress, new_journal, read_journal
from repsim_jax.activations.manifest import MANIFEST_FILE, layer_folder
from repsim_jax.activations.reader import check_size
from repsim_jax.errors import StoreMismatchError

_CHUNK = re.compile(r"c\.(\d+)\.0")


def begin_or_resume(path: Path, header: dict[str, Any]) -> Progress:
    """Finds what an earlier writer committed, or begins a journal; the caller holds the folder's lock.

    A store without a committed row binds nobody: it is begun anew, whatever its settings were.

    Args:
        path: Folder of the store; it exists.
        header: First line that a new journal gets, and whose settings an old one must have.

    Returns:
        The journal's progress. Files that it does not name are gone.

    Raises:
        StoreMismatchError: If the store is finished, has other settings, or the folder holds something else.
        CorruptFileError: If the journal or a committed file is damaged.
        NoSpaceError: If there is no room for a journal.
    """
    journal = path / JOURNAL_FILE
    if (path / MANIFEST_FILE).exists():
        journal.unlink(missing_ok=True)  # the writer died between its last two steps
        reason = "this store is finished, and is not overwritten. Open it with open_store, or choose another folder."
        raise StoreMismatchError(path, reason)
    if not journal.exists():
        _check_no_strangers(path)
        return new_journal(journal, header)
    progress = read_journal(journal)
    if progress.ids:
        _check_same_settings(path, progress.header, header)
        _check_committed_files(path, progress)
    sweep(path, progress)
    return progress if progress.ids else new_journal(journal, header)


def sweep(path: Path, progress: Progress) -> None:
    """Removes what no line of the journal names: chunks of a block that was never committed, half-made files.

    Args:
        path: Folder of the store.
        progress: What its journal says. Folders of layers go too where nothing is committed.
    """
    for name in (MANIFEST_FILE, JOURNAL_FILE):
        (path / f"{name}.tmp").unlink(missing_ok=True)
    for index, layer in enumerate(progress.widths):
        folder = path / layer_folder(index, layer)
        for file in folder.iterdir() if folder.is_dir() else ():
            match = _CHUNK.fullmatch(file.name)
            if file.name == ARRAY_FILE or (match and int(match[1]) >= len(progress.blocks)):
                file.unlink()
        if folder.is_dir() and not progress.blocks:
            folder.rmdir()


def _check_no_strangers(path: Path) -> None:
    strangers = sorted(one.name for one in path.iterdir() if one.name != f"{JOURNAL_FILE}.tmp")
    if strangers:
        reason = f"a new store needs an empty folder: this one holds {strangers[0]!r}. Choose another folder."
        raise StoreMismatchError(path, reason)


def _check_same_settings(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    differences = [
        f"{key} was {old[key]!r}, now {new[key]!r}" for key in ("dtype", "chunk_rows") if old[key] != new[key]
    ]
    was, now = old["metadata"], new["metadata"]
    for key in sorted(was.keys() | now.keys()):
        if was.get(key) != now.get(key) or (key in was) != (key in now):
            before, after = (repr(one[key])[:80] if key in one else "absent" for one in (was, now))
            differences.append(f"metadata {key!r} was {before}, now {after}")
    if differences:
        reason = f"an earlier run began this store with other settings: {'; '.join(differences[:5])}."
        raise StoreMismatchError(path, f"{reason} Use the same settings to go on, or choose another folder.")


def _check_committed_files(path: Path, progress: Progress) -> None:
    for number, block in enumerate(progress.blocks):
        for index, (layer, total) in enumerate(zip(progress.widths, block, strict=True)):
            check_size(path / layer_folder(index, layer) / chunk_file(number), total)
