"""Learn which differences matter and which do not: fits ContraSim to representations that belong together."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from repsim_jax.activations.reader import Store
from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.linalg import nearest_rows
from repsim_jax.similarity.contrasim import encoder
from repsim_jax.similarity.contrasim.collection import Classes, Collection, Sources, check, check_held_out, collect
from repsim_jax.similarity.contrasim.diagnosis import diagnose
from repsim_jax.similarity.contrasim.encoder import Params
from repsim_jax.similarity.contrasim.inputs import Standard
from repsim_jax.similarity.contrasim.measure import ContraSim, FittedSource, example_hashes
from repsim_jax.similarity.contrasim.objectives import Numbers, Table, loss_of
from repsim_jax.similarity.contrasim.options import Options, Training
from repsim_jax.similarity.contrasim.tables import Prepared, parts, preparation, table
from repsim_jax.training import Trained, minimize

Progress = Callable[[int, int], None]
# Each example has so many hard negatives to be drawn from, as in the paper's retrieval of ten neighbors.
_HARD = 10
# Where training starts from a good measure and examples are few (benchmarks/results/contrasim.json).
_DROPOUT = 0.5


class Fit(NamedTuple):
    """What a fit gives.

    Attributes:
        measure: The learned measure, with its diagnosis.
        losses: (num_steps,), the loss of each step.
    """

    measure: ContraSim
    losses: jax.Array


class Split(NamedTuple):
    """Which examples do what, by their numbers.

    Attributes:
        train: Learned from; the anchors are among them.
        test: Kept for the diagnosis.
        anchors: What relative input is relative to; empty for other input.
    """

    train: np.ndarray
    test: np.ndarray
    anchors: np.ndarray


def fit(
    key: jax.Array,
    sources: Sources,
    *,
    options: Options = Options(),  # noqa: B008 (frozen)
    training: Training = Training(),  # noqa: B008 (frozen)
    classes: Classes = None,
    examples: Callable[[str], str] | None = None,
    held_out: Sequence[str] | None = None,
    test_share: float = 0.2,
    anchors: Sequence[str] | None = None,
    memory_limit: int = 8 * 2**30,
    sensitivity: bool = True,
    on_progress: Progress | None = None,
) -> Fit:
    r"""Fits a measure under which positives are alike and negatives are not.

    The loss is the supervised contrastive loss of the score itself. With positives="layer" the items are whole layers,
    and the logit of two layers is :math:`\frac{1}{n \tau} \sum_i f(x_i)^T f(y_i)`; with positives="example" the items
    are the rows of one class.

    Args:
        key: Random key; splits the examples, draws anchors, weights and batches.
        sources: Name to ``Layers``, an opened store, a mapping from layer names to arrays (n, d), or an array (n, d).
            At least two; rows are matched by example id.
        options: What kind of measure; ``FAITHFUL`` for the paper's.
        training: How it is trained; ``FAITHFUL_LAYERS`` and ``FAITHFUL_EXAMPLES`` for the paper's.
        classes: Which layers belong together: ``classes(source, layer)`` names a class, or None to leave the layer out;
            a mapping from (source, layer); by default a layer's own name, and one class where every source has one
            layer.
        examples: ``examples(id)`` names the example that a row shows, where several rows of a source show one (captions
            of an image, views); one of them is drawn at each step.
        held_out: Sources that are kept from training, to tell how the measure does on models that it has not seen. By
            default the last of four or more sources (none for projected input, which cannot measure unseen models).
        test_share: Share of the examples that are kept from training for the diagnosis; no diagnosis where 0.
        anchors: Ids of the anchor examples, for relative input; drawn at random where None.
        memory_limit: Bytes; sources that take more are streamed from their stores, a part at a time.
        sensitivity: Whether the diagnosis fits again without each group of positives, for a quarter of the steps each.
        on_progress: Called as ``on_progress(done, num_steps)``.

    Returns:
        The measure, its diagnosis in it, and the losses.

    Raises:
        BadArrayError: If there is one source, no positive, no negative, NaN or infinity, widths that do not fit, or an
            option out of range.
        AlignmentError: If the sources do not hold the same examples.
        UnknownNameError: If a held-out source or an option does not exist.

    Source:
        arXiv 2303.16992; hyper-parameters of the released code in ``FAITHFUL``, ``FAITHFUL_LAYERS`` and
        ``FAITHFUL_EXAMPLES``.

    Differs:
        Batches are drawn at random (the released code never shuffles). The diagnosis, the relative and projected input,
        the cosine schedule and the larger learning rate are ours.
    """
    key_split, key_weights, key_steps, key_look = jax.random.split(key, 4)
    collection = collect(sources, options, classes=classes, examples=examples)
    kept = _held_out(collection, options, held_out)
    check_held_out(collection, kept)
    seen = collection.without(kept)
    check(seen, options)
    split = _split(key_split, collection, options, test_share, anchors)
    prepared = preparation(seen, options, train=split.train, anchors=split.anchors)
    learn = _learner(key_weights, key_steps, seen, prepared, split, options, training, memory_limit)
    trained = learn(training.num_steps, None, on_progress)
    measure = ContraSim(
        params={**trained.params, **_standards(seen, prepared)},
        options=options,
        sources=_fitted_sources(collection, kept),
        anchor_ids=tuple(collection.ids[i] for i in split.anchors),
        training_examples=np.sort(example_hashes(collection.ids[i] for i in split.train)),
        settings={**asdict(training), "training_examples": len(split.train), "test_examples": len(split.test)},
    )
    if len(split.test) >= 2:
        refit = partial(learn, max(training.num_steps // 4, 1)) if sensitivity else None
        seen_by = diagnose(key_look, measure, collection, kept, split.test, split.anchors, split.train, refit=refit)
        measure = replace(measure, diagnosis=seen_by)
    return Fit(measure, trained.losses)


def _held_out(collection: Collection, options: Options, names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        may = options.input != "projected" and len(collection.sides) >= 4
        return tuple(collection.sides)[-1:] if may else ()
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in collection.sides:
            raise UnknownNameError.of("source to hold out", name, collection.sides)
    if names and options.input == "projected":
        raise BadArrayError(
            "contrasim with input='projected' learns a map for each source, so it cannot be tested on a source that is "
            f"held out ({names[0]!r}). Use input='relative'."
        )
    return names


def _split(
    key: jax.Array, collection: Collection, options: Options, test_share: float, anchors: Sequence[str] | None
) -> Split:
    n = len(collection.ids)
    if not 0 <= test_share < 1:
        raise BadArrayError(f"contrasim needs test_share in [0, 1), got {test_share}.")
    order = np.asarray(jax.random.permutation(key, n))
    chosen = _numbers_of(anchors, collection.ids) if anchors is not None and options.input == "relative" else None
    if chosen is not None:  # they are learned from, so they are never tested on
        order = np.concatenate([order[~np.isin(order, chosen)], chosen])
    num_test = round(test_share * n)
    # In the order of the sources: what lies together on the disk is read together.
    test, train = np.sort(order[:num_test]), np.sort(order[num_test:])
    if len(train) < 4:
        raise BadArrayError(f"contrasim has {len(train)} of {n} examples left to learn from; lower test_share.")
    if chosen is not None:
        return Split(np.union1d(train, chosen), np.setdiff1d(test, chosen), chosen)
    num_anchors = min(options.num_anchors, max(2, len(train) // 2)) if options.input == "relative" else 0
    return Split(train, test, np.sort(order[num_test : num_test + num_anchors]))


def _numbers_of(anchors: Sequence[str], ids: Sequence[str]) -> np.ndarray:
    places = {one: i for i, one in enumerate(ids)}
    missing = [one for one in anchors if one not in places]
    if missing or len(set(anchors)) < max(len(anchors), 2):
        told = f"{missing[0]!r} is none" if missing else f"got {len(anchors)}, {len(set(anchors))} of them different"
        raise BadArrayError(f"contrasim needs at least two different anchors among the examples: {told}.")
    return np.asarray([places[one] for one in anchors])


def _learner(
    key_weights: jax.Array,
    key_steps: jax.Array,
    seen: Collection,
    prepared: Prepared,
    split: Split,
    options: Options,
    training: Training,
    memory_limit: int,
) -> Callable[..., Trained]:
    """A function that trains from the same start on the same batches, with or without some of the views."""
    # Names choose projections; without them, fits of like shapes share one compiled program.
    named = options.input == "projected"
    names = tuple(tuple(view.source if named else "" for view in group.views) for group in seen.groups)
    params = _initial(key_weights, seen, split, options)
    start = _data(key_steps, seen, prepared, split, options, training, memory_limit)

    def learn(num_steps: int, drop: str | None, on_progress: Progress | None = None) -> Trained:
        data = start()
        first = next(data)
        size = min(training.batch_size, first.rows[0][0].shape[0])
        loss = loss_of(options, names, size - size % 2 if first.neighbors.shape[1] else size)
        numbers = _numbers(seen, options, training, drop)
        return minimize(
            key_steps, params, loss, ((part, numbers) for part in itertools.chain([first], data)),
            optimizer=optimizer_of(training), num_steps=num_steps, on_progress=on_progress,
        )  # fmt: skip

    return learn


def _initial(key: jax.Array, seen: Collection, split: Split, options: Options) -> Params:
    key_trunk, key_projection = jax.random.split(key)
    widths = {view.source: view.width for group in seen.groups for view in group.views}
    inputs = {
        "raw": next(iter(widths.values())),
        "projected": options.projection,
        "relative": len(split.anchors) * options.num_metrics,
    }
    outputs = inputs["relative"] if options.residual else options.width
    params: Params = {"trunk": encoder.init(key_trunk, (inputs[options.input], *(options.hidden or ()), outputs))}
    if options.residual:
        params["trunk"][-1] = jax.tree.map(jnp.zeros_like, params["trunk"][-1])
    if options.input == "projected":
        sizes = {(view.source, view.width) for group in seen.groups for view in group.views}
        if len(sizes) > len(widths):
            twice = sorted(source for source in widths if sum(name == source for name, _ in sizes) > 1)
            raise BadArrayError(
                f"contrasim with input='projected' has one map for each source, so its layers must have one width: "
                f"{twice[0]!r} has several. Leave layers out by classes=, or use input='relative'."
            )
        keys = jax.random.split(key_projection, len(widths))
        params["projections"] = {
            source: encoder.init(one, (width, options.projection))[0]["weight"]
            for one, (source, width) in zip(keys, sorted(widths.items()), strict=True)
        }
    return params


def _data(
    key: jax.Array,
    seen: Collection,
    prepared: Prepared,
    split: Split,
    options: Options,
    training: Training,
    memory_limit: int,
) -> Callable[[], Iterator[Table]]:
    """Starts the parts of the data anew: the whole again and again where it fits into memory."""
    # Relative input is as wide as there are anchors, which may be more than the layers are.
    needed = max(seen.bytes_needed, seen.bytes_as_wide_as(len(split.anchors) * prepared.options.num_metrics))
    if needed > memory_limit:
        if training.negatives == "hard":
            raise BadArrayError(
                f"contrasim needs all layers in memory to find hard negatives: {needed / 2**30:.2f} GiB, "
                f"and memory_limit is {memory_limit / 2**30:.2f}. Raise it, or use negatives='random'."
            )
        return lambda: parts(key, seen, prepared, split.train, limit=memory_limit, anchors=split.anchors)
    whole = table(seen, prepared, split.train, anchors=split.anchors)
    if training.negatives == "hard" and options.positives == "example":
        rows = whole.rows[0][0][:, 0]
        near = nearest_rows(whole.arrays[0][0][0, rows], k=min(_HARD, len(rows) - 1))
        whole = whole._replace(neighbors=near)
    return lambda: itertools.repeat(whole)


def optimizer_of(training: Training) -> optax.GradientTransformation:
    """Adam as ``training`` wants it; the same object for the same numbers, so that a program compiles once.

    Args:
        training: Learning rate, schedule, weight decay.

    Returns:
        From optax.
    """
    falls_for = training.num_steps if training.schedule == "cosine" else 0
    return _adam(training.learning_rate, falls_for, training.weight_decay, training.coupled)


@lru_cache(maxsize=16)
def _adam(rate: float, falls_for: int, decay: float, coupled: bool) -> optax.GradientTransformation:
    schedule = optax.cosine_decay_schedule(rate, falls_for) if falls_for else rate
    if coupled:
        return optax.chain(optax.add_decayed_weights(decay), optax.adam(schedule))
    return optax.adamw(schedule, weight_decay=decay)


def _numbers(seen: Collection, options: Options, training: Training, drop: str | None) -> Numbers:
    """Temperature and margin; views of the source or class ``drop`` are left out."""
    keep = tuple(
        jnp.asarray(
            [[view.source != drop and name != drop for name in group.classes] for view in group.views], jnp.float32
        )
        for group in seen.groups
    )
    dropout = training.anchor_dropout
    if dropout is None:
        dropout = _DROPOUT if options.residual else 0.0
    temperature, margin, share = map(jnp.asarray, (training.temperature, training.margin, dropout))
    return Numbers(temperature, margin, share, keep)


def _standards(seen: Collection, prepared: Prepared) -> Params:
    """Means and scales of each source's layers, which a projected measure needs again when it is used."""
    found: dict[str, dict[str, Standard]] = {}
    for group, how in zip(seen.groups, prepared.by, strict=True):
        for view, by in zip(group.views, how, strict=True):
            if isinstance(by, Standard):
                found.setdefault(view.source, {}).update(
                    {layer: Standard(by.mean[c], by.scale[c]) for c, layer in enumerate(view.layers)}
                )
    return {"standards": found} if found else {}


def _fitted_sources(collection: Collection, kept: Sequence[str]) -> dict[str, FittedSource]:
    layers: dict[str, dict[str, int]] = {}
    for group in collection.groups:
        for view in group.views:
            layers.setdefault(view.source, {}).update(dict.fromkeys(view.layers, view.width))
    return {
        name: FittedSource(
            tuple(widths), tuple(widths.values()), weights_of(collection.sides[name].layers), name in kept
        )
        for name, widths in layers.items()
    }


def weights_of(layers: object) -> str | None:
    """Which weights made a store, where it tells.

    Args:
        layers: A store, or anything else.

    Returns:
        The checksum of the model's weights, or None.
    """
    return layers.metadata.get("weights_sha256") if isinstance(layers, Store) else None
