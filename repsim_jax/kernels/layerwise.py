r"""Which matrices make up the parameters of a function, and what goes into and comes back to each of them?

A dense or convolution layer's gradient is :math:`G = \sum_s a_s d_s^T` of what came in and what came back: curvature
that factorizes by layer needs both, and the way from gradients of parameters to such matrices and back.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from repsim_jax.kernels.heads import Place
from repsim_jax.kernels.models import Leaves
from repsim_jax.kernels.sites import ADDING, Site
from repsim_jax.kernels.tangents import Plan, backpropagated, plan


class Matrix(NamedTuple):
    """Entries of a parameter that are one factor of a product, with those of the bias that is added to it.

    Attributes:
        name: Of the parameter.
        leaf: Number of the parameter.
        entries: Which entries, in the order of the equation; all of them, as a rule.
        site: The product.
        bias: Number of the bias, which becomes the last row; None where there is none.
    """

    name: str
    leaf: int
    entries: np.ndarray
    site: Site
    bias: int | None


class Layout:
    """How parameters are made up of matrices; equal where these are the same, so that it compiles once when static.

    Attributes:
        matrices: The matrices.
        rest: Numbers of the parameters that belong to none.
        shapes: Of all parameters.
        names: Of all parameters.
    """

    def __init__(self, matrices: Sequence[Matrix], rest: Sequence[int], shapes: Sequence[Any], names: Sequence[str]):
        self.matrices = tuple(matrices)
        self.rest = tuple(rest)
        self.shapes = tuple(map(tuple, shapes))
        self.names = tuple(names)
        self._told = (tuple(map(_told, self.matrices)), self.rest, self.shapes, self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self._told == other._told

    def __hash__(self) -> int:
        return hash(self._told)

    def split(self, leaves: Sequence[jax.Array]) -> list[Float[Array, "m b k f"]]:
        """Turns gradients of parameters into matrices; what belongs to none becomes a single column.

        Args:
            leaves: For each parameter m gradients (m, *shape).

        Returns:
            The matrices, then one (m, 1, size, 1) for each of ``rest``.
        """
        found = []
        for matrix in self.matrices:
            rows = _picked(leaves[matrix.leaf].reshape(len(leaves[matrix.leaf]), -1), matrix.entries)
            stack = jax.vmap(lambda row, site=matrix.site: site.weights(row.reshape(site.weight_shape)))(rows)
            if matrix.bias is not None:
                bias = leaves[matrix.bias].reshape(len(stack), stack.shape[1], 1, stack.shape[3])
                stack = jnp.concatenate([stack, bias], axis=2)
            found.append(stack)
        return found + [leaves[i].reshape(len(leaves[i]), 1, -1, 1) for i in self.rest]

    def joined(self, matrices: Sequence[Float[Array, "m b k f"]]) -> list[jax.Array]:
        """Turns matrices back into gradients of parameters; entries that are in no matrix become zero.

        Args:
            matrices: What ``split`` returns.

        Returns:
            For each parameter an array (m, *shape).
        """
        first = matrices[0]
        whole = [jax.ShapeDtypeStruct((1, *shape), first.dtype) for shape in self.shapes]
        back = jax.linear_transpose(self.split, whole)
        one = lambda *stacks: [leaf[0] for leaf in back([stack[None] for stack in stacks])[0]]  # noqa: E731
        return jax.vmap(one)(*matrices)


def _told(matrix: Matrix) -> tuple[Any, ...]:
    """All that arranges a matrix; where its site stands, and on how many examples, plays no part."""
    site = matrix.site
    options = repr(sorted(site.params.items()))
    held = hash(matrix.entries.tobytes())
    return matrix.name, matrix.leaf, held, site.name, site.weight_first, site.weight_shape, matrix.bias, options


class Layers(NamedTuple):
    """A function whose gradients are taken layer by layer.

    Attributes:
        made: How.
        places: For each matrix of the layout, its site; None where the function does not use it.
        layout: The matrices.
    """

    made: Plan
    places: tuple[Place | None, ...]
    layout: Layout


class Sides(NamedTuple):
    """Both sides of the gradients of one matrix.

    Attributes:
        inputs: What came in at each position; 1 at the end where there is a bias.
        signals: What came back, for each combination of outputs.
    """

    inputs: Float[Array, "b s k"]
    signals: Float[Array, "c b s f"]

    def gradients(self) -> Float[Array, "c b k f"]:
        """The gradients of the matrix.

        Returns:
            Sums over positions of products of inputs and signals.
        """
        return jnp.einsum("bsk,cbsf->cbkf", self.inputs, self.signals)


def _picked(rows: Float[Array, "m p"], entries: np.ndarray) -> Float[Array, "m e"]:
    whole = len(entries) == rows.shape[1] and bool((entries == np.arange(len(entries))).all())
    return rows if whole else rows[:, entries]


def layers_of(function: Any, leaves: Leaves, example: Any, layout: Layout | None = None) -> Layers:
    """Finds the matrices among the parameters of a function.

    Args:
        function: Of the leaves and one example (a pytree of arrays); gives (o,) outputs.
        leaves: The parameters.
        example: One example, or its shapes.
        layout: What an earlier call found for the same function; None to find it.

    Returns:
        The layers. Parameters that are used in another way than in one product, and those that a scan goes along, are
        in ``layout.rest``.
    """
    made = _structure(function, leaves, jax.tree.map(_shape, example))
    return Layers(made, tuple(made.sites), layout or _layout(made, leaves))


def layers_as(function: Any, leaves: Leaves, example: Any, layout: Layout) -> Layers | None:
    """Arranges the gradients of another function of the same parameters as a layout has them.

    Args:
        function: Of the leaves and one example; gives (o,) outputs.
        leaves: The parameters.
        example: Shapes of one example.
        layout: What ``layers_of`` found for some function of the same model.

    Returns:
        The layers, where the place of a matrix that the function does not use is None; None in place of layers where
        it uses parameters in another way than the layout has it.
    """
    made = _structure(function, leaves, jax.tree.map(_shape, example))
    used = {variable for eqn in made.closed.jaxpr.eqns for variable in eqn.invars if not hasattr(variable, "val")}
    unused = {i for i in range(len(leaves.arrays)) if made.closed.jaxpr.invars[i] not in used}
    by_weight = {_holds(weight.leaf, weight.entries()): place for place, (_, weight, _) in made.sites.items()}
    places = tuple(by_weight.pop(_holds(matrix.leaf, matrix.entries), None) for matrix in layout.matrices)
    missing = {matrix.leaf for matrix, place in zip(layout.matrices, places, strict=True) if place is None}
    return None if by_weight or not missing <= unused else Layers(made, places, layout)


def _holds(leaf: int, entries: np.ndarray) -> tuple[int, bytes]:
    return leaf, entries.tobytes()


def _structure(function: Any, leaves: Leaves, example: Any) -> Plan:
    """A plan whose sites are products of whole parameters."""
    made = plan(function, leaves, example, pairs=False)
    sites = {
        place: held for place, held in made.sites.items() if held[0].name not in ADDING and not any(held[1].scanned)
    }
    leaf_numbers = {weight.leaf for _, weight, _ in sites.values()}
    others = tuple(i for i in range(len(leaves.arrays)) if i not in leaf_numbers)
    return made._replace(sites=sites, others=others)


def _layout(made: Plan, leaves: Leaves) -> Layout:
    matrices = [
        Matrix(leaves.names[weight.leaf], weight.leaf, weight.entries(), site, made.biases.get(place))
        for place, (site, weight, _) in made.sites.items()
    ]
    with_product = {matrix.bias for matrix in matrices}
    rest = [i for i in made.others if i not in with_product]
    return Layout(matrices, rest, [w.shape for w in leaves.arrays], leaves.names)


def _shape(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def sides_of(
    layers: Layers, leaves: Sequence[jax.Array], x: Any, cotangents: Float[Array, "c o"],
    projections: Sequence[Float[Array, "b k r"]] | None = None,
) -> tuple[list[Sides], list[jax.Array]]:  # fmt: skip
    """Both sides of the gradients of one example, for some combinations of outputs.

    Args:
        layers: From ``layers_of``.
        leaves: The parameters.
        x: One example.
        cotangents: Combinations of outputs.
        projections: For each matrix of the layout, what its inputs are multiplied by; None leaves them as they are.

    Returns:
        Sides of each matrix of the layout; gradients (c, 1, size, 1) of each of ``layout.rest``.
    """
    matrices = layers.layout.matrices
    of_weights = {
        place: projection if matrix.bias is None else projection[:, :-1]
        for place, matrix, projection in zip(layers.places, matrices, projections or (), strict=False)
        if place is not None
    }
    products, jacobians = backpropagated(layers.made, leaves, x, cotangents, of_weights)
    by_leaf = dict(zip(layers.made.others, jacobians, strict=True))
    sides = []
    for number, (place, matrix) in enumerate(zip(layers.places, matrices, strict=True)):
        inputs, signals = products[place] if place else _nothing(matrix, leaves[matrix.leaf], len(cotangents))
        if matrix.bias is not None and projections is None:
            inputs = jnp.concatenate([inputs, jnp.ones_like(inputs[..., :1])], axis=-1)
        elif projections is not None:
            whole = inputs if place else inputs @ projections[number][:, : inputs.shape[-1]]
            inputs = whole if matrix.bias is None else whole + projections[number][:, -1:]
        sides.append(Sides(inputs, signals))
    return sides, [by_leaf[i].reshape(len(cotangents), 1, -1, 1) for i in layers.layout.rest]


def _nothing(matrix: Matrix, leaf: jax.Array, num_cotangents: int) -> tuple[jax.Array, jax.Array]:
    weight = jax.ShapeDtypeStruct(matrix.site.weight_shape, leaf.dtype)
    b, k, f = jax.eval_shape(matrix.site.weights, weight).shape
    return jnp.zeros((b, 1, k), leaf.dtype), jnp.zeros((num_cotangents, b, 1, f), leaf.dtype)


def plain_gradients(function: Any, leaves: Leaves, x: Any) -> list[Float[Array, "n *shape"]]:
    """Gradients of a scalar function of each example, in the parameters.

    They are those of ``jax.vmap(jax.grad(...))``, by one backward pass over all examples and products of both sides of
    each layer, which is several times faster.

    Args:
        function: Of the leaves and one example; gives (1,).
        leaves: The parameters.
        x: Examples, along the first axis of every array.

    Returns:
        For each parameter an array (n, *shape).
    """
    example = jax.tree.map(lambda rows: jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype), x)
    made = _structure(function, leaves, example)
    layers = Layers(made, tuple(made.sites), _layout(made, leaves))
    one = jnp.ones((1, 1))
    gradients = jax.vmap(lambda row: gradients_of(layers, leaves.arrays, row, one))(x)
    return layers.layout.joined([gradient[:, 0] for gradient in gradients])


def gradients_of(
    layers: Layers, leaves: Sequence[jax.Array], x: Any, cotangents: Float[Array, "c o"]
) -> list[Float[Array, "c b k f"]]:
    """Gradients of one example as matrices.

    Args:
        layers: From ``layers_of``.
        leaves: The parameters.
        x: One example.
        cotangents: Combinations of outputs.

    Returns:
        As ``layers.layout.split`` arranges them.
    """
    sides, rest = sides_of(layers, leaves, x, cotangents)
    return [side.gradients() for side in sides] + rest
