"""Which representations belong together? The user's sources, sorted into classes of positives, with rows matched."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from repsim_jax.activations.align import align
from repsim_jax.activations.layers import Layers
from repsim_jax.activations.reader import Store
from repsim_jax.errors import AlignmentError, BadArrayError
from repsim_jax.similarity.contrasim.options import Options
from repsim_jax.similarity.inputs import checked_layers

Sources = Mapping[str, Any]
Classes = Callable[[str, str], str | None] | Mapping[tuple[str, str], str | None] | None
# A store's layer that varies among these rows is not constant.
_FIRST_ROWS = 256


class View(NamedTuple):
    """One source's part in a group of classes.

    Attributes:
        source: Name of the source.
        layers: A layer for each class of the group.
        width: Features d of all of them.
    """

    source: str
    layers: tuple[str, ...]
    width: int


class Group(NamedTuple):
    """Classes that are made up alike: the same sources with the same widths, so that their layers can be stacked.

    Attributes:
        classes: Names of the C classes.
        views: At least two; view v of class c is positive for every other view of class c.
    """

    classes: tuple[str, ...]
    views: tuple[View, ...]


class Collection(NamedTuple):
    """Sources with matched rows.

    Attributes:
        groups: The classes.
        sides: Source name to its layers.
        rows: Source name to the row numbers (n, v) of each example: v rows of a source may show one example.
        ids: n examples.
    """

    groups: tuple[Group, ...]
    sides: dict[str, Layers]
    rows: dict[str, np.ndarray]
    ids: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes, group after group."""
        return tuple(name for group in self.groups for name in group.classes)

    def without(self, names: Sequence[str]) -> "Collection":
        """The collection without some sources; classes that lose their positives go too.

        Args:
            names: Sources to leave out.

        Returns:
            What is left, of the same examples.
        """
        groups = [
            Group(group.classes, tuple(view for view in group.views if view.source not in names))
            for group in self.groups
        ]
        left = {name: side for name, side in self.sides.items() if name not in names}
        return self._replace(groups=tuple(group for group in groups if len(group.views) > 1 or not names), sides=left)

    @property
    def bytes_needed(self) -> int:
        """What all layers take in memory as float32."""
        return 4 * sum(self.sides[source].num_examples * width for (source, _), width in self._widths().items())

    def bytes_as_wide_as(self, width: int) -> int:
        """What all layers would take in memory as float32 if they had this width.

        Args:
            width: Features.

        Returns:
            Bytes.
        """
        return 4 * width * sum(self.sides[source].num_examples for source, _ in self._widths())

    def _widths(self) -> dict[tuple[str, str], int]:
        return {
            (view.source, layer): view.width for group in self.groups for view in group.views for layer in view.layers
        }


def collect(
    sources: Sources, options: Options, *, classes: Classes = None, examples: Callable[[str], str] | None = None
) -> Collection:
    """Sorts the layers of all sources into classes of positives, and matches their rows.

    Args:
        sources: Name to ``Layers``, an opened store, a mapping from layer names to arrays (n, d), or an array (n, d).
        options: What kind of positives there are, and whether widths must agree.
        classes: ``classes(source, layer)`` names the class of a layer, or None to leave it out; or a mapping from
            (source, layer). By default a layer's own name; where every source has one layer, all are of one class.
        examples: The example that a row id shows, where several rows of a source show one: captions of an image, views.

    Returns:
        Classes, and rows by example.

    Raises:
        BadArrayError: If there is one source only, a class without positives or negatives, or widths that do not fit.
        AlignmentError: If the sources do not hold the same examples.
    """
    if not isinstance(sources, Mapping) or len(sources) < 2:
        count = f"{len(sources)} source" if isinstance(sources, Mapping) else type(sources).__name__
        raise BadArrayError(
            f"contrasim learns from two sources or more, got {count}. Pass {{name: layers}}: models that differ in "
            "their seed, two languages, images and captions, or the old and the new model."
        )
    sides = {str(name): _as_layers(str(name), value) for name, value in sources.items()}
    ids, rows = _matched(sides, examples)
    class_of = _class_of(sides, classes)
    for source, layer in class_of:
        _check_values(sides[source], layer)
    collection = Collection(_grouped(sides, class_of), sides, rows, ids)
    check(collection, options)
    return collection


