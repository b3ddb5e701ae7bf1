"""What replaces the functions of neural-tangents 0.6.5 that call names which JAX no longer has.

Imported by ``neural_tangents.load`` only, once neural-tangents itself could be imported.
"""

import functools
import importlib
import itertools
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

from repsim_jax._compat import internals, trace_of


class _NoSuchShape:
    """Stands for the arrays of dynamic shape that JAX dropped: nothing is an instance of it."""


def apply() -> None:
    """Puts the replacements into neural-tangents' own modules; a second time changes nothing."""
    empirical, predict = _module("empirical"), _module("predict")
    if getattr(empirical, "_mended_by_repsim_jax", False):
        return
    core, ad, moved, transform_name_stack = internals()
    empirical.core = SimpleNamespace(ShapedArray=core.ShapedArray, Var=moved["Var"], DShapedArray=_NoSuchShape)
    empirical.ad = SimpleNamespace(
        add_tangents=ad.add_tangents,
        is_undefined_primal=ad.is_undefined_primal,
        primitive_jvps=ad.primitive_jvps,
        source_info_util=SimpleNamespace(transform_name_stack=transform_name_stack),
        # Its check of types calls two functions that are gone.
        config=SimpleNamespace(jax_enable_checks=False),
    )
    empirical._get_primals_out_and_pullback = _primals_out_and_pullback
    empirical._eqn_vjp_fn = _pull_back_through
    empirical._get_flops = _count_flops
    empirical._get_fx_axis_and_dtype = _axes_and_dtype
    empirical._std_basis = _standard_basis
    empirical._unravel_array_into_pytree = _split_like
    predict.sp = SimpleNamespace(linalg=SimpleNamespace(eigvalsh=_eigvalsh))
    for name in ("_get_cho_solve", "_get_fns_in_eigenbasis"):
        setattr(predict, name, _in_the_trace_of_its_kernel(getattr(predict, name)))
    empirical._mended_by_repsim_jax = True


def _module(name: str) -> Any:
    return importlib.import_module(f"neural_tangents._src.{name}")


def _primals_out_and_pullback(
    function: Callable[..., Any], mode: Any, j_rules: bool, s_rules: bool, forward: bool | None, *primals: Any
) -> tuple[Any, Callable[..., Any]]:
    """Outputs of a function, and what walks its linear part backward while collecting factors of the NTK.

    The original took the linear program from a private function of JAX; it is the one that ``jax.linearize`` holds.
    """
    empirical = _module("empirical")
    undefined = internals().ad.UndefinedPrimal
    leaves, tree = jax.tree.flatten(primals)
    # Calls must be inlined, since the walk knows rules of primitives only.
    with jax.disable_jit():
        outputs, push_forward = jax.linearize(lambda *flat: function(*jax.tree.unflatten(tree, flat)), *leaves)
        shapes = [jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]
        linear = jax.make_jaxpr(push_forward)(*shapes)

    def pull_back(*cotangents: Any) -> Any:
        collected = empirical._backward_pass(
            linear.jaxpr,
            mode=mode,
            consts=linear.consts,
            primals_in=[undefined(variable.aval) for variable in linear.jaxpr.invars],
            cotangents_in=tuple(jax.tree.leaves(cotangents)),
            _j_rules=j_rules,
            _s_rules=s_rules,
            _fwd=forward,
        )
        return jax.tree.unflatten(tree, collected)

    return outputs, pull_back


def _pull_back_through(equation: Any, cotangent: Any, *inputs: Any) -> Sequence[Any]:
    """Cotangents of the inputs in which one equation is linear, None for the others."""
    if equation is None:  # the identity
        return (cotangent,)
    ad = internals().ad
    unknown = [i for i, value in enumerate(inputs) if ad.is_undefined_primal(value)]
    pulled: list[Any] = [None] * len(inputs)
    if isinstance(cotangent, ad.Zero):
        for i in unknown:
            pulled[i] = ad.Zero(inputs[i].aval)
        return pulled

    def linear(*values: jax.Array) -> Any:
        filled = dict(zip(unknown, values, strict=True))
        outputs = equation.primitive.bind(*(filled.get(i, value) for i, value in enumerate(inputs)), **equation.params)
        return outputs[0] if equation.primitive.multiple_results else outputs

    shapes = [jax.ShapeDtypeStruct(inputs[i].aval.shape, inputs[i].aval.dtype) for i in unknown]
    for i, pulled_back in zip(unknown, jax.linear_transpose(linear, *shapes)(cotangent), strict=True):
        pulled[i] = pulled_back
    return pulled


def _count_flops(function: Callable[..., Any], optimize: bool, *args: Any, **kwargs: Any) -> float:
    """Operations by the compiler's own count, which was a list of one dictionary and is a dictionary now."""
    lowered = jax.jit(function).lower(*args, **kwargs)
    analysis = lowered.compile().cost_analysis() if optimize else lowered.cost_analysis()
    counts: Any = analysis[0] if isinstance(analysis, list | tuple) else analysis
    return float((counts or {}).get("flops", 0.0))


def _axes_and_dtype(outputs: Any, axes: Any, params: Any) -> tuple[Any, Any]:
    """Axes of the outputs, None for each where none is given, and the common dtype of all parameters, None of none.

    The original asked ``jnp.dtype`` for the dtype of an array, which JAX is about to refuse.
    """
    leaves = jax.tree.leaves(params)
    dtype = functools.reduce(jnp.promote_types, map(jnp.result_type, leaves)) if leaves else None
    return jax.tree.map(lambda _: None, outputs) if axes is None else axes, dtype


def _standard_basis(tree: Any) -> Any:
    """The unit vectors of the space of a tree of shapes, stacked on a new first axis."""
    leaves = jax.tree.leaves(tree)
    dtype = functools.reduce(jnp.promote_types, (leaf.dtype for leaf in leaves))
    return _split_like(tree, 1, jnp.eye(sum(math.prod(leaf.shape) for leaf in leaves), dtype=dtype))


def _split_like(tree: Any, axis: int, array: jax.Array) -> Any:
    """Splits one axis, along which all leaves of a tree lie raveled, into their shapes.

    The original asked ``jnp.size`` for the size of a shape, which JAX is about to refuse.
    """
    leaves, structure = jax.tree.flatten(tree)
    axis %= max(array.ndim, 1)
    ends = itertools.accumulate(math.prod(leaf.shape) for leaf in leaves)
    parts = jnp.split(array, list(ends)[:-1], axis)
    before, after = array.shape[:axis], array.shape[axis + 1 :]
    shaped = [part.reshape(before + leaf.shape + after) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)


def _eigvalsh(matrix: Any, *, eigvals: Sequence[int]) -> Any:
    """Some eigenvalues of a symmetric matrix; scipy has renamed the argument that says which."""
    from scipy import linalg

    return linalg.eigvalsh(matrix, subset_by_index=eigvals)


def _in_the_trace_of_its_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Undoes the ``jax.core.eval_context`` around the call, in which traced arrays can no longer be used."""

    @functools.wraps(function)
    def inner(kernel: Any, *args: Any, **kwargs: Any) -> Any:
        with trace_of(kernel):
            return function(kernel, *args, **kwargs)

    return inner
