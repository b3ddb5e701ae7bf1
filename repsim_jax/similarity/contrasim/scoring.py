"""How alike are two representations under a fitted measure? Each layer is encoded once; all pairs are one product."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.errors import BadArrayError, UnknownNameError
from repsim_jax.linalg import in_layer_order, stacked
from repsim_jax.similarity.cka import linear_cka_pairs
from repsim_jax.similarity.contrasim.encoder import Params
from repsim_jax.similarity.contrasim.inputs import Standard
from repsim_jax.similarity.contrasim.measure import ContraSim
from repsim_jax.similarity.contrasim.objectives import embed, row_scores, set_scores
from repsim_jax.similarity.contrasim.options import Options
from repsim_jax.similarity.contrasim.tables import prepare
from repsim_jax.similarity.inputs import checked_layers

_ROWS_DIFFER = (
    "contrasim compares the same n examples: got {} rows of x and {} of y. Pass rows of the same inputs, in the same "
    "order."
)


def score(
    measure: ContraSim,
    x: Any,
    y: Any,
    *,
    anchors_x: Any = None,
    anchors_y: Any = None,
    source_x: tuple[str, str] | None = None,
    source_y: tuple[str, str] | None = None,
) -> Float[Array, ""]:
    r"""ContraSim of two representations, :math:`\frac{1}{n} \sum_i f(x_i)^T f(y_i)` with unit vectors f.

    Args:
        measure: From ``fit`` or ``load``.
        x: Representation (n, dx).
        y: Representation (n, dy) of the same examples.
        anchors_x: The measure's anchor examples in x's layer (k, dx), for relative input.
        anchors_y: The measure's anchor examples in y's layer (k, dy), for relative input.
        source_x: (source, layer) of x, for projected input.
        source_y: (source, layer) of y, for projected input.

    Returns:
        A scalar in [-1, 1]; 1 where both are the same in the learned space. What chance gives stands in the measure's
        diagnosis, and is not 0.

    Raises:
        BadArrayError: If rows differ in number, hold NaN or infinity, or do not have the width that was fitted; if
            anchors are missing or are not as many as the measure has.
        UnknownNameError: For projected input, if the source or layer was not fitted.

    Source:
        arXiv 2303.16992, section 3.
    """
    anchors = (None if anchors_x is None else [anchors_x], None if anchors_y is None else [anchors_y])
    sources = (None if source_x is None else [source_x], None if source_y is None else [source_y])
    return score_pairs(
        measure, [x], [y], anchors_x=anchors[0], anchors_y=anchors[1], sources_x=sources[0], sources_y=sources[1]
    )[0, 0]


def score_pairs(
    measure: ContraSim,
    xs: Sequence[Any],
    ys: Sequence[Any],
    *,
    anchors_x: Sequence[Any] | None = None,
    anchors_y: Sequence[Any] | None = None,
    sources_x: Sequence[tuple[str, str]] | None = None,
    sources_y: Sequence[tuple[str, str]] | None = None,
) -> Float[Array, "la lb"]:
    """ContraSim of all layer pairs: every layer is encoded once, and all pairs are one matrix product.

    Args:
        measure: From ``fit`` or ``load``.
        xs: L_A representations (n, d_l).
        ys: L_B representations (n, d_m) of the same examples.
        anchors_x: For each of xs the measure's anchor examples (k, d_l), for relative input.
        anchors_y: The same for ys.
        sources_x: For each of xs its (source, layer), for projected input.
        sources_y: The same for ys.

    Returns:
        (L_A, L_B) scores in [-1, 1].

    Raises:
        BadArrayError: As ``score``.
        UnknownNameError: As ``score``.
    """
    z, other = (
        encode_layers(measure, side, anchors=anchors, sources=sources, name=name)
        for side, anchors, sources, name in ((xs, anchors_x, sources_x, "x"), (ys, anchors_y, sources_y, "y"))
    )
    if z.shape[1] != other.shape[1]:
        raise BadArrayError(_ROWS_DIFFER.format(z.shape[1], other.shape[1]))
    if measure.options.objective == "deep_cka":
        # The registered measure: its tiles hold no n x n matrix, as the objective's Gram matrices of a batch do.
        return linear_cka_pairs(list(z), list(other))
    return _pairs(z, other, options=measure.options)


def example_scores(
    measure: ContraSim,
    xs: Sequence[Any],
    ys: Sequence[Any],
    *,
    anchors_x: Sequence[Any] | None = None,
    anchors_y: Sequence[Any] | None = None,
    sources_x: Sequence[tuple[str, str]] | None = None,
    sources_y: Sequence[tuple[str, str]] | None = None,
) -> Float[Array, "l n"]:
    """ContraSim of each single example, in layer l of one side and layer l of the other: what changed between versions?

    Args:
        measure: From ``fit`` or ``load``; not of the objective ``deep_cka``, which compares whole sets only.
        xs: L representations (n, d_l).
        ys: As many representations (n, d_m) of the same examples.
        anchors_x: For each of xs the measure's anchor examples (k, d_l), for relative input.
        anchors_y: The same for ys.
        sources_x: For each of xs its (source, layer), for projected input.
        sources_y: The same for ys.

    Returns:
        (L, n) scores in [-1, 1]; their mean over examples is what ``score`` gives for these two layers.

    Raises:
        BadArrayError: As ``score``; if the sides differ in their number of layers, or the measure has no such scores.
        UnknownNameError: As ``score``.
    """
    if measure.options.objective == "deep_cka":
        raise BadArrayError("contrasim with the objective deep_cka compares sets of examples, and no single ones.")
    if len(xs) != len(ys):
        raise BadArrayError(f"contrasim compares layer l with layer l here: got {len(xs)} layers and {len(ys)}.")
    z = encode_layers(measure, xs, anchors=anchors_x, sources=sources_x, name="x")
    other = encode_layers(measure, ys, anchors=anchors_y, sources=sources_y, name="y")
    if z.shape[1] != other.shape[1]:
        raise BadArrayError(_ROWS_DIFFER.format(z.shape[1], other.shape[1]))
    return _by_example(z, other, options=measure.options)


def encode_layers(
    measure: ContraSim,
    layers: Sequence[Any],
    *,
    anchors: Sequence[Any] | None = None,
    sources: Sequence[tuple[str, str]] | None = None,
    name: str = "x",
) -> Float[Array, "l n q"]:
    """Layers in the learned space: compute once, compare often; the mean of row products is the score.

    Args:
        measure: From ``fit`` or ``load``.
        layers: Representations (n, d_l) of the same examples.
        anchors: For each layer the measure's anchor examples (k, d_l), for relative input.
        sources: For each layer its (source, layer), for projected input.
        name: What to call the layers in messages.

    Returns:
        Unit vectors, layer by layer.

    Raises:
        BadArrayError: As ``score``.
        UnknownNameError: As ``score``.
    """
    names = [f"{name}[{i}]" if len(layers) > 1 else name for i in range(len(layers))]
    if not names:
        raise BadArrayError("contrasim needs at least one layer, got none.")
    checked = checked_layers(layers, operation="contrasim", min_rows=2, names=names, as_is=True)
    which = [None] * len(checked)
    if measure.options.input == "raw":
        _check_widths(measure, checked, names)
        states: list[Any] = [(x.astype(jnp.float32), None) for x in checked]
    elif measure.options.input == "relative":
        states = [(x, a) for x, a in zip(checked, _checked_anchors(measure, checked, anchors, names), strict=True)]
    else:
        pairs = _known_sources(measure, checked, sources)
        states = [
            (x, measure.params["standards"][source][layer]) for x, (source, layer) in zip(checked, pairs, strict=True)
        ]
        which = [source for source, _ in pairs]
    return _encoded(measure, states, which)


def _encoded(measure: ContraSim, states: list[Any], which: list[Any]) -> jax.Array:
    parts: list[tuple[np.ndarray, jax.Array]] = []
    for source in dict.fromkeys(which):
        places = [i for i, one in enumerate(which) if one == source]
        for where, (x, by) in stacked([states[i] for i in places]):
            z = _encode(measure.params, x, by, source=source, options=measure.options)
            parts.append((np.asarray(places)[where], z))
    return in_layer_order(parts)


@partial(jax.jit, static_argnames=("source", "options"))
def _encode(params: Params, x: jax.Array, by: Any, *, source: str | None, options: Options) -> jax.Array:
    return embed(params, prepare(x, by, options=options), source=source or "", options=options)


@partial(jax.jit, static_argnames=("options",))
def _pairs(z: jax.Array, other: jax.Array, *, options: Options) -> jax.Array:
    return jnp.clip(set_scores(z, other, options=options), -1.0, 1.0)


@partial(jax.jit, static_argnames=("options",))
def _by_example(z: jax.Array, other: jax.Array, *, options: Options) -> jax.Array:
    return jnp.clip(row_scores(z, other, options=options), -1.0, 1.0)


def _check_widths(measure: ContraSim, layers: Sequence[jax.Array], names: Sequence[str]) -> None:
    wanted = measure.params["trunk"][0]["weight"].shape[0]
    for x, name in zip(layers, names, strict=True):
        if x.shape[1] != wanted:
            raise BadArrayError(
                f"contrasim was fitted on layers of {wanted} features, got {name} {x.shape}. A measure with raw input "
                "has one width; fit one with input='relative' for models of other widths."
            )


def _checked_anchors(
    measure: ContraSim, layers: Sequence[jax.Array], anchors: Sequence[Any] | None, names: Sequence[str]
) -> list[jax.Array]:
    k = measure.params["trunk"][0]["weight"].shape[0] // measure.options.num_metrics
    if anchors is None or len(anchors) != len(layers):
        raise BadArrayError(
            f"contrasim with relative input needs the measure's {k} anchor examples in every layer: pass anchors_x and "
            "anchors_y. Their ids are measure.anchor_ids."
        )
    titles = [f"the anchors of {name}" for name in names]
    checked = checked_layers(anchors, operation="contrasim", min_rows=2, names=titles, as_is=True)
    for x, a, name in zip(layers, checked, names, strict=True):
        if a.shape != (k, x.shape[1]):
            raise BadArrayError(
                f"contrasim needs the measure's {k} anchors with the width of their layer: got anchors {a.shape} for "
                f"{name} {x.shape}. Pass the rows of measure.anchor_ids, in that order."
            )
    return list(checked)


def _known_sources(
    measure: ContraSim, layers: Sequence[jax.Array], sources: Sequence[tuple[str, str]] | None
) -> list[tuple[str, str]]:
    if sources is None or len(sources) != len(layers):
        raise BadArrayError(
            "contrasim with projected input needs (source, layer) of every layer, which chooses its projection: pass "
            "source_x and source_y."
        )
    for x, (source, layer) in zip(layers, sources, strict=True):
        if source not in measure.params["standards"]:
            raise UnknownNameError.of("fitted source", source, measure.params["standards"])
        if layer not in measure.params["standards"][source]:
            raise UnknownNameError.of(f"fitted layer of {source}", layer, measure.params["standards"][source])
        standard: Standard = measure.params["standards"][source][layer]
        if x.shape[1] != standard.mean.shape[-1]:
            raise BadArrayError(
                f"contrasim was fitted on {source} {layer!r} with {standard.mean.shape[-1]} features, got {x.shape}."
            )
    return list(sources)
