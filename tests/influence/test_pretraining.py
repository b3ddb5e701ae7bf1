"""The trainer learns from views alone, goes on after a kill with the same bytes, and says what went wrong."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from repsim_jax import influence as inf
from repsim_jax.data import open_source
from repsim_jax.encoders import MLP, MLPConfig
from repsim_jax.errors import (
    BadArrayError,
    CollapseWarning,
    CorruptFileError,
    DivergedError,
    RepsimError,
    StoreMismatchError,
    UnknownNameError,
)
from repsim_jax.influence.pretraining import OBJECTIVES, STATE_FILE
from repsim_jax.linalg import unit_rows
from repsim_jax.resumable import write_tree

NETWORK = inf.Network((64,), widths=(16,), num_features=8, projector=(8,), predictor=(8,))
RECIPE = inf.Recipe(num_steps=24, batch_size=16, learning_rate=3e-3)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    source = open_source("digits")
    return np.stack([source.get(i) for i in range(48)]).astype(np.float32) - 0.5


def pretrain(x: Any, **options: Any) -> inf.Pretrained:
    options = {"network": NETWORK, "recipe": RECIPE, "num_checkpoints": 3} | options
    return inf.pretrain(options.pop("key", KEY), x, options.pop("augment", inf.DigitViews()), **options)


def same(left: Any, right: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


@pytest.fixture(scope="module")
def trained(digits: np.ndarray) -> inf.Pretrained:
    return pretrain(digits)


def test_the_first_loss_is_that_of_embeddings_without_structure(trained: inf.Pretrained):
    """NT-Xent of random directions is near the logarithm of the number of others, less what views have in common."""
    assert trained.losses.shape == (24,)
    assert 0.6 * np.log(31) < trained.losses[0] < 1.1 * np.log(31)


@pytest.mark.slow
def test_two_new_views_of_a_digit_find_each_other_more_often_after_training():
    """What SimCLR trains for, judged by retrieval among 600 digits, on views that were never seen."""
    source = open_source("digits")
    x = jnp.asarray(np.stack([source.get(i) for i in range(600)]).astype(np.float32) - 0.5)
    network = inf.Network((64,), widths=(64,), num_features=32, projector=(32, 16))
    recipe = inf.Recipe(num_steps=300, batch_size=128, learning_rate=3e-3)
    found = inf.pretrain(KEY, x, inf.DigitViews(), network=network, recipe=recipe)
    keys = jax.random.split(jax.random.key(9), (2, 600))
    views = [jax.vmap(inf.DigitViews())(each, x) for each in keys]

    def judged(params: Any) -> tuple[float, float]:
        first, second = (np.asarray(unit_rows(network.embed(params, view))) for view in views)
        cosines = first @ second.T
        found = (cosines.argmax(1) == np.arange(600)).mean()
        return float(found), float(np.diag(cosines).mean() - cosines.mean())

    (before, apart_before), (after, apart_after) = judged(network.initial(KEY)), judged(found.params)
    assert after > 2 * before
    assert apart_after > 0.7 > 0.2 > apart_before
    assert found.losses[-20:].mean() < found.losses[:20].mean() - 0.3
    assert found.effective_rank > 3


def test_the_network_is_an_mlp_of_flax_and_its_projector():
    params = NETWORK.initial(KEY)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 64)), jnp.float32)
    encoder = params["encoder"]

    def dense(tree: Any, row: Any) -> Any:
        kernel, bias = (np.asarray(jax.tree.leaves(tree[name])[0]) for name in ("kernel", "bias"))
        return row @ kernel + bias

    rows = dense(encoder["head"], np.maximum(dense(encoder["block_0"]["linear"], x), 0))
    np.testing.assert_allclose(NETWORK.represent(params, x), rows, atol=1e-5)
    z = dense(params["projector"]["head"], rows)
    np.testing.assert_allclose(NETWORK.embed(params, x), z, atol=1e-5)
    predicted = dense(params["predictor"]["head"], np.maximum(dense(params["predictor"]["block_0"]["linear"], z), 0))
    np.testing.assert_allclose(NETWORK.predict(params, jnp.asarray(z)), predicted, atol=1e-5)


def test_a_convnet_is_an_encoder_of_images():
    network = inf.Network((8, 8, 3), kind="convnet", widths=(4, 6), num_features=5, hidden=7, projector=())
    params = jax.eval_shape(network.initial, KEY)
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(params))
    assert shapes == sorted([(3, 3, 3, 4), (4,), (3, 3, 4, 6), (6,), (6, 7), (7,), (7, 5), (5,)])
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    assert jax.eval_shape(network.represent, params, x).shape == (2, 5)
    assert jax.eval_shape(network.embed, params, x).shape == (2, 5)


def test_normalized_blocks_have_mean_zero_and_spread_one_before_their_relu():
    config = MLPConfig(6, (32,), 4, normalized=True)
    module = MLP(config, rngs=nnx.Rngs(0))
    hidden = np.asarray(module.block_0.norm(module.block_0.linear(jnp.ones((3, 6)))))  # pyright: ignore
    np.testing.assert_allclose(hidden.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(hidden.std(1), 1, atol=1e-3)


@pytest.mark.parametrize(
    "objective", [pytest.param(name, marks=() if name == "byol" else pytest.mark.slow) for name in OBJECTIVES]
)
def test_every_objective_trains_and_poses_influence(digits: np.ndarray, objective: str):
    found = pretrain(digits, objective=objective, num_checkpoints=1, recipe=replace(RECIPE, num_steps=200))
    assert np.isfinite(found.losses).all()
    assert found.losses[-40:].mean() < found.losses[:40].mean()
    train = inf.augmented(KEY, digits, inf.DigitViews(), num_views=2)
    posed = inf.problem_of(found, NETWORK, train, objective)
    arrays = posed.leaves().arrays
    unit = posed.unit(jnp.arange(48), jnp.ones(48))
    assert np.isfinite(posed.loss(arrays, unit.seen, unit.weights))
    assert (found.target_params is not None) == (objective == "byol")


def test_byols_target_is_the_running_mean_of_the_online_model(digits: np.ndarray):
    """With a momentum of zero at the first step, the target is the online model after it; later it lags behind."""
    recipe = replace(RECIPE, num_steps=6, target_momentum=0.5)
    found = pretrain(digits, objective="byol", recipe=recipe, num_checkpoints=6)
    start = NETWORK.initial(jax.random.split(KEY)[0])
    target = {name: start[name] for name in ("encoder", "projector")}
    for count, kept in enumerate(found.checkpoints):
        stays = 1 - 0.5 * (np.cos(np.pi * count / 6) + 1) / 2
        online = {name: kept.params[name] for name in target}
        target = jax.tree.map(lambda old, new, stays=stays: stays * old + (1 - stays) * new, target, online)
        for a, b in zip(jax.tree.leaves(kept.target_params), jax.tree.leaves(target), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_same_key_gives_the_same_model_and_another_key_another(digits: np.ndarray, trained: inf.Pretrained):
    assert same(pretrain(digits), trained)
    assert not same(pretrain(digits, key=jax.random.key(1)).params, trained.params)


def test_models_on_the_way_are_evenly_spaced_and_the_last_is_the_result(trained: inf.Pretrained):
    assert [one.step for one in trained.checkpoints] == [8, 16, 24]
    assert same(trained.checkpoints[-1].params, trained.params)
    assert not same(trained.checkpoints[0].params, trained.params)


class StoppedError(Exception):
    """Raised in place of a kill."""


def stop_at(step: int) -> Any:
    def on_progress(done: int, _: int) -> None:
        if done == step:
            raise StoppedError

    return on_progress


def test_a_stopped_training_goes_on_to_the_same_bytes(digits: np.ndarray, trained: inf.Pretrained, tmp_path: Path):
    with pytest.raises(StoppedError):
        pretrain(digits, folder=tmp_path / "stopped", on_progress=stop_at(16))
    told: list[tuple[int, int]] = []
    found = pretrain(digits, folder=tmp_path / "stopped", on_progress=lambda *said: told.append(said))
    assert told == [(24, 24)]
    assert same(found, trained)
    pretrain(digits, folder=tmp_path / "whole")
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == ["run.json", "state.npz", "step_00000008.npz", "step_00000016.npz", "step_00000024.npz"]
    for name in names:
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    again = pretrain(digits, folder=tmp_path / "whole", on_progress=stop_at(24))
    assert same(again, trained)


@pytest.mark.parametrize(
    "changed",
    [
        {"key": jax.random.key(5)}, {"objective": "vicreg"}, {"augment": inf.DigitViews(noise=0.3)},
        {"recipe": replace(RECIPE, learning_rate=1e-2)}, {"network": replace(NETWORK, widths=(8,))},
        {"num_checkpoints": 2},
    ],
    ids=lambda one: next(iter(one)),
)  # fmt: skip
def test_another_training_is_refused_in_the_same_folder(digits: np.ndarray, tmp_path: Path, changed: dict[str, Any]):
    with pytest.raises(StoppedError):
        pretrain(digits, folder=tmp_path, on_progress=stop_at(8))
    with pytest.raises(StoreMismatchError, match=r"holds another run: .* Pass the same again"):
        pretrain(digits, folder=tmp_path, **changed)
    with pytest.raises(StoreMismatchError, match="data_sha256"):
        pretrain(digits[::-1], folder=tmp_path)


@pytest.mark.parametrize("name", [STATE_FILE, "step_00000008.npz", "run.json"])
def test_damage_in_the_folder_is_named(digits: np.ndarray, tmp_path: Path, name: str):
    pretrain(digits, folder=tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptFileError, match=name):
        pretrain(digits, folder=tmp_path)
    (tmp_path / name).write_bytes(content)
    assert (tmp_path / STATE_FILE).exists()
    write_tree(tmp_path / STATE_FILE, [np.zeros(3)])
    with pytest.raises(CorruptFileError, match=STATE_FILE):
        pretrain(digits, folder=tmp_path)


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import jax, numpy as np
from repsim_jax import influence as inf
x = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
network = inf.Network((16,), widths=(8,), num_features=4, projector=(4,))
recipe = inf.Recipe(num_steps=int(sys.argv[3]), batch_size=32)
inf.pretrain(jax.random.key(0), x, inf.DigitViews(), network=network, recipe=recipe, num_checkpoints=3,
             folder=Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_bytes(tmp_path: Path):
    root = str(Path(__file__).resolve().parents[2])

    def command(folder: str) -> list[str]:
        return [sys.executable, "-c", SCRIPT, str(tmp_path / folder), root, "5000"]

    subprocess.run(command("whole"), check=True, timeout=300)
    process = subprocess.Popen(command("killed"))
    deadline = time.monotonic() + 240
    while not (tmp_path / "killed" / STATE_FILE).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "step_00005000.npz").exists()
    subprocess.run(command("killed"), check=True, timeout=300)
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "killed" / path.name).read_bytes() == path.read_bytes(), path.name


def explodes(key: jax.Array, x: jax.Array) -> jax.Array:
    del key
    return x * jnp.inf


def test_a_loss_that_is_not_a_number_stops_the_training_and_says_where(digits: np.ndarray):
    with pytest.raises(DivergedError, match="the model is not finite at step 8"):
        pretrain(digits, augment=explodes)


@pytest.mark.slow
def test_collapse_is_told(digits: np.ndarray):
    """Nothing but alignment, learned fast: all examples become one."""

    def alignment(params: Any, views: jax.Array, weights: jax.Array) -> jax.Array:
        z = NETWORK.represent(params, views.reshape(-1, 64)).reshape(*views.shape[:2], -1)
        return (jnp.square(z).sum((1, 2)) * weights).mean()

    recipe = replace(RECIPE, optimizer="sgd", learning_rate=0.2, num_steps=200)
    with pytest.warns(CollapseWarning, match="directions"):
        pretrain(digits, objective=inf.Custom(alignment), recipe=recipe, num_checkpoints=1, network=LINE)


LINE = replace(NETWORK, num_features=1)


@pytest.mark.parametrize(
    ("x", "options", "error", "said"),
    [
        (np.zeros((48, 64), np.int32), {}, BadArrayError, "floating-point examples"),
        (np.zeros((48, 63), np.float32), {}, BadArrayError, "(n, *(64,)), got (48, 63)"),
        (np.zeros((8, 64), np.float32), {}, BadArrayError, "at least batch_size examples: got 8"),
        (np.full((48, 64), np.nan, np.float32), {}, BadArrayError, "NaN or infinity in 48 rows"),
        (np.ones((48, 64), np.float32), {"objective": "moco"}, UnknownNameError, "no objective is called 'moco'"),
        (
            np.ones((48, 64), np.float32), {"objective": "byol", "network": replace(NETWORK, predictor=())},
            RepsimError, "byol needs a predictor",
        ),
        (np.ones((48, 64), np.float32), {"num_checkpoints": 25}, BadArrayError, "num_checkpoints in [1, num_steps=24]"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused(x: np.ndarray, options: dict[str, Any], error: type[Exception], said: str):
    with pytest.raises(error, match=re.escape(said)):
        pretrain(x, **options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"num_steps": 0}, BadArrayError), ({"batch_size": 1}, BadArrayError), ({"learning_rate": 0.0}, BadArrayError),
        ({"warmup": 1.0}, BadArrayError), ({"optimizer": "lars"}, UnknownNameError),
    ],
)  # fmt: skip
def test_impossible_recipes_are_refused(options: dict[str, Any], error: type[Exception]):
    with pytest.raises(error):
        inf.Recipe(**options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"kind": "resnet"}, UnknownNameError), ({"widths": (0,)}, BadArrayError), ({"kind": "convnet"}, BadArrayError),
    ],
)  # fmt: skip
def test_impossible_networks_are_refused(options: dict[str, Any], error: type[Exception]):
    with pytest.raises(error):
        inf.Network((64,), **options)
