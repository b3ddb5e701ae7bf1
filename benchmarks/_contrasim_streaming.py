"""Fits ContraSim from stores larger than the memory that it may use: python _contrasim_streaming.py MODE FOLDER.

A process of its own for each fit, so that its peak memory is the fit's; prints one line of JSON.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from repsim_jax.activations import StoreWriter, open_store
from repsim_jax.similarity import contrasim

SEED = 0
STORE = {"stores": 2, "layers": 8, "examples": 20_000, "features": 128, "memory_limit": 16 * 2**20, "steps": 200}


def write_stores(folder: Path) -> None:
    """Two stores whose layers of one name are alike.

    Args:
        folder: Where to.
    """
    generator = np.random.default_rng(SEED)
    n, layers, d = STORE["examples"], STORE["layers"], STORE["features"]
    # Layers differ little, or an untrained measure tells them apart already.
    maps = generator.standard_normal((16, d), np.float32) + 0.2 * generator.standard_normal((layers, 16, d), np.float32)
    latent = generator.standard_normal((n, 16), np.float32)
    for s in range(STORE["stores"]):
        with StoreWriter(folder / f"store_{s}", chunk_rows=1024) as writer:
            for start in range(0, n, 4096):
                rows = latent[start : start + 4096]
                arrays = {
                    f"block_{i}": rows @ maps[i] + 2 * generator.standard_normal((len(rows), d), np.float32)
                    for i in range(layers)
                }
                writer.append([str(row) for row in range(start, start + len(rows))], arrays)
            writer.finish()


def fit_stores(folder: Path, mode: str) -> None:
    """Fits from the stores, and prints steps per second, losses and peak memory.

    Args:
        folder: With the stores.
        mode: ``streamed``, ``memory``, or ``baseline``: a few rows in memory, for what a process takes by itself.
    """
    stores = {f"store_{s}": open_store(folder / f"store_{s}") for s in range(STORE["stores"])}
    sources: dict[str, object] = dict(stores)
    if mode == "baseline":
        rows = np.arange(1024)
        sources = {name: {layer: store.read(layer, rows) for layer in store.layers} for name, store in stores.items()}
    moments: list[float] = []
    training = contrasim.Training(temperature=0.07, num_steps=STORE["steps"], batch_size=256)
    fitted = contrasim.fit(
        jax.random.key(SEED), sources, options=contrasim.FAITHFUL, training=training, test_share=0.0, sensitivity=False,
        memory_limit=STORE["memory_limit"] if mode == "streamed" else 2**33,
        on_progress=lambda _, __: moments.append(time.perf_counter()),
    )  # fmt: skip
    losses = np.asarray(fitted.losses)
    # Not getrusage: its maximum remembers the process that started this one.
    (peak,) = [int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    steps = STORE["steps"] - STORE["steps"] // len(moments)
    print(
        json.dumps(
            {
                "steps_per_second": round(steps / (moments[-1] - moments[0]), 1),
                "peak_mib": round(peak / 2**10),
                "loss_first_20": round(float(losses[:20].mean()), 4),
                "loss_last_20": round(float(losses[-20:].mean()), 4),
            }
        )
    )


if __name__ == "__main__":
    fit_stores(Path(sys.argv[2]), sys.argv[1])
