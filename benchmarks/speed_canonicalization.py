"""Speed of canonicalization: python benchmarks/speed_canonicalization.py --rivals ../repsim-rivals/equiadapt [--small].

Ours (a call of the canonicalizer, checks at the door included: views, energies of all poses, choice, canonical form at
full size) against equiadapt 0.1.2, with a network of the same shape on both sides: its ConvNetwork of 7 x 7 kernels and
16 channels, which sees 96 pixels of images of 224 through three layers, and images of 32 as they are through two, as
three do not fit. ``ours_default`` is ours with its own default network and views. ResNet-50 and ViT-B/16 of torchvision
run in the same rounds, one image each. Both sides find other elements, as weights and conventions differ; that ours can
follow theirs to 1e-5 is what canonicalization_parity.py tells.

A training step is that of the label-free loss of the paper's code (prior and dot contrast, Adam) on the same batch and
network, in turns too. Theirs crops, reduces and canonicalizes its batch in every step; ours reduces all images once,
before the first step, and that is left out. ``ours_default`` is a step of ``training.train`` as ``fit`` calls it.

Processor seconds of one call, medians over rounds; ratios are theirs / ours, round by round: above 1 means that we are
faster. Compilation is left out, and stands beside. Run it on one core (``taskset -c 0``); torch gets one thread too.
"""

import argparse
import functools
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import jax
import numpy as np
import optax
from _equiadapt import Rival, convnetwork, drawn_like
from _record import record

from repsim_jax import canonicalization as canon
from repsim_jax.canonicalization import fitting
from repsim_jax.training import train

SEED = 0
KEY = jax.random.key(SEED)
PREDICTORS = ("resnet50", "vit_b_16")
VIEWS, LAYERS = {224: 96, 32: 32}, {224: 3, 32: 2}
Timed = Callable[[], tuple[float, float]]


def network_case(size: int, batch: int, turns: int, network: str) -> dict[str, Any]:
    """What the rival is asked for.

    Args:
        size: Pixels of the images.
        batch: Images.
        turns: Order of the cyclic group.
        network: "canonicalizer", "training" or a model of torchvision.

    Returns:
        The case.
    """
    return {
        "network": network, "batch": batch, "shape": [3, size, size], "view": VIEWS[size], "kernel": 7, "widths": 16,
        "layers": LAYERS[size], "outputs": 128, "rotations": turns, "reflects": False, "seed": SEED,
    }  # fmt: skip


def ours(size: int, turns: int, *, learns: bool = False) -> canon.Canonicalizer:
    """Ours with a network of their shape.

    Args:
        size: Pixels of the images.
        turns: Order of the cyclic group.
        learns: Whether batch norms use the batch.

    Returns:
        The canonicalizer.
    """
    params = drawn_like(SEED, VIEWS[size], LAYERS[size])
    apply = functools.partial(convnetwork, learns=learns)
    energy = canon.Reference(apply, params, (), jax.random.normal(KEY, (128,)))
    return canon.Canonicalizer(canon.cyclic(turns), energy, views=canon.Views(VIEWS[size]))


def timed(call: Callable[[], Any], calls: int) -> Timed:
    """Makes a timer of finished calls.

    Args:
        call: What.
        calls: How many together.

    Returns:
        Times them: processor seconds and seconds of one.
    """

    def spent() -> tuple[float, float]:
        jax.block_until_ready(call())
        start = time.process_time(), time.perf_counter()
        for _ in range(calls):
            jax.block_until_ready(call())
        return (time.process_time() - start[0]) / calls, (time.perf_counter() - start[1]) / calls

    return spent


def training_steps(size: int, batch: int, turns: int) -> dict[str, Callable[[], Any]]:
    """Our training steps.

    Args:
        size: Pixels of the images.
        batch: Images.
        turns: Order of the cyclic group.

    Returns:
        Calls: "ours" makes one step, "ours_default" ten.
    """
    x = jax.random.uniform(KEY, (batch, size, size, 3))
    made, optimizer = ours(size, turns, learns=True), optax.adam(1e-3)
    loss = fitting._Loss(made.energy.apply, made.group, made.views, canon.PAPER, False)
    state = {"params": made.energy.params, "vector": made.energy.vector}
    data = {"views": made.views.reduced(x)}

    @jax.jit
    def step(state: Any, moments: Any, data: Any) -> Any:
        value, gradient = jax.value_and_grad(loss, argnums=1)(KEY, state, data)
        updates, moments = optimizer.update(gradient, moments)
        return value, optax.apply_updates(state, updates), moments

    moments = optimizer.init(state)
    plain = canon.untrained(KEY, (size, size, 3), made.group)
    of_plain = replace(loss, apply=plain.energy.apply, views=plain.views)
    start = {"params": plain.energy.params, "vector": plain.energy.vector}
    small = {"views": plain.views.reduced(x)}
    options: dict[str, Any] = {"optimizer": optimizer, "num_steps": 10, "batch_size": batch, "noisy": True}
    return {
        "ours": lambda: step(state, moments, data),
        "ours_default": lambda: train(KEY, start, of_plain, small, **options),
    }


