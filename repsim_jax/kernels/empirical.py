r"""How does a step of gradient descent on one example move the outputs of another? The empirical tangent kernel.

Jacot, Gabriel and Hongler 2018, "Neural Tangent Kernel: Convergence and Generalization in Neural Networks"
(arXiv 1806.07572).
"""

import functools
import math
import operator
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.errors import BadArrayError
from repsim_jax.kernels import blocks
from repsim_jax.kernels.entrance import checked_blocks, checked_inputs, checked_outputs
from repsim_jax.kernels.models import Model, as_model, leaves_of
from repsim_jax.kernels.tangents import Plan, Tangents, diagonal_gram, full_gram, plan, tangents, traced_gram
from repsim_jax.linalg import precise_jit

Outputs = Literal["trace", "full", "sum"] | int
# What is held of the examples where the user names no block: enough for large products, small beside any memory.
_HELD_BYTES = 2**30


def ntk(
    model: Any,
    params: Any,
    x: Any,
    y: Any = None,
    *,
    outputs: Outputs = "trace",
    block: int | None = None,
    output_block: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    params_filter: str | None = None,
) -> Float[Array, "n *outputs_and_m"]:
    r"""The empirical neural tangent kernel, :math:`\Theta_{op}(x, x') = \langle \nabla f_o(x), \nabla f_p(x') \rangle`.

    Where a parameter meets a signal in matrix products or convolutions only, the kernel comes from the layer's inputs
    and backpropagated signals; every other parameter is differentiated example by example. Both are exact.

    Args:
        model: A function ``apply_fn(params, x)`` from (n, ...) inputs to (n, ...) outputs, example by example, or a
            ``flax.nnx`` or ``flax.linen`` module, which is read in evaluation mode.
        params: Parameters of the function; variables of the linen module; None for an nnx module.
        x: Inputs (n, ...), of any dtype.
        y: Inputs (m, ...) of the columns; None for those of the rows: only half of the kernel is then computed.
        outputs: "trace", the mean over the outputs, :math:`\frac{1}{o} \sum_o \Theta_{oo}`; "full", all pairs of
            outputs; "sum", the kernel of :math:`\sum_o f_o / \sqrt{o}` (pseudo-NTK), which costs what one output costs;
            a number, the kernel of that output alone, counted along the flattened outputs.
        block: Examples whose tangents are held at once, on each side; more is faster. None holds up to 1 GiB.
        output_block: Outputs that are differentiated at once ("trace" only): memory falls, the number stays. None: all.
        mesh: Devices over which the rows are spread, whatever its axes; each holds the tangents of its rows, and
            those of one block of columns.
        params_filter: Regular expression; only the parameters in whose path ("block_0/convolution/kernel") it is found
            take part. None: all.

    Returns:
        (n, m); (n, o, m, o) for "full". At least float32.

    Raises:
        BadArrayError: If inputs are empty, of different shapes, NaN or infinite, if a block is not positive, or if the
            model mixes examples (as BatchNorm does in training).
        UnknownNameError: If there are no such ``outputs``, or the filter matches no parameter.
        RepsimError: If the model is of no known kind, its parameters are missing, or the filter is malformed.

    Source:
        Jacot et al. 2018, section 4; pseudo-NTK: Mohamadi, Bae and Sutherland 2023 (arXiv 2206.12543), equation 4.

    Differs:
        The trace is divided by the number of outputs, so that it does not grow with it.

    >>> import jax.numpy as jnp
    >>> x = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
    >>> ntk(lambda w, x: x @ w, jnp.ones((2, 1)), x).tolist()
    [[5.0, 11.0], [11.0, 25.0]]
    """
    parts = as_model(model, params, params_filter)
    return _entered(parts, x, y, outputs, block, output_block, mesh, by_layer=False)[""]


def ntk_by_layer(
    model: Any,
    params: Any,
    x: Any,
    y: Any = None,
    *,
    outputs: Outputs = "trace",
    block: int | None = None,
    output_block: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    params_filter: str | None = None,
) -> dict[str, Array]:
    r"""The part of each layer in the tangent kernel, :math:`\Theta = \sum_l \Theta_l`.

    Args:
        model: As in ``ntk``.
        params: As in ``ntk``.
        x: As in ``ntk``.
        y: As in ``ntk``.
        outputs: As in ``ntk``.
        block: As in ``ntk``.
        output_block: As in ``ntk``.
        mesh: As in ``ntk``.
        params_filter: As in ``ntk``.

    Returns:
        Kernels by layer ("block_0/convolution"), in the order of the parameters; their sum is ``ntk``.

    Raises:
        BadArrayError: As ``ntk``.
        UnknownNameError: As ``ntk``.
        RepsimError: As ``ntk``.
    """
    parts = as_model(model, params, params_filter)
    return _entered(parts, x, y, outputs, block, output_block, mesh, by_layer=True)


