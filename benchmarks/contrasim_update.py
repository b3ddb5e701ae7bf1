"""What changed between two versions of a model? An update with a known effect: python benchmarks/contrasim_update.py.

A small convolutional network of digits is replaced by one that was trained again from another seed, and in whose
pipeline a tenth of the images are mirrored by mistake. ContraSim is fitted on other networks (the same image in the
same layer belongs together) and asked which images the old and the new version see most differently: the mirrored ones
should come first. The area under the ROC curve says how often they do; digits such as 0 and 8 hardly change when
mirrored, so that 1 is out of reach. Beside it, without training: the cosine of the features as they are, which two
seeds do not share, and the cosine of relative representations.

Writes benchmarks/results/contrasim_update.json, and the report's picture of one update to docs/pictures.
"""

import shutil
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _record import ROOT, record
from flax import nnx

from repsim_jax import report, similarity
from repsim_jax.activations import Layers, extract
from repsim_jax.data import open_source
from repsim_jax.encoders import ConvNet
from repsim_jax.linalg import unit_rows
from repsim_jax.similarity import contrasim
from repsim_jax.similarity.contrasim.inputs import relative
from repsim_jax.training import train

SEEDS = tuple(range(5))
FITTED_ON = tuple(range(100, 104))
LAYERS = ("block_0", "block_1", "block_2", "hidden")
NUM_TRAINING, STEPS, MIRRORED = 900, 300, 0.1


def digits() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """All images in [0, 1] with labels and ids, shuffled once.

    Returns:
        (n, 8, 8, 1), (n,) and ids.
    """
    source = open_source("digits")
    images = np.stack([source.get(i) for i in range(len(source))]).astype(np.float32).reshape(-1, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(images))
    return images[order], np.asarray(source.labels)[order], tuple(source.ids[i] for i in order)


