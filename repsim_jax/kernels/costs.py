"""What will a tangent kernel cost before it is begun? Operations, memory and bytes on the disk, from shapes alone."""

import math
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from repsim_jax.errors import BadArrayError
from repsim_jax.kernels.empirical import Prepared, held_numbers, passing_numbers, prepared
from repsim_jax.kernels.entrance import checked_blocks, checked_inputs, checked_outputs
from repsim_jax.kernels.models import Model, as_model, leaves_of
from repsim_jax.kernels.tangents import Product, Term

MEMORY = 2 * 2**30
# Of the tangents of columns, which are made and multiplied few at a time: large products, small beside any memory.
COLUMN_BYTES = 2**28


class Cost(NamedTuple):
    """What ``ntk_to_file`` takes for one kernel.

    Attributes:
        block: Rows of a strip.
        columns: Examples of a strip's columns whose tangents are held at once.
        num_parameters: That take part.
        num_outputs: Of the model.
        flop: Floating-point operations: of the products of tangents, and of the tangents themselves, counted at the
            places that the kernel takes apart; other parameters are counted as one pass each.
        memory: Bytes of tangents and of one strip of the kernel, beside the model, the inputs and JAX itself.
        file: Bytes of the kernel on the disk.
    """

    block: int
    columns: int
    num_parameters: int
    num_outputs: int
    flop: float
    memory: int
    file: int


def ntk_cost(
    model: Any,
    params: Any,
    x: Any,
    *,
    outputs: str | int = "trace",
    block: int | None = None,
    memory: int = MEMORY,
    output_block: int | None = None,
    params_filter: str | None = None,
) -> Cost:
    """Counts what ``ntk_to_file`` would take, without computing anything.

    Args:
        model: As in ``ntk``.
        params: As in ``ntk``.
        x: Inputs (n, ...).
        outputs: "trace", "sum" or the number of one output.
        block: Rows per strip; None for as many as fit into ``memory``.
        memory: Bytes.
        output_block: Outputs that are differentiated at once. None: all.
        params_filter: As in ``ntk``.

    Returns:
        The cost.

    Raises:
        BadArrayError: As ``ntk_to_file``.
        UnknownNameError: As ``ntk``.
        RepsimError: As ``ntk``.
    """
    checked_long("ntk_cost", outputs, output_block)
    checked_blocks("ntk_cost", block=block, memory=memory, output_block=output_block)
    parts = as_model(model, params, params_filter)
    x, _ = checked_inputs("ntk_cost", parts, x, None, outputs=outputs)
    return cost_of(parts, x, outputs=outputs, block=block, memory=memory, output_block=output_block)


def checked_long(operation: str, outputs: str | int, output_block: int | None) -> None:
    """Refuses layouts that are not computed into files.

    Args:
        operation: For the message.
        outputs: "trace", "sum" or the number of one output.
        output_block: Outputs that are differentiated at once, or None.

    Raises:
        BadArrayError: If all pairs of outputs are asked for, or blocks of outputs where nothing is summed over them.
        UnknownNameError: If there are no such ``outputs``.
    """
    checked_outputs(outputs)
    if outputs == "full":
        raise BadArrayError(
            f"{operation} takes outputs='trace', 'sum' or the number of one output: all pairs of outputs make a file "
            "o x o times as large. Compute them for few examples with ntk(..., outputs='full')."
        )
    if output_block is not None and outputs != "trace":
        raise BadArrayError(f"{operation} sums over blocks of outputs for outputs='trace' only, got {outputs!r}.")


def cost_of(
    parts: Model, x: Array, *, outputs: str | int, block: int | None, memory: int, output_block: int | None
) -> Cost:
    """As ``ntk_cost``, of what was checked.

    Args:
        parts: The model.
        x: Its inputs.
        outputs: As in ``ntk_cost``.
        block: As in ``ntk_cost``.
        memory: As in ``ntk_cost``.
        output_block: As in ``ntk_cost``.

    Returns:
        The cost.

    Raises:
        BadArrayError: If the memory does not hold a block of one example.
    """
    ready = prepared(parts, x, outputs=outputs, output_block=output_block, by_layer=False)
    size = jax.numpy.promote_types(ready.leaves[0].dtype, jax.numpy.float32).itemsize
    held, passing = held_numbers(ready, x), passing_numbers(ready)
    most = max(1, min(len(x), block or len(x), COLUMN_BYTES // (size * (held + passing))))
    # A strip of the kernel is held twice: as tiles, and put together.
    of_columns, of_row = size * most * (held + passing), size * (held + 2 * len(x))
    rows = min(len(x), block or (memory - of_columns) // of_row)
    if rows < 1:
        raise BadArrayError(
            f"memory={memory} bytes do not hold the tangents of one example, which take {of_columns + of_row} with its "
            "row of the kernel. Give more, fewer outputs at a time (output_block), or fewer parameters (params_filter)."
        )
    return Cost(
        block=rows,
        columns=-(-rows // -(-rows // most)),  # parts of one length, so that next to nothing fills the last
        num_parameters=sum(leaf.size for leaf in leaves_of(parts.params).arrays),
        num_outputs=ready.made.num_outputs,
        flop=_operations(ready, x, rows),
        memory=of_columns + rows * of_row,
        file=size * len(x) ** 2,
    )


def _operations(ready: Prepared, x: Array, block: int) -> float:
    """Tangents of each strip's rows, and of all columns up to its end; products of all these pairs."""
    strips = -(-len(x) // block)
    visits, pairs = strips * (strips + 3) / 2 * block, strips * (strips + 1) / 2 * block**2
    example = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    terms = [term for layer in jax.eval_shape(ready.features, example, ready.chunks[0]).values() for term in layer]
    return len(ready.chunks) * (visits * _of_tangents(ready) + pairs * sum(map(_of_pair, terms)))


def _of_tangents(ready: Prepared) -> float:
    """One pass forward, one back for each output, and one for the products of inputs and signals."""
    macs = 0
    for site, _, scans in ready.made.sites.values():
        width = max(1, site.num_outputs())
        macs += math.prod(scans) * math.prod(site.output_shape) * (math.prod(site.weight_shape) // width)
    macs += sum(ready.leaves[i].size for i in ready.made.others)
    return 2.0 * macs * (1 + 2 * ready.chunks.shape[1])


def _of_pair(term: Term) -> float:
    """Operations of the product of the tangents of two examples."""
    if not isinstance(term, Product):
        return 2.0 * math.prod(term.rows.shape)
    _, b, s, k = term.inputs.shape
    o, f = term.signals.shape[1], term.signals.shape[-1]
    return 2.0 * b * s * s * (k + o * f)
