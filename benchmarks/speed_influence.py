"""Speed of influence: python benchmarks/speed_influence.py --rivals ../repsim-rivals/influence [--data DIR] [--small].

A network of five convolutions and two dense layers (302,528 parameters), images of 32 x 32 x 3, the alignment of two
views; float32, the same weights and views on all sides, in turns. Processor seconds for each example of

- EK-FAC by us and by kronfluence: covariances, eigenvectors (a fixed cost), Lambda, self-influence, and influence on
  the first examples for queries; ``per_example`` is all that grows with the examples up to self-influence;
- LoGra by us, fit and self-influence, against the same of kronfluence; Spearman's correlation with our EK-FAC;
- TRAK with 512 random directions, and products of whole gradients by dattri, against influence on queries by our LoGra
  and without curvature.

Ratios are theirs / ours, round by round: above 1 means that we are faster. Compilation is left out of them, the first
calls stand beside. Run it on one core (``taskset -c 0``); torch gets one thread too.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import numpy as np
from _influence_networks import SEED, Case, cifar_views, convnet
from _influence_rival import Rival
from _record import record
from scipy import stats

from repsim_jax import influence as inf

KEY = jax.random.key(SEED)
# The curvature of all parties is damped by a tenth of its mean eigenvalue, as kronfluence does.
PAPER: dict[str, Any] = {"mode": "paper", "damping": inf.Damping(0.1)}
PHASES = ("covariances", "lambdas", "self")
Spent = dict[str, float]


def timed(spent: Spent, name: str, call: Callable[[], Any]) -> Any:
    """Calls, and notes processor seconds.

    Args:
        spent: Where.
        name: What for.
        call: What to time.

    Returns:
        What it returned.
    """
    start = time.process_time()
    result = jax.block_until_ready(call())
    spent[name] = time.process_time() - start
    return result


def our_ekfac(posed: inf.Problem, queries: int) -> tuple[Spent, np.ndarray]:
    """EK-FAC in its phases, which its progress tells apart.

    Args:
        posed: The problem.
        queries: Number of queries.

    Returns:
        Processor seconds by phase; self-influence.
    """
    spent: Spent = {}
    start, marks = time.process_time(), []
    curvature = inf.ekfac(
        KEY, posed, of="alignment", num_samples=1, on_progress=lambda *_: marks.append(time.process_time())
    )
    half = len(marks) // 2
    spent["covariances"] = marks[half - 1] - start
    of_part = (marks[-1] - marks[half]) / max(1, half - 1)
    spent["lambdas"] = of_part * half
    spent["eigenvectors"] = max(0.0, marks[half] - marks[half - 1] - of_part)
    options = PAPER | {"curvature": curvature}
    own = timed(spent, "self", lambda: inf.self_influence(KEY, posed, **options).values)
    timed(
        spent,
        "pairwise",
        lambda: inf.influence(KEY, posed, posed.train.rows(slice(0, queries)), block=queries, **options).values,
    )
    return spent, own


def our_logra(posed: inf.Problem, queries: int, rank: int, max_units: int | None = None) -> tuple[Spent, np.ndarray]:
    """LoGra.

    Args:
        posed: The problem.
        queries: Number of queries.
        rank: Of both sides.
        max_units: Examples that it is fitted on.

    Returns:
        Processor seconds by phase; self-influence.
    """
    spent: Spent = {}
    fit = lambda: inf.logra(KEY, posed, rank=rank, of="alignment", num_samples=1, max_units=max_units)  # noqa: E731
    options = PAPER | {"curvature": timed(spent, "fit", fit)}
    own = timed(spent, "self", lambda: inf.self_influence(KEY, posed, **options).values)
    if queries:
        seen = posed.train.rows(slice(0, queries))
        timed(spent, "pairwise", lambda: inf.influence(KEY, posed, seen, block=queries, **options).values)
    return spent, own


def our_products(posed: inf.Problem, queries: int) -> Spent:
    """Products of gradients.

    Args:
        posed: The problem.
        queries: Number of queries.

    Returns:
        Processor seconds.
    """
    spent: Spent = {}
    options = PAPER | {"curvature": inf.Identity(), "block": queries}
    timed(spent, "pairwise", lambda: inf.influence(KEY, posed, posed.train.rows(slice(0, queries)), **options).values)
    return spent


def rounds_of(case: Case, rival: Rival, options: argparse.Namespace) -> dict[str, list[Spent]]:
    """All sides in turns; the first round of ours compiles and stands apart.

    Args:
        case: Weights and views.
        rival: The process with the other tools.
        options: From the command line.

    Returns:
        Processor seconds of each round, by side.
    """
    posed, n, queries = case.problem(), len(case.views), options.queries
    signs = np.random.default_rng(SEED).choice([-1.0, 1.0], (n, len(case.params[-1]["bias"])))
    rival.hand_over(case, np.arange(n), signs)
    asked = {"queries": queries, "own": True, "batch": 32, "dimension": 512}
    sides: dict[str, Callable[[], Spent]] = {
        "ours_ekfac": lambda: our_ekfac(posed, queries)[0],
        "ours_logra": lambda: our_logra(posed, queries, options.rank)[0],
        "ours_products": lambda: our_products(posed, queries),
        "kronfluence": lambda: rival.asked(case, "kronfluence", **asked)[0],
        "traker": lambda: rival.asked(case, "traker", **asked)[0],
        "dattri": lambda: rival.asked(case, "dattri", **asked)[0],
    }
    found: dict[str, list[Spent]] = {name: [] for name in sides}
    for name, run in sides.items():
        if name.startswith("ours"):
            found[f"{name}_first_call"] = [run()]
    for number in range(options.rounds):
        for name, run in sides.items():
            if number < options.rival_rounds or name not in ("traker", "dattri"):
                found[name].append(run())
                print(
                    number, name, json.dumps({k: round(v / n * 1e3, 2) for k, v in found[name][-1].items()}), flush=True
                )
    return found


def told(rounds: dict[str, list[Spent]], n: int) -> dict[str, Any]:
    """Medians in milliseconds for each example, and ratios.

    Args:
        rounds: From ``rounds_of``.
        n: Examples.

    Returns:
        Figures.
    """

    def medians(spent: list[Spent]) -> dict[str, float]:
        return {name: round(float(np.median([one[name] for one in spent])) / n * 1e3, 3) for name in spent[0]}

    def total(name: str, phases: tuple[str, ...]) -> np.ndarray:
        return np.asarray([sum(one[phase] for phase in phases) for one in rounds[name]])

    def ratio(theirs: np.ndarray, ours: np.ndarray) -> dict[str, Any]:
        ratios = theirs / ours[: len(theirs)]
        return {"median": round(float(np.median(ratios)), 2), "rounds": [round(float(one), 2) for one in ratios]}

    kronfluence, fixed = total("kronfluence", PHASES), (*PHASES, "eigenvectors")
    return {
        "milliseconds_per_example": {name: medians(spent) for name, spent in rounds.items()},
        "ratios": {
            "ekfac_per_example": ratio(kronfluence, total("ours_ekfac", PHASES)),
            "ekfac_with_eigenvectors": ratio(total("kronfluence", fixed), total("ours_ekfac", fixed)),
            "ekfac_pairwise": ratio(total("kronfluence", ("pairwise",)), total("ours_ekfac", ("pairwise",))),
            "logra_against_kronfluence": ratio(kronfluence, total("ours_logra", ("fit", "self"))),
            "logra_against_kronfluence_fitted_before": ratio(kronfluence, total("ours_logra", ("self",))),
            "logra_pairwise_against_trak": ratio(
                total("traker", ("features", "pairwise")), total("ours_logra", ("fit", "pairwise"))
            ),
            "products_against_dattri": ratio(total("dattri", ("pairwise",)), total("ours_products", ("pairwise",))),
        },
    }  # fmt: skip


def quality(case: Case, rank: int) -> dict[str, Any]:
    """How well LoGra ranks as EK-FAC does.

    Args:
        case: Weights and views.
        rank: Of both sides.

    Returns:
        Spearman's correlations of self-influence.
    """
    posed = case.problem()
    curvature = inf.ekfac(KEY, posed, of="alignment", num_samples=1)
    exact = inf.self_influence(KEY, posed, curvature=curvature, **PAPER).values
    own = our_logra(posed, 0, rank)[1]
    return {
        "examples": len(case.views),
        "rank": rank,
        "logra_with_ekfac_spearman": float(stats.spearmanr(exact, own).statistic),
    }


def main() -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rivals", type=Path, default=os.environ.get("RIVALS"), help="Environment with the other tools."
    )
    parser.add_argument("--data", type=Path, help="Folder with cifar10_train_first4000_lossless.npz.")
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--quality-examples", type=int, default=512)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rival-rounds", type=int, default=3, help="Rounds of TRAK and dattri.")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--small", action="store_true", help="Try the script out; nothing is recorded.")
    options = parser.parse_args()
    if options.rivals is None:
        parser.error("--rivals must name an environment that has kronfluence, TRAK and dattri (make rivals).")
    case = convnet(cifar_views(options.data, options.examples))
    with tempfile.TemporaryDirectory() as folder, Rival.started(options.rivals, Path(folder)) as rival:
        result = {"settings": {"examples": options.examples, "queries": options.queries, "rounds": options.rounds,
                               "threads": len(os.sched_getaffinity(0)), "rank": options.rank,
                               "images": "CIFAR-10" if options.data else "random"}}  # fmt: skip
        result |= told(rounds_of(case, rival, options), options.examples)
        versions = rival.versions
    print(json.dumps(result["ratios"]), flush=True)
    result["quality"] = quality(convnet(cifar_views(options.data, options.quality_examples)), options.rank)
    print(json.dumps(result["quality"]), flush=True)
    if not options.small:
        print(record("speed_influence", result, seeds=[SEED], rivals=versions).name)


if __name__ == "__main__":
    main()
