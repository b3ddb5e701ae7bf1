"""``repsim tour``: the main job from end to end on real handwritten digits, in about three minutes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from repsim_jax.cli.bars import bar

if TYPE_CHECKING:
    import numpy as np

    from repsim_jax.activations import Store
    from repsim_jax.evaluation import GateResult

_NUM_TRAINING, _NUM_STEPS, _BATCH = 1200, 400, 64
_LAYERS = ("block_0", "block_1", "block_2", "hidden", "head")
_MEASURES = ("linear_cka_unbiased", "procrustes", "svcca", "rsa", "mutual_knn")
_POLICY = """\
# An update is safe if the layers that feed the decision did not move.
[policy]
min_examples = 500

[[rule]]
measure = "linear_cka_unbiased"
layers = "block_*"
pairs = "matching"
min = 0.7

[[rule]]
measure = "linear_cka_unbiased"
layers = "head"
pairs = "matching"
min = 0.8
"""


class _Digits(NamedTuple):
    """Scikit-learn's digits in a fixed random order, cut into training and held-out images (n, 8, 8, 1)."""

    train: "tuple[np.ndarray, np.ndarray]"
    held_out: "tuple[np.ndarray, np.ndarray]"
    held_out_ids: tuple[str, ...]


def tour(
    out: Annotated[Path, typer.Option(help="Folder for stores, policy and reports.")] = Path("tour"),
    seed: Annotated[int, typer.Option(help="Seed of data order, initial weights and batches.")] = 0,
) -> None:
    """Train small networks on digits, compare them, gate an update, learn a measure, and ask which examples mattered.

    Two networks differ in their seed only; the third learned shuffled labels. The first pair should be alike and pass
    the gate, the second should not. Then a measure is fitted on four networks, and tested on two that it has not seen;
    and wide networks show under which losses a contrastive network is just a kernel. A network learns without labels,
    from digits among which copies and broken images were planted, and tells which ones made it what it is. At last a
    network that knows upright digits only is repaired for digits in any pose, without touching it.

    \b
    repsim tour
    repsim tour --out /tmp/tour --seed 1
    """
    from rich.console import Console

    from repsim_jax.cli import tour_canonicalization, tour_contrasim, tour_influence, tour_theory

    console = Console(highlight=False)
    digits = _digits(seed)
    stores = {}
    for name, model_seed, shuffled in (("seed-0", 0, False), ("seed-1", 1, False), ("shuffled-labels", 2, True)):
        path = out / f"{name}.store"
        stores[name], accuracy = _network(digits, path, seed=1000 * seed + model_seed, shuffled=shuffled)
        console.print(f"{name:>16}: {accuracy:.1%} of {len(digits.held_out_ids)} held-out digits right")
    policy = out / "policy.toml"
    policy.write_text(_POLICY, encoding="utf-8")
    pages = {}
    for update in ("seed-1", "shuffled-labels"):
        pages[update], verdict = _compared(stores["seed-0"], stores[update], policy, out / f"seed-0-vs-{update}")
        _tell(console, update, verdict)
    learned = tour_contrasim.chapter(console, out, seed=seed)
    kernel = tour_theory.chapter(console, out, seed=seed)
    examples = tour_influence.chapter(console, out, seed=seed)
    poses = tour_canonicalization.chapter(console, out, seed=seed)
    console.print(f"\nThe update that failed: {pages['shuffled-labels']}", markup=False, soft_wrap=True)
    console.print(f"The learned measure: {learned.fit}", markup=False, soft_wrap=True)
    console.print(f"Two networks that it has not seen: {learned.comparison}", markup=False, soft_wrap=True)
    console.print(f"Tangent kernels: {kernel}", markup=False, soft_wrap=True)
    console.print(f"Which examples made a representation: {examples}", markup=False, soft_wrap=True)
    console.print(f"Digits in any pose: {poses}", markup=False, soft_wrap=True)
    console.print(f"Report: {pages['seed-1']}", markup=False, soft_wrap=True)


def _digits(seed: int) -> _Digits:
    import numpy as np

    from repsim_jax.data import open_source

    source = open_source("digits")
    images = np.stack([source.get(i) for i in range(len(source))]).astype(np.float32).reshape(-1, 8, 8, 1)
    labels = np.asarray(source.labels)
    order = np.random.default_rng(seed).permutation(len(images))
    train, held_out = order[:_NUM_TRAINING], order[_NUM_TRAINING:]
    ids = tuple(source.ids[i] for i in held_out)
    return _Digits((images[train], labels[train]), (images[held_out], labels[held_out]), ids)


def _network(digits: _Digits, path: Path, *, seed: int, shuffled: bool) -> "tuple[Store, float]":
    """Trains one network and stores its hidden layers on the held-out images; returns its accuracy there, too."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from flax import nnx

    from repsim_jax.encoders import ConvNet
    from repsim_jax.training import train

    images, labels = digits.train
    if shuffled:
        labels = np.random.default_rng(seed).permutation(labels)
    graph, params = nnx.split(ConvNet(rngs=nnx.Rngs(seed)))

    def loss(params: Any, batch: Any) -> jax.Array:
        logits = nnx.merge(graph, params)(batch[0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    with bar(f"training {path.stem}") as on_progress:
        trained = train(
            jax.random.key(seed), params, loss, (images, labels),
            optimizer=optax.adam(3e-3), num_steps=_NUM_STEPS, batch_size=_BATCH, on_progress=on_progress,
        )  # fmt: skip
    model = nnx.merge(graph, trained.params)
    accuracy = float(np.mean(np.asarray(model(jnp.asarray(digits.held_out[0]))).argmax(1) == digits.held_out[1]))
    return _stored(model, digits, path, seed), accuracy


def _stored(model: Any, digits: _Digits, path: Path, seed: int) -> "Store":
    import shutil

    from repsim_jax.activations import Store, extract
    from repsim_jax.data import batched

    if path.exists():
        shutil.rmtree(path)  # an earlier tour; its networks are trained anew
    store = extract(
        model,
        batched(digits.held_out[0], batch_size=128, ids=digits.held_out_ids),
        layers=_LAYERS,
        layout={"block_*": "spatial_mean"},
        store=path,
        metadata={"data": "scikit-learn digits, held-out images", "seed": seed},
    )
    assert isinstance(store, Store)
    return store


def _compared(old: "Store", new: "Store", policy: Path, out: Path) -> "tuple[Path, GateResult]":
    from repsim_jax import report, similarity
    from repsim_jax.evaluation import check, load_policy

    comparison = similarity.compare(old, new, measures=_MEASURES, name_a=old.path.stem, name_b=new.path.stem)
    verdict = check(comparison, load_policy(policy))
    return report.write(comparison, out, gate=verdict, provenance={"command": "repsim tour"}), verdict


def _tell(console: Any, update: str, verdict: "GateResult") -> None:
    from repsim_jax.report.tables import gate_summary

    console.print(f"\nseed-0 to {update}:", style="bold", markup=False)
    console.print(gate_summary(verdict))
