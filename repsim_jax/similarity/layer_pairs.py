"""Compare two arrays, dictionaries of layers, or stores: every layer pair under every measure, as one tidy table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from repsim_jax.activations.align import align
from repsim_jax.activations.layers import Layers
from repsim_jax.activations.reader import Store, memory_needed
from repsim_jax.errors import AlignmentError, BadArrayError
from repsim_jax.similarity.comparison import Comparison
from repsim_jax.similarity.dissimilarity import check_rows_vary
from repsim_jax.similarity.inputs import checked_layers, needs_float64
from repsim_jax.similarity.registry import DEFAULT_MEASURES, LearnedMeasure, Measure, measure


def compare(
    a: Any,
    b: Any,
    *,
    measures: Sequence[str | LearnedMeasure] = DEFAULT_MEASURES,
    name_a: str | None = None,
    name_b: str | None = None,
    max_rows: int | None = None,
    memory_limit: int | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Scores every layer of a against every layer of b.

    Args:
        a: An array (n, d), a mapping from layer names to arrays (n, d_l), ``Layers``, or an opened store.
        b: The same examples under another model. Where both sides carry example ids they are aligned by them, in any
            order; without ids row i of both must be the same example.
        measures: Names of registered measures, see ``repsim_jax.similarity.measures()``; and a fitted one, as
            ``contrasim.Learned(measure)``. All are computed on the same rows: where a learned measure is among them, on
            those that it may be scored on.
        name_a: What to call a; by default the name that it carries, or "x".
        name_b: What to call b; by default the name that it carries, or "y".
        max_rows: Use at most this many evenly spaced examples; all of them where None.
        memory_limit: Bytes that the layers of a store may take in memory, each side by itself; no limit where None.
        on_progress: Called as ``on_progress(measure, done, total)`` before each measure and once after the last.

    Returns:
        A table with a row per layer pair and measure; all values finite.

    Raises:
        BadArrayError: If a layer has no defined, finite similarity under one of the measures; the message names it.
        AlignmentError: If the two sides do not hold the same examples; the message names the first that is missing.
        UnknownNameError: If a measure is not registered (the nearest are suggested), or is learned and was not fitted.
        CorruptFileError: If a store is damaged.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(50, 8))
    >>> [round(row.value, 3) for row in compare(x, x[:, ::-1], measures=["procrustes", "svcca"])]
    [1.0, 1.0]
    """
    chosen = _chosen(measures)
    sides = _as_layers(a, "x", name_a), _as_layers(b, "y", name_b)
    matched = _matched_rows(*sides)
    for one in chosen:
        matched = matched if isinstance(one, Measure) else one.rows(*sides, *matched)
    rows = _spread(*matched, max_rows)
    values = _values(chosen, sides, rows, memory_limit, on_progress)
    learned = [one for one in chosen if not isinstance(one, Measure)]
    n, total = len(rows[0]), len(matched[0])
    return Comparison(
        name_a=sides[0].name,
        name_b=sides[1].name,
        layers_a=sides[0].names,
        layers_b=sides[1].names,
        measures=tuple(_registered(one).name for one in chosen),
        values=np.stack(values),
        num_examples=n,
        widths_a=tuple(sides[0].width(name) for name in sides[0].names),
        widths_b=tuple(sides[1].width(name) for name in sides[1].names),
        notes=(
            *((f"{n} of {total} examples were compared, evenly spaced.",) if n < total else ()),
            *(note for one in learned for note in one.notes(*sides, *rows)),
        ),
        settings={"jax": jax.__version__, "backend": jax.default_backend(), **_told(learned, sides)},
        by_example=next((found for one in learned if (found := one.by_example(*sides, *rows)) is not None), None),
    )


def _chosen(measures: Sequence[str | LearnedMeasure]) -> list[Measure | LearnedMeasure]:
    """Each measure once, in order."""
    listed = [measures] if isinstance(measures, str) else list(measures)
    if not listed:
        raise BadArrayError(
            "compare needs at least one measure, got an empty list. Leave the argument out for the default ones."
        )
    found: dict[str, Measure | LearnedMeasure] = {}
    for one in listed:
        chosen = measure(one) if isinstance(one, str) else one
        name = _registered(chosen).name
        if not isinstance(chosen, Measure) and name in found:
            raise BadArrayError(f"compare takes one measure of each name, got {name} twice. Compare once for each.")
        if isinstance(chosen, Measure) and chosen.learned:
            chosen.pairs((), ())  # says what to do
        found.setdefault(name, chosen)
    return list(found.values())


def _registered(one: Measure | LearnedMeasure) -> Measure:
    return one if isinstance(one, Measure) else one.descriptor


def _told(learned: Sequence[LearnedMeasure], sides: tuple[Layers, Layers]) -> dict[str, Any]:
    """What is known about the learned measures; a gate asks for the doubts."""
    doubts = {one.descriptor.name: one.doubt(*sides) for one in learned}
    told: dict[str, Any] = {one.descriptor.name: one.settings for one in learned}
    return told | ({"doubts": {name: text for name, text in doubts.items() if text}} if any(doubts.values()) else {})


