"""A writer that is killed at any moment loses and repeats no example, and what it leaves is never read as whole."""

import random
from pathlib import Path

import pytest
from activations import interrupted, killing

from repsim_jax.errors import StoreMismatchError


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("uninterrupted") / "store"
    interrupted.write(folder)
    return killing.contents(folder)


def survive_random_kills(folder: Path, num_kills: int, seed: int, wanted: dict[str, bytes]) -> None:
    rng, kills, store = random.Random(seed), 0, 0
    while kills < num_kills:
        path = folder / str(store)
        for _ in range(rng.randint(1, 4)):
            if killing.finished(path):
                break
            kills += killing.kill_at_random(path, rng)
        killing.complete(path)
        assert killing.contents(path) == wanted
        store += 1


def test_a_writer_killed_at_random_times_goes_on_to_the_same_bytes(tmp_path, uninterrupted):
    survive_random_kills(tmp_path, 8, seed=0, wanted=uninterrupted)


@pytest.mark.slow
def test_sixty_kills_at_random_times_lose_and_repeat_nothing(tmp_path, uninterrupted):
    survive_random_kills(tmp_path, 60, seed=1, wanted=uninterrupted)


@pytest.mark.slow
def test_a_writer_killed_before_any_one_file_operation_goes_on_to_the_same_bytes(tmp_path, uninterrupted):
    # 30 of some 150 operations, of every kind, and each of the last ones, where the store changes from half-written to
    # finished; benchmarks/store_faults.py does them all
    for step in (*range(1, 130, 5), *range(130, 1000)):
        if not killing.kill_at_step(tmp_path / str(step), step):
            break
        killing.complete(tmp_path / str(step))
        assert killing.contents(tmp_path / str(step)) == uninterrupted, step
    assert step > 140


def test_a_store_that_is_being_written_is_never_read_as_whole(tmp_path):
    with killing.spawn(tmp_path / "s") as writer:
        refused = 0
        while writer.poll() is None:
            refused += not killing.finished(tmp_path / "s")
    assert refused > 3
    assert killing.finished(tmp_path / "s")


def test_a_second_process_cannot_write_until_the_first_has_died(tmp_path):
    with killing.spawn(tmp_path / "s") as first:
        assert first.stdout is not None
        first.stdout.readline()
        with pytest.raises(StoreMismatchError, match="another writer"):
            interrupted.write(tmp_path / "s")
        first.kill()
    killing.complete(tmp_path / "s")
    assert killing.finished(tmp_path / "s")
