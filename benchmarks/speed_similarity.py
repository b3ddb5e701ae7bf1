"""Speed of CKA of all layer pairs against pytorch-cka: python benchmarks/speed_similarity.py --rivals ../repsim-rivals.

Both sides hold the same arrays (12 x 12 layers, n = 2048, d = 256). Runs alternate, ours and theirs, in two processes
that are otherwise idle; each times itself. The ratio is theirs / ours, pair by pair: above 1 means that we are faster.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from _record import record

from repsim_jax import similarity
from repsim_jax.similarity import cka

LAYERS, N, D, SEED = 12, 2048, 256, 0
HERE = Path(__file__).resolve().parent


def representations() -> tuple[np.ndarray, np.ndarray]:
    """Two stacks of layers (L, n, d) that share a latent space, so that no score is clipped at zero.

    Returns:
        Both stacks in float32.
    """
    generator = np.random.default_rng(SEED)
    latent = generator.standard_normal((N, 64)).astype(np.float32)

    def stack() -> np.ndarray:
        maps = generator.standard_normal((LAYERS, 64, D)).astype(np.float32)
        noise = generator.standard_normal((LAYERS, N, D)).astype(np.float32)
        return latent @ maps + 8 * noise

    return stack(), stack()


def timed(call: Callable[[], object]) -> tuple[float, object]:
    """Seconds of one finished call, and its result.

    Args:
        call: What to time.

    Returns:
        Seconds and result.
    """
    start = time.perf_counter()
    result = jax.block_until_ready(call())
    return time.perf_counter() - start, result


def compare(rival: subprocess.Popen[str], name: str, call: Callable[[], object], runs: int) -> dict[str, object]:
    """Alternates one of our calls with its rival.

    Args:
        rival: The process of the rival.
        name: The rival's call.
        call: Ours.
        runs: Counted pairs of runs, after three that are not.

    Returns:
        Medians, the ratio's median and range, and the largest difference between the scores.
    """
    ours, theirs, difference = [], [], 0.0
    for run in range(runs + 3):
        seconds, scores = timed(call)
        rival.stdin.write(name + "\n")
        rival.stdin.flush()
        answer = json.loads(rival.stdout.readline())
        difference = max(difference, float(np.abs(np.asarray(scores) - np.asarray(answer["scores"])).max()))
        if run >= 3:
            ours.append(seconds)
            theirs.append(answer["seconds"])
    ratio = np.asarray(theirs) / np.asarray(ours)
    return {
        "ours_seconds_median": round(float(np.median(ours)), 4),
        "rival_seconds_median": round(float(np.median(theirs)), 4),
        "ratio_median": round(float(np.median(ratio)), 2),
        "ratio_quartiles": [round(float(q), 2) for q in np.quantile(ratio, (0.25, 0.75))],
        "ratio_range": [round(float(ratio.min()), 2), round(float(ratio.max()), 2)],
        "largest_difference": difference,
        "runs": runs,
    }


def main() -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rivals", default=os.environ.get("RIVALS", "../repsim-rivals"), help="Made by `make rivals`.")
    parser.add_argument("--runs", type=int, default=21)
    options = parser.parse_args()
    python = Path(options.rivals) / "bin" / "python"
    if not python.exists():
        sys.exit(f"{python} is missing: run `make rivals` first, or name the environment with --rivals.")
    a, b = representations()
    xs, ys = (tuple(jax.numpy.asarray(layer) for layer in side) for side in (a, b))
    ours = {
        "exact": lambda: cka.linear_cka_pairs(xs, ys, unbiased=True),
        "minibatch": lambda: cka.minibatch_cka_pairs(xs, ys, batch_size=256),
    }
    whole = {f"a{i}": layer for i, layer in enumerate(xs)}, {f"b{i}": layer for i, layer in enumerate(ys)}
    checked = {
        "exact": lambda: similarity.compare(*whole, measures=["linear_cka_unbiased"]).values[0],
        "minibatch": lambda: similarity.compare(*whole, measures=["minibatch_cka"]).values[0],
    }
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("a.npy", "b.npy")]
        for file, stack in zip(files, (a, b), strict=True):
            np.save(file, stack)
        command = [str(python), str(HERE / "_cka_rival.py"), *map(str, files), str(len(os.sched_getaffinity(0)))]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as rival:
            result = {name: compare(rival, name, call, options.runs) for name, call in ours.items()}
            result |= {
                f"{name}_with_input_checks": compare(rival, name, call, options.runs) for name, call in checked.items()
            }
            rival.stdin.close()
    settings = {"layers": LAYERS, "examples": N, "features": D, "rival": "pytorch-cka: cka_from_features, compute_cka"}
    path = record(
        "speed_similarity",
        {"settings": settings, **result},
        seeds=[SEED],
        rivals={"pytorch-cka": "1.1.3", "torch": "2.13.0"},
    )
    print(json.dumps(result, indent=2))
    print(path.name)


if __name__ == "__main__":
    main()
