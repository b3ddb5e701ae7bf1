"""Does influence foretell what training without examples does? python benchmarks/influence_lds.py --seeds 0 1 2.

A small network learns digits by a self-supervised objective. It is trained again on random halves of the examples, on
random nine tenths, and without each one of them, from the same weights and with the same views. What is measured is
the stability of the training examples' own views, and of digits that were never trained on.

The columns: the linear datamodeling score (LDS), Spearman's correlation over subsets of summed influence with what was
measured, averaged over queries; ``held_out`` is that of digits never trained on; ``leave_one_out`` is Spearman's
correlation over examples; ``memorization`` is that of self-influence with how much less stable an example is in
models that were trained without it (halves), and ``self`` with leaving out that one alone. The ceiling is what the
expected outcome would reach against one training, found from trainings from other weights.
"own presence" knows nothing but whether a query is in the subset itself, and "leave-one-out itself" sums what was
measured: how far examples act one by one at all.

What was found (means of 3 seeds; exact curvature; the records have all). Being in the half or not ranks the
stability of an example better than anything (0.72 to 0.85), so that ``lds_0.5`` tells little by itself: embeddings
reach 0.2 to 0.3 in it, and influence 0.6 to 0.8, by the size of its diagonal. Between different examples halves are
scarcely additive (measured leave-one-out, summed, reaches 0.1 to 0.3). Where a tenth is left out, the batch-coupled
mode is ahead of the paper's for every objective (``held_out_0.9``: SimCLR 0.14 against 0.08, BYOL 0.21 and 0.13,
Barlow Twins 0.19 and 0.15, VICReg 0.32 and 0.24, on CIFAR-10 0.42 and 0.21), as it is in leave-one-out.

Writes benchmarks/results/influence_lds_DATA_OBJECTIVE.json after each seed.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _influence_lds_data import cifar, compressed, digits, moved_digit, moved_image
from _influence_lds_rule import balanced_damping
from _record import record

from repsim_jax import influence as inf
from repsim_jax.influence.verification import Truth, baselines, judged, trained_without
from repsim_jax.linalg import unit_rows

WIDTHS = (16, 24, 12)
WEIGHT_DECAY = {"SimCLR": 1e-3, "BYOL": 1e-3, "BarlowTwins": 1e-3, "VICReg": 1e-2}
SHARES = (0.5, 0.9)
VIEWS, HELD_OUT, TARGET_DECAY = 4, 40, 0.9


def predictor(params: Any, z: jax.Array) -> jax.Array:
    """BYOL's predictor, linear.

    Args:
        params: From ``initial``.
        z: (n, 12) embeddings.

    Returns:
        (n, 12) array.
    """
    return z @ params["predictor"]["kernel"]


OBJECTIVES: dict[str, inf.Objective] = {
    "VICReg": inf.VICReg(), "SimCLR": inf.SimCLR(), "BarlowTwins": inf.BarlowTwins(0.05),
    "BYOL": inf.BYOL(predictor=predictor),
}  # fmt: skip


def initial(key: jax.Array, name: str) -> dict[str, Any]:
    """Weights of a network of one hidden layer; for BYOL, of a predictor too.

    Args:
        key: Random key.
        name: Of the objective.

    Returns:
        Parameters.
    """
    keys = jax.random.split(key, len(WIDTHS))
    layers = zip(keys[1:], WIDTHS[:-1], WIDTHS[1:], strict=True)
    made: dict[str, Any] = {
        f"layer_{i}": {"kernel": jax.random.normal(k, (a, b)) / a**0.5, "bias": jnp.zeros(b)}
        for i, (k, a, b) in enumerate(layers)
    }
    if name != "BYOL":
        return made
    return made | {"predictor": {"kernel": jnp.eye(WIDTHS[-1]) + 0.1 * jax.random.normal(keys[0], (WIDTHS[-1],) * 2)}}


def embed(params: Any, x: jax.Array) -> jax.Array:
    """The network.

    Args:
        params: From ``initial``.
        x: (n, 16).

    Returns:
        (n, 12) embeddings.
    """
    hidden = jnp.tanh(x @ params["layer_0"]["kernel"] + params["layer_0"]["bias"])
    return hidden @ params["layer_1"]["kernel"] + params["layer_1"]["bias"]


def training(name: str, num_steps: int) -> dict[str, Any]:
    """Adam, with weight decay in the gradient, at a rate that falls to zero, so that it ends where the gradient does.

    Args:
        name: Of the objective.
        num_steps: Updates.

    Returns:
        Options of ``retrained`` and ``metagradient``.
    """
    optimizer = optax.chain(
        optax.add_decayed_weights(WEIGHT_DECAY[name]),
        optax.scale_by_adam(eps_root=1e-12),
        optax.scale_by_learning_rate(optax.cosine_decay_schedule(1e-2, num_steps)),
    )
    decay = TARGET_DECAY if name == "BYOL" else None
    return {"optimizer": optimizer, "num_steps": num_steps, "views_per_step": 2, "target_decay": decay}


def curvatures(key: jax.Array, posed: inf.Problem) -> Iterator[tuple[str, Any]]:
    """Every curvature, fitted.

    Args:
        key: Random key.
        posed: The trained model.

    Yields:
        Name and curvature.
    """
    fits: dict[str, Callable[[], Any]] = {
        "ekfac, objective": lambda: inf.ekfac(key, posed),
        "ekfac, alignment": lambda: inf.ekfac(key, posed, of="alignment"),
        "identity": inf.Identity,
        "dense, objective": lambda: inf.dense(key, posed),
        "dense, alignment": lambda: inf.dense(key, posed, of="alignment"),
        "dense, |Hessian|": lambda: inf.dense(key, posed, of="hessian"),
        "logra 8, objective": lambda: inf.logra(key, posed, rank=8),
        "projection 256, objective": lambda: inf.random_projection(key, posed, dimension=256),
        "low rank 64, |Hessian|": lambda: inf.low_rank(key, posed),
        "woodbury 512, alignment": lambda: inf.woodbury(key, posed, num_samples=512),
    }
    yield from ((name, fit()) for name, fit in fits.items())


def line_of(key: jax.Array, own: np.ndarray, others: np.ndarray, true: Truth) -> dict[str, Any]:
    """How well influence foretold it all.

    Args:
        key: Random key of the intervals.
        own: (n, n) influence on training examples.
        others: (m, n) influence on others.
        true: What training without examples did.

    Returns:
        Scores by name.
    """
    found, line = judged(key, true, own, others, num_resamples=60), {}
    for number, share in enumerate(SHARES):
        for label, score in (("lds", found.scores[number]), ("held_out", found.held_out[number])):
            line[f"{label}_{share}"], line[f"{label}_{share}_interval_95"] = score.value, list(score.interval)
    return line | {
        "memorization": found.memorization_by_subsets, "self": found.memorization,
        "leave_one_out": found.leave_one_out, "leave_one_out_held_out": found.leave_one_out_held_out,
    }  # fmt: skip


def ceilings_of(true: Truth) -> dict[str, float]:
    """Noise ceilings.

    Args:
        true: What training without examples did.

    Returns:
        By whose outcomes, and the share of examples in the subsets.
    """
    both = (("own", true.ceilings or ()), ("held_out", true.ceilings_others or ()))
    return {f"{label}_{share}": one for label, every in both for share, one in zip(SHARES, every, strict=True)}


def untrained(
    key: jax.Array, name: str, seed: int, settings: argparse.Namespace
) -> tuple[inf.Problem, inf.Examples]:  # fmt: skip
    """What is begun with.

    Args:
        key: Random key of the weights.
        name: Of the objective.
        seed: Draws examples and views.
        settings: From the command line.

    Returns:
        The problem before training, and examples that are never trained on.
    """
    every, augment = (digits(), moved_digit) if settings.data is None else (cifar(settings.data), moved_image)
    size = {"others": HELD_OUT, "num_views": VIEWS, "size": WIDTHS[0]}
    train, others = compressed(seed, every, augment, n=settings.n, **size)
    start = inf.problem(embed, initial(key, name), train, objective=OBJECTIVES[name], stability=inf.Stability("views"))
    return start, others


def one_seed(name: str, seed: int, settings: argparse.Namespace) -> dict[str, Any]:
    """The table of one objective and seed.

    Args:
        name: Of the objective.
        seed: Draws examples, views, weights and subsets.
        settings: From the command line.

    Returns:
        Scores by estimator.
    """
    key_init, key_train, key_fit = jax.random.split(jax.random.key(seed), 3)
    start, others = untrained(key_init, name, seed, settings)
    began = time.process_time()
    true = trained_without(
        key_train, start, held_out=others, initial=lambda key: initial(key, name), shares=SHARES,
        num_subsets=settings.subsets, **training(name, settings.steps),
    )  # fmt: skip
    result = {"noise_ceilings": ceilings_of(true), "retraining_cpu_s": round(time.process_time() - began, 1)}
    table: dict[str, Any] = {}

    def add(label: str, own: np.ndarray, held: np.ndarray) -> None:
        line = table[label] = line_of(key_fit, own, held, true)
        told = " ".join(f"{key} {value:.2f}" for key, value in line.items() if "95" not in key)
        print(f"{name} {seed} {label:44s} {told}", flush=True)

    print(name, seed, result, flush=True)
    compare(true, others, add)
    decay = WEIGHT_DECAY[name]
    for label, curvature in curvatures(key_fit, true.posed):
        dampings = {"damping 0.1": inf.Damping(0.1, decay)}
        if label == "ekfac, objective":
            balanced = balanced_damping(true.posed, curvature=curvature, absolute=decay)
            result["balanced damping"] = balanced.relative
            dampings |= {f"damping {at}": inf.Damping(at, decay) for at in (0.001, 1.0)}
            dampings |= {f"damping {at} without decay": inf.Damping(at) for at in (0.001, 0.1)}
            dampings["damping balanced"] = balanced
        both = label.startswith(("dense", "ekfac", "identity"))
        for mode in ("batch", "paper") if both else ("paper",) if "alignment" in label else ("batch",):
            for told, damping in dampings.items() if label != "identity" else [("no damping", inf.Damping())]:
                how = {"curvature": curvature, "mode": mode, "damping": damping}
                found = [inf.influence(key_fit, true.posed, queries, **how).values for queries in (start.train, others)]
                add(f"{mode}; {label}; {told}", *found)
    if seed in settings.metagradient_seeds:
        key_steps = jax.random.split(key_train, 2 + len(SHARES))[0]  # those of the training that is followed back
        how = training(name, settings.steps) | {"block": 40}
        add(
            "metagradient",
            *(inf.metagradient(key_steps, start, queries, **how).values for queries in (start.train, others)),
        )
    return result | {"table": table}


def compare(true: Truth, others: inf.Examples, add: Callable[[str, np.ndarray, np.ndarray], None]) -> None:
    """What influence is compared with.

    Args:
        true: What training without examples did.
        others: Digits that were never trained on.
        add: Takes a label and both matrices.
    """
    mine, theirs = (np.asarray(unit_rows(one.x)) for one in (true.posed.train, others))
    every: dict[str, Any] = {"leave-one-out itself": (true.left_out, true.left_out_others), **baselines(true)}
    for label, values in (every | {"input cosine": (-mine @ mine.T, -theirs @ mine.T)}).items():
        add(label, *values)


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--metagradient-seeds", type=int, nargs="*", default=[], help="it takes as long as all else")
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=list(OBJECTIVES))
    parser.add_argument("--data", type=Path, help="folder with the first images of CIFAR-10; without it, digits")
    parser.add_argument("--n", type=int, default=64, help="training examples")
    parser.add_argument("--subsets", type=int, default=48, help="random subsets of each share that are trained on")
    parser.add_argument("--steps", type=int, default=400, help="updates of each training")
    parser.add_argument("--no-record", action="store_true", help="only print")
    settings = parser.parse_args()
    how = {key: value for key, value in vars(settings).items() if key != "no_record"}
    how |= {"widths": WIDTHS, "views": VIEWS, "held_out": HELD_OUT, "weight_decay": WEIGHT_DECAY}
    how |= {"byol_target_decay": TARGET_DECAY, "data": "digits" if settings.data is None else "cifar10"}
    for name in settings.objectives:
        found: dict[str, Any] = {}
        for seed in settings.seeds:
            found[str(seed)] = one_seed(name, seed, settings)
            if not settings.no_record:
                result = {"settings": how, "objective": name, **found}
                file = f"influence_lds_{how['data'].lower()}_{name.lower()}"
                record(file, result, seeds=[int(one) for one in found], packages=("optax", "scikit-learn"))


if __name__ == "__main__":
    main()
