r"""What must be held of each example for its row of the tangent kernel? For a layer its inputs and backward signals.

A layer's Jacobian is :math:`J_{okf} = \sum_s a_{sk} d_{osf}`, so that at one position the kernel of a dense layer is
:math:`\langle a, a' \rangle \, \langle d_o, d'_p \rangle`, and J itself is never formed. Novak, Sohl-Dickstein and
Schoenholz 2022, "Fast Finite Width Neural Tangent Kernel" (arXiv 2206.08720), section 3.3, call this structure.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from repsim_jax.kernels.heads import Place
from repsim_jax.kernels.models import Leaves, layer_name
from repsim_jax.kernels.sites import Site
from repsim_jax.kernels.taps import INPUT, Walk
from repsim_jax.kernels.weights import Weight


class Product(NamedTuple):
    """The Jacobian of some entries of a parameter, as a product.

    Attributes:
        inputs: What came to each position, for each block of entries.
        signals: What came back to it, for each output.
    """

    inputs: Float[Array, "n b s k"]
    signals: Float[Array, "n o b s f"]


class Jacobian(NamedTuple):
    """The Jacobian of some entries of a parameter.

    Attributes:
        rows: One for each example and output.
    """

    rows: Float[Array, "n o p"]


Term: TypeAlias = Product | Jacobian
Tangents: TypeAlias = dict[str, list[Term]]


class Plan(NamedTuple):
    """How the tangents of one function are taken.

    Attributes:
        closed: Jaxpr of the function of leaves and one example, giving the outputs (o,).
        sites: Whose parameters are taken by their inputs and signals.
        others: Numbers of the parameters that are differentiated.
        layers: For each parameter, the layer that it belongs to.
        num_outputs: o.
        head: The last layer, and the sites before it at which the signals of all outputs are multiples of one.
        pairs: Whether the inputs and signals of many positions may be kept apart: not for ``outputs="full"``.
        biases: By site, the parameter that is added to all positions of its output.
    """

    closed: Any
    sites: dict[Place, tuple[Site, Weight, tuple[int, ...]]]
    others: tuple[int, ...]
    layers: tuple[str, ...]
    num_outputs: int
    head: tuple[Place, list[Place]] | None
    pairs: bool
    biases: dict[Place, int]


def plan(function: Any, leaves: Leaves, example: Any, *, pairs: bool = True) -> Plan:
    """Traces a function and finds its layers.

    Args:
        function: Of the leaves and one example; gives (o,) outputs.
        leaves: The parameters.
        example: Shape and dtype of one example, or of each array of a pytree that makes up one.
        pairs: As in ``Plan``; nor are the signals of all outputs made one, without it.

    Returns:
        The plan.
    """
    closed = jax.make_jaxpr(function)(leaves.arrays, example)
    walk = Walk()
    jax.eval_shape(lambda arrays, x: walk(closed, arrays, jax.tree.leaves(x))[0], leaves.arrays, example)
    sites = walk.found.structured()
    by_signals = {weight.leaf for _, weight, _ in sites.values()}
    others = tuple(i for i in range(len(leaves.arrays)) if i not in by_signals)
    o = closed.out_avals[0].shape[0]
    head = walk.found.head() if pairs and o > 1 else None
    biases = walk.found.biases()
    return Plan(closed, sites, others, tuple(map(layer_name, leaves.names)), o, head, pairs, biases)


def tangents(
    made: Plan, leaves: Sequence[jax.Array], x: Float[Array, "n *rest"], cotangents: Float[Array, "c o"]
) -> Tangents:
    """Inputs and signals, or Jacobians, of each parameter for some combinations of outputs.

    Args:
        made: The plan.
        leaves: The parameters.
        x: Examples.
        cotangents: Combinations of outputs; the identity for the outputs themselves.

    Returns:
        Terms by layer, with c outputs each.
    """
    return jax.vmap(lambda one: _of_example(made, leaves, one, cotangents))(x)


def _of_example(made: Plan, leaves: Sequence[jax.Array], x: jax.Array, cotangents: jax.Array) -> Tangents:
    products, jacobians = backpropagated(made, leaves, x, cotangents)
    found: Tangents = {}
    for place, (_, weight, _) in made.sites.items():
        product = products[place]
        term = product if _keep_apart(product, made.pairs) else _multiplied(product)
        found.setdefault(made.layers[weight.leaf], []).append(term)
    for i, jacobian in zip(made.others, jacobians, strict=True):
        found.setdefault(made.layers[i], []).append(Jacobian(_precise(jacobian).reshape(len(cotangents), -1)))
    return found


def backpropagated(
    made: Plan, leaves: Sequence[jax.Array], x: Any, cotangents: Float[Array, "c o"],
    projections: dict[Place, jax.Array] | None = None,
) -> tuple[dict[Place, Product], list[jax.Array]]:  # fmt: skip
    """What one example brings to each site, what comes back to it, and the Jacobians of the other parameters.

    Args:
        made: The plan.
        leaves: The parameters.
        x: One example, an array or a pytree of arrays.
        cotangents: Combinations of outputs.
        projections: By site, what its inputs are multiplied by, (b, k, r).

    Returns:
        By site the inputs (b, s, k) and signals (c, b, s, f); and of each of ``made.others`` an array (c, *shape).
    """
    taps = {
        place: jnp.zeros((*scans, *site.output_shape), site.output_dtype)
        for place, (site, _, scans) in made.sites.items()
    }
    if made.head is not None:  # what the last layer reads has the shape of the outputs that it is a function of
        taps[(*made.head[0], INPUT)] = taps[made.head[1][0]]

    def tapped(taps: dict[Place, jax.Array], others: list[jax.Array]) -> tuple[Any, dict[Place, jax.Array]]:
        every = list(leaves)
        for i, leaf in zip(made.others, others, strict=True):
            every[i] = leaf
        outputs, records = Walk(taps, projections)(made.closed, every, jax.tree.leaves(x))
        return (outputs[0], records[(*made.head[0], INPUT)] if made.head else None), records

    primal, pull, records = jax.vjp(tapped, taps, [leaves[i] for i in made.others], has_aux=True)
    nothing = jax.tree.map(jnp.zeros_like, primal)
    signals, jacobians = jax.vmap(lambda c: pull((c, nothing[1])))(cotangents.astype(primal[0].dtype))
    if made.head is not None:
        last, before = made.head
        slopes = pull((nothing[0], jnp.ones_like(primal[1])))[0]
        size = jnp.sqrt(jnp.sum(jnp.square(_precise(signals[(*last, INPUT)])), axis=0))
        signals |= {place: (slopes[place] * size)[None] for place in before}
    products = {
        place: _product(site, weight, scans, records[place], signals[place])
        for place, (site, weight, scans) in made.sites.items()
    }
    return products, jacobians


def _precise(x: jax.Array) -> jax.Array:
    """At least float32: sums over parameters lose their digits in half precision."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _product(site: Site, weight: Weight, scans: tuple[int, ...], inputs: jax.Array, signals: jax.Array) -> Product:
    """Scans along the weight become blocks, scans that hold it become positions."""
    arrange = site.outputs
    for _ in range(len(scans) + 1):
        arrange = jax.vmap(arrange)
    signals = arrange(signals)  # c, *scans, b, s, f
    depth = len(scans)
    along = [axis for axis in range(depth) if weight.scanned[axis]]
    held = [axis for axis in range(depth) if not weight.scanned[axis]]
    order = (*along, depth, *held, depth + 1, depth + 2)
    blocks = math.prod(inputs.shape[axis] for axis in (*along, depth))
    positions = math.prod(inputs.shape[axis] for axis in (*held, depth + 1))
    inputs = inputs.transpose(order).reshape(blocks, positions, inputs.shape[-1])
    signals = signals.transpose(0, *(axis + 1 for axis in order))
    return Product(_precise(inputs), _precise(signals.reshape(len(signals), blocks, positions, signals.shape[-1])))


