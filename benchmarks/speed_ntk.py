"""Speed of the empirical NTK: python benchmarks/speed_ntk.py [--small] [--only NAME ...] [--rounds 7].

Ours (``kernels.ntk``, checks at the door included) against the bare matrix products that any layer-wise kernel needs
(``limit``), the contraction of explicit Jacobians (``jacobian``), and, where it can be loaded, neural-tangents in its
implementations. All hold the same arrays in one process and run in turns; ratios are theirs / ours, round by round:
above 1 means that we are faster. Compilation is left out of the ratios; the first call stands beside them. Rivals whose
Jacobian would not fit, by its size alone, are left out. On a busy machine, run it on one core (``taskset -c 0``) and
read the processor seconds.
"""

import argparse
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from _record import record

from repsim_jax.kernels.empirical import ntk

SEED = 0
# Bytes of an explicit Jacobian, or of what a rival makes of it, beyond which it is not run.
FITS = 6 * 2**30
Apply = Callable[[Any, jax.Array], jax.Array]


class Case(NamedTuple):
    """One kernel to compute.

    Attributes:
        name: Of the row.
        apply: The model.
        params: Its parameters.
        x: Its inputs (n, ...).
        limit: The products of a layer-wise kernel by hand, nothing else; None where no plain form exists.
    """

    name: str
    apply: Apply
    params: Any
    x: jax.Array
    limit: Callable[[], Any] | None

    def jacobian_bytes(self) -> int:
        """Size of the explicit Jacobian.

        Returns:
            Bytes.
        """
        outputs = jax.eval_shape(self.apply, self.params, self.x).size
        return 4 * outputs * sum(w.size for w in jax.tree.leaves(self.params))


def normal(seed: int, *shape: int) -> jax.Array:
    """Standard normal numbers.

    Args:
        seed: Added to the seed of the benchmark.
        *shape: Of the array.

    Returns:
        The array.
    """
    return jax.random.normal(jax.random.key(SEED + seed), shape)


def two_layer(name: str, n: int, width: int, inputs: int, outputs: int) -> Case:
    """A two-layer ReLU network; its limit is three Gram matrices and one forward pass.

    Args:
        name: Of the row.
        n: Examples.
        width: Hidden units.
        inputs: Features.
        outputs: Outputs.

    Returns:
        The case.
    """
    params = {"v": normal(1, inputs, width), "w": normal(2, width, outputs)}
    x = normal(0, n, inputs) / math.sqrt(inputs)
    hidden = normal(3, n, width)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ params["v"]) @ params["w"] / math.sqrt(width)

    products = jax.jit(lambda v, x, h: (x @ v, x @ x.T, h @ h.T, (2 * h) @ (2 * h).T))
    return Case(name, apply, params, x, lambda: products(params["v"], x, hidden))


def mlp(name: str, n: int, width: int, depth: int, inputs: int, outputs: int) -> Case:
    """A deep ReLU network without biases; its limit has all passes and Gram matrices.

    Args:
        name: Of the row.
        n: Examples.
        width: Of each hidden layer.
        depth: Hidden layers.
        inputs: Features.
        outputs: Outputs.

    Returns:
        The case.
    """
    sizes = (inputs, *(width,) * depth, outputs)
    params = [normal(i, a, b) / math.sqrt(a) for i, (a, b) in enumerate(itertools.pairwise(sizes))]
    x = normal(99, n, inputs)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        for w in params[:-1]:
            x = jax.nn.relu(x @ w)
        return x @ params[-1]

    def products(params: Any, x: jax.Array, signals: jax.Array) -> Any:
        found, h = [], x
        for w in params[:-1]:
            rows = signals.reshape(n, -1)
            found += [h @ h.T, rows @ rows.T]
            h = h @ w
            signals = signals @ params[1] if depth > 1 else signals
        return found, h @ h.T

    signals, compiled = normal(98, n, outputs, width), jax.jit(products)
    return Case(name, apply, params, x, lambda: compiled(params, x, signals))


