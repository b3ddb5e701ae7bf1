"""How do bytes reach the disk so that a crash, a full disk or a second writer cannot damage what is already there?"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from repsim_jax.errors import FileError, NoSpaceError, StoreMismatchError

# EFBIG is what RLIMIT_FSIZE and file systems with a small largest file answer; for the user all three are "no room".
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_LOCKED_BY_ANOTHER = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals to write into this package's errors.

    Args:
        path: What is being written, for the message.

    Yields:
        Nothing; the body does the writing.

    Raises:
        NoSpaceError: If the disk is full, over quota, or the file would pass the size limit.
        FileError: If writing fails in another way (permissions, read-only file system, input/output error).
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            reason = f"no space left to write it ({error.strerror}). Free some space and run the same command again: "
            raise NoSpaceError(path, reason + "what was committed before is kept and resumed.") from error
        raise FileError(path, f"cannot be written: {error.strerror or error}.") from error


def write_file(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path`` and waits until the disk has the bytes; the name itself needs ``sync_folder``.

    Args:
        path: File to create or overwrite.
        data: Its whole content.

    Raises:
        NoSpaceError: If there is no room.
        FileError: If writing fails in another way.
    """
    with writing(path), open(path, "wb", buffering=0) as file:
        write_all(file.fileno(), data)
        os.fsync(file.fileno())


def write_all(descriptor: int, data: bytes) -> None:
    """Writes every byte: one ``os.write`` may stop short just before the disk is full.

    Args:
        descriptor: An open file.
        data: What to write at its position.

    Raises:
        OSError: As ``os.write``.
    """
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def replace_file(path: Path, data: bytes) -> None:
    """Makes ``path`` hold ``data`` in one step: a reader, or a crash, finds the old content or the new.

    Args:
        path: File to create or replace; ``path.tmp`` beside it is used on the way.
        data: Its whole new content.

    Raises:
        NoSpaceError: If there is no room; ``path`` is as before.
        FileError: If writing fails in another way; ``path`` is as before.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        write_file(temporary, data)
        with writing(path):
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Waits until the disk has the names in ``folder``: without this a power cut can take a new file's name away.

    Args:
        folder: An existing folder.

    Raises:
        FileError: If the folder cannot be synced.
    """
    with writing(folder):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def lock_folder(folder: Path) -> int:
    """Makes this process the only writer of ``folder`` until the descriptor is closed or the process dies.

    Args:
        folder: An existing folder. The lock is on the folder itself, so no lock file is left behind.

    Returns:
        The descriptor that holds the lock; ``os.close`` releases it.

    Raises:
        StoreMismatchError: If another writer holds the lock.
        FileError: If the file system has no locks.
    """
    with writing(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in _LOCKED_BY_ANOTHER:
            reason = "another writer is at work in this folder. Wait until it has ended, or choose another folder."
            raise StoreMismatchError(folder, reason) from error
        reason = f"this file system cannot lock a folder ({error.strerror}). Write to a local disk and move the folder."
        raise FileError(folder, reason) from error
    return descriptor