def trained(graph: Any, params: Any, seed: int, images: np.ndarray, labels: np.ndarray, steps: int) -> Any:
    """Trains a network by cross-entropy.

    Args:
        graph: Of the network.
        params: Where it starts.
        seed: Of the batches.
        images: Training images.
        labels: Their digits.
        steps: Updates.

    Returns:
        Its parameters.
    """

    def loss(params: Any, batch: Any) -> jax.Array:
        logits = nnx.merge(graph, params)(batch[0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    return train(
        jax.random.key(seed), params, loss, (images, labels), optimizer=optax.adam(2e-3), num_steps=steps, batch_size=64
    ).params  # fmt: skip


def layers_of(name: str, model: Any, images: np.ndarray, ids: tuple[str, ...]) -> Layers:
    """Hidden layers of a network.

    Args:
        name: What to call it.
        model: The network.
        images: What it is shown.
        ids: Of the images.

    Returns:
        The layers.
    """
    made = extract(model, [jnp.asarray(images)], layers=LAYERS, layout={"block_*": "spatial_mean"})
    assert isinstance(made, Layers)
    return made._replace(name=name, ids=ids)


def area(scores: np.ndarray, changed: np.ndarray) -> float:
    """Area under the ROC curve of finding changed images by low scores.

    Args:
        scores: (n,) similarity of old and new version.
        changed: (n,) whether the image was mirrored.

    Returns:
        1/2 for guessing, 1 where all changed ones come first.
    """
    below = (scores[changed][:, None] < scores[~changed][None]).mean()
    return float(below + 0.5 * (scores[changed][:, None] == scores[~changed][None]).mean())


def baselines(old: Layers, new: Layers, rows: np.ndarray, anchors: np.ndarray) -> dict[str, np.ndarray]:
    """Mean over layers of cosines that need no training.

    Args:
        old: One version.
        new: The other.
        rows: Which images.
        anchors: Row numbers of the anchor images.

    Returns:
        (n,) scores by name.
    """
    made: dict[str, list[np.ndarray]] = {"cosine of the features": [], "relative cosine, whitened": []}
    for layer in LAYERS:
        sides = [jnp.asarray(one.read(layer)) for one in (old, new)]
        plain = [unit_rows(side[rows]) for side in sides]
        whitened = [unit_rows(relative(side[rows], side[anchors], whiten=True)) for side in sides]
        for name, (x, y) in zip(made, (plain, whitened), strict=True):
            made[name].append(np.asarray((x * y).sum(1)))
    return {name: np.mean(values, axis=0) for name, values in made.items()}


def accuracy(model: Any, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of digits that a network gets right.

    Args:
        model: The network.
        images: What it is shown.
        labels: The digits.

    Returns:
        From 0 to 1.
    """
    return float((np.asarray(model(jnp.asarray(images))).argmax(1) == labels).mean())


def network(seed: int, images: np.ndarray, labels: np.ndarray) -> Any:
    """A trained network.

    Args:
        seed: Of its weights and batches.
        images: Training images.
        labels: Their digits.

    Returns:
        The network.
    """
    start = nnx.state(ConvNet(rngs=nnx.Rngs(seed)))
    graph = nnx.graphdef(ConvNet(rngs=nnx.Rngs(0)))
    return nnx.merge(graph, trained(graph, start, seed, images, labels, STEPS))


def update(seed: int, measure: contrasim.ContraSim) -> tuple[dict[str, Any], similarity.Comparison]:
    """One network, its replacement, and who finds the mirrored images.

    Args:
        seed: Of both, and of which images are mirrored.
        measure: Fitted on others.

    Returns:
        What was seen, and the comparison by ContraSim.
    """
    images, labels, ids = digits()
    known, probes, names = slice(NUM_TRAINING), images[NUM_TRAINING:], ids[NUM_TRAINING:]
    places = {one: row for row, one in enumerate(names)}
    anchors = np.asarray([places[one] for one in measure.anchor_ids])
    mirrored = np.random.default_rng(seed).random(len(probes)) < MIRRORED
    mirrored[anchors] = False  # both versions must agree on what is relative to what
    seen_by_new = np.where(mirrored[:, None, None, None], probes[:, :, ::-1], probes)
    old, new = (network(one, images[known], labels[known]) for one in (seed, 1000 + seed))
    sides = layers_of("old", old, probes, names), layers_of("new", new, seen_by_new, names)
    learned = contrasim.Learned(measure, allow_unfitted=True, on_seen="drop")
    compared = similarity.compare(*sides, measures=[learned, "linear_cka_unbiased"])
    found = compared.by_example
    assert found is not None
    asked = np.asarray([places[one] for one in found.ids])
    changed = mirrored[asked]
    scores = {"ContraSim": found.scores.mean(0), **baselines(*sides, asked, anchors)}
    first = {name: int(changed[np.argsort(values)[:20]].sum()) for name, values in scores.items()}
    row = {
        "seed": seed,
        "examples": len(asked),
        "mirrored": int(changed.sum()),
        "accuracy_old": accuracy(old, probes, labels[NUM_TRAINING:]),
        "accuracy_new": accuracy(new, seen_by_new, labels[NUM_TRAINING:]),
        "median_by_layer": dict(zip(found.layers, np.median(found.scores, axis=1).tolist(), strict=True)),
        "cka_by_layer": dict(zip(LAYERS, np.diag(compared.matrix("linear_cka_unbiased")).tolist(), strict=True)),
        "area": {name: area(values, changed) for name, values in scores.items()},
        "mirrored_among_20_most_changed": first,
    }
    return row, compared


def main() -> None:
    """Fits on some networks, updates others, asks, and writes."""
    images, labels, ids = digits()
    known, probes, names = slice(NUM_TRAINING), images[NUM_TRAINING:], ids[NUM_TRAINING:]
    sources = {
        f"seed-{one}": layers_of(f"seed-{one}", network(one, images[known], labels[known]), probes, names)
        for one in FITTED_ON
    }
    fit = contrasim.fit(
        jax.random.key(0), sources, options=contrasim.Options(positives="example"),
        training=contrasim.Training(num_steps=300), test_share=0.5, held_out=(f"seed-{FITTED_ON[-1]}",),
        sensitivity=False,
    )  # fmt: skip
    rows, comparisons = zip(*(update(seed, fit.measure) for seed in SEEDS), strict=True)
    with tempfile.TemporaryDirectory() as folder:
        page = report.write(comparisons[0], folder)
        shutil.copy(page.parent / "figures" / "changes.png", ROOT / "docs" / "pictures" / "contrasim-update.png")
    seen = fit.measure.diagnosis
    assert seen is not None
    assert seen.unseen is not None
    means = {name: float(np.mean([row["area"][name] for row in rows])) for name in rows[0]["area"]}
    print(means)
    record(
        "contrasim_update",
        {
            "chance": seen.chance_mean,
            "accuracy_on_new_examples": seen.seen.share,
            "accuracy_on_a_held_out_network": seen.unseen.share,
            "mean_area": means,
            "updates": list(rows),
        },
        seeds=[*SEEDS, *FITTED_ON],
        packages=("optax",),
    )


if __name__ == "__main__":
    main()
