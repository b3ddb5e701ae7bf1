"""Which examples can go at no loss? Retrains after dropping some. python benchmarks/influence_pruning.py --seeds 0 1 2.

A small network learns digits by SimCLR; a share of the training digits goes by one method, the network is trained anew
on those that are left, by as many updates, and a linear probe on its representation is fitted to all training digits
and judged on test digits. The methods see the representation and influence of the first network, never a label. In a
second arm, a quarter of the training digits come twice more as near copies, and duplicates are dropped alone.

Writes benchmarks/results/influence_pruning.json.
"""

import argparse
import time
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _record import record

from repsim_jax import influence as inf
from repsim_jax.data import open_source
from repsim_jax.influence import curation

NETWORK = inf.Network((64,), widths=(128,), num_features=32, projector=(64, 32))
RECIPE = inf.Recipe(num_steps=300, batch_size=128, learning_rate=3e-3)
AUGMENT = inf.DigitViews()
NUM_VIEWS, INFLUENCE_BATCH = 4, 64


def split(seed: int, num_train: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Digits to train on, and to judge by.

    Args:
        seed: Draws them.
        num_train: How many are for training.

    Returns:
        Training digits and labels, test digits and labels.
    """
    source = open_source("digits")
    rows = np.random.default_rng(seed).permutation(len(source))
    x = np.stack([source.get(int(row)) for row in rows]).astype(np.float32) - 0.5
    labels = np.asarray(source.labels)[rows]
    return x[:num_train], labels[:num_train], x[num_train:], labels[num_train:]


def trained(key: jax.Array, x: np.ndarray, steps: int) -> inf.Pretrained:
    """An encoder.

    Args:
        key: Random key.
        x: Digits.
        steps: Updates.

    Returns:
        The encoder.
    """
    return inf.pretrain(key, x, AUGMENT, network=NETWORK, recipe=replace(RECIPE, num_steps=steps))


def probed(found: inf.Pretrained, sides: Any) -> float:
    """Accuracy of a linear probe.

    Args:
        found: The encoder.
        sides: Digits and labels to fit it to, and to judge it by.

    Returns:
        Share of test digits that are named rightly.
    """
    x, labels, x_test, labels_test = sides
    rows, rows_test = (np.asarray(NETWORK.represent(found.params, jnp.asarray(one))) for one in (x, x_test))
    return curation.probe_accuracy(rows, labels, rows_test, labels_test)


def influence_of(key: jax.Array, found: inf.Pretrained, x: np.ndarray) -> np.ndarray:
    """Self-influence by the default mode, curvature and damping.

    Args:
        key: Random key.
        found: The encoder.
        x: Its training digits.

    Returns:
        (n,) values.
    """
    key_views, key_fit = jax.random.split(key)
    train = inf.augmented(key_views, x, AUGMENT, num_views=NUM_VIEWS)
    posed = inf.problem_of(found, NETWORK, train, "simclr", batch_size=INFLUENCE_BATCH)
    options = {"curvature": inf.ekfac(key_fit, posed), "view_groups": 0}
    return inf.self_influence(key_fit, posed, **options).values


def repeated(key: jax.Array, x: np.ndarray, sides: Any, settings: argparse.Namespace) -> list[float]:
    """Accuracies of several trainings on the same digits, each from other weights and batches.

    Args:
        key: Random key.
        x: Digits to train on.
        sides: As in ``probed``.
        settings: From the command line.

    Returns:
        One accuracy for each.
    """
    return [probed(trained(one, x, settings.steps), sides) for one in jax.random.split(key, settings.repeats)]


def one_seed(seed: int, settings: argparse.Namespace) -> dict[str, Any]:
    """Accuracies by method and share that is dropped.

    Args:
        seed: Draws digits, trainings and selections.
        settings: From the command line.

    Returns:
        The curves, and the arm of duplicates.
    """
    key_first, key_score, key_select, key_again = jax.random.split(jax.random.key(seed), 4)
    sides = split(seed, settings.n)
    x = sides[0]
    first = trained(key_first, x, settings.steps)
    own = influence_of(key_score, first, x)
    rows = NETWORK.represent(first.params, jnp.asarray(x))
    curve = curation.pruning_curve(
        key_select, list(jax.random.split(key_again, settings.repeats)), rows,
        lambda key, kept: probed(trained(key, x[kept], settings.steps), sides), drops=settings.drops,
        self_influence=own,
    )  # fmt: skip
    table: dict[str, Any] = {"nothing dropped": {"0.0": curve.whole.tolist()}}
    for name, scores in zip(curve.names, curve.scores.tolist(), strict=True):
        table[name] = dict(zip(map(str, settings.drops), scores, strict=True))
        told = {drop: round(float(np.mean(values)), 4) for drop, values in table[name].items()}
        print(f"seed {seed} {name:30s} {told} nothing {curve.whole.mean():.4f}", flush=True)
    return {"curves": table, "duplicates": duplicates(seed, settings)}


def duplicates(seed: int, settings: argparse.Namespace) -> dict[str, Any]:
    """Drops planted copies.

    Args:
        seed: Draws digits, copies and trainings.
        settings: From the command line.

    Returns:
        Accuracies with the copies, without those that were found, and without as many at random; and what was found.
    """
    key_noise, key_first, key_random, key_again = jax.random.split(jax.random.key(1000 + seed), 4)
    x, labels, *test = split(seed, settings.n)
    count = settings.n // 4
    copies = np.repeat(x[:count], 2, axis=0) + np.asarray(0.02 * jax.random.normal(key_noise, (2 * count, 64)))
    whole = np.concatenate([x, copies]).astype(np.float32)
    sides = (whole, np.concatenate([labels, np.repeat(labels[:count], 2)]), *test)
    first = trained(key_first, whole, settings.steps)
    found = curation.find_duplicates(np.asarray(NETWORK.represent(first.params, jnp.asarray(whole))))
    dropped = np.asarray(curation.to_drop(found))
    planted = {frozenset((i, settings.n + 2 * i + j)) for i in range(count) for j in (0, 1)}
    planted |= {frozenset((settings.n + 2 * i, settings.n + 2 * i + 1)) for i in range(count)}
    said = {frozenset((int(a), int(b))) for group in found.groups for a in group for b in group if a < b}
    kept = np.setdiff1d(np.arange(len(whole)), dropped)
    chance = np.sort(np.asarray(jax.random.permutation(key_random, len(whole)))[: len(kept)])
    result = {
        "with copies": repeated(key_again, whole, sides, settings),
        "duplicates dropped": repeated(key_again, whole[kept], sides, settings),
        "as many dropped at random": repeated(key_again, whole[chance], sides, settings),
        "dropped": len(dropped), "of": len(whole), "recall": len(said & planted) / len(planted),
        "precision": len(said & planted) / max(1, len(said)),
    }  # fmt: skip
    print(f"seed {seed} duplicates", result, flush=True)
    return result


def summary(by_seed: dict[str, Any]) -> dict[str, Any]:
    """Means over seeds, and differences to random selection with their standard errors over seeds.

    Args:
        by_seed: From ``one_seed``.

    Returns:
        By method and share that is dropped.
    """
    tables = [{name: {drop: float(np.mean(values)) for drop, values in line.items()} for name, line in
               one["curves"].items()} for one in by_seed.values()]  # fmt: skip
    found: dict[str, Any] = {}
    for name, line in tables[0].items():
        found[name] = {}
        for drop in line:
            values = np.asarray([table[name][drop] for table in tables])
            cell = {"accuracy": float(values.mean()), "standard_deviation_over_seeds": float(values.std())}
            if drop in tables[0]["random"]:
                gain = values - np.asarray([table["random"][drop] for table in tables])
                error = float(gain.std(ddof=1) / len(gain) ** 0.5) if len(gain) > 1 else None
                cell |= {"more_than_random": float(gain.mean()), "standard_error": error}
            found[name][drop] = cell
    return found


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--n", type=int, default=1200, help="training digits; the others are for the test")
    parser.add_argument("--drops", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.5], help="shares that go")
    parser.add_argument("--repeats", type=int, default=2, help="trainings on each selection")
    parser.add_argument("--steps", type=int, default=RECIPE.num_steps, help="updates of each training")
    parser.add_argument("--no-record", action="store_true", help="only print")
    settings = parser.parse_args()
    began = time.process_time()
    by_seed = {str(seed): one_seed(seed, settings) for seed in settings.seeds}
    how = {key: value for key, value in vars(settings).items() if key != "no_record"}
    how |= {
        "network": repr(NETWORK), "recipe": repr(RECIPE), "augment": repr(AUGMENT), "views": NUM_VIEWS,
        "batch_size_of_influence": INFLUENCE_BATCH,
        "data": "scikit-learn digits", "objective": "simclr", "curvature": "ekfac, defaults", "mode": "batch",
    }  # fmt: skip
    result = {
        "settings": how, "over_seeds": summary(by_seed), "by_seed": by_seed,
        "cpu_seconds": round(time.process_time() - began),
    }  # fmt: skip
    if not settings.no_record:
        packages = ("optax", "scikit-learn")
        print(f"wrote {record('influence_pruning', result, seeds=settings.seeds, packages=packages).name}")


if __name__ == "__main__":
    main()
