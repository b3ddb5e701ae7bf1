"""Is this model update safe?  A policy of thresholds on similarities, judged with its evidence; doubt never passes."""

import os
import sys
import tomllib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from repsim_jax.errors import PolicyError

if TYPE_CHECKING:
    from repsim_jax.similarity.comparison import Comparison

AGGREGATES = ("each", "mean", "min")
PAIRINGS = ("matching", "best", "all")
# Measures that a policy may name, and a comparison has where it was given a fitted one.
LEARNED = ("contrasim",)
# Under this name a learned measure tells, in the settings of a comparison, what unrelated rows score at most.
CHANCE_LEVEL = "95 % of chance below"
# A policy is written by hand; anything larger was not meant for us, and parsing it would only cost memory.
_MAX_BYTES = 1 << 20
_RULE_KEYS = frozenset({"measure", "layers", "pairs", "min", "max", "aggregate"})


class Rule(NamedTuple):
    """One demand on one measure.

    Attributes:
        measure: A registered measure.
        layers: Glob on the layer names of the first model.
        pairs: "matching" (same name in both), "best" (most similar layer of the second), "all", or (layer_a, layer_b).
        minimum: Smallest value that passes, or None.
        maximum: Largest value that passes, or None.
        aggregate: "each" pair is judged, or the "mean" or "min" over pairs.
    """

    measure: str
    layers: str = "*"
    pairs: str | tuple[str, str] = "matching"
    minimum: float | None = None
    maximum: float | None = None
    aggregate: str = "each"


class Policy(NamedTuple):
    """What an update must satisfy.

    Attributes:
        path: Where it was read.
        rules: At least one.
        min_examples: Fewest examples on which the verdict may rest.
    """

    path: str
    rules: tuple[Rule, ...]
    min_examples: int = 1


class Check(NamedTuple):
    """One value held against one threshold.

    Attributes:
        rule: Which rule, "rule 1" onwards in the order of the file, or "min_examples".
        layer_a: Layer of the first model; "mean of 12 pairs" where values were aggregated.
        layer_b: Layer of the second model; empty where values were aggregated.
        measure: The measure, or "examples".
        value: What was measured.
        bound: ">=" or "<=".
        threshold: What was demanded.
        passed: Whether it was met.
    """

    rule: str
    layer_a: str
    layer_b: str
    measure: str
    value: float
    bound: str
    threshold: float
    passed: bool


class GateResult(NamedTuple):
    """The verdict and its evidence.

    Attributes:
        passed: True only if every check passed.
        findings: The checks that failed.
        checks: All checks, in the order of the policy.
        policy: Path of the policy.
    """

    passed: bool
    findings: tuple[Check, ...]
    checks: tuple[Check, ...]
    policy: str


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """Reads a gate policy; anything but a complete and meaningful one is an error.

    Args:
        path: A TOML file: ``[[rule]]`` tables with measure, layers, pairs, min, max, aggregate; optionally ``[policy]``
            with min_examples.

    Returns:
        The policy, with at least one rule, every measure known and every threshold able to fail.

    Raises:
        PolicyError: If the file is missing, empty, not TOML, has unknown keys, measures or values, or no rule.
    """
    where = os.fspath(path)
    document = _read_toml(where)
    _refuse_unknown(where, "the policy", document, {"policy", "rule"})
    options = document.get("policy", {})
    rules = document.get("rule", [])
    if not isinstance(options, dict):
        raise PolicyError(where, "[policy] must be a table.")
    _refuse_unknown(where, "[policy]", options, {"min_examples"})
    if not isinstance(rules, list) or not rules:
        raise PolicyError(
            where, 'it has no rule, so it could never fail. Add a [[rule]] with a measure and a "min" or "max".'
        )
    min_examples = options.get("min_examples", 1)
    if type(min_examples) is not int or min_examples < 1:
        raise PolicyError(where, f"[policy] min_examples must be a whole number >= 1, got {min_examples!r}.")
    return Policy(where, tuple(_rule(where, f"rule {k}", rule) for k, rule in enumerate(rules, 1)), min_examples)


