"""The lock installs from any index, without torch, with all that the wheel needs; the oldest set is what we promise."""

import re
import tomllib

import pytest
from house.source import ROOT

from repsim_jax.kernels import neural_tangents

LINE = re.compile(r"^[a-z0-9][a-z0-9._-]*==[^\s;@/:]+( ; [^@/:]+)?$")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def lines(name: str) -> list[str]:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def names(listed: list[str]) -> set[str]:
    return {re.split(r"[^a-z0-9.-]", one.lower().replace("_", "-"))[0] for one in listed}


def test_every_line_of_the_lock_is_one_exact_version():
    assert [line for line in lines("dev.lock") if not LINE.match(line)] == []


def test_the_lock_leaves_the_rivals_out():
    assert not names(lines("dev.lock")) & {"torch", "torchvision", "tensorflow", "pytorch-cka", "neural-tangents"}


def test_what_would_bring_tensorflow_is_installed_without_dependencies_in_every_environment():
    assert lines("no-deps.txt") == [f"neural-tangents=={neural_tangents.VERSION}"]
    commands = (ROOT / "requirements" / "set_up.sh").read_text(encoding="utf-8").splitlines()
    assert [line for line in commands if "pip install" in line and "--no-deps -r requirements/no-deps.txt" in line]
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert not names([one for extra in extras.values() for one in extra]) & {"neural-tangents", "tensorflow"}
    assert names(extras["kernels"]) == set(neural_tangents.NEEDED) - {"neural_tangents"}


@pytest.mark.parametrize("listed", ["dev.lock", "oldest.txt", "newest.txt"])
def test_what_the_wheel_and_its_extras_need_is_listed(listed: str):
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    needed = [*PYPROJECT["project"]["dependencies"], *(one for extra in extras for one in extra)]
    # packages of weights are files to read, no code that tests need
    assert names(needed) - names(lines(listed)) - names(lines("pretrained.txt")) == set()


def test_the_oldest_set_is_the_lower_bounds_of_colab():
    oldest = dict(line.split("==") for line in lines("oldest.txt") if "==" in line)
    bounds = dict(one.split(">=") for one in PYPROJECT["project"]["dependencies"])
    for name, bound in bounds.items():
        if name in oldest:
            assert as_numbers(oldest[name]) >= as_numbers(bound), name
    assert oldest["jax"] == bounds["jax"]
    assert oldest["flax"].startswith(f"{bounds['flax']}.")


def as_numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
