"""Every measure compiles once per shape, and never again for another number."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from repsim_jax import similarity

COMPILED = "/jax/core/compile/backend_compile_duration"
compiled_programs: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration, **facts: compiled_programs.append(str(facts)) if event == COMPILED else None
)
MEASURES: list[Callable[..., Any]] = [
    function
    for name in similarity.__all__
    if inspect.isfunction(function := getattr(similarity, name))
    and list(inspect.signature(function).parameters)[:2] == ["x", "y"]
]


def programs_compiled_by(call: Callable[[], Any]) -> int:
    before = len(compiled_programs)
    jax.block_until_ready(call())
    return len(compiled_programs) - before


def pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(29, 5)).astype(np.float32)
    return x, (x @ generator.normal(size=(5, 7)) + generator.normal(size=(29, 7))).astype(np.float32)


def number_options(measure: Callable[..., Any]) -> dict[str, float]:
    """Options whose default is a float: the numbers that a sweep turns."""
    parameters = inspect.signature(measure).parameters
    return {name: one.default for name, one in parameters.items() if isinstance(one.default, float)}


def test_the_counter_sees_a_compilation():
    double = jax.jit(lambda x: 2 * x)
    assert programs_compiled_by(lambda: double(np.ones(31, np.float32))) > 0
    assert programs_compiled_by(lambda: double(np.ones(31, np.float32))) == 0


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.__name__)
def test_a_measure_compiles_once_per_shape_and_never_per_number(measure: Callable[..., Any]):
    measure(*pair(0))
    assert programs_compiled_by(partial(measure, *pair(1))) == 0, "compiles again for other data"
    for option, default in number_options(measure).items():
        call = partial(measure, *pair(0), **{option: 0.8 * default})
        assert programs_compiled_by(call) == 0, f"compiles again for another {option}"


@pytest.mark.parametrize("name", sorted(similarity.measures()))
def test_all_layer_pairs_compile_once_per_shape(name: str):
    first, second = ({"one": x, "two": x[:, ::-1].copy(), "wide": y} for x, y in (pair(0), pair(1)))
    similarity.compare(first, second, measures=[name])
    compare = partial(similarity.compare, second, first, measures=[name])
    assert programs_compiled_by(lambda: compare().values) == 0
