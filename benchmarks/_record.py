"""Writes a benchmark's numbers with what one needs to trust them: commit, versions, machine, date and seeds."""

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
_MADE = (":!benchmarks/results", ":!docs/pictures")
ALWAYS = ("repsim_jax", "jax", "jaxlib", "flax", "numpy")


def record(
    name: str,
    result: Mapping[str, Any],
    *,
    seeds: Sequence[int],
    packages: Sequence[str] = (),
    rivals: Mapping[str, str] | None = None,
) -> Path:
    """Writes ``benchmarks/results/NAME.json``.

    Args:
        name: What was measured, a file name without its ending.
        result: The numbers with their units in the keys, and the settings; must serialize to JSON.
        seeds: Every seed that the numbers depend on.
        packages: Distributions of this environment that took part, besides JAX, flax and NumPy.
        rivals: Versions of distributions that ran in another environment.

    Returns:
        The file that was written.

    Raises:
        ValueError: If ``result`` holds NaN or an infinity, which JSON cannot say.
    """
    versions = {package: metadata.version(package) for package in (*ALWAYS, *packages)}
    document = {
        "benchmark": name,
        "command": " ".join(
            [
                "python",
                *(Path(part).name if Path(part).is_absolute() or i == 0 else part for i, part in enumerate(sys.argv)),
            ]
        ),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        # Results and pictures of an earlier run are no change of the code that is measured.
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no", "--", ".", *_MADE)),
        "versions": {"python": platform.python_version(), **versions, **(rivals or {})},
        "machine": machine(),
        "seeds": list(seeds),
        "result": dict(result),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def machine() -> dict[str, Any]:
    """What the numbers were measured on, without a name or a path of the machine.

    Returns:
        Processor, usable cores, memory in GiB, the load average of the last minute, system, and JAX's devices.
    """
    import jax

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory, 1),
        # Numbers taken on a busy machine are upper bounds.
        "load_average": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "devices": sorted({device.device_kind for device in jax.devices()}),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
