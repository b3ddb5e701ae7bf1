r"""Does a layer reach the outputs through pointwise functions and one readout only? Then its outputs need no loop.

For :math:`f = W^T \phi(t) + b` the signals are :math:`d_{oi} = \phi'(t_i) W_{io}`, with W the same for all examples.
Their product, summed over outputs, is :math:`\sum_i \phi'(t_i) \phi'(t'_i) \sum_o W_{io}^2`: as cheap as one output.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from repsim_jax._compat import bound

Place = tuple[int, ...]
# Stands for the examples among the places on which an array depends.
EXAMPLES: Place = ()

_POINTWISE = {
    "abs", "acos", "acosh", "add", "add_any", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "ceil",
    "clamp", "convert_element_type", "copy", "cos", "cosh", "digamma", "div", "eq", "erf", "erf_inv", "erfc",
    "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "lgamma", "log", "log1p",
    "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "and", "pow", "round", "rsqrt", "select_n",
    "sign", "sin", "sinh", "sqrt", "square", "stop_gradient", "sub", "tan", "tanh",
}  # fmt: skip
_SAME_NUMBERS = frozenset({"reshape", "squeeze", "expand_dims", "transpose", "copy", "neg", "rev"})
_INNER = ("call_jaxpr", "jaxpr")


class Flow(NamedTuple):
    """How an array depends on the outputs of sites.

    Attributes:
        sites: Those that it depends on; ``EXAMPLES`` where it depends on the input.
        pointwise: Sites of whose outputs, of its own shape, it is a pointwise function.
        affine: A site whose output it is, times and plus numbers that depend on no example.
    """

    sites: frozenset[Place] = frozenset()
    pointwise: frozenset[Place] = frozenset()
    affine: Place | None = None

    def through(self, site: Place, weight: "Flow", *, adds: bool) -> "Flow":
        """What a site gives.

        Args:
            site: Where it is.
            weight: Flow of its weight; this one is of its signal.
            adds: Whether the site adds its weight to its signal.

        Returns:
            The flow of the output.
        """
        sites = self.sites | weight.sites | {site}
        if not adds:
            return Flow(sites, frozenset({site}), site)
        affine = None if weight.sites else self.affine
        return Flow(sites, (self.pointwise - weight.sites) | {site}, affine)


class Operand(NamedTuple):
    """What is known of an input of an equation.

    Attributes:
        flow: How it depends on sites.
        shape: Of the array.
    """

    flow: Flow
    shape: tuple[int, ...]


def flow_after(eqn: Any, operands: list[Operand]) -> Flow:
    """How the output of an equation that is no site depends on sites.

    Args:
        eqn: The equation.
        operands: Its inputs.

    Returns:
        The flow; of each output, where there are several.
    """
    sites = frozenset[Place]().union(*(operand.flow.sites for operand in operands))
    if len(eqn.outvars) != 1:
        return Flow(sites)
    return Flow(sites, _pointwise(eqn, operands), _affine(eqn, operands))


def _pointwise(eqn: Any, operands: list[Operand]) -> frozenset[Place]:
    shape = eqn.outvars[0].aval.shape

    def kept(place: Place) -> bool:
        return all(place not in flow.sites or (place in flow.pointwise and found == shape) for flow, found in operands)

    places = {place for operand in operands for place in operand.flow.pointwise if kept(place)}
    return frozenset(places) if places and _is_pointwise(eqn) else frozenset()


def _is_pointwise(eqn: Any) -> bool:
    if eqn.primitive.name == "custom_jvp_call":  # what counts is its own derivative
        shapes = [jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype) for variable in eqn.invars]
        if not all(jnp.issubdtype(shape.dtype, jnp.floating) for shape in shapes):
            return False
        derivative = jax.make_jaxpr(lambda x, dx: jax.jvp(lambda *v: bound(eqn, v)[0], tuple(x), tuple(dx)))
        return _all_pointwise(derivative(shapes, shapes).jaxpr)
    return eqn.primitive.name in _POINTWISE


def _all_pointwise(jaxpr: Any) -> bool:
    for eqn in jaxpr.eqns:
        inner = next((eqn.params[key] for key in _INNER if key in eqn.params), None)
        if eqn.primitive.name in ("jit", "pjit", "custom_jvp_call") and inner is not None:
            if not _all_pointwise(getattr(inner, "jaxpr", inner)):
                return False
        elif eqn.primitive.name == "broadcast_in_dim":
            if eqn.invars[0].aval.size != 1:
                return False
        elif eqn.primitive.name not in _POINTWISE:
            return False
    return True


def _affine(eqn: Any, operands: list[Operand]) -> Place | None:
    """Sums and multiples with what depends on nothing, and moves, of one affine array."""
    moving = [operand for operand in operands if operand.flow.sites]
    if len(moving) != 1:
        return None
    name, first = eqn.primitive.name, operands[0] is moving[0]
    keeps = name in ("add", "sub", "mul", "add_any") or (name == "div" and first) or name in _SAME_NUMBERS
    keeps |= name == "convert_element_type" and jnp.issubdtype(eqn.params["new_dtype"], jnp.floating)
    return moving[0].flow.affine if keeps else None