def cnn(name: str, n: int, channels: int, size: int, outputs: int) -> Case:
    """Three 3 x 3 convolutions, two of them with stride 2, and a dense layer.

    Args:
        name: Of the row.
        n: Examples.
        channels: Of each convolution.
        size: Of the square images, of three channels.
        outputs: Outputs.

    Returns:
        The case.
    """
    shapes = [(3, 3, 3, channels), (3, 3, channels, channels), (3, 3, channels, channels)]
    last = (size // 4) ** 2 * channels
    params = [normal(i, *s) / math.sqrt(9 * s[2]) for i, s in enumerate(shapes)]
    params.append(normal(9, last, outputs) / math.sqrt(last))

    def apply(params: Any, x: jax.Array) -> jax.Array:
        for w, stride in zip(params[:3], (1, 2, 2), strict=True):
            numbers = ("NHWC", "HWIO", "NHWC")
            x = jax.nn.relu(jax.lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=numbers))
        return x.reshape(len(x), -1) @ params[3]

    return Case(name, apply, params, normal(99, n, size, size, 3), None)


def written(way: str, n: int, width: int) -> Case:
    """One two-layer network with four outputs, its first weight written in one of several ways.

    Args:
        way: "direct", "transposed", "scaled", "cast", "reshaped" or "stacked".
        n: Examples.
        width: Hidden units and features.

    Returns:
        The case.
    """
    v, w, x = normal(1, width, width), normal(2, width, 4), normal(0, n, width) / math.sqrt(width)
    first: dict[str, Callable[[jax.Array], jax.Array]] = {
        "direct": lambda v: v,
        "transposed": lambda v: v.T,
        "scaled": lambda v: v / math.sqrt(width),
        "cast": lambda v: v.astype(jnp.bfloat16).astype(jnp.float32),
        "reshaped": lambda v: v.reshape(width, width),
        "stacked": lambda v: v[0],
    }
    held = {"transposed": v.T, "reshaped": v.ravel(), "stacked": jnp.stack([v, v])}.get(way, v)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ first[way](params["v"])) @ params["w"]

    return Case(f"written_{way}", apply, {"v": held, "w": w}, x, None)


def cases(small: bool) -> list[Case]:
    """What is measured.

    Args:
        small: Whether only the script is tried out.

    Returns:
        The cases.
    """
    n, width, inputs = (16, 32, 8) if small else (512, 4096, 784)
    many, deep, batch = (24, 16, 6) if small else (2048, 1024, 256)
    images, channels = (4, 4) if small else (48, 96)
    ways = ("direct", "transposed", "scaled", "cast", "reshaped", "stacked")
    return [
        two_layer("two_layer_1_output", n, width, inputs, 1),
        two_layer("two_layer_10_outputs", n, width, inputs, 10),
        two_layer("two_layer_symmetric", many, width, inputs, 1),
        two_layer("two_layer_few_examples", 8 if small else 32, width, inputs, 10),
        mlp("mlp_4_layers", batch, deep, 4, inputs, 10),
        cnn("cnn_32_channels", 4 if small else 32, 4 if small else 32, 8 if small else 16, 10),
        cnn("cnn_96_channels", images, channels, 8 if small else 16, 10),
        *(written(way, 8 if small else 64, 16 if small else 1024) for way in ways),
    ]


def jacobian_contraction(case: Case) -> Callable[[], Any]:
    """The kernel as anyone would write it.

    Args:
        case: The case.

    Returns:
        A call that gives (n, n).
    """

    def kernel(params: Any, x: jax.Array) -> jax.Array:
        jacobian = jax.vmap(jax.jacrev(lambda p, row: case.apply(p, row[None])[0]), (None, 0))(params, x)
        rows = [leaf.reshape(len(x), leaf.shape[1], -1) for leaf in jax.tree.leaves(jacobian)]
        return sum(jnp.einsum("nop,mop->nm", j, j) / j.shape[1] for j in rows)

    compiled = jax.jit(kernel)
    return lambda: compiled(case.params, case.x)


def neural_tangents() -> Any | None:
    """The library, where it is installed.

    Returns:
        The module, or None.
    """
    try:
        from repsim_jax.kernels import neural_tangents as bridge  # pyright: ignore[reportAttributeAccessIssue]

        return bridge.load()
    except ImportError:
        return None