def ntk_diagonal(
    model: Any, params: Any, x: Any, *, block: int | None = None, params_filter: str | None = None
) -> Float[Array, " n"]:
    r"""Mean squared gradient of the outputs at each example, :math:`\frac{1}{o} \sum_o \|\nabla f_o(x_i)\|^2`.

    Args:
        model: As in ``ntk``.
        params: As in ``ntk``.
        x: As in ``ntk``.
        block: Examples whose tangents are held at once; None holds up to 1 GiB.
        params_filter: As in ``ntk``.

    Returns:
        The diagonal of ``ntk``.

    Raises:
        BadArrayError: As ``ntk``.
        UnknownNameError: If the filter matches no parameter.
        RepsimError: As ``ntk``.
    """
    parts = as_model(model, params, params_filter)
    x, _ = checked_inputs("ntk_diagonal", parts, x, None)
    checked_blocks("ntk_diagonal", block=block)
    return _diagonal(parts.apply, parts.params, parts.rest, x, block=block)


def _entered(
    parts: Model, x: Any, y: Any, outputs: str | int, block: int | None, output_block: int | None, mesh: Any,
    *, by_layer: bool,
) -> dict[str, Array]:  # fmt: skip
    """Checks once, at the door, and computes."""
    checked_outputs(outputs)
    checked_blocks("ntk", block=block, output_block=output_block)
    if output_block is not None and outputs != "trace":
        raise BadArrayError(f"ntk sums over blocks of outputs for outputs='trace' only, got outputs={outputs!r}.")
    x, y = checked_inputs("ntk", parts, x, y, outputs=outputs)
    return _kernels(
        parts.apply, parts.params, parts.rest, x, y,
        outputs=outputs, block=block, output_block=output_block, mesh=mesh, by_layer=by_layer,
    )  # fmt: skip


class Prepared(NamedTuple):
    """What the kernel of one function is made from.

    Attributes:
        made: How tangents are taken.
        leaves: The parameters.
        features: Tangents of examples.
        gram: Kernels, by layer, of tangents.
        chunks: Combinations of outputs (chunks, outputs per chunk, o) over which kernels are summed.
    """

    made: Plan
    leaves: list[Array]
    features: blocks.Features
    gram: blocks.Gram
    chunks: Float[Array, "e c o"]


def prepared(parts: Model, x: Array, *, outputs: str | int, output_block: int | None, by_layer: bool) -> Prepared:
    """Plans the kernel of a function.

    Args:
        parts: The model.
        x: Examples, for the shape of one.
        outputs: As in ``ntk``.
        output_block: As in ``ntk``.
        by_layer: Whether layers stay apart.

    Returns:
        The plan and its pieces.
    """
    leaves = leaves_of(parts.params)

    def function(arrays: list[Array], one: Array) -> Array:
        return parts.apply(leaves.restore(arrays), parts.rest, one[None])[0].reshape(-1)

    example = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    made = plan(function, leaves, example, pairs=outputs != "full")
    o = made.num_outputs
    of_terms = full_gram if outputs == "full" else traced_gram

    def gram(left: Tangents, right: Tangents) -> dict[str, Array]:
        found = {name: _sum(map(of_terms, left[name], right[name])) for name in left}
        return found if by_layer else {"": _sum(found.values())}

    return Prepared(
        made, leaves.arrays, lambda x, chunk: tangents(made, leaves.arrays, x, chunk), gram,
        _chunks(outputs, o, output_block),
    )  # fmt: skip


def _sum(parts: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, parts)


