"""What do the hidden layers of a model say about these examples? Streams them to memory or to a resumable store."""

import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, overload

import flax
import jax
import numpy as np

import repsim_jax
from repsim_jax.activations.chunks import DTYPES
from repsim_jax.activations.incoming import cast, checked_layers
from repsim_jax.activations.journal import JOURNAL_FILE, read_journal
from repsim_jax.activations.layers import Layers
from repsim_jax.activations.layout import Layout, apply_policy, positions
from repsim_jax.activations.manifest import MANIFEST_FILE
from repsim_jax.activations.selection import Patterns, Selection, select
from repsim_jax.activations.store import Store, StoreWriter, open_store
from repsim_jax.activations.tap import JaxTap, Tap, tap
from repsim_jax.data.batches import Batch
from repsim_jax.data.streams import Batches, Stream, padded, recut
from repsim_jax.errors import AlignmentError, BadArrayError, StoreMismatchError, UnknownNameError

Progress = Callable[[int, int | None], None]


class Recorded(NamedTuple):
    """What an earlier run left in a folder.

    Attributes:
        num_rows: Rows that are safe on the disk.
        batch_size: Examples that were computed together; the same rows in the same batches give the same bytes.
        finished: Whether it is a whole store.
    """

    num_rows: int
    batch_size: int | None
    finished: bool


def recorded(folder: str | os.PathLike[str]) -> Recorded | None:
    """Looks whether a store was begun or finished in a folder.

    Args:
        folder: Any path.

    Returns:
        What is there, or None where nothing was committed yet.

    Raises:
        CorruptFileError: If what is there is damaged.
    """
    folder = Path(folder)
    if (folder / MANIFEST_FILE).exists():
        store = open_store(folder)
        return Recorded(len(store), store.metadata.get("batch_size"), True)
    if not (folder / JOURNAL_FILE).exists():
        return None
    progress = read_journal(folder / JOURNAL_FILE)
    return Recorded(len(progress.ids), progress.header["metadata"].get("batch_size"), False) if progress.ids else None