def check_held_out(collection: Collection, held_out: Sequence[str]) -> None:
    """Refuses a held-out source that is the copy of a fitted one, which would be found to carry over.

    Args:
        collection: All sources.
        held_out: Names of those that are kept from training.

    Raises:
        BadArrayError: If one of them holds the numbers of a fitted source in all its layers.
    """
    fitted = {_digest(collection, source): source for source in collection.sides if source not in held_out}
    for source in held_out:
        other = fitted.get(_digest(collection, source))
        if other is not None:
            raise BadArrayError(
                f"contrasim needs held-out sources that were not fitted: {source!r} holds the numbers of {other!r} in "
                "all its layers, and would flatter. Hold out another one (held_out, --held-out)."
            )


def _digest(collection: Collection, source: str) -> bytes:
    """Of the first rows of all layers of a source that take part, in the order of the examples."""
    rows = collection.rows[source][:_FIRST_ROWS].ravel()
    layers = {
        layer for group in collection.groups for view in group.views if view.source == source for layer in view.layers
    }
    digest = hashlib.sha256()
    for layer in sorted(layers):
        digest.update(np.ascontiguousarray(collection.sides[source].read(layer, rows), np.float64).tobytes())
    return digest.digest()


def _as_layers(name: str, value: Any) -> Layers:
    if isinstance(value, Layers):
        layers = value._replace(name=name)
    elif isinstance(value, Store):
        layers = Layers(name, value, value.ids)
    else:
        arrays = value if isinstance(value, Mapping) else {"x": value}
        layers = Layers(name, {str(layer): _as_array(name, str(layer), array) for layer, array in arrays.items()})
    if not layers.names or not layers.num_examples:
        raise BadArrayError(f"contrasim needs at least one layer and one example of each source, {name!r} has none.")
    rows = {} if isinstance(layers.layers, Store) else {layer: len(array) for layer, array in layers.layers.items()}
    if layers.ids is not None:
        rows["ids"] = len(layers.ids)
    if len(set(rows.values())) > 1:
        told = ", ".join(f"{count} of {layer!r}" for layer, count in rows.items())
        raise BadArrayError(f"contrasim needs the same examples in all layers of a source: {name!r} has rows {told}.")
    return layers


def _as_array(source: str, layer: str, value: Any) -> np.ndarray:
    try:
        array = value if isinstance(value, np.ndarray) else np.asarray(value)  # masked arrays are refused later
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, tensors that need .detach().cpu()
        raise BadArrayError(f"contrasim cannot turn layer {layer!r} of {source} into an array: {error}") from error
    if array.ndim == 0:
        raise BadArrayError(f"contrasim needs arrays (n, d): layer {layer!r} of {source} is {type(value).__name__}.")
    return array


def _check_values(side: Layers, layer: str) -> None:
    """Refuses what cannot be learned from, of all rows, so that the rows which are named are the user's."""
    if isinstance(side.layers, Store):  # its writer has checked that all is finite
        some = side.read(layer, slice(0, _FIRST_ROWS))
        if (some != some[:1]).any():
            return
    checked_layers(
        [side.layers[layer] if not isinstance(side.layers, Store) else side.read(layer)],
        operation="contrasim", min_rows=2, names=[f"layer {layer!r} of {side.name}"], as_is=True,
    )  # fmt: skip