def _chunks(outputs: str | int, o: int, output_block: int | None) -> Array:
    """Combinations of outputs, scaled so that their kernels sum to the one asked for; rows of zeros fill the last."""
    if outputs == "sum":
        return jnp.full((1, 1, o), 1 / math.sqrt(o))
    if not isinstance(outputs, str):
        return jnp.eye(o)[outputs].reshape(1, 1, o)
    size = min(output_block or o, o)
    rows = jnp.eye(-(-o // size) * size, o)
    return rows.reshape(-1, size, o) / (1 if outputs == "full" else math.sqrt(o))


@precise_jit(static_argnames=("apply", "outputs", "block", "output_block", "mesh", "by_layer"))
def _kernels(
    apply: Any, params: Any, rest: Any, x: Array, y: Array | None,
    *, outputs: str | int, block: int | None, output_block: int | None, mesh: Any, by_layer: bool,
) -> dict[str, Array]:  # fmt: skip
    ready = prepared(Model(apply, params, rest), x, outputs=outputs, output_block=output_block, by_layer=by_layer)
    features, gram, chunks = ready.features, ready.gram, ready.chunks
    if mesh is not None:
        return _spread(ready, x, y, block, mesh)
    longest = max(len(x), 0 if y is None else len(y))
    size = min(longest, block or _block_that_fits(ready, x, sides=1 if y is None else 2))
    if y is None and size == longest:
        return blocks.held_gram(features, gram, x, chunks)
    return blocks.streamed_gram(features, gram, x, y, chunks, block=size)


def held_numbers(ready: Prepared, x: Array) -> int:
    """How many numbers the tangents of one example are.

    Args:
        ready: The plan.
        x: Examples, for the shape of one.

    Returns:
        A count.
    """
    one = jax.eval_shape(ready.features, jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), ready.chunks[0])
    return sum(leaf.size for leaf in jax.tree.leaves(one))


def passing_numbers(ready: Prepared) -> int:
    """What came in and back at all positions for one example, on the way to its tangents.

    Args:
        ready: The plan.

    Returns:
        A count.
    """
    numbers = 0
    for site, _, scans in ready.made.sites.values():
        outputs, width = math.prod(site.output_shape), max(1, site.num_outputs())
        inputs = outputs // width * (math.prod(site.weight_shape) // width)
        numbers += math.prod(scans) * (inputs + ready.chunks.shape[1] * outputs)
    return numbers


def _block_that_fits(ready: Prepared, x: Array, *, sides: int) -> int:
    """All examples where their tangents, and what these are made from, fit; half as many as fit, otherwise."""
    fits = _HELD_BYTES // (4 * max(1, held_numbers(ready, x) + passing_numbers(ready)))
    return max(1, fits if sides * len(x) <= fits else fits // 2)


def _spread(ready: Prepared, x: Array, y: Array | None, block: int | None, mesh: Any) -> dict[str, Array]:
    """Rows spread over devices: each computes the tangents of its rows, and the kernel of its rows with all columns."""
    flat = jax.sharding.Mesh(mesh.devices.ravel(), ("examples",))
    rows = jax.sharding.NamedSharding(flat, jax.sharding.PartitionSpec("examples"))
    devices = mesh.devices.size

    def spread(inputs: Array) -> Array:
        filled = blocks.in_blocks(inputs, -(-len(inputs) // devices)).reshape(-1, *inputs.shape[1:])
        return jax.lax.with_sharding_constraint(filled, rows)

    left, columns = spread(x), x if y is None else y
    size = min(len(columns), block or len(columns))
    strips = blocks.strip(
        ready.features, ready.gram, left, blocks.in_blocks(columns, size), ready.chunks, -(-len(columns) // size)
    )
    whole = jax.tree.map(lambda tiles: blocks.assembled(tiles[None], len(left), len(columns)), strips)
    whole = jax.tree.map(lambda kernel: jax.lax.with_sharding_constraint(kernel, rows), whole)
    return jax.tree.map(lambda kernel: kernel[: len(x)], whole)


@precise_jit(static_argnames=("apply", "block"))
def _diagonal(apply: Any, params: Any, rest: Any, x: Array, *, block: int | None) -> Float[Array, " n"]:
    ready = prepared(Model(apply, params, rest), x, outputs="trace", output_block=None, by_layer=False)
    size = min(len(x), block or _block_that_fits(ready, x, sides=1))

    def one_block(rows: Array) -> Array:
        terms = ready.features(rows, ready.chunks[0])
        return _sum(diagonal_gram(term) for layer in terms.values() for term in layer)

    if size == len(x):
        return one_block(x)
    return jax.lax.map(one_block, blocks.in_blocks(x, size)).reshape(-1)[: len(x)]
