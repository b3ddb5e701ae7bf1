"""What is on the disk is the whole old state or the whole new one, and belongs to the run that asks for it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repsim_jax.errors import CorruptFileError, FileError, StoreMismatchError
from repsim_jax.resumable import RUN_FILE, fingerprint, read_tree, resumable, write_tree

TREE = {"weights": np.arange(6.0).reshape(2, 3), "step": np.int64(4), "losses": np.ones(5, np.float32)}
FACTS: dict[str, Any] = {"name": "a", "steps": [1, 2], "loss": 2.0}


def test_a_tree_comes_back_as_it_was(tmp_path: Path):
    write_tree(tmp_path / "tree.npz", TREE)
    like = TREE | {"losses": np.zeros(0, np.float32)}
    found = read_tree(tmp_path / "tree.npz", like)
    assert found.keys() == TREE.keys()
    for name, array in TREE.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_the_same_tree_is_the_same_bytes(tmp_path: Path):
    for name in ("first", "second"):
        write_tree(tmp_path / name, TREE)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@pytest.mark.parametrize(
    "like",
    [
        TREE | {"step": np.int32(4)}, TREE | {"weights": np.zeros((3, 2))}, TREE | {"more": np.zeros(2)},
        {"weights": np.zeros((2, 3))}, TREE | {"losses": np.zeros((5, 1), np.float32)},
    ],
    ids=["type", "shape", "more", "fewer", "axes"],
)  # fmt: skip
def test_another_tree_is_refused(tmp_path: Path, like: dict[str, Any]):
    write_tree(tmp_path / "tree.npz", TREE)
    with pytest.raises(CorruptFileError, match="Remove the folder and run again"):
        read_tree(tmp_path / "tree.npz", like)


def test_damage_is_found_wherever_it_is(tmp_path: Path):
    path = tmp_path / "tree.npz"
    write_tree(path, {"x": np.random.default_rng(0).normal(size=200)})
    whole = path.read_bytes()
    for place in (3, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with pytest.raises(CorruptFileError):
            read_tree(path, {"x": np.zeros(200)})


def test_a_run_is_known_again_and_its_facts_are_compared(tmp_path: Path):
    folder = tmp_path / "new" / "run"
    with resumable(folder, FACTS) as known:
        assert not known
    with resumable(folder, FACTS | {"loss": 2.0 * (1 + 5e-4)}) as known:
        assert known
    for changed in ({"name": "b"}, {"steps": [1, 3]}, {"loss": 2.01}, {"more": 1}):
        with pytest.raises(StoreMismatchError, match=f"{next(iter(changed))} was"), resumable(folder, FACTS | changed):
            pytest.fail("another run was taken for this one")
    with pytest.raises(StoreMismatchError, match="name was 'a', is None"), resumable(folder, {"loss": 2.0}):
        pytest.fail("a run of fewer facts was taken for this one")


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_damaged_record_is_named(tmp_path: Path, content: bytes):
    (tmp_path / RUN_FILE).write_bytes(content)
    with pytest.raises(CorruptFileError, match=RUN_FILE), resumable(tmp_path, FACTS):
        pytest.fail("a damaged record was read")


def test_a_second_writer_is_refused(tmp_path: Path):
    script = (
        "import sys; from pathlib import Path; from repsim_jax.resumable import resumable\n"
        "with resumable(Path(sys.argv[1]), {}): pass"
    )
    root = str(Path(__file__).resolve().parents[1])
    with resumable(tmp_path, {}):
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=root, check=False
        )
    assert "another writer" in done.stderr
    with resumable(tmp_path, {}) as known:
        assert known
    assert json.loads((tmp_path / RUN_FILE).read_text()) == {}


def test_a_folder_that_is_a_file_is_an_error_of_this_package(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError), resumable(tmp_path / "file", FACTS):
        pytest.fail("a file was taken for a folder")


def test_fingerprints_tell_values_shapes_and_types_apart():
    arrays = [np.zeros(4, np.float32), np.zeros(4), np.zeros((2, 2)), np.array([0.0, 0, 0, 1]), np.zeros(5)]
    assert len({fingerprint([one]) for one in arrays}) == len(arrays)
    assert fingerprint(TREE) == fingerprint(dict(TREE))
