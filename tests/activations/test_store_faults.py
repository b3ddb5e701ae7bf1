"""Fill the disk, flip bits, cut files, start two writers: never a lost, repeated or changed example."""

import contextlib
import errno
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from activations import interrupted, killing

from repsim_jax.activations import StoreWriter, open_store
from repsim_jax.errors import CorruptFileError, IncompleteStoreError, NoSpaceError, RepsimError, StoreMismatchError


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("uninterrupted") / "store"
    interrupted.write(folder)
    return killing.contents(folder)


def test_the_uninterrupted_store_holds_what_was_written(tmp_path):
    assert not killing.finished(tmp_path / "s")
    interrupted.write(tmp_path / "s")
    assert killing.finished(tmp_path / "s")


def test_a_second_writer_is_told_to_wait(tmp_path):
    with StoreWriter(tmp_path / "s", chunk_rows=1) as first:
        first.append(["a"], {"l": np.ones((1, 2))})
        with pytest.raises(StoreMismatchError, match="another writer is at work"):
            StoreWriter(tmp_path / "s", chunk_rows=1)
        assert len(first.finish()) == 1


@contextlib.contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("num_bytes", [0, 100, 160, 250, 290, 600, 1500, 4000])
def test_where_no_file_may_grow_further_the_committed_part_is_kept(tmp_path, num_bytes, uninterrupted):
    with largest_file(num_bytes), pytest.raises(NoSpaceError, match="no space left"):
        interrupted.write(tmp_path / "s")
    if num_bytes == 0:
        assert not (tmp_path / "s").exists()
    killing.complete(tmp_path / "s")
    assert killing.contents(tmp_path / "s") == uninterrupted


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("last_write", [1, 2, 3, 5, 8, 30, 36, 38, 39, 40])
def test_a_disk_that_fills_up_at_any_write_leaves_a_store_that_can_be_resumed(
    tmp_path, monkeypatch, last_write, reason, uninterrupted
):
    write, left = os.write, [last_write]

    def full(descriptor: int, data: memoryview) -> int:
        left[0] -= 1
        if left[0] > 0:
            return write(descriptor, data)
        write(descriptor, data[: len(data) // 2])  # a full disk takes a part first
        raise OSError(reason, os.strerror(reason))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(NoSpaceError, match="Free some space"):
            interrupted.write(tmp_path / "s")
        with pytest.raises(RepsimError):
            open_store(tmp_path / "s")
    killing.complete(tmp_path / "s")
    assert killing.contents(tmp_path / "s") == uninterrupted


def test_a_full_file_system_is_reported_and_resumed(tmp_path):
    mounted = tmp_path / "small"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mounted)]
    if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs privileges; the tests above use file size limits instead")
    try:
        rng = np.random.default_rng(0)
        with StoreWriter(mounted / "s", chunk_rows=4) as writer, pytest.raises(NoSpaceError):
            writer.append([str(number) for number in range(1000)], {"l": rng.normal(size=(1000, 200))})
        with StoreWriter(mounted / "s", chunk_rows=4) as writer:
            assert writer.num_committed > 4
            assert writer.committed_ids == tuple(map(str, range(writer.num_committed)))
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_a_writer_stops_after_an_error_and_says_so(tmp_path, monkeypatch):
    with StoreWriter(tmp_path / "s", chunk_rows=1) as writer:
        with largest_file(100), pytest.raises(NoSpaceError):
            writer.append(["a"], {"l": np.ones((1, 200))})
        with pytest.raises(RepsimError, match="stopped by an earlier error"):
            writer.append(["a"], {"l": np.ones((1, 200))})


def test_a_flipped_bit_anywhere_in_a_store_is_never_read_silently(tmp_path):
    interrupted.write(tmp_path / "s")
    rng = random.Random(0)
    for path in sorted(one for one in (tmp_path / "s").rglob("*") if one.is_file()):
        original = path.read_bytes()
        for place in rng.sample(range(len(original)), 8):
            damaged = bytearray(original)
            damaged[place] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            with pytest.raises(CorruptFileError):
                open_store(tmp_path / "s").verify()
            with contextlib.suppress(CorruptFileError):
                assert_same_as_written(tmp_path / "s")
        path.write_bytes(original)
    assert killing.finished(tmp_path / "s")


def assert_same_as_written(folder: Path) -> None:
    store = open_store(folder)
    assert list(store.ids) == interrupted.IDS
    assert store.metadata == interrupted.METADATA
    for layer in interrupted.WIDTHS:
        np.testing.assert_array_equal(store.read(layer), interrupted.rows(layer))


