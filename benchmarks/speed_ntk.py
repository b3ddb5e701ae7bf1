"""Speed of the empirical NTK: python benchmarks/speed_ntk.py [--rivals ../repsim-rivals] [--small] [--only NAME ...].

Ours (``kernels.ntk``, checks at the door included) against the bare matrix products that any layer-wise kernel needs
(``limit``), the contraction of explicit Jacobians (``jacobian``), neural-tangents in its implementations where it can
be loaded, and torch.func (``_ntk_torch_rival.py``) where ``--rivals`` names an environment that has torch. All hold the
same arrays and run in turns; ratios are theirs / ours in processor seconds, round by round: above 1 means that we are
faster. ``rectangular`` is ours without symmetry. Compilation is left out of the ratios; the first calls stand beside
them. Rivals whose Jacobian would not fit, by its size alone, are left out. ``costs`` has medians as one size grows at a
time; ``benchmarks/ntk_cost_picture.py`` draws them. Run it on one core (``taskset -c 0``); torch gets one thread too.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from _ntk_cases import SEED, Case, cases, sweeps
from _ntk_torch import Torch
from _record import record

from repsim_jax.kernels.empirical import ntk

# Bytes of an explicit Jacobian, or of what a rival makes of it, beyond which it is not run.
FITS = 6 * 2**30
Spent = tuple[float, float, np.ndarray]


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


def timed(call: Callable[[], Any]) -> Spent:
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


def contestants(case: Case, library: Any | None, torch: Torch | None) -> dict[str, Callable[[], Spent]]:
    """Ours and everything that it is compared with.

    Args:
        case: The case.
        library: neural-tangents, or None.
        torch: The process with torch, or None.

    Returns:
        Timed calls by name, ours first.
    """
    calls: dict[str, Callable[[], Any]] = {"ours": lambda: ntk(case.apply, case.params, case.x)}
    calls |= rivals_of(case, library)
    if case.limit:
        calls["limit"] = case.limit
    if case.name == "two_layer_symmetric":
        calls["rectangular"] = lambda: ntk(case.apply, case.params, case.x, case.x)
    found: dict[str, Callable[[], Spent]] = {name: lambda call=call: timed(call) for name, call in calls.items()}
    if torch and torch.knows(case) and case.jacobian_bytes() < FITS:
        found["torch_func"] = torch.prepared(case)
    return found


def measure(
    case: Case, library: Any | None, torch: Torch | None, rounds: int, *, only: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Runs ours and every rival in turns.

    Args:
        case: The case.
        library: neural-tangents, or None.
        torch: The process with torch, or None.
        rounds: How often each runs.
        only: Contestants that run; all, if none is named.

    Returns:
        Medians in seconds, and for each rival the ratio and the largest difference relative to the largest entry.
    """
    calls = contestants(case, library, torch)
    calls = {name: call for name, call in calls.items() if not only or name in only}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    kernels, first_calls = {}, {}
    for name, call in calls.items():
        start = time.perf_counter()
        call()
        first_calls[name] = time.perf_counter() - start  # two calls, the first of which compiles
    for _ in range(rounds):
        for name, call in calls.items():
            *spent, kernels[name] = call()
            seconds[name].append((spent[0], spent[1]))
    row: dict[str, Any] = {"examples": len(case.x), "rounds": rounds, "load_average": round(os.getloadavg()[0], 2)}
    for name in calls:
        row[name] = {"first_two_calls_seconds": round(first_calls[name], 3), **told(seconds[name], seconds["ours"])}
        if name not in ("ours", "limit"):
            row[name]["largest_difference"] = checked_difference(case, name, kernels)
    return row


def told(spent: list[tuple[float, float]], ours: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians, and ratios to ours in processor seconds.

    Args:
        spent: Seconds and processor seconds of each round.
        ours: The same of ours.

    Returns:
        Figures with their units in the keys.
    """
    found, ratios = np.asarray(spent), np.asarray(spent) / np.asarray(ours)
    row: dict[str, Any] = {
        "seconds_median": round(float(np.median(found[:, 0])), 5),
        "processor_seconds_median": round(float(np.median(found[:, 1])), 5),
    }
    if spent is not ours:
        row["ratio_median"] = round(float(np.median(ratios[:, 1])), 2)
        row["ratio_quartiles"] = [round(float(q), 2) for q in np.quantile(ratios[:, 1], (0.25, 0.75))]
        row["ratio_median_by_the_clock"] = round(float(np.median(ratios[:, 0])), 2)
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
    if name == "torch_func":
        # It sums ten million products in float32, one after the other; ours was within 1e-7 of float64 there.
        tolerance = max(tolerance, 1e-3)
    if not difference < tolerance:
        sys.exit(f"{case.name}: {name} and ours differ by {difference}.")
    return difference


_DRAWN = ("ours", "limit", "structured_derivatives")


def costs(library: Any | None, small: bool, rounds: int) -> dict[str, Any]:
    """How the cost grows with each size.

    Args:
        library: neural-tangents, or None.
        small: Whether only the script is tried out.
        rounds: How often each runs.

    Returns:
        By what varies, its values and the medians of processor seconds by contestant.
    """
    found: dict[str, Any] = {}
    for varied, points in sweeps(small).items():
        lines: dict[str, list[float]] = {}
        for _, case in points:
            row = measure(case, library, None, rounds, only=_DRAWN)
            for name in _DRAWN:
                if name in row:
                    lines.setdefault(name, []).append(row[name]["processor_seconds_median"])
        found[varied] = {"values": [value for value, _ in points], "processor_seconds_median": lines}
        print(varied, json.dumps(found[varied]), flush=True)
    return found


def main() -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="Try the script out; nothing is recorded.")
    parser.add_argument("--only", nargs="*", help='Names of cases, which are not recorded, or "costs".')
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rivals", type=Path, default=os.environ.get("RIVALS"), help="Environment that has torch.")
    options = parser.parse_args()
    library, result = neural_tangents(), {}
    with tempfile.TemporaryDirectory() as folder, Torch.started(options.rivals, Path(folder)) as torch:
        for case in cases(options.small):
            if not options.only or case.name in options.only:
                result[case.name] = measure(case, library, torch, options.rounds)
                print(case.name, json.dumps(result[case.name]), flush=True)
        versions = {"torch": torch.version} if torch else {}
    settings = {"settings": {"threads": len(os.sched_getaffinity(0))}}
    versions |= {"neural-tangents": metadata.version("neural-tangents")} if library else {}
    if not options.small and not options.only:
        print(record("speed_ntk", settings | result, seeds=[SEED], rivals=versions).name, flush=True)
    if not options.only or "costs" in options.only:
        found = costs(library, options.small, max(3, options.rounds // 2))
        if not options.small:
            print(record("ntk_costs", settings | found, seeds=[SEED], rivals=versions).name)


if __name__ == "__main__":
    main()
