"""What a side of a comparison is: a store, an array file, or a model whose layers are still to be extracted."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from repsim_jax.activations import Layers
    from repsim_jax.similarity.contrasim import Learned

_ARRAY_FILES = (".npy", ".npz", ".safetensors", ".parquet")


class Examples(NamedTuple):
    """What models are shown, as options of ``repsim extract``."""

    data: str | None
    column: str | None
    id_column: str | None
    limit: int | None
    layout: list[str] | None
    batch_size: int
    size: int | None
    skip_bad: bool


def named(spec: str) -> tuple[str | None, str]:
    """Takes NAME=PATH apart where such a path is there; what is there as a whole is a path, whatever is in it."""
    if Path(spec).exists():
        return None, spec
    parts = spec.split("=")
    cuts = [("=".join(parts[:k]), "=".join(parts[k:])) for k in range(1, len(parts))]
    return next(((name, path) for name, path in cuts if name and path and Path(path).exists()), (None, spec))


def is_model(spec: str) -> bool:
    """Whether a side is to be extracted first; all that lies on disk as layers is not."""
    path = Path(named(spec)[1])
    suffix = path.suffix.lower()
    return not (path.is_dir() or suffix in _ARRAY_FILES or (path.is_file() and suffix != ".onnx"))


def side_of(spec: str, store: Path, patterns: list[str] | None, examples: Examples) -> "Layers":
    """The layers of a side; those of a model are extracted into a store, or found there."""
    from repsim_jax.activations.files import load_layers
    from repsim_jax.errors import FileError

    if is_model(spec):
        return _extracted(spec, store, patterns, examples)
    name, spec = named(spec)
    path = Path(spec)
    if (path / "config.json").is_file() and not (path / "manifest.json").exists():
        raise FileError(spec, f"is no store but looks like a Hugging Face folder. Name it so: hf:{spec}")
    side = _chosen(load_layers(path), patterns)
    return side if name is None else side._replace(name=name)


def _chosen(side: "Layers", patterns: list[str] | None) -> "Layers":
    if not patterns:
        return side
    from fnmatch import fnmatchcase

    from repsim_jax.activations import Store
    from repsim_jax.errors import UnknownNameError

    def matches(name: str, pattern: str) -> bool:
        return name == pattern or fnmatchcase(name, pattern)

    for pattern in patterns:
        if not any(matches(name, pattern) for name in side.names):
            raise UnknownNameError.of(f"layer of {side.name}", pattern, side.names)
    names = [name for name in side.names if any(matches(name, pattern) for pattern in patterns)]
    chosen = _Chosen((name, side.read(name)) for name in names)
    chosen.metadata = side.layers.metadata if isinstance(side.layers, Store) else {}
    return side._replace(layers=chosen)


class _Chosen(dict[str, Any]):
    """Some layers or rows of a store, which still tell whose weights made them."""

    metadata: dict[str, Any]


def check_mark(sides: "Sequence[Layers]", mark: str | None, fitted: "Learned | None" = None) -> None:
    """Refuses a mark that no id has, and another one than the measure was fitted with."""
    from repsim_jax.errors import RepsimError

    known = None if fitted is None else fitted.measure.settings.get("example_mark")
    ids = [one for side in sides for one in side.ids or ()]
    # Ids without any mark name their examples already.
    unsaid = mark is None and known is not None and any(known in one for one in ids)
    if fitted is not None and (unsaid or (mark is not None and mark != known)):
        was = "without --example-mark" if known is None else f"with --example-mark {known!r}"
        raise RepsimError(f"the measure was fitted {was}: say the same here, or it cannot know its training examples.")
    bare = next((side.name for side in sides if side.ids is None), None)
    if mark and bare is not None:
        raise RepsimError(f"--example-mark is about ids, and {bare} has none. Leave it out.")
    if mark and mark != known and not any(mark in one for one in ids):
        raise RepsimError(f"--example-mark {mark!r} is in no id of {' or '.join(side.name for side in sides)}.")


def first_rows(side: "Layers", mark: str) -> "Layers":
    """The first row of each example; ids without the mark are examples of one row."""
    import numpy as np

    from repsim_jax.errors import RepsimError

    if not mark:
        raise RepsimError("--example-mark is the text between an example and the number of its row, such as '#'.")
    first: dict[str, int] = {}
    for row, one in enumerate(side.ids or ()):
        first.setdefault(example_of(one, mark), row)
    rows = np.fromiter(first.values(), int)
    chosen = _Chosen((name, side.read(name, rows)) for name in side.names)
    chosen.metadata = getattr(side.layers, "metadata", {})
    return side._replace(layers=chosen, ids=tuple(first))


def example_of(row: str, mark: str) -> str:
    """The example that a row shows: its id up to the last mark, or all of it where there is none."""
    return row.rpartition(mark)[0] or row


def _extracted(spec: str, store: Path, patterns: list[str] | None, examples: Examples) -> "Layers":
    """Runs a model over the examples into a resumable store beside the report, as ``repsim extract`` does."""
    import sys
    from contextlib import redirect_stdout

    from repsim_jax.activations.files import load_layers
    from repsim_jax.cli.extract import extract
    from repsim_jax.errors import FileError

    if examples.data is None:
        raise FileError(spec, "no store or array file is here. If this is a model, say with --data what to show it.")
    shown: dict[str, Any] = examples._asdict()
    with redirect_stdout(sys.stderr):  # what --json prints is for a program
        extract(model=spec, out=store, layers=patterns, **shown)
    return load_layers(store)._replace(name=spec)
