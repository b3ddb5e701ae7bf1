"""Upright and turned images, with and without a canonicalizer: python benchmarks/canonicalization_images.py.

A convolutional network learns upright images (scikit-learn's digits, or CIFAR-10 with --data). It is tested on held-out
images as they are ("upright") and in every pose of the group ("orbit", the mean), alone and behind canonicalizers that
were trained without labels on the same upright images: with our objective, with the paper's, and not at all. Beside it
stand a network that was trained on images in all poses, one whose answers are averaged over the orbit, and a network of
group convolutions. ``chosen`` is the share of upright test images that stay upright; ``followed`` that of turned ones
whose element moved with them, which is 1 where no pixel is interpolated. ``orbit_of_quarters`` is the mean over the
turns by multiples of 90 degrees alone.

Writes benchmarks/results/canonicalization_DATA_GROUP.json after each seed.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _canonicalization_contest import Labeled, Parts, Plan, cifar, classifier, digits, equivariant_classifier
from _record import record

from repsim_jax import canonicalization as canon

OBJECTIVES = {"ours": canon.OURS, "the paper's": canon.PAPER}
PLANS = {
    "digits": Plan((32, 64), (8, 8), 1200, 600, recipe=canon.Recipe(num_steps=600, widths=(32, 32))),
    "cifar10": Plan((32, 64, 128), (4, 8), 3000, 750, 2, canon.Recipe(num_steps=1500, widths=(16, 32, 64))),
}


def one_seed(seed: int, parts: Parts, plan: Plan, group: canon.Group) -> dict[str, Any]:
    """The table of one seed.

    Args:
        seed: Draws weights and batches.
        parts: Images.
        plan: Sizes and steps.
        group: Whose poses the test images are in.

    Returns:
        Accuracies by contestant.
    """
    keys = dict(
        zip(("alone", "turned", "group", "fit", "audit"), jax.random.split(jax.random.key(seed), 5), strict=True)
    )
    table: dict[str, Any] = {}

    def add(name: str, found: dict[str, Any]) -> None:
        table[name] = found
        told = " ".join(f"{key} {value:.3f}" for key, value in found.items())
        print(f"{group.name} seed {seed} {name:28s} {told}", flush=True)

    alone = classifier(keys["alone"], parts.train, plan)
    turned = classifier(keys["turned"], parts.train, plan, rotated=group)
    add("trained on all poses", answered(turned, group, parts.test))
    network = equivariant_classifier(keys["group"], parts.train, plan, group)
    add("group convolutions", answered(network, group, parts.test))
    for name in ("untrained", *OBJECTIVES):
        began = time.process_time()
        found = posed(keys["fit"], name, parts.train, plan, group)
        seconds = time.process_time() - began
        wrapped = canon.equivariant(alone, found)
        audit = canon.equivariance_audit(
            keys["audit"], wrapped, parts.test.x, labels=parts.test.y, baselines=name == "untrained"
        )
        for way in audit.ways[1:]:
            add(way.name, accuracies(way, group))
        chosen = float((_chosen(found, parts.test.x) == 0).mean())
        more = {"chosen": chosen, "followed": float(audit.followed.mean()), "training_cpu_s": round(seconds, 1)}
        add(f"canonicalizer, {name}", accuracies(audit.repaired, group) | more)
    return table


def _chosen(found: canon.Canonicalizer, x: np.ndarray, batch: int = 256) -> np.ndarray:
    return np.concatenate([np.asarray(found(x[i : i + batch]).elements.index) for i in range(0, len(x), batch)])


def posed(key: jax.Array, name: str, part: Labeled, plan: Plan, group: canon.Group) -> canon.Canonicalizer:
    """A canonicalizer.

    Args:
        key: Random key.
        name: Of an objective, or "untrained".
        part: Upright images; their labels are not looked at.
        plan: Sizes and steps.
        group: Its group.

    Returns:
        The canonicalizer.
    """
    recipe = plan.recipe
    if name == "untrained":
        return canon.untrained(key, part.x.shape[1:], group, widths=recipe.widths)
    return canon.fit(key, part.x, group, objective=OBJECTIVES[name], recipe=recipe).canonicalizer


def answered(model: Any, group: canon.Group, part: Labeled) -> dict[str, float]:
    """What a model answers that needs no canonicalizer.

    Args:
        model: A function of images.
        group: Whose poses.
        part: Test images.

    Returns:
        Its accuracies.
    """
    leaves_alone = canon.untrained(jax.random.key(0), part.x.shape[1:], canon.cyclic(1), widths=(1,), num_outputs=1)
    right = []
    for index in range(group.order):
        elements = group.elements(np.full(len(part.x), index), np.float32)
        x = np.asarray(canon.Images().act(group, elements, part.x))
        audit = canon.equivariance_audit(
            jax.random.key(0), canon.equivariant(model, leaves_alone), x, labels=part.y, baselines=False
        )
        assert audit.repaired.right is not None
        right.append(audit.repaired.right[0])
    return accuracies(canon.Way("", np.zeros((0, 0)), None, np.stack(right)), group)


def accuracies(way: canon.Way, group: canon.Group) -> dict[str, float]:
    """Shares of right answers.

    Args:
        way: With labels.
        group: Its elements.

    Returns:
        Of images as they are, over the orbit, and over its quarter turns.
    """
    assert way.right is not None
    quarters = way.right[:: max(1, group.order // 4)]
    return {
        "upright": float(way.right[0].mean()), "orbit": float(way.right.mean()),
        "orbit_of_quarters": float(quarters.mean()),
    }  # fmt: skip


def summary(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Means and spreads over seeds.

    Args:
        found: Tables by seed.

    Returns:
        The mean, and the standard deviation where there are several seeds, of each number.
    """
    tables = list(found.values())
    told = {}
    for name in tables[0]:
        rows = {key: np.asarray([table[name][key] for table in tables]) for key in tables[0][name]}
        told[name] = {
            key: {"mean": float(row.mean())} | ({"sd": float(row.std(ddof=1))} if len(row) > 1 else {})
            for key, row in rows.items()
        }
    return told


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10; without it, digits")
    parser.add_argument("--groups", nargs="+", type=int, default=[4, 8], help="orders n of the rotation groups C_n")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--num-train", type=int, default=20000, help="images of CIFAR-10 to learn from")
    parser.add_argument("--num-test", type=int, default=2000, help="images of CIFAR-10 to test on")
    settings = parser.parse_args()
    data = "digits" if settings.data is None else "cifar10"
    plan = PLANS[data]
    for order in settings.groups:
        group, found = canon.cyclic(order), {}
        for seed in settings.seeds:
            if settings.data is None:
                parts = digits(seed)
            else:
                parts = cifar(settings.data, seed, settings.num_train, settings.num_test)
            found[str(seed)] = one_seed(seed, parts, plan, group)
            how = {"plan": repr(plan), "train": len(parts.train.y), "test": len(parts.test.y), "group": group.name}
            result = {"settings": how, "summary": summary(found), **found}
            record(f"canonicalization_{data}_c{order}", result, seeds=[int(one) for one in found], packages=("optax",))


if __name__ == "__main__":
    main()