def _matched(
    sides: dict[str, Layers], examples: Callable[[str], str] | None
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    if all(side.ids is None for side in sides.values()):
        counts = {name: side.num_examples for name, side in sides.items()}
        if len(set(counts.values())) > 1:
            raise AlignmentError(
                "contrasim needs the same examples in every source: got "
                + ", ".join(f"{count} rows of {name}" for name, count in counts.items())
                + ", and no ids to match them by."
            )
        n = next(iter(counts.values()))
        return tuple(map(str, range(n))), {name: np.arange(n)[:, None] for name in sides}
    without = [name for name, side in sides.items() if side.ids is None]
    if without:
        raise AlignmentError(
            f"contrasim cannot match rows: source {without[0]!r} has no example ids and others have. Give all or none."
        )
    tables = {name: _rows_of_examples(name, side.ids or (), examples) for name, side in sides.items()}
    first = next(iter(tables.values()))
    rows = {}
    for name, table in tables.items():
        try:
            _, order = align(tuple(first), tuple(table))
        except AlignmentError as error:
            raise AlignmentError(f"sources {next(iter(tables))!r} and {name!r}: {error}") from error
        rows[name] = np.stack(list(table.values()))[order]
    return tuple(first), rows


def _rows_of_examples(name: str, ids: Sequence[str], examples: Callable[[str], str] | None) -> dict[str, np.ndarray]:
    """Rows of each example; all examples get as many as the one with most, by repeating theirs."""
    table: dict[str, list[int]] = {}
    if examples is None:
        try:
            align(ids, ids)
        except AlignmentError as error:
            raise AlignmentError(
                f"source {name!r}: {error} Where several rows show one example, say which by examples=."
            ) from error
    for row, one in enumerate(ids):
        table.setdefault(one if examples is None else str(examples(one)), []).append(row)
    most = max(map(len, table.values()))
    return {one: np.resize(np.asarray(rows), most) for one, rows in table.items()}


def _class_of(sides: dict[str, Layers], classes: Classes) -> dict[tuple[str, str], str]:
    pairs = [(name, layer) for name, side in sides.items() for layer in side.names]
    if classes is None:
        alone = all(len(side.names) == 1 for side in sides.values())
        return {pair: "example" if alone else pair[1] for pair in pairs}
    if isinstance(classes, Mapping):
        unknown = [pair for pair in classes if pair not in pairs]
        if unknown:
            raise BadArrayError(
                f"contrasim: classes name {unknown[0]!r}, which is no (source, layer) of these sources."
            )
        return {pair: str(classes[pair]) for pair in pairs if classes.get(pair) is not None}
    chosen = {pair: classes(*pair) for pair in pairs}
    return {pair: str(name) for pair, name in chosen.items() if name is not None}


def _grouped(sides: dict[str, Layers], class_of: dict[tuple[str, str], str]) -> tuple[Group, ...]:
    members: dict[str, list[tuple[str, str, int]]] = {}
    for (source, layer), name in class_of.items():
        members.setdefault(name, []).append((source, layer, sides[source].width(layer)))
    alike: dict[tuple[tuple[str, int], ...], list[str]] = {}
    for name, views in members.items():
        alike.setdefault(tuple((source, width) for source, _, width in views), []).append(name)
    return tuple(
        Group(
            tuple(names),
            tuple(
                View(source, tuple(members[name][v][1] for name in names), width)
                for v, (source, width) in enumerate(signature)
            ),
        )
        for signature, names in alike.items()
    )


def check(collection: Collection, options: Options) -> None:
    """Refuses what nothing could be learned from.

    Args:
        collection: Classes of positives.
        options: What is to be fitted.

    Raises:
        BadArrayError: If a class has no positives, there are no negatives, few examples, or widths that do not fit.
    """
    groups, n = collection.groups, len(collection.ids)
    lonely = [name for group in groups if len(group.views) < 2 for name in group.classes]
    if not groups:
        raise BadArrayError("contrasim has nothing to learn from: classes= or held_out= leave no class of two layers.")
    if lonely:
        some = ", ".join(map(repr, lonely[:5]))
        raise BadArrayError(
            f"contrasim needs at least two representations in every class, or nothing is a positive: {some} has one. "
            "Say with classes= which layers of which sources belong together, or leave them out (None)."
        )
    num_classes = sum(len(group.classes) for group in groups)
    if options.positives == "layer" and num_classes < 2 and options.objective in ("contrasim", "max_margin"):
        raise BadArrayError(
            f"contrasim with positives='layer' needs at least two classes, or there are no negatives: got "
            f"{groups[0].classes[0]!r} alone. Pass more layers, or use positives='example'."
        )
    if n < 8:
        raise BadArrayError(f"contrasim needs at least 8 examples to fit, got {n}. Pass more rows.")
    widths = {view.width: (view.source, view.layers[0]) for group in groups for view in group.views}
    if options.input == "raw" and len(widths) > 1:
        told = ", ".join(f"{width} ({source} {layer!r})" for width, (source, layer) in sorted(widths.items()))
        raise BadArrayError(
            f"contrasim with input='raw' has one map for all, so widths must agree: got {told}. "
            "Use input='relative' (carries over to new models) or 'projected'."
        )
