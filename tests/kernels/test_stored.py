"""A kernel in a file is the kernel, interrupted or not; a folder of another one is refused."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernels.twins import error, explicit_ntk, trace

from repsim_jax.errors import BadArrayError, CorruptFileError, DamageWarning, FileError, StoreMismatchError
from repsim_jax.kernels.stored import JOURNAL_FILE, KERNEL_FILE, ntk_to_file

GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((8, 5)).astype(np.float32)
PARAMS = {
    "v": GENERATOR.standard_normal((6, 5)).astype(np.float32),
    "w": GENERATOR.standard_normal((6, 3)).astype(np.float32),
}


def two_layer(params: Any, x: Any) -> Any:
    return jnp.tanh(x @ params["v"].T) @ params["w"]


EXPECTED = trace(explicit_ntk(two_layer, PARAMS, X))


class InterruptionError(Exception):
    """Stands for a power cut."""


@pytest.mark.parametrize(("block", "output_block"), [(3, 2), (8, None), (100, 1)])
def test_the_file_holds_the_kernel(tmp_path: Path, block: int, output_block: int | None):
    seen: list[tuple[int, int]] = []
    kernel = ntk_to_file(
        two_layer, PARAMS, X, tmp_path / "new", block=block, output_block=output_block,
        on_progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert error(kernel, EXPECTED) < 1e-5
    np.testing.assert_array_equal(kernel, kernel.T)
    assert not kernel.flags.writeable
    total = 6 if block == 3 else 1
    assert seen == [(i + 1, total) for i in range(total)]


@pytest.mark.parametrize("stop", [1, 2, 4, 6])
def test_an_interruption_keeps_whole_strips(tmp_path: Path, stop: int):
    def interrupt(done: int, _: int) -> None:
        if done == stop:
            raise InterruptionError

    with pytest.raises(InterruptionError):
        ntk_to_file(two_layer, PARAMS, X, tmp_path, block=3, on_progress=interrupt)
    kept = {1: 0, 2: 1, 4: 3, 6: 3}[stop]  # tiles of the strips that were whole: strips have 1, 2 and 3
    seen: list[int] = []
    kernel = ntk_to_file(two_layer, PARAMS, X, tmp_path, block=3, on_progress=lambda done, _: seen.append(done))
    assert seen == list(range(kept + 1, 7))
    assert error(kernel, EXPECTED) < 1e-5


def test_what_is_done_is_not_computed_again(tmp_path: Path):
    ntk_to_file(two_layer, PARAMS, X, tmp_path, block=3)
    seen: list[int] = []
    kernel = ntk_to_file(two_layer, PARAMS, X, tmp_path, block=3, on_progress=lambda done, _: seen.append(done))
    assert seen == []
    assert error(kernel, EXPECTED) < 1e-5


@pytest.mark.parametrize(
    "other",
    [
        {"params": {**PARAMS, "w": 2 * PARAMS["w"]}},
        {"x": X[::-1]},
        {"block": 4},
        {"output_block": 1},
        {"model": lambda p, x: jnp.sin(x @ p["v"].T) @ p["w"]},
    ],
    ids=["parameters", "inputs", "block", "output_block", "function"],
)
def test_another_kernel_is_refused(tmp_path: Path, other: dict[str, Any]):
    same = {"model": two_layer, "params": PARAMS, "x": X, "folder": tmp_path, "block": 3}
    ntk_to_file(**same)
    with pytest.raises(StoreMismatchError, match="another model, other inputs or other blocks"):
        ntk_to_file(**(same | other))


def test_another_model_is_refused_where_the_first_example_gives_zeros(tmp_path: Path):
    x = np.concatenate([0 * X[:1], X[1:]])
    ntk_to_file(two_layer, PARAMS, x, tmp_path, block=3)
    with pytest.raises(StoreMismatchError, match="another model"):
        ntk_to_file(lambda p, x: jnp.sin(x @ p["v"].T) @ p["w"], PARAMS, x, tmp_path, block=3)


@pytest.mark.parametrize("stop", [3, 6])
def test_another_model_is_refused_where_all_outputs_are_zeros(tmp_path: Path, stop: int):
    def interrupt(done: int, _: int) -> None:
        if done == stop + 1:
            raise InterruptionError

    params = {**PARAMS, "w": 0 * PARAMS["w"]}
    if stop == 3:
        with pytest.raises(InterruptionError):
            ntk_to_file(two_layer, params, X, tmp_path, block=3, on_progress=interrupt)
    else:
        ntk_to_file(two_layer, params, X, tmp_path, block=3)
    kept = (tmp_path / JOURNAL_FILE).read_bytes()
    with pytest.raises(StoreMismatchError, match="another model"):
        ntk_to_file(lambda p, x: jnp.sin(2 * x @ p["v"].T) @ p["w"], params, X, tmp_path, block=3)
    assert (tmp_path / JOURNAL_FILE).read_bytes() == kept
    assert error(ntk_to_file(two_layer, params, X, tmp_path, block=3), trace(explicit_ntk(two_layer, params, X))) < 1e-5


@pytest.mark.parametrize("place", [(4, 1), (1, 4)], ids=["strip", "mirror"])
def test_a_damaged_strip_is_told_and_alone_computed_again(tmp_path: Path, place: tuple[int, int]):
    ntk_to_file(two_layer, PARAMS, X, tmp_path, block=3)
    damaged = np.load(tmp_path / KERNEL_FILE, mmap_mode="r+")
    damaged[place] += 1
    damaged.flush()
    seen: list[int] = []
    with pytest.warns(DamageWarning, match="rows 3 to 5 are not what was written; they are computed again"):
        kernel = ntk_to_file(two_layer, PARAMS, X, tmp_path, block=3, on_progress=lambda done, _: seen.append(done))
    assert seen == [2, 3]
    assert error(kernel, EXPECTED) < 1e-5
    assert error(ntk_to_file(two_layer, PARAMS, X, tmp_path, block=3), EXPECTED) < 1e-5


def test_the_first_example_without_derivatives_is_named_before_later_strips_are_computed(tmp_path: Path):
    def norm(params: Any, x: Any) -> Any:
        return jnp.linalg.norm(x @ params["v"].T, axis=1, keepdims=True)

    x, seen = X.copy(), []
    x[4] = 0
    with pytest.raises(BadArrayError, match="row 4 of the kernel holds NaN or infinity"):
        ntk_to_file(norm, {"v": PARAMS["v"]}, x, tmp_path, block=3, on_progress=lambda done, _: seen.append(done))
    assert seen == [1, 2, 3]
    assert list(json.loads((tmp_path / JOURNAL_FILE).read_text())["crc32"]) == ["0"]


@pytest.mark.parametrize("damage", ["text", "no kernel", "another shape", "done"])
def test_damage_is_told(tmp_path: Path, damage: str):
    ntk_to_file(two_layer, PARAMS, X, tmp_path, block=3)
    journal = tmp_path / JOURNAL_FILE
    if damage == "text":
        journal.write_text("{")
    elif damage == "no kernel":
        (tmp_path / KERNEL_FILE).unlink()
    elif damage == "another shape":
        np.save(tmp_path / KERNEL_FILE, np.zeros((3, 3), np.float32))
    else:
        journal.write_text(json.dumps({**json.loads(journal.read_text()), "crc32": {"9": 0}}))
    with pytest.raises(CorruptFileError, match=JOURNAL_FILE):
        ntk_to_file(two_layer, PARAMS, X, tmp_path, block=3)


def test_bad_input_is_refused(tmp_path: Path):
    with pytest.raises(BadArrayError, match="positive integer block"):
        ntk_to_file(two_layer, PARAMS, X, tmp_path, block=0)
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot be written"):
        ntk_to_file(two_layer, PARAMS, X, tmp_path / "file", block=3)


def test_random_keys_in_a_model_do_no_harm(tmp_path: Path):
    params = {**PARAMS, "key": jax.random.key(0)}
    assert error(ntk_to_file(two_layer, params, X, tmp_path, block=8), EXPECTED) < 1e-5


def test_a_second_process_in_the_folder_is_refused(tmp_path: Path):
    def second(*_: int) -> None:
        ntk_to_file(two_layer, PARAMS, X, tmp_path, block=3)

    with pytest.raises(StoreMismatchError, match="another writer is at work in this folder"):
        ntk_to_file(two_layer, PARAMS, X, tmp_path, block=3, on_progress=second)
    assert error(ntk_to_file(two_layer, PARAMS, X, tmp_path, block=3), EXPECTED) < 1e-5


def test_a_kernel_that_was_begun_goes_on_with_its_own_blocks(tmp_path: Path):
    def interrupt(done: int, _: int) -> None:
        if done == 3:
            raise InterruptionError

    with pytest.raises(InterruptionError):
        ntk_to_file(two_layer, PARAMS, X, tmp_path, block=2, on_progress=interrupt)
    seen: list[tuple[int, int]] = []
    ntk_to_file(two_layer, PARAMS, X, tmp_path, on_progress=lambda *tiles: seen.append(tiles))
    assert seen[0] == (2, 10)
    assert json.loads((tmp_path / JOURNAL_FILE).read_text())["block"] == 2


def test_tangents_of_columns_that_are_held_part_by_part_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("repsim_jax.kernels.costs.COLUMN_BYTES", 800)
    assert error(ntk_to_file(two_layer, PARAMS, X, tmp_path, block=5), EXPECTED) < 1e-5
