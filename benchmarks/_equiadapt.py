"""Speaks with the process that runs equiadapt, and has its network in JAX.

Part of canonicalization_parity.py and speed_canonicalization.py.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_RIVAL = Path(__file__).with_name("_equiadapt_rival.py")


class Rival:
    """A process of the rivals' environment that answers requests.

    Args:
        process: The process, which says first which versions it runs.
        folder: Where arrays are exchanged.
    """

    def __init__(self, process: "subprocess.Popen[str]", folder: Path):
        self.process, self.folder = process, folder
        self.versions = self._answer()

    @classmethod
    @contextmanager
    def started(cls, environment: str | Path, folder: Path) -> Iterator["Rival"]:
        """Starts the process, and ends it.

        Args:
            environment: A virtual environment that has equiadapt.
            folder: Where arrays are exchanged.

        Yields:
            The process.
        """
        threads = str(len(os.sched_getaffinity(0)))
        arguments = [str(Path(environment) / "bin" / "python"), str(_RIVAL), str(folder), threads]
        with subprocess.Popen(arguments, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            yield cls(process, folder)
            assert process.stdin is not None
            process.stdin.close()

    def scores(self, images: np.ndarray, case: dict[str, Any]) -> dict[str, np.ndarray]:
        """Has it canonicalize images.

        Args:
            images: (b, h, w, c).
            case: What ``_equiadapt_rival.canonicalizer`` takes.

        Returns:
            Its weights, views, orbit, activations, canonical images, and these turned back.
        """
        np.save(self.folder / "images.npy", images)
        self._ask({"do": "scores", **case})
        with np.load(self.folder / "found.npz") as held:
            return {name: held[name] for name in held.files}

    def spent(self, case: dict[str, Any], calls: int) -> tuple[float, float]:
        """Times calls.

        Args:
            case: What ``_equiadapt_rival.prepared`` takes.
            calls: How many.

        Returns:
            Processor seconds and seconds of one.
        """
        found = self._ask({"do": "time", "case": case, "calls": calls})
        return found["processor"], found["clock"]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


def drawn_like(seed: int, view: int, num_layers: int) -> dict[str, jax.Array]:
    """Random weights for its ``ConvNetwork`` with 7 x 7 kernels, 16 channels first, and 128 outputs.

    Args:
        seed: Draws them.
        view: Pixels of a view.
        num_layers: Convolutions.

    Returns:
        By torch's names.
    """
    rng, params, inputs, side = np.random.default_rng(seed), {}, 3, view
    for i in range(num_layers):
        outputs, pad = 32 if i == 2 else 16, i % 3 // 2
        params[f"enc_network.{3 * i}.weight"] = rng.normal(0, (49 * inputs) ** -0.5, (outputs, inputs, 7, 7))
        params[f"enc_network.{3 * i}.bias"] = np.zeros(outputs)
        params |= _fresh(f"enc_network.{3 * i + 1}", outputs)
        inputs, side = outputs, (side + 2 * pad - 7) // 2 + 1
    width = inputs * side**2
    params |= _fresh("final_fc.0", width)
    params["final_fc.3.weight"] = rng.normal(0, width**-0.5, (128, width))
    params["final_fc.3.bias"] = np.zeros(128)
    return {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}


def _fresh(name: str, width: int) -> dict[str, np.ndarray]:
    zeros, ones = np.zeros(width), np.ones(width)
    return {f"{name}.{part}": value for part, value in
            {"weight": ones, "bias": zeros, "running_mean": zeros, "running_var": ones}.items()}  # fmt: skip


def convnetwork(params: dict[str, jax.Array], rest: Any, views: jax.Array, *, learns: bool = False) -> jax.Array:
    """Its ``ConvNetwork`` without dropout, in JAX.

    Args:
        params: By torch's names.
        rest: Nothing.
        views: (b, h, w, c).
        learns: Whether batch norms use the statistics of the batch, as in training, and not those that are stored.

    Returns:
        (b, q).
    """
    del rest
    x, dimensions = views, ("NHWC", "HWIO", "NHWC")
    for i in range(sum(name.startswith("enc_network") and params[name].ndim == 4 for name in params)):
        # each third convolution, which doubles the channels, has a pixel of padding
        pad, name = ((i % 3 // 2,) * 2,) * 2, f"enc_network.{3 * i}"
        kernel = params[f"{name}.weight"].transpose(2, 3, 1, 0)
        x = jax.lax.conv_general_dilated(x, kernel, (2, 2), pad, dimension_numbers=dimensions) + params[f"{name}.bias"]
        x = jax.nn.gelu(_normed(params, f"enc_network.{3 * i + 1}", x, learns), approximate=False)
    x = jax.nn.relu(_normed(params, "final_fc.0", x.transpose(0, 3, 1, 2).reshape(len(x), -1), learns))
    return x @ params["final_fc.3.weight"].T + params["final_fc.3.bias"]


def _normed(params: dict[str, jax.Array], name: str, x: jax.Array, learns: bool) -> jax.Array:
    mean, variance = params[f"{name}.running_mean"], params[f"{name}.running_var"]
    if learns:
        axes = tuple(range(x.ndim - 1))
        mean, variance = x.mean(axes), x.var(axes)
    scale = params[f"{name}.weight"] / jnp.sqrt(variance + 1e-5)
    return x * scale + (params[f"{name}.bias"] - mean * scale)