@overload
def extract(
    model: Any,
    batches: Batches,
    *,
    layers: Patterns = None,
    layout: Layout = None,
    store: None = None,
    dtype: str = "float32",
    chunk_rows: int = 256,
    metadata: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> Layers: ...


@overload
def extract(
    model: Any,
    batches: Batches,
    *,
    layers: Patterns = None,
    layout: Layout = None,
    store: str | os.PathLike[str],
    dtype: str = "float32",
    chunk_rows: int = 256,
    metadata: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> Store: ...


def extract(
    model: Any,
    batches: Batches,
    *,
    layers: Patterns = None,
    layout: Layout = None,
    store: str | os.PathLike[str] | None = None,
    dtype: str = "float32",
    chunk_rows: int = 256,
    metadata: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> Layers | Store:
    """Reads hidden layers of a model over a stream of examples, one row of features per example.

    With ``store`` it goes on where an earlier run was stopped: committed examples are not computed again, their ids are
    compared, and the finished store has the same bytes as that of an uninterrupted run. For this the examples are
    computed in batches of the size of the first run's first batch, whatever size they now come in (the last one is
    padded by repeating an example, so a model must treat examples independently, as models do at inference). A finished
    store is returned as it is, after its ids are compared with the stream's.

    >>> import numpy as np
    >>> from repsim_jax.activations import extract
    >>> found = extract((lambda params, x: {"twice": params * x}, 2.0), [np.ones((3, 4), np.float32)])
    >>> found.ids, found.read("twice").shape
    (('0', '1', '2'), (3, 4))

    Args:
        model: Whatever ``tap`` takes.
        batches: An iterable of ``Batch``, or of plain arrays (ids are then row numbers); one array (n, ...); or a
            callable ``start -> iterable`` that begins at row ``start``, which makes resuming cheap.
        layers: Layer names or globs ("*" matches "/" too). None: the model's own list where it has one, else every
            floating-point layer of rank 2 or more; a wildcard passes over other tensors, and the metadata say which.
        layout: A policy for all layers of rank above 2, or {glob: policy}, of which the first match wins; the model's
            own policies come after yours. See ``repsim_jax.activations.layout``.
        store: Folder of the store; None returns the layers in memory.
        dtype: "float32", "float16" or "bfloat16".
        chunk_rows: Rows that a store commits together.
        metadata: Stored with the layers: JSON. "model" replaces the model's own name; "data" should say what was read.
        on_progress: Called with (examples done, all examples or None) after each batch.

    Returns:
        The layers in memory, or the finished store; its metadata record model, layouts, versions and batch size.

    Raises:
        UnknownNameError: If a layer, policy or dtype does not exist; the message suggests the nearest.
        BadArrayError: If there are no examples, ids or arrays are malformed, a layer holds NaN, infinity, integers, or
            values too large for ``dtype``, or a layer of rank above 2 has no policy.
        AlignmentError: If an id comes twice.
        StoreMismatchError: If ``store`` holds another model, layout, dtype or list of examples.
    """
    if dtype not in DTYPES:
        raise UnknownNameError.of("dtype", dtype, DTYPES)
    source, stream = tap(model), Stream(batches)
    first = stream.peek()
    selection = select(source, first, layers, layout)
    folder = None if store is None else Path(store)
    begun = recorded(folder) if folder else None
    size = (begun and begun.batch_size) or len(first.ids)
    run = _Run(source, selection, stream, size, _total(batches), on_progress)
    if folder is None:
        return _in_memory(run, DTYPES[dtype], (metadata or {}).get("model", source.name))
    described = _described(run, metadata or {})
    if (folder / MANIFEST_FILE).exists():
        return _finished(run, folder, described, dtype)
    with StoreWriter(folder, dtype=dtype, chunk_rows=chunk_rows, metadata=described) as writer:
        for ids, rows in run.rows(writer.committed_ids, folder):
            writer.append(ids, rows)
        return writer.finish()


def _in_memory(run: "_Run", dtype: np.dtype, name: str) -> Layers:
    ids: list[str] = []
    parts: dict[str, list[np.ndarray]] = {layer: [] for layer in run.selection.policies}
    for new, rows in run.rows():
        for layer, array in checked_layers(rows, len(new)).items():
            _check_width(layer, array, parts[layer])
            parts[layer].append(cast(layer, array, dtype, new, len(ids)))
        ids.extend(new)
    # One layer at a time gives its parts back, so that memory holds little more than the layers.
    return Layers(name, {layer: np.concatenate(parts.pop(layer)) for layer in list(parts)}, tuple(ids))


def _check_width(layer: str, array: np.ndarray, earlier: list[np.ndarray]) -> None:
    if earlier and array.shape[1] != earlier[0].shape[1]:
        raise BadArrayError(
            f"layer {layer!r} has width {array.shape[1]} where {earlier[0].shape[1]} was expected, that of the first "
            "batch. Give all inputs one shape, or another layout (token_mean, cls, spatial_mean)."
        )


def _finished(run: "_Run", folder: Path, described: dict[str, Any], dtype: str) -> Store:
    store = open_store(folder)
    was, now = (
        {"dtype": kind, **json.loads(json.dumps(told)), "versions": None}
        for kind, told in ((store.dtype.name, store.metadata), (dtype, described))
    )
    different = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    if different:
        key = different[0]
        raise StoreMismatchError(
            folder,
            f"this store is finished, with {key} {str(was.get(key))[:80]!r}; asked for {str(now.get(key))[:80]!r}. "
            "Choose another folder.",
        )
    for ids, _ in run.rows(store.ids, folder):
        raise StoreMismatchError(
            folder, f"this store is finished, and the data go on with {ids[0]!r}. Choose another folder."
        )
    return store


class _Run(NamedTuple):
    """One pass of a model over a stream."""

    tap: Tap
    selection: Selection
    stream: Stream
    size: int
    total: int | None
    on_progress: Progress | None

    def rows(
        self, committed: tuple[str, ...] = (), folder: Path | None = None
    ) -> Iterator[tuple[list[str], dict[str, np.ndarray]]]:
        """Yields ids and features of the rows that are not committed yet, having compared the ids of those that are."""
        places = _places(self.selection, self.tap.channel_axis)
        program = _program(self.tap, self.selection)
        begin, done = _rewound(committed, self.size, bool(places))
        example, batches = self.stream.from_row(begin)
        done = done if example else 0
        seen = {_owner(one, bool(places)): number for number, one in enumerate(committed[:done])}
        for batch in recut(batches, self.size):
            _check_new(batch.ids, seen, example)
            example += len(batch.ids)
            ids, kept = _row_ids(batch, places)
            known = committed[done : done + len(ids)]
            _check_same(ids, known, done, folder)
            done += len(ids)
            if len(known) < len(ids):
                found = program(padded(batch, self.size))
                features = {name: _features(name, value, len(batch.ids), kept) for name, value in found.items()}
                yield ids[len(known) :], {name: value[len(known) :] for name, value in features.items()}
            if self.on_progress:
                self.on_progress(example, self.total)
        if done < len(committed):
            _check_same([], committed[done:], done, folder)


def _program(source: Tap, selection: Selection) -> Callable[[Batch], dict[str, jax.Array]]:
    """Compiles model and layout together where JAX can, so that a map that is averaged is never kept as a whole."""
    policies, axis, names = selection.policies, source.channel_axis, tuple(selection.policies)

    def laid_out(found: Mapping[str, Any], mask: Any) -> tuple[jax.Array, ...]:
        return tuple(apply_policy(found[name], policies[name], channel_axis=axis, mask=mask) for name in names)

    if isinstance(source, JaxTap):
        fused = jax.jit(lambda state, inputs, mask: laid_out(source.outputs(state, inputs), mask))
        return lambda batch: dict(zip(names, fused(source.state, batch.inputs, batch.mask), strict=True))
    alone = jax.jit(laid_out)
    return lambda batch: dict(zip(names, alone(source.read(batch.inputs, names), batch.mask), strict=True))


def _features(name: str, value: jax.Array, num_examples: int, kept: np.ndarray | None) -> np.ndarray:
    array = np.asarray(value)[:num_examples]
    if kept is None:
        return array
    if array.shape[:2] != kept.shape:
        raise BadArrayError(
            f"layer {name!r} has {array.shape[1]} positions where {kept.shape[1]} were expected, those of the first "
            "batch or of the mask. space_as_samples needs inputs of one size, or masked tokens."
        )
    return array[kept]


def _places(selection: Selection, channel_axis: int) -> tuple[str, ...]:
    spread = [name for name, policy in selection.policies.items() if policy == "space_as_samples"]
    if not spread:
        return ()
    places = {name: positions(selection.shapes[name].shape, channel_axis=channel_axis) for name in spread}
    first = spread[0]
    other = next((name for name in selection.policies if places.get(name) != places[first]), None)
    if other is not None:
        raise BadArrayError(
            f"space_as_samples makes each of the {len(places[first])} positions of layer {first!r} an example, and "
            f"layer {other!r} of shape {selection.shapes[other].shape} has other positions. Extract them separately."
        )
    return places[first]


def _row_ids(batch: Batch, places: tuple[str, ...]) -> tuple[list[str], np.ndarray | None]:
    if not places:
        return list(batch.ids), None
    if batch.mask is not None and "," not in places[0]:
        kept = batch.mask.astype(bool)
        ids = [f"{batch.ids[row]}@{place}" for row, place in np.argwhere(kept)]
        return ids, kept
    ids = [f"{one}@{place}" for one in batch.ids for place in places]
    return ids, np.ones((len(batch.ids), len(places)), bool)


def _owner(row_id: str, per_place: bool) -> str:
    return row_id.rsplit("@", 1)[0] if per_place else row_id


def _rewound(committed: tuple[str, ...], size: int, per_place: bool) -> tuple[int, int]:
    """The example at which to begin again, and how many committed rows lie before it.

    It is the first of the batch in which the earlier run stopped: the same program on the same batch, the same bytes.
    """
    owners = [_owner(one, per_place) for one in committed]
    starts = [row for row, owner in enumerate(owners) if row == 0 or owner != owners[row - 1]]
    begin = max(len(starts) - int(per_place), 0) // size * size
    return begin, starts[begin] if begin < len(starts) else len(committed)


def _check_new(ids: tuple[str, ...], seen: dict[str, int], example: int) -> None:
    for number, one in enumerate(ids, start=example):
        if one in seen:
            raise AlignmentError(
                f"ids must be unique: {one!r} is the id of example {seen[one]} and of example {number}. "
                "Rows are matched by id, so give every example its own."
            )
        seen[one] = number


def _check_same(ids: list[str], committed: tuple[str, ...], row: int, folder: Path | None) -> None:
    for number, known in enumerate(committed):
        came = repr(ids[number]) if number < len(ids) else "nothing: the data end"
        if came != repr(known):
            raise StoreMismatchError(
                folder or "",
                f"row {row + number} is {known!r} in the store, and the data give {came}. "
                "Resume with the same examples in the same order, or choose another folder.",
            )


def _described(run: _Run, metadata: Mapping[str, Any]) -> dict[str, Any]:
    layers = {
        name: {"layout": run.selection.policies[name], "shape": struct.shape[1:], "dtype": str(struct.dtype)}
        for name, struct in run.selection.shapes.items()
    }
    packages = {"repsim_jax": repsim_jax.__version__, "jax": jax.__version__, "flax": flax.__version__}
    versions = packages | {"python": platform.python_version()}
    own = {"layers": layers, "passed_over": run.selection.passed_over, "batch_size": run.size, "versions": versions}
    return {"model": run.tap.name, **metadata, **own}


def _total(batches: Batches) -> int | None:
    if not isinstance(batches, list | tuple):
        return getattr(batches, "shape", (None,))[0]
    if all(isinstance(one, Batch) for one in batches):
        return sum(len(one.ids) for one in batches)
    return None
