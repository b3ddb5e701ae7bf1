"""Which of a model's layers are read, and how is each laid out? Decided once, before the first number is computed."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from repsim_jax.activations.layout import Layout, check_layout, policy_for
from repsim_jax.activations.tap import Tap
from repsim_jax.data.batches import Batch
from repsim_jax.data.streams import padded
from repsim_jax.errors import BadArrayError, UnknownNameError

Patterns = str | Sequence[str] | None


class Selection(NamedTuple):
    """The layers to read.

    Attributes:
        shapes: {layer: shape and dtype on the first batch}, in the order of computation.
        policies: {layer: layout policy}, "none" for layers (b, d).
        passed_over: {layer: why a wildcard did not select it}.
    """

    shapes: dict[str, jax.ShapeDtypeStruct]
    policies: dict[str, str]
    passed_over: dict[str, str]


def select(tap: Tap, batch: Batch, layers: Patterns = None, layout: Layout = None) -> Selection:
    """Chooses layers by name or glob.

    A name that is written out must be a floating-point layer with a row per example. A wildcard passes over what is
    not: integers, scalars, tables whose leading axis is not the batch (found by asking again with one example more).

    Args:
        tap: The model.
        batch: Some examples.
        layers: Names or globs ("*" matches "/" too); None means the model's own list, or every layer.
        layout: As ``layout.policy_for`` takes it; the model's own policies come after these.

    Returns:
        The selection, in the order of computation.

    Raises:
        UnknownNameError: If a name or glob matches no layer, or a policy does not exist.
        BadArrayError: If a layer cannot be used, or needs a layout policy.
    """
    layout = layout if isinstance(layout, str) else {**(layout or {}), **_own_layout(tap, layout)}
    chosen = (getattr(tap, "default_layers", ()) or "*") if layers is None else layers
    patterns = [chosen] if isinstance(chosen, str) else list(chosen)
    check_layout(layout)
    found = tap.layers(batch.inputs)
    reasons = unfit_layers(tap, batch, found)
    for pattern in patterns:
        _check_pattern(pattern, found, reasons)
    wanted = [name for name in found if any(_matches(name, pattern) for pattern in patterns)]
    if not wanted:
        raise BadArrayError("no layer is asked for: the list of layers is empty. Name some, or '*' for all.")
    fit = {name: found[name] for name in wanted if name not in reasons}
    policies = {name: policy_for(name, struct.shape, layout) for name, struct in fit.items()}
    return Selection(fit, policies, {name: reasons[name] for name in wanted if name in reasons})


def _own_layout(tap: Tap, layout: Mapping[str, str] | None) -> dict[str, str]:
    own = getattr(tap, "default_layout", {})
    return {glob: policy for glob, policy in own.items() if glob not in (layout or {})}


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _check_pattern(pattern: str, found: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    matched = [name for name in found if _matches(name, pattern)]
    if not found:
        raise BadArrayError("the model returned no layers at all. Return a dict {layer: array} with at least one.")
    if not matched:
        raise UnknownNameError.of("layer", pattern, found)
    refused = [name for name in matched if name in reasons]
    if pattern in refused or len(refused) == len(matched):
        raise BadArrayError(f"layer {refused[0]!r} cannot be used: {reasons[refused[0]]}.")


def unfit_layers(tap: Tap, batch: Batch, found: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, str]:
    """Finds the tensors that are no representations of examples.

    Args:
        tap: The model.
        batch: Some examples.
        found: What ``tap.layers`` says of them.

    Returns:
        {layer: why it cannot be used}.
    """
    size = len(batch.ids)
    longer = tap.layers(padded(batch, size + 1).inputs)
    reasons = {name: _why_unfit(struct, longer.get(name), size) for name, struct in found.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def _why_unfit(struct: jax.ShapeDtypeStruct, longer: jax.ShapeDtypeStruct | None, size: int) -> str:
    shape = struct.shape
    if not jnp.issubdtype(struct.dtype, jnp.floating):
        return f"it holds {struct.dtype} and representations are floating-point numbers; cast it in the model"
    if len(shape) < 2:
        return f"it has shape {shape} and a layer is (examples, features)"
    if shape[0] != size or (longer is not None and longer.shape[:1] != (size + 1,)):
        return f"it has shape {shape}, where the leading axis is not the batch of {size} examples"
    if 0 in shape:
        return f"it is empty, of shape {shape}"
    return ""
