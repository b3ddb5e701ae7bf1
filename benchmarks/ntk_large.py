"""The NTK of 10,000 images in bounded memory, killed half-way and resumed: python benchmarks/ntk_large.py [--data DIR].

The pseudo-NTK (``outputs="sum"``) of a convolutional network of a million parameters on CIFAR-10: the first 4,000
images lossless, the others from JPEG files (quality 75). A process computes it by ``kernels.ntk_to_file``, is killed
(SIGKILL) half-way, and another goes on. Entries drawn at random are compared with products of explicit Jacobians.
Needs DIR/cifar10_train_first4000_lossless.npz and DIR/cifar10_jpeg.parquet; random images stand in without --data.
"""

import argparse
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from _record import record
from flax import nnx

from repsim_jax.encoders.convnet import ConvNet, ConvNetConfig
from repsim_jax.kernels import ntk_cost, ntk_to_file

SEED = 0
WIDTHS, STRIDES = (64, 128, 256, 256), (1, 2, 2, 2)
ENTRIES = 50
SIDE = 32


def network() -> ConvNet:
    """The network, as it is initialized.

    Returns:
        A convnet of 977,994 parameters.
    """
    return ConvNet(ConvNetConfig(widths=WIDTHS, strides=STRIDES, hidden=64, channels=3), rngs=nnx.Rngs(SEED))


def images(data: Path | None, count: int) -> np.ndarray:
    """CIFAR-10, or random numbers of its shape.

    Args:
        data: Folder of the two files, or None.
        count: How many images.

    Returns:
        (count, 32, 32, 3) float32 in [-1, 1].
    """
    if data is None:
        return np.random.default_rng(SEED).uniform(-1, 1, (count, SIDE, SIDE, 3)).astype(np.float32)
    import pyarrow.parquet as parquet
    from PIL import Image

    def decoded(png: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(png)))

    with np.load(data / "cifar10_train_first4000_lossless.npz") as held:
        exact = decoded(held["png"].tobytes()).reshape(-1, SIDE, SIDE, 3)[:count]
    column = parquet.read_table(data / "cifar10_jpeg.parquet", columns=["jpeg"]).column("jpeg")
    others = [decoded(one.as_py()) for one in column.slice(0, max(0, count - len(exact)))]
    pixels = np.concatenate([exact, *([np.stack(others)] if others else [])])
    return pixels.astype(np.float32) / 127.5 - 1


