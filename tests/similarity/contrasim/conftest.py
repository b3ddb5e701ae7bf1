"""Fitted measures, one of each kind, shared by all tests of ContraSim."""

from collections.abc import Callable

import contrasim_cases as cases
import jax
import pytest

from repsim_jax.similarity.contrasim import ContraSim, Fit, fit


@pytest.fixture(scope="session")
def layer_fit() -> Fit:
    """Relative input, positives of layers: four networks, of which the last is held out."""
    return fit(jax.random.key(0), cases.networks(), options=cases.options(), training=cases.SHORT, sensitivity=False)


@pytest.fixture(scope="session")
def raw_fit() -> Fit:
    """Raw input, positives of layers."""
    return fit(
        jax.random.key(0), cases.networks(), options=cases.options(input="raw"), training=cases.SHORT, sensitivity=False
    )


@pytest.fixture(scope="session")
def example_fit() -> Fit:
    """Relative input, positives of examples: two sides of different widths."""
    return fit(
        jax.random.key(0),
        cases.pairs(),
        options=cases.options(positives="example"),
        training=cases.SHORT,
        sensitivity=False,
    )


@pytest.fixture(scope="session")
def projected_fit() -> Fit:
    """Projected input, positives of examples: two sides of different widths."""
    return fit(
        jax.random.key(0),
        cases.pairs(),
        options=cases.options(positives="example", input="projected"),
        training=cases.SHORT,
        sensitivity=False,
    )


@pytest.fixture(scope="session")
def measures(layer_fit: Fit, raw_fit: Fit, example_fit: Fit, projected_fit: Fit) -> Callable[[str], ContraSim]:
    """The measure of a kind: "relative", "raw", "example" or "projected"."""
    made = {"relative": layer_fit, "raw": raw_fit, "example": example_fit, "projected": projected_fit}
    return lambda kind: made[kind].measure
