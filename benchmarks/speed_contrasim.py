"""Speed of ContraSim against its authors' way in torch: python benchmarks/speed_contrasim.py --rivals ../repsim-rivals.

The rival (``_contrasim_rival.py``) re-creates the released code of arXiv 2303.16992: training encodes each block (b, d)
of one layer and one model by itself; scoring encodes both sides again for every layer pair. Ours trains through
``training.minimize``, draws of batches included, from a table that holds exactly one batch, so that both sides see the
same examples and every loss can be compared; theirs finds its batch cut out already. Runs alternate, ours and theirs,
in two processes; the ratio is theirs / ours, pair by pair: above 1 means that we are faster. ``*_rival_batched`` and
``*_rival_once`` compare with torch as one would write it for speed. Compilation is left out of the ratios; the first
call stands beside them. On a machine that is busy otherwise, torch's threads wait for each other, and the ratio is too
kind to us: run it there on one core (``taskset -c 0 python ...``), as ``threads`` in the result tells. Streaming
(``_contrasim_streaming.py``) runs in processes that tell their peak memory.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from _contrasim_streaming import STORE, write_stores
from _record import ROOT, record

from repsim_jax.similarity import contrasim
from repsim_jax.similarity.contrasim import encoder
from repsim_jax.similarity.contrasim.fitting import optimizer_of
from repsim_jax.similarity.contrasim.objectives import Numbers, Table, loss_of
from repsim_jax.training import minimize

SEED, SIZES = 0, (512, 256, 128)
HERE = Path(__file__).resolve().parent
# (layers, models, examples) of the sweeps, d = 128, around one base.
BASE, WIDTH = {"layers": 6, "models": 4, "examples": 128}, 128
SWEEPS = {"layers": (3, 6, 12, 24), "models": (2, 4, 8, 16), "examples": (32, 128, 512)}


class Case(NamedTuple):
    """What both sides hold.

    Attributes:
        name: Stem of its files.
        x: (models, layers, n, d).
        params: Of the encoder.
    """

    name: str
    x: np.ndarray
    params: encoder.Params

    @classmethod
    def make(cls, folder: Path, name: str, models: int, layers: int, n: int, d: int) -> "Case":
        """Draws layers that share a latent space, and weights; writes both for the rival.

        Args:
            folder: Where to.
            name: Stem of the files.
            models: Sources.
            layers: Of each.
            n: Examples.
            d: Features.

        Returns:
            The case.
        """
        generator = np.random.default_rng(SEED)
        latent = generator.standard_normal((layers, n, d), np.float32)
        x = np.stack([latent + generator.standard_normal(latent.shape, np.float32) for _ in range(models)])
        trunk = encoder.init(jax.random.key(SEED), (d, *SIZES))
        np.save(folder / f"{name}.npy", x)
        np.savez(
            folder / f"{name}.npz",
            **{f"{part}_{i}": np.asarray(layer[part]) for i, layer in enumerate(trunk) for part in layer},
        )
        return cls(name, x, {"trunk": trunk})


def gigaflop(x: np.ndarray, *, pairs: bool) -> float:
    """Work of one training step: products forward, and twice backward except for the gradient of the input.

    Args:
        x: (models, layers, b, d).
        pairs: Whether the items of the loss are rows, not layers.

    Returns:
        Multiplications and additions, in 10^9.
    """
    widths = (x.shape[-1], *SIZES)
    macs = [a * b for a, b in itertools.pairwise(widths)]
    blocks, rows = x.shape[0] * x.shape[1], x.shape[2]
    logits = (blocks * rows) ** 2 * SIZES[-1] if pairs else blocks**2 * rows * SIZES[-1]
    return 2e-9 * (blocks * rows * (3 * sum(macs) - macs[0]) + 3 * logits)


def trainer(case: Case, *, pairs: bool, steps: int) -> Callable[[], np.ndarray]:
    """Our training steps of a case.

    Args:
        case: Arrays and weights to start from.
        pairs: Whether positives are examples.
        steps: How many steps.

    Returns:
        A call that gives the losses.
    """
    options = contrasim.Options(input="raw", positives="example") if pairs else contrasim.FAITHFUL
    training = contrasim.FAITHFUL_EXAMPLES if pairs else contrasim.FAITHFUL_LAYERS
    models, layers, n, _ = case.x.shape
    views = tuple(jnp.asarray(x) for x in case.x)
    table = Table((views,), ((jnp.arange(n)[:, None],) * models,), jnp.zeros((n, 0), int))
    numbers = Numbers(*map(jnp.asarray, (training.temperature, training.margin, 0.0)), (jnp.ones((models, layers)),))
    loss = loss_of(options, (tuple(map(str, range(models))),), n)
    optimizer = optimizer_of(training)
    return lambda: np.asarray(
        minimize(
            jax.random.key(SEED), case.params, loss, itertools.repeat((table, numbers)),
            optimizer=optimizer, num_steps=steps,
        ).losses
    )  # fmt: skip


def scorer(case: Case) -> Callable[[], np.ndarray]:
    """Our scores of every two models of a case, input checks included.

    Args:
        case: Arrays and weights.

    Returns:
        A call that gives (pairs of models, L, L).
    """
    measure = contrasim.ContraSim(case.params, contrasim.FAITHFUL, {})
    sides = [[jnp.asarray(x) for x in model] for model in case.x]
    if len(sides) == 2:
        return lambda: np.asarray(contrasim.score_pairs(measure, *sides))[None]
    first, second = np.triu_indices(len(sides), 1)

    def call() -> np.ndarray:
        z = jnp.stack([contrasim.encode_layers(measure, side) for side in sides])
        models, layers, n = z.shape[:3]
        flat = z.reshape(models * layers, -1)
        table = (flat @ flat.T / n).reshape(models, layers, models, layers)
        return np.asarray(table.transpose(0, 2, 1, 3))[first, second]

    return call


def compare(
    rival: subprocess.Popen[str], kind: str, case: Case, call: Callable[[], np.ndarray], *, steps: int, rounds: int
) -> dict[str, object]:
    """Alternates our call with the rival's, and compares what they give.

    Args:
        rival: The process of the rival.
        kind: The rival's call.
        case: What both hold.
        call: Ours.
        steps: Training steps of a round; seconds are of one.
        rounds: Counted rounds, after one that is not.

    Returns:
        Seconds, ratio, and the largest difference; our first call's seconds with compilation. Processor seconds are of
        all threads together, and tell more where other programs take part of the machine.
    """
    ours, theirs, difference = [], [], 0.0
    for _ in range(rounds + 1):
        start = time.perf_counter(), time.process_time()
        values = call()
        ours.append([(time.perf_counter() - start[0]) / steps, (time.process_time() - start[1]) / steps])
        rival.stdin.write(json.dumps({"kind": kind, "case": case.name, "steps": steps}) + "\n")
        rival.stdin.flush()
        answer = json.loads(rival.stdout.readline())
        theirs.append([answer["seconds"] / steps, answer["processor_seconds"] / steps])
        difference = max(difference, float(np.abs(values - np.asarray(answer["values"])).max()))
    if not difference < 1e-4:
        sys.exit(f"{case.name}, {kind}: the two sides differ by {difference}.")
    medians = np.median(ours[1:], axis=0), np.median(theirs[1:], axis=0)
    ratio = np.asarray(theirs[1:]) / np.asarray(ours[1:])
    return {
        "ours_seconds_median": round(float(medians[0][0]), 5),
        "rival_seconds_median": round(float(medians[1][0]), 5),
        "ratio_median": round(float(np.median(ratio[:, 0])), 2),
        "ratio_quartiles": [round(float(q), 2) for q in np.quantile(ratio[:, 0], (0.25, 0.75))],
        "ours_processor_seconds_median": round(float(medians[0][1]), 5),
        "rival_processor_seconds_median": round(float(medians[1][1]), 5),
        "processor_ratio_median": round(float(np.median(ratio[:, 1])), 2),
        "ours_first_call_seconds": round(ours[0][0] * steps, 2),
        "largest_difference": difference,
        "steps": steps,
        "rounds": rounds,
    }


def training_results(rival: subprocess.Popen[str], folder: Path) -> dict[str, dict[str, object]]:
    """Training steps at the paper's width, at a small shape, and of paired examples.

    Args:
        rival: The process of the rival.
        folder: For arrays.

    Returns:
        Name to figures.
    """
    shapes = {
        "layers_12x10x64": ("layers", 10, 12, 64, 768, 3, 7),
        "layers_12x10x64_rival_batched": ("batched", 10, 12, 64, 768, 3, 5),
        "layers_12x10x256": ("layers", 10, 12, 256, 768, 1, 4),
        "layers_8x8x100_small": ("layers", 8, 8, 100, 64, 6, 7),
        "layers_8x8x100_small_rival_batched": ("batched", 8, 8, 100, 64, 6, 5),
        "pairs_2x1024": ("pairs", 2, 1, 1024, 768, 5, 7),
    }
    found = {}
    for name, (kind, models, layers, n, d, steps, rounds) in shapes.items():
        case = Case.make(folder, name, models, layers, n, d)
        call = trainer(case, pairs=kind == "pairs", steps=steps)
        found[name] = compare(rival, kind, case, call, steps=steps, rounds=rounds)
        work = gigaflop(case.x, pairs=kind == "pairs")
        found[name] |= {
            "gigaflop_per_step": round(work, 2),
            **{
                f"{side}_gigaflop_per_second": round(work / found[name][f"{side}_seconds_median"], 1)
                for side in ("ours", "rival")
            },
        }
        print(name, json.dumps(found[name]), flush=True)
    return found


def scoring_results(rival: subprocess.Popen[str], folder: Path) -> dict[str, dict[str, object]]:
    """All layer pairs of two models, and of every two of ten.

    Args:
        rival: The process of the rival.
        folder: For arrays.

    Returns:
        Name to figures.
    """
    found = {}
    for name, kind, models, n, rounds in (
        ("score_pair_n2000", "again", 2, 2000, 2),
        ("score_pair_n2000_rival_once", "once", 2, 2000, 4),
        ("score_ten_models_n32", "again", 10, 32, 3),
    ):
        case = Case.make(folder, name, models, 12, n, 768)
        found[name] = compare(rival, kind, case, scorer(case), steps=1, rounds=rounds)
        print(name, json.dumps(found[name]), flush=True)
    return found


def sweep_results(rival: subprocess.Popen[str], folder: Path) -> dict[str, list[dict[str, object]]]:
    """Seconds of a step against layers, models and examples, one at a time.

    Args:
        rival: The process of the rival.
        folder: For arrays.

    Returns:
        What was turned, to a row for each of its values.
    """
    found: dict[str, list[dict[str, object]]] = {}
    for what, values in SWEEPS.items():
        for value in values:
            shape = {**BASE, what: value}
            case = Case.make(folder, f"{what}_{value}", shape["models"], shape["layers"], shape["examples"], WIDTH)
            row = compare(rival, "layers", case, trainer(case, pairs=False, steps=2), steps=2, rounds=5)
            found.setdefault(what, []).append({what: value, **row})
        print(what, [(row[what], row["ratio_median"]) for row in found[what]], flush=True)
    return found


def draw(sweeps: dict[str, list[dict[str, object]]], threads: int, path: Path) -> None:
    """Writes the sweeps as a picture.

    Args:
        sweeps: From ``sweep_results``.
        threads: Of each side.
        path: The PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3, sharey=True)
    for axis, (what, rows) in zip(axes, sweeps.items(), strict=True):
        values = [row[what] for row in rows]
        for side, label, style in (("rival", "authors' way, torch", "s--"), ("ours", "repsim_jax", "o-")):
            axis.loglog(values, [1e3 * row[f"{side}_seconds_median"] for row in rows], style, label=label)
        axis.xaxis.set_major_locator(FixedLocator(values))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel(f"number of {what}")
        others = ", ".join(f"{value} {name}" for name, value in BASE.items() if name != what)
        axis.set_title(f"{others}, {WIDTH} features", fontsize=9)
        axis.grid(True, which="major", alpha=0.3)
    axes[0].set_ylabel("training step (ms), lower is better")
    axes[0].legend(frameon=False)
    rounds = sweeps["layers"][0]["rounds"]
    figure.suptitle(f"ContraSim, one step of layer prediction: medians of {rounds} rounds, threads: {threads}, CPU")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def streaming_results(folder: Path) -> dict[str, object]:
    """Fits from stores larger than ``memory_limit``, and the same in memory, in turns.

    Args:
        folder: For the stores.

    Returns:
        Figures by mode: medians of two processes each.
    """
    write_stores(folder)
    runs: dict[str, list[dict[str, float]]] = {}
    for mode in ("streamed", "memory", "baseline") * 2:
        command = [sys.executable, str(HERE / "_contrasim_streaming.py"), mode, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        runs.setdefault(mode, []).append(json.loads(done.stdout))
    found = {
        mode: {key: float(np.median([run[key] for run in many])) for key in many[0]} for mode, many in runs.items()
    }
    mib = 4 * STORE["stores"] * STORE["layers"] * STORE["examples"] * STORE["features"] / 2**20
    ratios = [
        a["steps_per_second"] / b["steps_per_second"] for a, b in zip(runs["streamed"], runs["memory"], strict=True)
    ]
    return {
        **STORE,
        "data_mib": round(mib, 1),
        **found,
        "streamed_speed_of_memory_median": round(float(np.median(ratios)), 2),
    }


def main() -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rivals", default=os.environ.get("RIVALS", "../repsim-rivals"), help="Made by `make rivals`.")
    options = parser.parse_args()
    python = Path(options.rivals) / "bin" / "python"
    if not python.exists():
        sys.exit(f"{python} is missing: run `make rivals` first, or name the environment with --rivals.")
    threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [str(python), str(HERE / "_contrasim_rival.py"), name, str(threads)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as rival:
            result = {"training": training_results(rival, folder), "scoring": scoring_results(rival, folder)}
            sweeps = sweep_results(rival, folder)
            rival.stdin.close()
        streaming = streaming_results(folder)
    draw(sweeps, threads, ROOT / "docs" / "pictures" / "contrasim-cost.png")
    settings = {"encoder": list(SIZES), "threads": threads, "sweep_base": {**BASE, "features": WIDTH}}
    path = record(
        "speed_contrasim",
        {"settings": settings, **result, "sweeps": sweeps, "streaming": streaming},
        seeds=[SEED],
        packages=("optax", "matplotlib"),
        rivals={"torch": "2.13.0"},
    )
    print(json.dumps(streaming, indent=2))
    print(path.name)


if __name__ == "__main__":
    main()