def work(options: argparse.Namespace) -> None:
    """Computes, or goes on with, the kernel; what the other process must know is printed as lines of JSON.

    Args:
        options: From the command line.
    """
    x = images(options.data, options.examples)
    begun = time.perf_counter(), time.process_time()

    def told(done: int, total: int) -> None:
        seconds = time.perf_counter() - begun[0], time.process_time() - begun[1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        line = {
            "done": done,
            "total": total,
            "seconds": seconds[0],
            "processor_seconds": seconds[1],
            "peak_bytes": peak,
        }
        print(json.dumps(line), flush=True)

    settings = {"outputs": "sum", "memory": int(options.memory * 2**30)}
    ntk_to_file(network(), None, x, options.worker, **settings, on_progress=told)


def watched(options: argparse.Namespace, folder: str, *, until: float) -> dict[str, Any]:
    """Runs one process of ``work``.

    Args:
        options: From the command line.
        folder: Of the kernel.
        until: Part of all tiles after which it is killed; above 1 it runs to its end.

    Returns:
        Its last line, and the number of the first tile.
    """
    arguments = [sys.executable, __file__, "--worker", folder, "--examples", str(options.examples)]
    arguments += ["--memory", str(options.memory), *(["--data", str(options.data)] if options.data else [])]
    last: dict[str, Any] = {}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            last = {"first": last.get("first", told["done"]), **told}
            print(line, end="", file=sys.stderr, flush=True)
            if told["done"] >= until * told["total"]:
                process.send_signal(signal.SIGKILL)
                break
    if process.returncode not in (0, -signal.SIGKILL):
        sys.exit(f"the process that computes ended with status {process.returncode}.")
    return {**last, "killed": process.returncode != 0}


def product_rate() -> float:
    """What this core does in plain matrix products.

    Returns:
        FLOP per processor second, the best of five.
    """
    a, size = jnp.ones((4096, 4096)), 4096
    product = jax.jit(lambda a: a @ a.T)
    jax.block_until_ready(product(a))

    def once() -> float:
        start = time.process_time()
        jax.block_until_ready(product(a))
        return 2 * size**3 / (time.process_time() - start)

    return max(once() for _ in range(5))


def largest_error(kernel: np.ndarray, x: np.ndarray) -> float:
    """Compares entries drawn at random with explicit Jacobians, multiplied in float64.

    Args:
        kernel: From the file.
        x: The images.

    Returns:
        Largest difference, relative to the geometric mean of the two diagonal entries.
    """
    graphdef, params, rest = nnx.split(network(), nnx.Param, ...)

    def output(params: Any, image: jax.Array) -> jax.Array:
        outputs = nnx.merge(graphdef, params, rest)(image[None])[0]
        return outputs.sum() / jnp.sqrt(outputs.size)

    gradient = jax.jit(jax.grad(output))

    def row(i: int) -> np.ndarray:
        leaves = jax.tree.leaves(gradient(params, x[i]))
        return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves])

    errors = []
    for i, j in np.random.default_rng(SEED).integers(0, len(x), (ENTRIES, 2)):
        left, right = row(i), row(j)
        errors.append(abs(kernel[i, j] - left @ right) / np.sqrt((left @ left) * (right @ right)))
    return float(max(errors))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Computes the kernel with one interruption, and checks it.

    Args:
        options: From the command line.

    Returns:
        Figures with their units in the keys.
    """
    x = images(options.data, options.examples)
    cost = ntk_cost(network(), None, x, outputs="sum", memory=int(options.memory * 2**30))
    rates = [product_rate()]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        first = watched(options, folder, until=0.5)
        second = watched(options, folder, until=2.0)
        kernel = np.load(Path(folder) / "kernel.npy", mmap_mode="r")
        error = largest_error(kernel, x)
        sample = np.asarray(kernel[:1000, :1000], np.float64)
    rates.append(product_rate())
    # What the killed process had done beyond its last whole strip was done twice.
    processor = first["processor_seconds"] + second["processor_seconds"]
    tiles = first["done"] + second["done"] - second["first"] + 1
    flop = cost.flop * tiles / second["total"]
    return {
        "examples": len(x),
        "parameters": cost.num_parameters,
        "data": "CIFAR-10, 4,000 lossless images, then JPEG" if options.data else "random images",
        "rows_per_strip": cost.block,
        "flop_of_one_uninterrupted_run": cost.flop,
        "flop_done": flop,
        "seconds": round(first["seconds"] + second["seconds"], 1),
        "processor_seconds": round(processor, 1),
        "flop_per_processor_second": round(flop / processor),
        "flop_per_second_of_matrix_products": [round(rate) for rate in rates],
        "fraction_of_matrix_product_rate": round(flop / processor / max(rates), 3),
        "memory_asked_for_bytes": int(options.memory * 2**30),
        "memory_predicted_bytes": cost.memory,
        "peak_bytes": max(first["peak_bytes"], second["peak_bytes"]),
        "file_bytes": cost.file,
        "killed_at_tile": first["done"],
        "resumed_at_tile": second["first"],
        "resumed": first["killed"] and 1 < second["first"] <= first["done"] + 1,
        "tiles": second["total"],
        "entries_checked": ENTRIES,
        "largest_error_of_an_entry": error,
        "smallest_eigenvalue_of_the_first_1000": float(np.linalg.eigvalsh(sample)[0]),
    }


def main() -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=10_000, help="Other numbers are not recorded.")
    parser.add_argument("--data", type=Path, help="Folder of the CIFAR-10 files; nothing is recorded without it.")
    parser.add_argument("--memory", type=float, default=5.0, help="GiB of tangents, beside the model and JAX.")
    parser.add_argument("--folder", type=Path, help="Where the kernel lies meanwhile; the system's own by default.")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return
    result = measure(options)
    print(json.dumps(result, indent=1))
    if not result["largest_error_of_an_entry"] < 1e-5:
        sys.exit("entries differ from explicit Jacobians")
    if options.examples == 10_000 and options.data:
        print(record("ntk_large", result, seeds=[SEED]).name)


if __name__ == "__main__":
    main()
