"""What every test runs under: the CPU, typed random keys, checked shapes, repeatable Hypothesis examples."""

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# A raw uint32 array where a key belongs is an error, in the library and in its tests.
os.environ.setdefault("JAX_ENABLE_CUSTOM_PRNG", "1")

from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

# Modules whose public functions check their own input are left out: there the user must meet our error, not beartype's.
install_import_hook(["repsim_jax.linalg", "repsim_jax.encoders"], "beartype.beartype")

# Compilation makes the first example of any shape slow, so time says nothing about the code under test.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("here"), derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--first-cases", action="store_true", help="of each parametrized test, only its first case")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Other versions of JAX break calls, not cases: one of each is enough to see it."""
    if config.getoption("--first-cases"):
        first = {item.nodeid.partition("[")[0]: item for item in reversed(items)}
        others = [item for item in items if first[item.nodeid.partition("[")[0]] is not item]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    """Closes what matplotlib left open, if a test loaded it at all."""
    yield
    import sys

    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(autouse=True, scope="module")
def _drop_programs() -> Iterator[None]:
    """Unloads what a file compiled: thousands of programs in one process reach the kernel's limit of mapped regions."""
    yield
    import sys

    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