def rivals_of(case: Case, library: Any | None) -> dict[str, Callable[[], Any]]:
    """Other ways to the same kernel that fit into memory.

    Args:
        case: The case.
        library: neural-tangents, or None.

    Returns:
        Calls by name.
    """
    fits = case.jacobian_bytes() < FITS
    found: dict[str, Callable[[], Any]] = {"jacobian": jacobian_contraction(case)} if fits else {}
    # It takes weights that are not used as they are for a Jacobian per unit: n times the memory of the others.
    plain = not case.name.startswith("written") or case.name.endswith("direct")
    for name in ("STRUCTURED_DERIVATIVES", "JACOBIAN_CONTRACTION", "NTK_VECTOR_PRODUCTS") if library else ():
        if (name != "STRUCTURED_DERIVATIVES" and not fits) or (name == "NTK_VECTOR_PRODUCTS" and len(case.x) > 64):
            continue
        if name == "STRUCTURED_DERIVATIVES" and not plain and case.name.endswith("stacked"):
            continue  # no rule for slices: it asks for petabytes
        kernel = library.empirical_ntk_fn(
            case.apply, trace_axes=(-1,), vmap_axes=0, implementation=library.NtkImplementation[name]
        )
        compiled = jax.jit(lambda params, x, kernel=kernel: kernel(x, None, params))
        found[name.lower()] = lambda compiled=compiled: compiled(case.params, case.x)
    return found


def timed(call: Callable[[], Any]) -> tuple[float, float, np.ndarray]:
    """One finished call, after one that is not counted: a rival's gigabytes are given back in the time of the next.

    Args:
        call: What to time.

    Returns:
        Seconds, processor seconds of all threads, and the (last) array.
    """
    jax.block_until_ready(call())
    start = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(call())
    seconds = time.perf_counter() - start[0], time.process_time() - start[1]
    return *seconds, np.asarray(jax.tree.leaves(result)[-1])


def first_call(call: Callable[[], Any]) -> float:
    """Seconds with compilation.

    Args:
        call: What to time.

    Returns:
        Seconds.
    """
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def measure(case: Case, library: Any | None, rounds: int) -> dict[str, Any]:
    """Runs ours and every rival in turns.

    Args:
        case: The case.
        library: neural-tangents, or None.
        rounds: How often each runs.

    Returns:
        Medians in seconds, and for each rival the ratio and the largest difference relative to the largest entry.
    """
    calls = {"ours": lambda: ntk(case.apply, case.params, case.x), **rivals_of(case, library)}
    calls |= {"limit": case.limit} if case.limit else {}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    kernels = {}
    first_calls = {name: first_call(call) for name, call in calls.items()}
    for _ in range(rounds):
        for name, call in calls.items():
            *spent, kernels[name] = timed(call)
            seconds[name].append((spent[0], spent[1]))
    row: dict[str, Any] = {"examples": len(case.x), "rounds": rounds}
    ours = np.asarray(seconds["ours"])
    for name in calls:
        spent = np.asarray(seconds[name])
        ratio = spent / ours
        row[name] = {
            "first_call_seconds": round(first_calls[name], 3),
            "seconds_median": round(float(np.median(spent[:, 0])), 5),
            "processor_seconds_median": round(float(np.median(spent[:, 1])), 5),
        }
        if name == "ours":
            continue
        quartiles = [round(float(q), 2) for q in np.quantile(ratio[:, 0], (0.25, 0.75))]
        row[name] |= {"ratio_median": round(float(np.median(ratio[:, 0])), 2), "ratio_quartiles": quartiles}
        row[name]["processor_ratio_median"] = round(float(np.median(ratio[:, 1])), 2)
        if name != "limit":
            row[name]["largest_difference"] = checked_difference(case, name, kernels)
    return row


def checked_difference(case: Case, name: str, kernels: dict[str, np.ndarray]) -> float:
    """Stops where the two sides do not compute the same.

    Args:
        case: For the message.
        name: Of the rival.
        kernels: By name.

    Returns:
        Largest difference in units of the largest entry.
    """
    difference = float(np.abs(kernels[name] - kernels["ours"]).max() / np.abs(kernels["ours"]).max())
    tolerance = 2e-2 if case.name.endswith("cast") else 1e-5  # bfloat16 has eight bits
    if not difference < tolerance:
        sys.exit(f"{case.name}: {name} and ours differ by {difference}.")
    return difference


def main() -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="Try the script out; nothing is recorded.")
    parser.add_argument("--only", nargs="*", help="Names of cases; nothing is recorded.")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    library = neural_tangents()
    result = {}
    for case in cases(options.small):
        if not options.only or case.name in options.only:
            result[case.name] = measure(case, library, options.rounds)
            print(case.name, json.dumps(result[case.name]), flush=True)
    if options.small or options.only:
        return
    threads = len(os.sched_getaffinity(0))
    versions = {"neural-tangents": metadata.version("neural-tangents")} if library else {}
    path = record("speed_ntk", {"settings": {"threads": threads}, **result}, seeds=[SEED], rivals=versions)
    print(path.name)


if __name__ == "__main__":
    main()
