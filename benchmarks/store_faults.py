"""Are damaged files and stores ever read as data? Damages files, flips bits, fills disks and kills writers, and counts.

    python benchmarks/store_faults.py                 # all, about 15 minutes on two cores
    python benchmarks/store_faults.py --scale 0.01    # a quick look; writes nothing

Every count of crashes, of "silent" and of "unexpected" outcomes must be 0, except that .npy, .safetensors and .parquet
files without a checksum beside them have nothing by which a changed number could be noticed: these are counted too.
"""

import argparse
import collections
import contextlib
import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
from _record import record  # noqa: E402
from activations import damage, interrupted, killing  # noqa: E402

from repsim_jax.activations import Store, StoreWriter, open_store  # noqa: E402
from repsim_jax.errors import CorruptFileError, NoSpaceError, RepsimError  # noqa: E402

SEED = 20261122
PER_FORMAT, NUM_KILLS = 20_000, 60
SMALL = {"block/0": 5, "block/1": 2}
SMALL_IDS = [f"é{number}" for number in range(10)]


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="part of the full counts to run")
    parser.add_argument("--fuzz", nargs=4, metavar=("FORMAT", "COUNT", "SEED", "CHECKSUM"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fuzz:
        kind, count, seed, checksum = arguments.fuzz
        _fuzz_here(kind, int(count), int(seed), checksum == "True")
        return
    result = {
        "files": {kind: _fuzz_format(kind, arguments.scale) for kind in damage.FORMATS},
        "store_damage": _damage_store(arguments.scale),
        "journal_damage": _damage_journal(arguments.scale),
        "disk_full": _fill_disk(arguments.scale),
        "random_kills": _kill_at_random(max(1, int(NUM_KILLS * arguments.scale))),
        "kill_before_every_file_operation": _kill_everywhere(arguments.scale),
    }
    print(json.dumps(result, indent=2))
    if arguments.scale >= 1:
        packages = ("tensorstore", "ml_dtypes", "pyarrow", "safetensors")
        print(record("store_faults", result, seeds=[SEED, SEED + 1], packages=packages))


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    memory = Path("/dev/shm")  # small files, often rewritten: spares the disk
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        yield Path(path)


def _fuzz_here(kind: str, count: int, seed: int, checksum: bool) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    with _folder() as path:
        print(json.dumps(damage.fuzz(kind, count, seed, path, checksum=checksum)))


def _fuzz_format(kind: str, scale: float) -> dict[str, Any]:
    """Fuzzes in a process of its own, so that a crash of a parser is a number and not the end of this program."""
    found: dict[str, Any] = {"mutations": int(PER_FORMAT * scale), "valid_file_bytes": len(damage.valid_file(kind))}
    for name, checksum in (("without_checksum", False), ("with_checksum", True)):
        command = [
            sys.executable,
            __file__,
            "--fuzz",
            kind,
            str(found["mutations"]),
            str(SEED + checksum),
            str(checksum),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        outcomes = json.loads(done.stdout) if done.returncode == 0 else {}
        changed = outcomes.pop("changed", 0)
        unexpected = {name: count for name, count in outcomes.items() if name.startswith("unexpected")}
        crash = 0 if done.returncode == 0 else 1
        found[name] = {
            "crashes": crash,
            "unexpected_exceptions": unexpected,
            "silent_changes": changed,
            "outcomes": outcomes,
        }
    return found


def _small_rows(layer: str) -> np.ndarray:
    return np.arange(10 * SMALL[layer], dtype=np.float32).reshape(10, -1) / 7


def _append_small(writer: StoreWriter) -> None:
    done = writer.num_committed
    writer.append(SMALL_IDS[done:], {layer: _small_rows(layer)[done:] for layer in SMALL})


def _small_writer(path: Path) -> StoreWriter:
    return StoreWriter(path, chunk_rows=4, metadata={"model": "small"})


def _finish_small(path: Path) -> Store:
    with _small_writer(path) as writer:
        _append_small(writer)
        return writer.finish()


def _is_as_written(store: Store) -> bool:
    same = list(store.ids) == SMALL_IDS and store.layers == tuple(SMALL) and store.metadata == {"model": "small"}
    return same and all(np.array_equal(store.read(layer), _small_rows(layer)) for layer in SMALL)


def _outcome(action: Callable[[], bool | None], expected: type[Exception] = CorruptFileError) -> str:
    try:
        return "silent" if action() is False else "identical"
    except expected:
        return "refused"
    except Exception as error:
        return f"unexpected {type(error).__name__}"


def _damage_store(scale: float) -> dict[str, Any]:
    """Flips every bit of every file, cuts every file at every length, and removes every file of a small store."""
    rng = random.Random(SEED)
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    with _folder() as base:
        path = base / "store"
        _finish_small(path)
        files = sorted(one for one in path.rglob("*") if one.is_file())
        for file in files:
            original = file.read_bytes()
            flips = [("flips", _flipped(original, bit)) for bit in range(8 * len(original))]
            cuts = [("truncations", original[:length]) for length in range(len(original))]
            for kind, data in [*flips, *cuts]:
                if rng.random() <= scale:
                    file.write_bytes(data)
                    counts[f"{kind}_when_read"][_outcome(lambda: _is_as_written(open_store(path)))] += 1
                    # verify() must refuse even what reading does not depend on, so its "identical" is silent damage
                    verified = _outcome(lambda: open_store(path).verify())
                    counts[f"{kind}_when_verified"]["silent" if verified == "identical" else verified] += 1
            file.unlink()
            counts["removals_when_opened"][_outcome(lambda: _is_as_written(open_store(path)))] += 1
            file.write_bytes(original)
        assert _is_as_written(open_store(path))
        num_bytes = sum(file.stat().st_size for file in files)
    return {"files": len(files), "bytes": num_bytes, **counts}


def _flipped(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << (bit % 8)
    return bytes(damaged)


def _damage_journal(scale: float) -> dict[str, int]:
    """Flips a bit in each byte of a half-written store's journal and goes on: refused, or the right store at last."""
    counts: collections.Counter[str] = collections.Counter()
    rng = random.Random(SEED)
    with _folder() as base:
        with _small_writer(base / "half") as writer:
            _append_small(writer)
        original = (base / "half" / "journal.jsonl").read_bytes()
        for place in range(len(original)):
            if rng.random() <= scale:
                path = base / "store"
                shutil.copytree(base / "half", path)
                (path / "journal.jsonl").write_bytes(_flipped(original, 8 * place + rng.randrange(8)))
                counts[_outcome(lambda path=path: _is_as_written(_finish_small(path)))] += 1
                shutil.rmtree(path)
    return dict(counts)


def _fill_disk(scale: float) -> dict[str, int]:
    """Lets the disk be full at every single write, in each of the ways the system says so, then goes on."""
    counts: collections.Counter[str] = collections.Counter()
    write = os.write
    for reason in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        for number in range(1, 2 + int(1000 * scale)):
            left = [number]

            def full(descriptor: int, data: Any, reason: int = reason, left: list[int] = left) -> int:
                left[0] -= 1
                if left[0] > 0:
                    return write(descriptor, data)
                write(descriptor, data[: len(data) // 2])
                raise OSError(reason, os.strerror(reason))

            with _folder() as base:
                os.write = full
                try:
                    refused = _outcome(lambda base=base: _finish_small(base / "s") and None, NoSpaceError)
                finally:
                    os.write = write
                if left[0] > 0:
                    break
                readable = _outcome(lambda base=base: open_store(base / "s") and False, RepsimError)
                resumed = _outcome(lambda base=base: _is_as_written(_finish_small(base / "s")))
                counts["full_disks"] += 1
                counts["not_reported_as_no_space"] += refused != "refused"
                counts["read_as_whole"] += readable != "refused"
                counts["wrong_after_resume"] += resumed != "identical"
    return dict(counts)


def _kill_at_random(num_kills: int) -> dict[str, Any]:
    """Kills writers with SIGKILL at random times, up to four in a row, goes on, and compares all bytes of the store."""
    rng = random.Random(SEED)
    counts: collections.Counter[str] = collections.Counter()
    committed: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        interrupted.write(base / "whole")
        wanted = killing.contents(base / "whole")
        counts["bytes_of_the_store"] = sum(map(len, wanted.values()))
        while counts["kills"] < num_kills:
            path = base / str(counts["stores"])
            for _ in range(rng.randint(1, 4)):
                if killing.finished(path):
                    break
                counts["kills"] += killing.kill_at_random(path, rng)
                committed[_progress(path)] += 1
            killing.complete(path)
            counts["stores"] += 1
            counts["stores_that_differ_from_an_uninterrupted_run"] += killing.contents(path) != wanted
    return {**counts, "killed_after_committed_blocks": dict(sorted(committed.items()))}


def _progress(path: Path) -> str:
    journal = path / "journal.jsonl"
    if (path / "manifest.json").exists():
        return "manifest written"
    num_blocks = journal.read_bytes().count(b'"kind":"rows"') if journal.exists() else 0
    return f"{num_blocks:02d} blocks"


def _kill_everywhere(scale: float) -> dict[str, int]:
    """Kills a writer with SIGKILL before its first file operation, before its second, and so on to the last."""
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        interrupted.write(base / "whole")
        wanted, step = killing.contents(base / "whole"), 1
        while killing.kill_at_step(base / "store", step):
            killing.complete(base / "store")
            counts["kills"] += 1
            counts["stores_that_differ_from_an_uninterrupted_run"] += killing.contents(base / "store") != wanted
            shutil.rmtree(base / "store")
            step += max(1, round(1 / scale))
    return dict(counts)


if __name__ == "__main__":
    started = time.monotonic()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _main()
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
