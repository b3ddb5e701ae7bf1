"""What is stored comes back as it was, a killed run ends with the same bytes, and another model's is refused."""

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from house.source import ROOT
from influence_cases import random_gradients, small_problem

from repsim_jax.errors import CorruptFileError, DamageWarning, FileError, RepsimError, StoreMismatchError
from repsim_jax.influence import (
    EKFAC,
    Damping,
    Eigen,
    Identity,
    LoGra,
    Problem,
    RandomProjection,
    Rows,
    Shards,
    influence,
    load_curvature,
    save_curvature,
    self_influence,
)
from repsim_jax.influence.pseudo import draws_of

KEY = jax.random.key(3)


def _drawn(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


def _made(name: str, posed: Problem) -> Any:
    """A curvature of arrays of the right shapes: what was fitted to what makes no difference for a file."""
    layout = draws_of(KEY, posed, "objective", num_samples=1, block=1).layout
    shapes = jax.eval_shape(layout.split, [leaf[None] for leaf in posed.leaves().arrays])
    sizes = [shape.shape[1:] for shape in shapes]
    p = posed.num_params()
    return {
        "identity": Identity,
        "dense": lambda: Eigen(jnp.arange(1.0, 4.0), jnp.linalg.qr(_drawn(p, 3))[0], jnp.ones(())),
        "ekfac": lambda: EKFAC(
            [None if k > 5 else _drawn(b, k, k) for b, k, _ in sizes], [_drawn(b, f, f) for b, _, f in sizes],
            [jnp.square(_drawn(b, k, f)) for b, k, f in sizes], layout,
        ),
        "logra": lambda: LoGra(
            [_drawn(b, k, 2) for b, k, _ in sizes], [_drawn(b, f, 1) for b, _, f in sizes],
            [jnp.eye(2 * b) for b, _, _ in sizes], layout,
        ),
        "projection": lambda: RandomProjection(jax.random.key(5), jnp.eye(6)),
        "woodbury": lambda: Rows(_drawn(4, p), jnp.eye(4)),
    }[name]()  # fmt: skip


@pytest.fixture(scope="module")
def posed() -> Problem:
    return small_problem()


@pytest.mark.parametrize("name", ["identity", "dense", "ekfac", "logra", "projection", "woodbury"])
def test_a_curvature_divides_out_the_same_after_it_was_stored(posed: Problem, tmp_path: Path, name: str):
    fitted = _made(name, posed)
    save_curvature(tmp_path / "one.npz", fitted, stamp={"model": "a"})
    found, of = load_curvature(tmp_path / "one.npz", posed, stamp={"model": "a"})
    gradients = random_gradients(posed)
    before, after = (one.solve(gradients, Damping()) for one in (fitted, found))
    assert of == "objective"
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    save_curvature(tmp_path / "two.npz", found, of=of, stamp={"model": "a"})
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_another_models_curvature_and_a_damaged_one_are_refused(posed: Problem, tmp_path: Path):
    path = tmp_path / "curvature.npz"
    save_curvature(path, _made("dense", posed), stamp={"model": "a", "data": "d"})
    with pytest.raises(StoreMismatchError, match="fitted to another model"):
        load_curvature(path, posed, stamp={"model": "b", "data": "d"})
    whole = path.read_bytes()
    for harmed in (whole[: len(whole) // 2], whole[:600] + bytes([whole[600] ^ 1]) + whole[601:], b"no archive"):
        path.write_bytes(harmed)
        with pytest.raises(CorruptFileError, match="damaged"):
            load_curvature(path, posed)
    with pytest.raises(FileError, match="no such file"):
        load_curvature(tmp_path / "none.npz", posed)
    with pytest.raises(RepsimError, match="can be saved"):
        save_curvature(path, object())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("mode", ["batch", "paper"])
def test_scores_with_shards_are_the_scores(posed: Problem, tmp_path: Path, mode: Any):
    few = small_problem(batch_size=4)
    options: dict[str, Any] = {"curvature": Identity(), "mode": mode, "view_groups": 2}
    with Shards(tmp_path, {"mode": mode}) as kept:
        stored = self_influence(KEY, few, **options, kept=kept)
        of_queries = influence(KEY, few, few.train, **options, block=5, kept=kept)
    plain = self_influence(KEY, few, **options)
    assert np.array_equal(stored.values, plain.values)
    assert np.array_equal(of_queries.values, influence(KEY, few, few.train, **options, block=5).values)
    assert len(list(kept.folder.glob("*.npz"))) == 3 * 3 + 3 * 3


def test_what_is_kept_is_not_computed_again_unless_it_is_damaged(tmp_path: Path):
    calls: list[int] = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"values": np.arange(3)}

    with Shards(tmp_path, {"seed": 0}) as kept:
        kept("a", compute)
        assert np.array_equal(kept("a", compute)["values"], np.arange(3))
        assert len(calls) == 1
        (kept.folder / "a.npz").write_bytes(b"PK broken")
        with pytest.warns(DamageWarning, match="computed again"):
            kept("a", compute)
        assert len(calls) == 2
        with pytest.raises(StoreMismatchError, match="another writer"), Shards(tmp_path, {"seed": 0}):
            pass
    with Shards(tmp_path, {"seed": 1}) as other:
        other("a", compute)
    assert len(calls) == 3


KILLED = """
import sys, time
import jax
import numpy as np
from influence_cases import small_problem
from repsim_jax.influence import Identity, Shards, self_influence
with Shards(sys.argv[1], {"run": 1}) as kept:
    def slowly(name, compute):
        time.sleep(float(sys.argv[2]))
        return kept(name, compute)
    found = self_influence(jax.random.key(3), small_problem(batch_size=4), curvature=Identity(), kept=slowly)
np.savez(sys.argv[1] + "/scores.npz", values=found.values, errors=found.standard_errors)
"""


def _score(folder: Path, pause: float) -> subprocess.Popen[bytes]:
    places = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": places, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen([sys.executable, "-c", KILLED, str(folder), str(pause)], env=environment)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert _score(whole, 0).wait(120) == 0
    running = _score(killed, 0.3)
    deadline = time.monotonic() + 90
    while len(list(killed.rglob("*-of-*.npz"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    parts = list(killed.rglob("*-of-*.npz"))
    assert 4 <= len(parts) < len(list(whole.rglob("*-of-*.npz")))
    before = {part: part.stat().st_mtime_ns for part in parts}
    assert _score(killed, 0).wait(120) == 0
    assert {part: part.stat().st_mtime_ns for part in parts} == before
    assert (killed / "scores.npz").read_bytes() == (whole / "scores.npz").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = {part.name: part.read_bytes() for part in whole.rglob("*-of-*.npz")}
    assert names == {part.name: part.read_bytes() for part in killed.rglob("*-of-*.npz")}