def _values(
    chosen: Sequence[Measure | LearnedMeasure],
    sides: tuple[Layers, Layers],
    rows: tuple[np.ndarray, np.ndarray],
    memory_limit: int | None,
    on_progress: Callable[[str, int, int], None] | None,
) -> list[np.ndarray]:
    for side, picked in zip(sides, rows, strict=True):
        _check_memory(side, picked, memory_limit)
    closed = [one for one in chosen if isinstance(one, Measure)]
    checked = [_read(side, picked, closed) for side, picked in zip(sides, rows, strict=True)] if closed else []
    values = []
    for done, one in enumerate(chosen):
        if on_progress is not None:
            on_progress(_registered(one).name, done, len(chosen))
        scores = _scores(one, *sides, *checked) if isinstance(one, Measure) else one.scores(*sides, *rows)
        values.append(_finite(_registered(one), scores, *sides))
    if on_progress is not None:
        on_progress("", len(chosen), len(chosen))
    return values


def _as_layers(value: Any, default: str, name: str | None) -> Layers:
    if isinstance(value, Layers):
        layers = value
    elif isinstance(value, Store):
        layers = Layers(value.path.name, value, value.ids)
    elif isinstance(value, Mapping):
        layers = Layers(default, {str(layer): _as_array(array) for layer, array in value.items()})
    else:
        layers = Layers(default, {default: _as_array(value)})
    if not layers.names:
        raise BadArrayError(f"compare needs at least one layer, got none in {layers.name}.")
    return layers if name is None else layers._replace(name=name)


def _as_array(value: Any) -> Any:
    """An array as it came; lists and data frames as NumPy arrays (the door reports what is wrong with them)."""
    return (
        value if hasattr(value, "shape") and hasattr(value, "ndim") and hasattr(value, "dtype") else np.asarray(value)
    )


def _matched_rows(a: Layers, b: Layers) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of both sides that hold the same examples."""
    if a.ids is not None and b.ids is not None:
        return align(a.ids, b.ids)
    if a.num_examples != b.num_examples:
        raise AlignmentError(
            f"compare needs the same examples on both sides: {a.name} has {a.num_examples} rows, "
            f"{b.name} {b.num_examples}, and without example ids on both sides rows cannot be matched."
        )
    return np.arange(a.num_examples), np.arange(b.num_examples)


def _spread(rows_a: np.ndarray, rows_b: np.ndarray, max_rows: int | None) -> tuple[np.ndarray, np.ndarray]:
    """At most so many of the rows, evenly spaced."""
    if max_rows is not None and max_rows < 1:
        raise BadArrayError(f"compare needs max_rows >= 1, got {max_rows}.")
    n = len(rows_a)
    if max_rows is None or max_rows >= n:
        return rows_a, rows_b
    picked = np.linspace(0, n - 1, max_rows).round().astype(int)
    return rows_a[picked], rows_b[picked]


def _check_memory(side: Layers, rows: np.ndarray, memory_limit: int | None) -> None:
    if isinstance(side.layers, Store) and memory_limit is not None:
        share = len(rows) / max(side.num_examples, 1)
        memory_needed(side.layers, limit=int(memory_limit / max(share, 1e-9)))


def _read(side: Layers, rows: np.ndarray, chosen: Sequence[Measure]) -> dict[bool, tuple[jax.Array, ...]]:
    """Checked layers, once for measures that ignore features' means and once for those that do not."""
    everything = np.array_equal(rows, np.arange(side.num_examples))
    arrays = [side.read(name, None if everything else rows) for name in side.names]
    titles = [f"layer {name!r} of {side.name}" for name in side.names]
    operation = f"compare ({', '.join(one.name for one in chosen)})"
    fewest = max(one.min_rows for one in chosen)
    kinds = {one.shift_invariant for one in chosen}
    if any(needs_float64(array) for array in arrays if array.size):
        return {
            kind: checked_layers(arrays, operation=operation, min_rows=fewest, names=titles, shift_invariant=kind)
            for kind in kinds
        }
    layers = checked_layers(arrays, operation=operation, min_rows=fewest, names=titles)
    return dict.fromkeys(kinds, layers)


def _scores(one: Measure, a: Layers, b: Layers, layers_a: dict[bool, Any], layers_b: dict[bool, Any]) -> np.ndarray:
    xs, ys = layers_a[one.shift_invariant], layers_b[one.shift_invariant]
    if one.name == "rsa":
        for side, layers in ((a, xs), (b, ys)):
            check_rows_vary(layers, [f"layer {name!r} of {side.name}" for name in side.names])
    return np.asarray(one.pairs(xs, ys), np.float64)


def _finite(one: Measure, scores: np.ndarray, a: Layers, b: Layers) -> np.ndarray:
    if not np.isfinite(scores).all():
        i, j = (int(index[0]) for index in np.nonzero(~np.isfinite(scores)))
        raise BadArrayError(
            f"{one.name} is undefined for layer {a.names[i]!r} of {a.name} and layer {b.names[j]!r} of {b.name}: "
            f"{one.undefined}. Leave the layer or the measure out."
        )
    return scores
