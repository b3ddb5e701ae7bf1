"""What goes into each weight of any model, and what comes back? Finds the places in the traced function itself.

The function is traced to a jaxpr, in which parameters are followed through transposes, casts, reshapes, slices,
scalings and the steps of a scan up to the products where they meet a signal. The same walk then evaluates the function
with a zero added to the output of each of these products (a tap), whose cotangent is the backpropagated signal. Nothing
depends on layer types; parameters that are used in another way are left to automatic differentiation.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from repsim_jax._compat import bound
from repsim_jax.kernels.heads import EXAMPLES, Flow, Operand, Place, flow_after
from repsim_jax.kernels.sites import ADDING, Site, is_site
from repsim_jax.kernels.weights import Weight, disjoint

# Calls without a rule of differentiation of their own: walking into them changes nothing.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr", "remat2": "jaxpr",
          "checkpoint": "jaxpr", "remat": "jaxpr"}  # fmt: skip


# Behind a place: the tap of the signal that comes to the site.
INPUT = -1


class Value(NamedTuple):
    """An array in flight.

    Attributes:
        array: Its numbers.
        leaves: The parameters that it depends on.
        weight: Which entries of a parameter it holds; None where it is anything else.
        flow: How it depends on sites.
        site: The place of the site whose output it is; None where it is anything else.
    """

    array: Any
    leaves: frozenset[int] = frozenset()
    weight: Weight | None = None
    flow: Flow = Flow()
    site: Place | None = None


class Found(NamedTuple):
    """What a walk sees.

    Attributes:
        sites: By place in the jaxpr, the site, its weight and the lengths of the scans around it.
        elsewhere: Parameters that are used in other ways than at sites.
        readouts: Sites whose signal is a pointwise function of the outputs of others, which stand beside them.
        affine: Of the first output, the site of which it is affine.
        uses: The parameter of each use, at sites and elsewhere.
        added: By place, the weights that are added to what the site gives, with their shapes.
        branching: Sites whose outputs are used in other ways too.
    """

    sites: dict[Place, tuple[Site, Weight, tuple[int, ...]]]
    elsewhere: set[int]
    readouts: dict[Place, frozenset[Place]]
    affine: list[Place | None]
    uses: list[int]
    added: dict[Place, list[tuple[Weight, tuple[int, ...]]]]
    branching: set[Place]

    def biases(self) -> dict[Place, int]:
        """Parameters that are used once, as the same summand of every position of a site's output, which is used so.

        The gradient of such a bias is the sum over positions of what comes back to the site.

        Returns:
            By place, the number of the parameter.
        """
        found = {}
        for place, ((weight, shape), *others) in self.added.items():
            once = not others and place not in self.branching and self.uses.count(weight.leaf) == 1
            if once and _is_bias(weight, shape, self.sites[place][0]):
                found[place] = weight.leaf
        return found

    def structured(self) -> dict[Place, tuple[Site, Weight, tuple[int, ...]]]:
        """The sites of parameters that are used at sites only, no entry twice.

        Returns:
            Sites by place.
        """
        by_leaf: dict[int, list[Weight]] = {}
        for _, weight, _ in self.sites.values():
            by_leaf.setdefault(weight.leaf, []).append(weight)
        good = {leaf for leaf, held in by_leaf.items() if leaf not in self.elsewhere and disjoint(held)}
        return {place: site for place, site in self.sites.items() if site[1].leaf in good}

    def head(self) -> tuple[Place, list[Place]] | None:
        """The last layer, and the sites which reach the outputs through it and pointwise functions alone.

        Returns:
            The site that gives the outputs, and those whose outputs it reads pointwise; None where there are none.
        """
        last = self.affine[-1] if self.affine else None
        if last is None or self.sites[last][2]:
            return None
        good = self.structured()
        before = [place for place in self.readouts.get(last, ()) if place in good and not good[place][2]]
        before = sorted(place for place in before if good[place][0].num_positions() == 1)
        return (last, before) if before else None


class Walk:
    """Evaluates a jaxpr whose first inputs are parameters, adding taps and recording what meets their weights.

    Args:
        taps: By place, what is added to the site's output; leading axes are those of the scans around it.
        projections: By place, (blocks, inputs, r) that the recorded inputs are multiplied by, for sites outside of
            scans.
    """

    def __init__(self, taps: dict[Place, jax.Array] | None = None, projections: dict[Place, jax.Array] | None = None):
        self.taps = taps or {}
        self.projections = projections or {}
        self.found = Found({}, set(), {}, [], [], {}, set())

    def __call__(self, closed: Any, leaves: Sequence[Any], rest: Sequence[Any]) -> tuple[list[Any], dict[Place, Any]]:
        """Evaluates.

        Args:
            closed: What ``jax.make_jaxpr`` returned for a function of parameters and other inputs.
            leaves: The parameters.
            rest: The other inputs.

        Returns:
            Outputs, and the inputs (scans, blocks, positions, inputs) of each tapped site.
        """
        inputs = [Value(w, frozenset({i}), Weight(i, jnp.shape(w))) for i, w in enumerate(leaves)]
        inputs += [Value(array, flow=Flow(frozenset({EXAMPLES}))) for array in rest]
        outputs, records = self._run(closed, inputs, (), (), self.taps)
        self._elsewhere(outputs)
        self.found.branching.update(value.site for value in outputs if value.site is not None)
        self.found.affine.append(outputs[0].flow.affine)
        return [value.array for value in outputs], records

    def _run(
        self, closed: Any, inputs: Sequence[Value], place: Place, scans: tuple[int, ...], taps: dict[Place, Any]
    ) -> tuple[list[Value], dict[Place, Any]]:
        jaxpr = getattr(closed, "jaxpr", closed)
        known: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
        known.update(zip(jaxpr.constvars, map(Value, getattr(closed, "consts", ())), strict=True))

        def read(variable: Any) -> Value:
            return Value(variable.val) if hasattr(variable, "val") else known[variable]

        records: dict[Place, Any] = {}
        for number, eqn in enumerate(jaxpr.eqns):
            values = [read(variable) for variable in eqn.invars]
            outputs, recorded = self._equation(eqn, values, (*place, number), scans, taps)
            records |= recorded
            known.update(zip(eqn.outvars, outputs, strict=True))
        return [read(variable) for variable in jaxpr.outvars], records

    def _equation(
        self, eqn: Any, values: list[Value], place: Place, scans: tuple[int, ...], taps: dict[Place, Any]
    ) -> tuple[list[Value], dict[Place, Any]]:
        name = eqn.primitive.name
        if name in _CALLS:
            return self._run(eqn.params[_CALLS[name]], values, place, scans, taps)
        self._branches(eqn, values)
        if name == "convert_element_type" and values[0].site is not None:
            return [output._replace(site=values[0].site) for output in self._plain(eqn, values)], {}
        if not any(value.weight for value in values):
            return self._plain(eqn, values), {}
        if name == "scan":
            return self._scan(eqn, values, place, scans, taps)
        weight = _still_a_weight(eqn, values)
        if weight is not None:
            self._elsewhere(value for value in values if value.weight and value.weight.leaf != weight.leaf)
            return [output._replace(weight=weight) for output in self._plain(eqn, values)], {}
        if sum(value.weight is not None for value in values) == 1 and len(values) == 2:
            first = values[0].weight is not None
            if is_site(name, eqn.params, first) and (name not in ADDING or _same_shapes(values)):
                return self._site(eqn, values, place, scans, taps)
        self._elsewhere(values)
        return self._plain(eqn, values), {}

    def _plain(self, eqn: Any, values: Sequence[Value]) -> list[Value]:
        leaves = frozenset[int]().union(*(value.leaves for value in values))
        flow = flow_after(eqn, [Operand(value.flow, jnp.shape(value.array)) for value in values])
        return [Value(array, leaves, None, flow) for array in bound(eqn, [value.array for value in values])]

    def _elsewhere(self, values: Any) -> None:
        leaves = [value.weight.leaf for value in values if value.weight]
        self.found.elsewhere.update(leaves)
        self.found.uses.extend(leaves)

    def _branches(self, eqn: Any, values: list[Value]) -> None:
        """Notes what a site's output goes into: a sum with a weight, or anything else."""
        name = eqn.primitive.name
        if name == "convert_element_type":
            return
        for value, other in zip(values, values[::-1], strict=True):
            if value.site is None:
                continue
            if name == "add" and other.weight is not None:
                self.found.added.setdefault(value.site, []).append((other.weight, jnp.shape(other.array)))
            else:
                self.found.branching.add(value.site)

    def _site(
        self, eqn: Any, values: list[Value], place: Place, scans: tuple[int, ...], taps: dict[Place, Any]
    ) -> tuple[list[Value], dict[Place, Any]]:
        first = values[0].weight is not None
        held, signal = values if first else values[::-1]
        assert held.weight is not None
        records: dict[Place, Any] = {}
        if (*place, INPUT) in taps:
            signal = signal._replace(array=signal.array + taps[(*place, INPUT)])
            records[(*place, INPUT)] = signal.array
        output = self._plain(eqn, [held, signal] if first else [signal, held])[0]
        adds = eqn.primitive.name in ADDING
        output = output._replace(flow=signal.flow.through(place, held.flow, adds=adds))
        shapes = held.array.shape, output.array.shape
        site = Site(eqn.primitive.name, eqn.params, first, *shapes, output.array.dtype)
        self.found.sites[place] = site, held.weight, scans
        self.found.uses.append(held.weight.leaf)
        if not adds and not held.flow.sites:
            self.found.readouts[place] = signal.flow.pointwise
        output = output if adds or scans else output._replace(site=place)
        if place not in taps:
            return [output], records
        projection, factor = self.projections.get(place), held.weight.factor
        inputs = site.inputs(signal.array) if projection is None else site.projected(signal.array, projection)
        records[place] = inputs if factor is None else inputs * factor.astype(inputs.dtype)
        return [output._replace(array=output.array + taps[place])], records

    def _scan(
        self, eqn: Any, values: list[Value], place: Place, scans: tuple[int, ...], taps: dict[Place, Any]
    ) -> tuple[list[Value], dict[Place, Any]]:
        """A scan with taps among what it goes along, and records among what it stacks."""
        params = eqn.params
        num_consts, num_carry = _held_and_carried(eqn)
        held, carried, along = values[:num_consts], values[num_consts:][:num_carry], values[num_consts + num_carry :]
        self._elsewhere(carried)
        leaves = frozenset[int]().union(*(value.leaves for value in values))
        flow = Flow(frozenset[Place]().union(*(value.flow.sites for value in values)))
        fixed = [_inside(value, along=False) for value in held]
        inner = {where: tap for where, tap in taps.items() if where[: len(place)] == place}

        def step(carry: Any, slices: Any) -> Any:
            moving = [
                _inside(v, along=True)._replace(array=a, flow=flow) for v, a in zip(along, slices[0], strict=True)
            ]
            inputs = [*fixed, *(Value(array, leaves, flow=flow) for array in carry), *moving]
            outputs, records = self._run(params["jaxpr"], inputs, place, (*scans, params["length"]), slices[1])
            self._elsewhere(outputs)
            arrays = [output.array for output in outputs]
            return arrays[:num_carry], (arrays[num_carry:], records)

        carry, (stacked, records) = jax.lax.scan(
            step,
            [value.array for value in carried],
            ([value.array for value in along], inner),
            length=params["length"],
            reverse=params["reverse"],
            unroll=params["unroll"],
        )
        return [Value(array, leaves, flow=flow) for array in (*carry, *stacked)], records


