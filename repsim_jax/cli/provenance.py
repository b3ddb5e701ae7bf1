"""What one needs to trust a number: when, from which code and versions, and on what machine it was made."""

from typing import Any


def provenance() -> dict[str, Any]:
    """Date, command, commit where there is one, versions and machine, without a name or a path of the machine."""
    import os
    import platform
    import shlex
    import subprocess
    import sys
    from datetime import UTC, datetime
    from importlib import metadata
    from pathlib import Path

    import jax

    def git(*words: str) -> str:
        try:
            done = subprocess.run(
                ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
            )
        except OSError:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    packages = ("repsim_jax", "jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "command": shlex.join(["repsim", *(Path(one).name if one.startswith("/") else one for one in sys.argv[1:])]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no", "--", ":/repsim_jax")),
        "versions": {"python": platform.python_version(), **{one: metadata.version(one) for one in packages}},
        "machine": {
            "cores": os.cpu_count(),
            "load_average": round(os.getloadavg()[0], 2),
            "system": f"{platform.system()} {platform.machine()}",
            "devices": sorted({device.device_kind for device in jax.devices()}),
        },
    }
