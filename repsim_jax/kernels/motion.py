"""How far has training moved a model from its linearization? Changes between two sets of parameters of one model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.errors import BadArrayError
from repsim_jax.kernels import blocks
from repsim_jax.kernels.change import frobenius_ratio, warn_of_rounding
from repsim_jax.kernels.empirical import prepared
from repsim_jax.kernels.entrance import checked_blocks, checked_inputs
from repsim_jax.kernels.models import Model, as_model, leaves_of
from repsim_jax.kernels.tangents import Jacobian, Product, Term
from repsim_jax.linalg import precise_jit

# Each difference of Jacobians carries the rounding of both, which averages out over parameters: at 2,000 hidden units a
# change of five units was right to a tenth.
_DIFFERENCE_UNITS = 1


class KernelChange(NamedTuple):
    """A kernel, and what was added to it.

    Attributes:
        kernel: (n, n) at the first parameters.
        change: (n, n), the kernel at the second parameters less this one.
        relative: Frobenius norm of the change in units of the kernel's.
    """

    kernel: Float[Array, "n n"]
    change: Float[Array, "n n"]
    relative: Float[Array, ""]


class ParameterDistance(NamedTuple):
    """How far parameters moved.

    Attributes:
        absolute: Euclidean distance.
        relative: In units of the norm of the first parameters.
    """

    absolute: Float[Array, ""]
    relative: Float[Array, ""]


def ntk_change(
    model: Any, params: Any, new_params: Any, x: Any, *, block: int | None = None, params_filter: str | None = None
) -> KernelChange:
    r"""Change of the traced tangent kernel, :math:`J_0 dJ^T + dJ J_0^T + dJ dJ^T` with :math:`dJ = J_1 - J_0`.

    Two kernels that differ in their sixth digit have no difference left in float32; this form has. For a layer with
    inputs a and signals d it is :math:`dA \circ D_0 + A_0 \circ dD + dA \circ dD`, the changes dA and dD of both Gram
    matrices being formed in the same way, so that here too no Jacobian is.

    Args:
        model: As in ``ntk``.
        params: Parameters before, as in ``ntk``; for an nnx module None or ``nnx.state(module, nnx.Param)``.
        new_params: Parameters after, of the same kind.
        x: Inputs (n, ...).
        block: As in ``ntk``; None holds the tangents of all examples.
        params_filter: As in ``ntk``: whose tangents count. All parameters move.

    Returns:
        The kernel, its change, and the relative change.

    Raises:
        BadArrayError: As ``ntk``, and if the parameters differ in shape.
        UnknownNameError: If the filter matches no parameter.
        RepsimError: As ``ntk``.
        RoundingWarning: Not raised but warned of, where the change is not zero and no larger than rounding.
    """
    before, after = _two_models("ntk_change", model, params, new_params, params_filter)
    x, _ = checked_inputs("ntk_change", before, x, None)
    checked_inputs("ntk_change", after, x, None)
    checked_blocks("ntk_change", block=block)
    kernel, change = _change(before.apply, before.params, after.params, before.rest, after.rest, x, block=block)
    relative = frobenius_ratio(change, kernel)
    warn_of_rounding("ntk_change", relative, _DIFFERENCE_UNITS, kernel.dtype, "Compute in float64")
    return KernelChange(kernel, change, relative)


@precise_jit(static_argnames=("apply", "block"))
def _change(
    apply: Any, params: Any, new_params: Any, rest: Any, new_rest: Any, x: Array, *, block: int | None
) -> tuple[Array, Array]:
    # "full" keeps no pairs of positions apart, so that every term has a difference form
    before, after = (
        prepared(Model(apply, *state), x, outputs="full", output_block=None, by_layer=False)
        for state in ((params, rest), (new_params, new_rest))
    )
    o = before.made.num_outputs

    def features(x: Array, chunk: Array) -> Any:
        return before.features(x, chunk), after.features(x, chunk)

    def gram(left: Any, right: Any) -> Any:
        quads = (
            quad
            for name in left[0]
            for quad in zip(left[0][name], left[1][name], right[0][name], right[1][name], strict=True)
        )
        pairs = [_term_change(*quad) for quad in quads]
        return sum(kernel for kernel, _ in pairs), sum(change for _, change in pairs)

    chunks = before.chunks / jnp.sqrt(o)
    if block is None or block >= len(x):
        return blocks.held_gram(features, gram, x, chunks)
    return blocks.streamed_gram(features, gram, x, None, chunks, block=block)


def _term_change(l0: Term, l1: Term, r0: Term, r1: Term) -> tuple[Array, Array]:
    """Kernel before, and its change, of the left examples with the right ones."""
    if isinstance(l0, Jacobian):
        assert isinstance(l1, Jacobian)
        assert isinstance(r0, Jacobian)
        assert isinstance(r1, Jacobian)
        return _product_change(*(side.rows.reshape(1, len(side.rows), -1) for side in (l0, l1, r0, r1)), axes="b")
    products = [side for side in (l0, l1, r0, r1) if isinstance(side, Product)]
    inputs = (jnp.moveaxis(side.inputs[:, :, 0], 1, 0) for side in products)
    signals = (jnp.moveaxis(side.signals[:, :, :, 0], 2, 0) for side in products)
    a, da = _product_change(*inputs, axes="")
    d, dd = _product_change(*(side.reshape(*side.shape[:2], -1) for side in signals), axes="")
    return jnp.sum(a * d, axis=0), jnp.sum(da * d + a * dd + da * dd, axis=0)


def _product_change(l0: Array, l1: Array, r0: Array, r1: Array, *, axes: str) -> tuple[Array, Array]:
    """Products of rows (b, n, k) before, and their change; summed over b where ``axes`` says so."""
    left, right = l1 - l0, r1 - r0

    def product(u: Array, v: Array) -> Array:
        return u[0] @ v[0].T if axes else jnp.einsum("bnk,bmk->bnm", u, v)

    return product(l0, r0), product(l0, right) + product(left, r0) + product(left, right)


def parameter_distance(params: Any, new_params: Any) -> ParameterDistance:
    r"""How far parameters moved, :math:`\|\theta_1 - \theta_0\|`, and in units of :math:`\|\theta_0\|`.

    Args:
        params: Parameters before, any pytree.
        new_params: Parameters after.

    Returns:
        Both distances; the relative one is infinite from parameters that are all zero.

    Raises:
        BadArrayError: If the trees or shapes differ.
    """
    _same_shapes("parameter_distance", params, new_params)
    old, new = leaves_of(params).arrays, leaves_of(new_params).arrays
    moved = jnp.sqrt(sum(jnp.sum(jnp.square(b - a)) for a, b in zip(old, new, strict=True)))
    return ParameterDistance(moved, moved / jnp.sqrt(sum(jnp.sum(jnp.square(a)) for a in old)))


def linearize(apply_fn: Callable[[Any, Array], Array], params: Any) -> Callable[[Any, Array], Array]:
    r"""The model's first-order expansion, :math:`f_{lin}(\theta, x) = f(\theta_0, x) + J_0(x) (\theta - \theta_0)`.

    Args:
        apply_fn: A model ``apply_fn(params, x)``.
        params: Parameters theta_0, of floating-point numbers.

    Returns:
        A function of the same kind.

    Source:
        Lee et al. 2019, "Wide neural networks of any depth evolve as linear models" (arXiv 1902.06720), equation 5.
    """

    def linear(new_params: Any, x: Array) -> Array:
        step = jax.tree.map(jnp.subtract, new_params, params)
        value, change = jax.jvp(lambda p: apply_fn(p, x), (params,), (step,))
        return value + change

    return linear


def linearization_error(model: Any, params: Any, new_params: Any, x: Any) -> Float[Array, ""]:
    r"""How much of a model's change is not linear, :math:`\|f_1 - f_{lin}\|_F / \|f_1 - f_0\|_F`.

    Args:
        model: As in ``ntk``.
        params: Parameters before training.
        new_params: Parameters after.
        x: Inputs (n, ...).

    Returns:
        A scalar: near 0 in the lazy regime, of order 1 in the rich one; NaN where outputs did not change.

    Raises:
        BadArrayError: As ``ntk``, and if the parameters differ in shape.
        RepsimError: As ``ntk``.

    Source:
        Chizat, Oyallon and Bach 2019, "On lazy training in differentiable programming" (arXiv 1812.07956), section 2.
    """
    before, after = _two_models("linearization_error", model, params, new_params)
    x, _ = checked_inputs("linearization_error", before, x, None)
    checked_inputs("linearization_error", after, x, None)
    return _linearization_error(before.apply, before.params, after.params, before.rest, x)


@precise_jit(static_argnames=("apply",))
def _linearization_error(apply: Any, params: Any, new_params: Any, rest: Any, x: Array) -> Array:
    old, new = leaves_of(params), leaves_of(new_params).arrays
    step = [b - a for a, b in zip(old.arrays, new, strict=True)]

    def forward(arrays: list[Array]) -> Array:
        return apply(old.restore(arrays), rest, x)

    value, change = jax.jvp(forward, (old.arrays,), (step,))
    moved = forward(new) - value
    return frobenius_ratio(moved - change, moved)


def scaled_output(
    apply_fn: Callable[[Any, Array], Array], params: Any, scale: float | Array
) -> Callable[[Any, Array], Array]:
    r"""The model from lazy to rich, :math:`f_\alpha(\theta, x) = \alpha (f(\theta, x) - f(\theta_0, x))`.

    Trained on a loss of :math:`f_\alpha` divided by :math:`\alpha^2`, a model is lazy for large scales and rich for
    small ones: its relative kernel change falls like :math:`1 / \alpha`.

    Args:
        apply_fn: A model ``apply_fn(params, x)``.
        params: Parameters theta_0, at which the scaled model is zero.
        scale: alpha > 0.

    Returns:
        A function of the same kind.

    Source:
        Chizat, Oyallon and Bach 2019 (arXiv 1812.07956), section 1.
    """
    return lambda new_params, x: scale * (apply_fn(new_params, x) - apply_fn(params, x))


def _two_models(
    operation: str, model: Any, params: Any, new_params: Any, params_filter: str | None = None
) -> tuple[Model, Model]:
    before, after = (as_model(model, state, params_filter) for state in (params, new_params))
    _same_shapes(operation, before.params, after.params)
    return before, after


def _same_shapes(operation: str, params: Any, new_params: Any) -> None:
    shapes, new_shapes = (
        {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (params, new_params)
    )
    if shapes != new_shapes:
        raise BadArrayError(
            f"{operation} compares parameters of one model: got shapes {shapes} before and {new_shapes} after."
        )