def check(comparison: "Comparison", policy: Policy) -> GateResult:
    """Holds a comparison against a policy.

    Args:
        comparison: All layer pairs under at least the measures of the policy.
        policy: From ``load_policy``.

    Returns:
        The verdict, with every check made and those that failed.

    Raises:
        PolicyError: If a rule asks for what was not measured, or selects no layer: then nothing has been shown.
    """
    n = comparison.num_examples
    checks = [Check("min_examples", "", "", "examples", n, ">=", policy.min_examples, n >= policy.min_examples)]
    for k, rule in enumerate(policy.rules, 1):
        checks += _checks(comparison, policy.path, f"rule {k}", rule)
    findings = tuple(one for one in checks if not one.passed)
    return GateResult(not findings, findings, tuple(checks), policy.path)


def _read_toml(where: str) -> dict[str, Any]:
    try:
        with open(where, "rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise PolicyError(where, f"the gate policy cannot be read: {error.strerror or error}.") from error
    if len(raw) > _MAX_BYTES:
        raise PolicyError(where, f"a gate policy has at most {_MAX_BYTES} bytes; this is not one.")
    try:
        document = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad TOML, numbers too long to be read, nesting too deep
        raise PolicyError(where, f"not valid TOML: {error}.") from error
    if not document:
        raise PolicyError(where, "it is empty, so it could never fail. Add a [[rule]].")
    return document


def _refuse_unknown(where: str, place: str, table: dict[str, Any], known: set[str] | frozenset[str]) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise PolicyError(
            where, f"{place} has unknown keys {', '.join(map(repr, unknown))}; known: {', '.join(sorted(known))}."
        )


def _rule(where: str, name: str, table: Any) -> Rule:
    from repsim_jax import similarity

    if not isinstance(table, dict):
        raise PolicyError(where, f"{name} must be a table.")
    _refuse_unknown(where, name, table, _RULE_KEYS)
    measure, layers, aggregate = table.get("measure"), table.get("layers", "*"), table.get("aggregate", "each")
    known = (*similarity.measures(), *LEARNED)
    if not isinstance(measure, str) or measure not in known:
        raise PolicyError(where, f"{name}: measure must be one of {', '.join(known)}; got {measure!r}.")
    if not isinstance(layers, str) or not layers:
        raise PolicyError(where, f"{name}: layers must be a glob on layer names, got {layers!r}.")
    if aggregate not in AGGREGATES:
        raise PolicyError(where, f"{name}: aggregate must be one of {', '.join(AGGREGATES)}; got {aggregate!r}.")
    minimum, maximum = _thresholds(where, name, table, similarity.measure(measure).range)
    return Rule(measure, layers, _pairing(where, name, table), minimum, maximum, aggregate)


def _pairing(where: str, name: str, table: dict[str, Any]) -> str | tuple[str, str]:
    pairs = table.get("pairs", "matching")
    if isinstance(pairs, str) and pairs in PAIRINGS:
        return pairs
    if isinstance(pairs, dict) and set(pairs) == {"a", "b"} and all(isinstance(layer, str) for layer in pairs.values()):
        if "layers" in table:
            raise PolicyError(where, f"{name}: give either layers or an explicit pair {{a = ..., b = ...}}, not both.")
        return pairs["a"], pairs["b"]
    raise PolicyError(where, f"{name}: pairs must be {', '.join(PAIRINGS)} or {{a = LAYER, b = LAYER}}; got {pairs!r}.")


def _thresholds(
    where: str, name: str, table: dict[str, Any], limits: tuple[float, float]
) -> tuple[float | None, float | None]:
    if not {"min", "max"} & set(table):
        raise PolicyError(where, f'{name} has neither "min" nor "max", so it could never fail.')
    low, high = limits
    bounds: dict[str, float | None] = {"min": None, "max": None}
    for key in bounds.keys() & table.keys():
        value = table[key]
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
            raise PolicyError(where, f"{name}: {key} must be a finite number, got {str(value)[:40]}.")
        if not low <= value <= high:
            raise PolicyError(
                where, f"{name}: {key} = {value} is outside {low} to {high}, the range of {table['measure']}."
            )
        if value == (low if key == "min" else high):
            raise PolicyError(
                where, f"{name}: {key} = {value} can never fail, since {table['measure']} goes from {low} to {high}."
            )
        bounds[key] = float(value)
    if bounds["min"] is not None and bounds["max"] is not None and bounds["min"] > bounds["max"]:
        raise PolicyError(where, f"{name}: min = {bounds['min']} is above max = {bounds['max']}; nothing could pass.")
    return bounds["min"], bounds["max"]


def _checks(comparison: "Comparison", where: str, name: str, rule: Rule) -> list[Check]:
    if rule.measure not in comparison.measures:
        raise PolicyError(
            where,
            f"{name} asks for {rule.measure}, which was not computed; there are {', '.join(comparison.measures)}.",
        )
    doubt = comparison.settings.get("doubts", {}).get(rule.measure)
    if doubt:
        raise PolicyError(where, f"{name} asks for {rule.measure}, and nothing can rest on it: {doubt}.")
    told = comparison.settings.get(rule.measure)
    chance = told.get(CHANCE_LEVEL) if isinstance(told, dict) else None
    if chance is not None and rule.minimum is not None and rule.minimum <= chance:
        raise PolicyError(
            where,
            f"{name}: min = {rule.minimum} says nothing, since this {rule.measure} gives unrelated rows up to "
            f"{chance:.3f} (95 % of them). Ask for more than that, or fit a measure that tells them further apart.",
        )
    matrix = comparison.matrix(rule.measure)
    pairs = _pairs(comparison, where, name, rule, matrix)
    judged = [(comparison.layers_a[i], comparison.layers_b[j], float(matrix[i, j])) for i, j in pairs]
    if rule.aggregate != "each":
        values = [value for _, _, value in judged]
        total = float(np.mean(values)) if rule.aggregate == "mean" else min(values)
        judged = [(f"{rule.aggregate} of {len(values)} layer pair{'s' if len(values) > 1 else ''}", "", total)]
    checks = []
    for layer_a, layer_b, value in judged:
        # NaN is neither >= nor <= anything, so a value that could not be measured fails.
        if rule.minimum is not None:
            checks.append(Check(name, layer_a, layer_b, rule.measure, value, ">=", rule.minimum, value >= rule.minimum))
        if rule.maximum is not None:
            checks.append(Check(name, layer_a, layer_b, rule.measure, value, "<=", rule.maximum, value <= rule.maximum))
    return checks


def _pairs(comparison: "Comparison", where: str, name: str, rule: Rule, matrix: np.ndarray) -> list[tuple[int, int]]:
    layers_a, layers_b = comparison.layers_a, comparison.layers_b
    if isinstance(rule.pairs, tuple):
        layer_a, layer_b = rule.pairs
        for layer, layers, model in ((layer_a, layers_a, comparison.name_a), (layer_b, layers_b, comparison.name_b)):
            if layer not in layers:
                raise PolicyError(where, f"{name}: {model} has no layer {layer!r}; it has {_listed(layers)}.")
        return [(layers_a.index(layer_a), layers_b.index(layer_b))]
    chosen = [i for i, layer in enumerate(layers_a) if layer == rule.layers or fnmatchcase(layer, rule.layers)]
    if not chosen:
        raise PolicyError(
            where, f"{name}: {rule.layers!r} matches no layer of {comparison.name_a}; it has {_listed(layers_a)}."
        )
    if rule.pairs == "all":
        return [(i, j) for i in chosen for j in range(len(layers_b))]
    if rule.pairs == "best":
        from repsim_jax import similarity

        larger = similarity.measure(rule.measure).larger_is_more_similar
        return [(i, int((np.argmax if larger else np.argmin)(matrix[i]))) for i in chosen]
    missing = [layers_a[i] for i in chosen if layers_a[i] not in layers_b]
    if missing:
        found = f"{comparison.name_b} has no {_listed(missing)}; it has {_listed(layers_b)}"
        raise PolicyError(where, f"{name} pairs layers by name, but {found}.")
    return [(i, layers_b.index(layers_a[i])) for i in chosen]


def _listed(layers: "tuple[str, ...] | list[str]") -> str:
    return ", ".join(map(repr, layers[:12])) + (f" and {len(layers) - 12} more" if len(layers) > 12 else "")