def test_a_cut_lengthened_or_missing_file_is_found_when_the_store_is_opened(tmp_path):
    interrupted.write(tmp_path / "s")
    for path in sorted(one for one in (tmp_path / "s").rglob("*") if one.is_file()):
        original = path.read_bytes()
        for damaged in (
            b"",
            original[:1],
            original[: len(original) // 2],
            original[:-1],
            original + b"\0",
            original * 2,
        ):
            path.write_bytes(damaged)
            with pytest.raises(CorruptFileError) as caught:
                open_store(tmp_path / "s")
            assert str(path) in str(caught.value)
        path.unlink()
        with pytest.raises(CorruptFileError, match=r"missing|not a store"):
            open_store(tmp_path / "s")
        path.write_bytes(original)
    assert killing.finished(tmp_path / "s")


def test_chunks_put_in_each_others_place_are_found(tmp_path):
    with StoreWriter(tmp_path / "s", chunk_rows=2) as writer:
        writer.append(list("abcd"), {"l": np.array([[1.0], [2.0], [3.0], [4.0]])})
        store = writer.finish()
    first, second = (tmp_path / "s" / "0000_l" / name for name in ("c.0.0", "c.1.0"))
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    with pytest.raises(CorruptFileError, match="sha256 differs"):
        store.read("l", slice(0, 1))


def half_written(folder: Path) -> Path:
    with StoreWriter(folder, chunk_rows=interrupted.CHUNK_ROWS, metadata=interrupted.METADATA) as writer:
        writer.append(interrupted.IDS[:44], {layer: interrupted.rows(layer)[:44] for layer in interrupted.WIDTHS})
    return folder / "journal.jsonl"


def test_a_damaged_journal_is_refused_or_its_last_block_is_written_again(tmp_path, uninterrupted):
    journal = half_written(tmp_path / "half")
    original, rng, outcomes = journal.read_bytes(), random.Random(0), set()
    for trial in range(16):
        folder = tmp_path / str(trial)
        shutil.copytree(tmp_path / "half", folder)
        damaged = bytearray(original)
        damaged[rng.randrange(len(original))] ^= 1 << rng.randrange(8)
        (folder / "journal.jsonl").write_bytes(damaged if trial % 2 else original[: rng.randrange(len(original))])
        try:
            interrupted.write(folder)
        except CorruptFileError:
            outcomes.add("refused")
        else:
            outcomes.add("resumed")
            assert killing.contents(folder) == uninterrupted
    assert outcomes == {"refused", "resumed"}


def test_a_committed_chunk_that_is_gone_is_found_before_any_row_is_added(tmp_path):
    half_written(tmp_path / "half")
    (tmp_path / "half" / "0001_block%2F1" / "c.3.0").unlink()
    with pytest.raises(CorruptFileError, match=r"c\.3\.0.*missing"):
        interrupted.write(tmp_path / "half")


def test_a_writer_that_died_between_manifest_and_journal_left_a_finished_store(tmp_path):
    journal = half_written(tmp_path / "s")
    line = journal.read_bytes()
    interrupted.write(tmp_path / "s")
    journal.write_bytes(line)
    assert killing.finished(tmp_path / "s")
    with pytest.raises(StoreMismatchError, match="is finished"):
        interrupted.write(tmp_path / "s")
    assert not journal.exists()


def test_rewriting_the_manifest_by_hand_is_noticed(tmp_path):
    interrupted.write(tmp_path / "s")
    manifest = tmp_path / "s" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("photo 3 ", "photo X "))
    with pytest.raises(CorruptFileError, match="checksum does not fit"):
        open_store(tmp_path / "s")


def test_leaving_after_an_exception_keeps_what_was_committed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_and_interrupt(tmp_path / "s")
    with pytest.raises(IncompleteStoreError):
        open_store(tmp_path / "s")
    with StoreWriter(tmp_path / "s", chunk_rows=2) as writer:
        assert writer.committed_ids == ("a", "b")


def write_and_interrupt(folder: Path) -> None:
    with StoreWriter(folder, chunk_rows=2) as writer:
        writer.append(["a", "b", "c"], {"l": np.ones((3, 2))})
        raise KeyboardInterrupt


def test_an_error_after_the_manifest_was_written_leaves_a_finished_store(tmp_path, monkeypatch):
    def interrupt(path: Path, **_: object) -> None:
        if path.name == "journal.jsonl":
            raise KeyboardInterrupt
        os.unlink(path)

    with StoreWriter(tmp_path / "s") as writer:
        writer.append(["a"], {"l": np.ones((1, 2))})
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", interrupt)
            with pytest.raises(KeyboardInterrupt):
                writer.finish()
    store = open_store(tmp_path / "s")
    store.verify()
    assert (store.read("l") == 1).all()


def test_a_writer_that_cannot_begin_lets_the_next_one_in(tmp_path):
    half_written(tmp_path / "s")
    shutil.rmtree(tmp_path / "s" / "0001_block%2F1")
    for _ in range(2):
        with pytest.raises(CorruptFileError, match="is missing"):
            interrupted.write(tmp_path / "s")