def _keep_apart(product: Product, pairs: bool) -> bool:
    """One position, or so few that their pairs cost less than the Jacobian; shapes of one example."""
    _, s, k = product.inputs.shape
    o, f = product.signals.shape[0], product.signals.shape[-1]
    return s == 1 or (pairs and s * s * (k + o * f) < o * k * f)


def _multiplied(product: Product) -> Jacobian:
    jacobian = jnp.einsum("bsk,obsf->obkf", product.inputs, product.signals)
    return Jacobian(jacobian.reshape(jacobian.shape[0], -1))


def traced_gram(left: Term, right: Term) -> Float[Array, "n m"]:
    """Sum over the outputs of the products of Jacobians.

    Args:
        left: Of n examples.
        right: Of m examples.

    Returns:
        (n, m) array.
    """
    if isinstance(left, Jacobian):
        assert isinstance(right, Jacobian)
        return _flat(left.rows) @ _flat(right.rows).T
    assert isinstance(right, Product)
    if left.inputs.shape[1:3] == (1, 1):  # two plain products, which XLA's CPU backend multiplies fastest
        return (_flat(left.inputs) @ _flat(right.inputs).T) * (_flat(left.signals) @ _flat(right.signals).T)
    if left.inputs.shape[2] == 1:
        inputs, signals = _by_block(left, right)
        return jnp.sum(inputs * jnp.einsum("bnof,bmof->bnm", *signals), axis=0)

    def row(one: Product) -> jax.Array:
        inputs = jnp.einsum("bsk,mbtk->bsmt", one.inputs, right.inputs)
        signals = jnp.einsum("obsf,mobtf->bsmt", one.signals, right.signals)
        return jnp.einsum("bsmt,bsmt->m", inputs, signals)

    return jax.lax.map(row, left)


def _flat(rows: jax.Array) -> jax.Array:
    """One long row for each example."""
    return rows.reshape(len(rows), -1)


def _by_block(left: Product, right: Product) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Products of the inputs (b, n, m), and the signals (b, n, o, f) of both sides, at a single position."""
    a, b = (side.inputs[:, :, 0] for side in (left, right))
    d, e = (jnp.moveaxis(side.signals[:, :, :, 0], 2, 0) for side in (left, right))
    return jnp.einsum("nbk,mbk->bnm", a, b), (d, e)


def full_gram(left: Term, right: Term) -> Float[Array, "n o m p"]:
    """Products of the Jacobians of all outputs.

    Args:
        left: Of n examples; where it is a ``Product``, of one position.
        right: Of m examples.

    Returns:
        (n, o, m, o) array.
    """
    if isinstance(left, Jacobian):
        assert isinstance(right, Jacobian)
        return jnp.einsum("nof,mpf->nomp", left.rows, right.rows)
    assert isinstance(right, Product)
    inputs, signals = _by_block(left, right)
    return jnp.einsum("bnm,bnomp->nomp", inputs, jnp.einsum("bnof,bmpf->bnomp", *signals))


def diagonal_gram(term: Term) -> Float[Array, " n"]:
    """Diagonal of ``traced_gram(term, term)``.

    Args:
        term: Of n examples.

    Returns:
        (n,) array.
    """
    if isinstance(term, Jacobian):
        return jnp.sum(jnp.square(term.rows), axis=(1, 2))
    inputs = jnp.einsum("nbsk,nbtk->nbst", term.inputs, term.inputs)
    return jnp.einsum("nbst,nbst->n", inputs, jnp.einsum("nobsf,nobtf->nbst", term.signals, term.signals))