def canonicalizations(size: int, batch: int, turns: int) -> dict[str, Callable[[], Any]]:
    """Our canonicalizers on random images.

    Args:
        size: Pixels of the images.
        batch: Images.
        turns: Order of the cyclic group.

    Returns:
        Calls.
    """
    x = jax.random.uniform(KEY, (batch, size, size, 3))
    made, plain = ours(size, turns), canon.untrained(KEY, (size, size, 3), canon.cyclic(turns))
    return {"ours": lambda: made(x), "ours_default": lambda: plain(x)}


def measured(rival: Rival, size: int, batch: int, turns: int, *, trains: bool, rounds: int) -> dict[str, Any]:
    """One case, in turns.

    Args:
        rival: The process with equiadapt.
        size: Pixels of the images.
        batch: Images.
        turns: Order of the cyclic group.
        trains: Whether a training step is timed.
        rounds: How many.

    Returns:
        Figures.
    """
    calls = 1 if trains or (batch > 1 and size == 224) else 5
    made = (training_steps if trains else canonicalizations)(size, batch, turns)
    first = {}
    for name, call in made.items():
        start = time.process_time()
        jax.block_until_ready(call())
        first[name] = time.process_time() - start
    timers = {name: timed(call, calls) for name, call in made.items()}
    case = network_case(size, batch, turns, "training" if trains else "canonicalizer")
    timers["equiadapt"] = lambda: rival.spent(case, calls)
    if not trains and batch == 1 and size == 224:
        for name in PREDICTORS:
            timers[name] = lambda name=name: rival.spent(network_case(size, 1, turns, name), 1)
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            processor, clock = timer()
            steps = 10 if trains and name == "ours_default" else 1
            spent[name].append((processor / steps, clock / steps))
    return {"first_call_processor_seconds": {k: round(v, 2) for k, v in first.items()}} | told(spent, batch, rounds)


def told(spent: dict[str, list[tuple[float, float]]], batch: int, rounds: int) -> dict[str, Any]:
    """Medians and ratios.

    Args:
        spent: Processor seconds and seconds by contestant and round.
        batch: Images of a call.
        rounds: How many there were.

    Returns:
        Figures with their units in the keys; shares of predictors are of one image.
    """
    found: dict[str, Any] = {"rounds": rounds, "load_average": round(os.getloadavg()[0], 2)}
    arrays = {name: np.asarray(rows) for name, rows in spent.items()}
    for name, rows in arrays.items():
        found[name] = {
            "processor_milliseconds_each_image": round(1e3 * float(np.median(rows[:, 0])) / batch, 3),
            "milliseconds_each_image": round(1e3 * float(np.median(rows[:, 1])) / batch, 3),
        }
    for mine in ("ours", "ours_default"):
        ratios = arrays["equiadapt"] / arrays[mine]
        found[f"equiadapt_over_{mine}"] = {
            "ratio_median": round(float(np.median(ratios[:, 0])), 2),
            "ratio_quartiles": [round(float(q), 2) for q in np.quantile(ratios[:, 0], (0.25, 0.75))],
            "ratio_median_by_the_clock": round(float(np.median(ratios[:, 1])), 2),
        }
    for predictor in PREDICTORS:
        if predictor in arrays:
            found[f"percent_of_{predictor}"] = {
                name: round(100 * float(np.median(arrays[name][:, 0] / arrays[predictor][:, 0])), 2)
                for name in ("ours", "ours_default", "equiadapt")
            }
    return found


def main() -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rivals", default=os.environ.get("RIVALS", "../repsim-rivals") + "/equiadapt")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--small", action="store_true", help="Try the script out; nothing is recorded.")
    options = parser.parse_args()
    rounds = 1 if options.small else options.rounds
    cases = [(size, batch, turns) for size in (224, 32) for batch in (1, 32) for turns in (4, 8)]
    steps = [(32, 128, 4), (32, 128, 8), (224, 32, 4)]
    result: dict[str, Any] = {"settings": {"threads": len(os.sched_getaffinity(0))}}
    with tempfile.TemporaryDirectory() as folder, Rival.started(options.rivals, Path(folder)) as rival:
        for trains, chosen in ((False, cases), (True, steps)):
            for size, batch, turns in chosen:
                name = f"{'training_step' if trains else 'canonicalization'}_c{turns}_{size}px_batch_{batch}"
                result[name] = measured(rival, size, batch, turns, trains=trains, rounds=rounds)
                print(name, json.dumps(result[name]), flush=True)
        versions = rival.versions
    if not options.small:
        print(record("speed_canonicalization", result, seeds=[SEED], packages=["optax"], rivals=versions).name)


if __name__ == "__main__":
    main()