def _held_and_carried(eqn: Any) -> tuple[int, int]:
    """How many inputs of a scan are held, and how many are carried; JAX 0.12 no longer says so in numbers."""
    body = eqn.params["jaxpr"].jaxpr
    inputs, outputs = (
        [outer.aval.ndim - inner.aval.ndim for outer, inner in zip(*sides, strict=True)]
        for sides in ((eqn.invars, body.invars), (eqn.outvars, body.outvars))
    )
    # What is gone along, or stacked, has one axis more outside.
    num_carry = outputs.count(0)
    return inputs.count(0) - num_carry, num_carry


def _is_bias(weight: Weight, shape: tuple[int, ...], site: Site) -> bool:
    """Whether a weight of this shape is, entry by entry, one summand of each of the site's outputs."""
    if weight.factor is not None or weight.scanned:
        return False
    entries = np.broadcast_to(weight.entries().reshape(shape), site.output_shape)
    by_output = site.outputs(entries)  # type: ignore[arg-type]
    whole = np.arange(int(np.prod(weight.shape))).reshape(-1, 1, by_output.shape[-1])
    return whole.shape[0] == by_output.shape[0] and bool((by_output == whole).all())


def _same_shapes(values: list[Value]) -> bool:
    return jnp.shape(values[0].array) == jnp.shape(values[1].array)


def _inside(value: Value, *, along: bool) -> Value:
    return value._replace(weight=value.weight.inside_scan(along=along)) if value.weight else value


def _still_a_weight(eqn: Any, values: list[Value]) -> Weight | None:
    """The weight that an equation moves or multiplies by a scalar which does not depend on it."""
    name = eqn.primitive.name
    if len(values) == 1:
        return _moved(eqn, values[0])
    if name not in ("mul", "div") or len(values) != 2:
        return None
    for value, scalar in (values, values[::-1])[: 1 if name == "div" else 2]:
        single = jnp.size(scalar.array) == 1 and jnp.shape(value.array) == eqn.outvars[0].aval.shape
        if value.weight and single and value.weight.leaf not in scalar.leaves:
            factor = scalar.array if name == "mul" else 1 / scalar.array
            return value.weight.times(factor)
    return None


def _moved(eqn: Any, value: Value) -> Weight | None:
    if value.weight is None:
        return None
    if eqn.primitive.name == "neg":
        return value.weight.times(-jnp.ones((), value.array.dtype))
    same_size = eqn.outvars[0].aval.size <= value.array.size  # a broadcast that copies is no move
    return value.weight.moved(eqn.primitive.name, eqn.params) if same_size else None
