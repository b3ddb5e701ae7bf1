"""What does a finished store hold? Layers, ids and the sha256 of every file, in one file with its own checksum."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from repsim_jax.activations.chunks import DTYPES
from repsim_jax.errors import CorruptFileError

MANIFEST_FILE = "manifest.json"
FORMAT = "repsim_jax store"
FORMAT_VERSION = 1
_HEAD, _MIDDLE, _TAIL = b'{"entry":', b',"sha256":"', b'"}\n'


class FileSum(NamedTuple):
    """Checksum and size of one file.

    Attributes:
        sha256: 64 hexadecimal digits.
        size: Bytes.
    """

    sha256: str
    size: int

    @classmethod
    def of(cls, data: bytes) -> "FileSum":
        """The sum of a file that holds ``data``.

        Args:
            data: The file's whole content.

        Returns:
            Its checksum and size.
        """
        return cls(hashlib.sha256(data).hexdigest(), len(data))


class LayerRecord(NamedTuple):
    """One layer of a store.

    Attributes:
        name: What the user calls it; any non-empty text.
        width: Features d.
        description: Sum of its ``zarr.json``.
        chunks: Sums of its chunk files, in row order.
    """

    name: str
    width: int
    description: FileSum
    chunks: tuple[FileSum, ...]


@dataclass(frozen=True)
class Manifest:
    """Everything that a finished store promises.

    Attributes:
        dtype: "float32", "float16" or "bfloat16".
        chunk_rows: Rows of a whole chunk.
        ids: One per example, unique.
        layers: In depth order.
        metadata: What the writer was told about model, layout and data; JSON.
        versions: Package versions that wrote the store.
    """

    dtype: str
    chunk_rows: int
    ids: tuple[str, ...]
    layers: tuple[LayerRecord, ...]
    metadata: dict[str, Any]
    versions: dict[str, str]

    def to_bytes(self) -> bytes:
        """The content of ``manifest.json``.

        Returns:
            One JSON object: ``entry`` holds the fields, ``sha256`` is the checksum of ``entry`` as written.
        """
        layers = [
            {
                "name": layer.name,
                "folder": layer_folder(index, layer.name),
                "width": layer.width,
                "zarr_json": layer.description,
                "chunks": layer.chunks,
            }
            for index, layer in enumerate(self.layers)
        ]
        header = {"format": FORMAT, "version": FORMAT_VERSION, "dtype": self.dtype, "chunk_rows": self.chunk_rows}
        body = {"num_examples": len(self.ids), "ids": self.ids, "layers": layers}
        return seal(header | body | {"metadata": self.metadata, "versions": self.versions})

    @classmethod
    def from_file(cls, path: Path) -> "Manifest":
        """Reads and checks a manifest.

        Args:
            path: Of ``manifest.json``.

        Returns:
            The manifest; every field has the type and the length it should have.

        Raises:
            CorruptFileError: If the file cannot be read, is damaged, or was written by a newer format.
        """
        try:
            return cls._from_entry(unseal(path.read_bytes()))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
            reason = (
                f"is damaged ({error or type(error).__name__}). Restore it from a copy, or extract the store again."
            )
            raise CorruptFileError(path, reason) from error

    @classmethod
    def _from_entry(cls, entry: dict[str, Any]) -> "Manifest":
        check_format(entry)
        ids, chunk_rows = tuple(entry["ids"]), checked_count(entry["chunk_rows"])
        if not ids or len(ids) != entry["num_examples"] or len(set(ids)) != len(ids):
            raise ValueError("its ids are not one unique string per example")
        if not all(isinstance(one, str) for one in ids):
            raise ValueError("its ids are not all strings")
        num_chunks = -(-len(ids) // chunk_rows)
        layers = tuple(
            LayerRecord(
                str(layer["name"]),
                checked_count(layer["width"]),
                _file_sum(layer["zarr_json"]),
                tuple(map(_file_sum, layer["chunks"])),
            )
            for layer in entry["layers"]
        )
        if not layers or len({layer.name for layer in layers}) != len(layers):
            raise ValueError("its layers do not have one unique name each")
        if any(len(layer.chunks) != num_chunks for layer in layers):
            raise ValueError(f"it does not list {num_chunks} chunks for each layer")
        return cls(entry["dtype"], chunk_rows, ids, layers, dict(entry["metadata"]), dict(entry["versions"]))


def check_format(entry: dict[str, Any]) -> None:
    """Checks that an entry was written by this format, with a dtype that it knows.

    Args:
        entry: With the keys format, version and dtype.

    Raises:
        ValueError: If it was not.
    """
    if (entry["format"], entry["version"]) != (FORMAT, FORMAT_VERSION):
        raise ValueError(
            f"it is {entry['format']!r} version {entry['version']!r}, wanted {FORMAT!r} version {FORMAT_VERSION}"
        )
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"its dtype {entry['dtype']!r} is not one of {', '.join(DTYPES)}")


def checked_count(value: Any) -> int:
    """A positive count out of a JSON file.

    Args:
        value: What stood there.

    Returns:
        The count.

    Raises:
        ValueError: If it is not an integer of at least 1.
    """
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} should be a positive integer")
    return value


def layer_folder(index: int, name: str) -> str:
    """Folder of a layer inside a store: safe whatever the name is.

    The number makes it unique (also where the file system ignores case, or the name is cut), the percent-encoded start
    of the name makes it readable, and nothing of the name can lead out of the store.

    Args:
        index: Position of the layer in depth order.
        name: Any text.

    Returns:
        A name of ASCII letters, digits and ``_.-~%``, at most 90 characters long.
    """
    return f"{index:04d}_{quote(name, safe='', errors='replace')[:80]}"


def seal(entry: dict[str, Any]) -> bytes:
    """One line of JSON that carries the checksum of its own entry.

    Args:
        entry: JSON-serializable.

    Returns:
        ASCII bytes ending in a newline: ``{"entry":...,"sha256":"..."}``.

    Raises:
        TypeError: If a value has no JSON form.
        ValueError: If a number is NaN or infinite.
    """
    body = json.dumps(entry, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()
    return _HEAD + body + _MIDDLE + hashlib.sha256(body).hexdigest().encode() + _TAIL


def unseal(line: bytes) -> dict[str, Any]:
    """The entry of a sealed line.

    Args:
        line: What ``seal`` wrote; any other byte anywhere is an error.

    Returns:
        The entry.

    Raises:
        ValueError: If the line is torn or changed.
    """
    end = len(line) - len(_TAIL) - 64
    body, middle, digest = line[len(_HEAD) : end - len(_MIDDLE)], line[end - len(_MIDDLE) : end], line[end : end + 64]
    framed = line.startswith(_HEAD) and line.endswith(_TAIL) and middle == _MIDDLE
    if not framed or hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("its checksum does not fit its content")
    entry = json.loads(body)
    if not isinstance(entry, dict):
        raise ValueError("it is not a JSON object")
    return entry


def file_sums(values: Any) -> tuple[FileSum, ...]:
    """Reads a JSON list of [sha256, size] pairs.

    Args:
        values: The list.

    Returns:
        The pairs, checked.

    Raises:
        ValueError: If one is not such a pair.
        TypeError: If ``values`` is not a list of lists.
    """
    return tuple(map(_file_sum, values))


def _file_sum(value: Any) -> FileSum:
    sha256, size = value
    if not isinstance(sha256, str) or len(sha256) != 64:
        raise ValueError(f"{sha256!r} is not a sha256")
    return FileSum(sha256, checked_count(size))
