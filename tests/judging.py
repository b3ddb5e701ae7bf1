"""Judges one measure on one bad input: raised as it should, or equal to the textbook twin in float64."""

import warnings
from typing import NamedTuple

import numpy as np
from bad_inputs import Case
from oracles import TWINS

from repsim_jax import similarity
from repsim_jax.errors import RepsimError

# The tolerance of the field study: absolute for values up to one, relative beyond.
TOLERANCE = 1e-2


class Verdict(NamedTuple):
    """What was found, and whether it is right."""

    right: bool
    found: str


def value_of(name: str, x: object, y: object) -> float:
    """The measure of two arrays, through its public function."""
    if name.endswith("_unbiased"):
        return float(getattr(similarity, name.removesuffix("_unbiased"))(x, y, unbiased=True))
    return float(getattr(similarity, name)(x, y))


def judge(name: str, case: Case) -> Verdict:
    """Runs one measure on one case."""
    x, y = case.make()
    try:
        value = value_of(name, x, y)
    except RepsimError as error:
        return Verdict(case.raises, f"raised: {error}")
    if case.raises:
        return Verdict(False, f"gave {value} where an error was due")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = float(TWINS[name](np.asarray(x, np.float64), np.asarray(y, np.float64)))
    right = bool(np.isfinite(value)) and abs(value - expected) <= TOLERANCE * max(1.0, abs(expected))
    return Verdict(right, f"gave {value:.4f}, in float64 {expected:.4f}")
