"""Small learners to choose from: PCA, kernels without and with contrastive training, and networks; on one split."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from repsim_jax.errors import BadArrayError, DivergedError, UnknownNameError
from repsim_jax.kernels import mlp_kernels, ntk_change
from repsim_jax.linalg import unit_rows
from repsim_jax.losses import nt_xent
from repsim_jax.theory.kernel_learner import KernelFlow, PairObjective, kernel_flow
from repsim_jax.theory.kernel_pca import kernel_pca, random_features
from repsim_jax.theory.networks import Network, Params, apply, init
from repsim_jax.theory.probes import Embedded
from repsim_jax.theory.verdicts import Kind
from repsim_jax.training import train

# Kernels of an analytic network that advise offers: those with a closed form.
_ACTIVATIONS = ("relu", "erf", "gelu")
# Examples on which the tangent kernel of a network is looked at.
_LOOKED_AT = 48
_FLOW_LOOKS = 8
# A flow takes tens of steps; one that takes hundreds is stuck where an embedding passes through zero.
_MOST_FLOW_STEPS = 256


@dataclass(frozen=True)
class Recipe:
    r"""How the learners are made; the same embedding size for all.

    Attributes:
        num_components: Embedding size k, at least 2. PCA has at most as many as the data have dimensions.
        widths: Hidden units of each network that is trained, in NTK parametrization with one hidden layer.
        activation: ``relu``, ``erf`` or ``gelu``, of networks, random features and kernels alike.
        num_features: Random features of contrastive PCA, and of the start of the kernel flow.
        temperature: Of NT-Xent, for the network and for the kernel.
        num_steps: Of Adam.
        batch_size: Of Adam; at most the training examples.
        learning_rate: Of Adam.
        horizon: Time of the kernel flow.
        most_pairs: Of an example and a view of it in the kernel flow, which takes (2 pairs)^2 numbers for each step.
    """

    num_components: int = 32
    widths: tuple[int, ...] = (64, 512)
    activation: str = "relu"
    num_features: int = 1024
    temperature: float = 0.5
    num_steps: int = 400
    batch_size: int = 256
    learning_rate: float = 0.01
    horizon: float = 100.0
    most_pairs: int = 500

    def __post_init__(self) -> None:
        if self.activation not in _ACTIVATIONS:
            raise UnknownNameError.of("activation with a kernel in closed form", str(self.activation), _ACTIVATIONS)
        for name, least in (("num_components", 2), ("num_features", 2), ("num_steps", 1), ("batch_size", 2)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise BadArrayError(f"Recipe needs a whole number {name} >= {least}, got {value!r}.")
        if self.num_components >= self.num_features:
            raise BadArrayError(
                f"Recipe needs fewer components than random features, got {self.num_components} of {self.num_features}."
            )
        if not self.widths or any(type(width) is not int or width < 2 for width in self.widths):
            raise BadArrayError(f"Recipe needs widths of networks, whole numbers >= 2, got {self.widths!r}.")
        for name in ("temperature", "learning_rate", "horizon", "most_pairs"):
            if not 0 < getattr(self, name) < float("inf"):
                raise BadArrayError(f"Recipe needs {name} > 0, got {getattr(self, name)!r}.")

    def network(self, width: int) -> Network:
        """A network of this recipe.

        Args:
            width: Hidden units.

        Returns:
            Its shape.
        """
        return Network(width, self.num_components, activation=self.activation)  # pyright: ignore[reportArgumentType]


class Split(NamedTuple):
    """Training and test examples, prepared for every learner alike: see ``advice.prepared``.

    Attributes:
        x: (n, d) training examples.
        views: (n, v, d) other views of them.
        test: (m, d) examples that no learner sees.
        test_view: (m, d) another view of each.
    """

    x: np.ndarray
    views: np.ndarray
    test: np.ndarray
    test_view: np.ndarray


class Motion(NamedTuple):
    """How far training moved the tangent kernel of a network.

    Attributes:
        steps: (t,) of Adam.
        change: (t,) relative Frobenius change of the traced kernel of test examples since the start.
    """

    steps: np.ndarray
    change: np.ndarray


class Map(NamedTuple):
    """What a learner has learned.

    Attributes:
        embed: From (n, d) examples to (n, k) embeddings.
        motion: Of a network.
        reached: Share of the training that was done: below one where the flow of a kernel could not be integrated on.
    """

    embed: Callable[[np.ndarray], Any]
    motion: Motion | None = None
    reached: float = 1.0


class Fitted(NamedTuple):
    """A learner on one split.

    Attributes:
        embedded: What it makes of the split.
        seconds: For fitting and embedding, compilation included.
        motion: Of a network.
        reached: Share of the training that was done.
    """

    embedded: Embedded
    seconds: float
    motion: Motion | None
    reached: float


class Maker(NamedTuple):
    """A learner that can be fitted.

    Attributes:
        name: For tables.
        kind: What it is.
        fit: ``fit(key, split, recipe)`` gives its map from examples to embeddings.
    """

    name: str
    kind: Kind
    fit: Callable[[jax.Array, Split, Recipe], Map]


def makers(recipe: Recipe) -> tuple[Maker, ...]:
    """All learners, the cheapest first.

    Args:
        recipe: How they are made.

    Returns:
        PCA, kernel PCA, contrastive PCA of random features, a contrastive kernel, and a network for each width.
    """
    networks = [Maker(f"network, width {width}", "network", _network(width)) for width in recipe.widths]
    return (
        Maker("PCA", "pca", _pca),
        Maker("kernel PCA", "kernel", _kernel_pca),
        Maker("contrastive PCA", "kernel", _contrastive_pca),
        Maker("contrastive kernel", "kernel", _contrastive_kernel),
        *networks,
    )


def fitted(key: jax.Array, maker: Maker, split: Split, recipe: Recipe) -> Fitted:
    """Fits a learner and lets it embed the split.

    Args:
        key: Random key.
        maker: Of the learner.
        split: Examples.
        recipe: How it is made.

    Returns:
        Embeddings, with the time that they took.
    """
    start = time.perf_counter()
    made = maker.fit(key, split, recipe)
    embedded = Embedded(*(np.asarray(made.embed(side), float) for side in (split.x, split.test, split.test_view)))
    return Fitted(embedded, time.perf_counter() - start, made.motion, made.reached)


def _pca(_: jax.Array, split: Split, recipe: Recipe) -> Map:
    mean = split.x.mean(0)
    s, v = np.linalg.svd(split.x - mean, full_matrices=False)[1:]
    components = v[: min(recipe.num_components, int((s > 1e-6 * s[0]).sum()))].T
    return Map(lambda x: (x - mean) @ components)


def _kernel_pca(_: jax.Array, split: Split, recipe: Recipe) -> Map:
    found = kernel_pca(_ntk(split.x, None, recipe), min(recipe.num_components, len(split.x) - 1))
    return Map(lambda x: found.embed(_ntk(x, split.x, recipe)))


def _contrastive_pca(key: jax.Array, split: Split, recipe: Recipe) -> Map:
    """The linear loss with orthonormal outputs: as ``contrastive_pca``, in the M x M form, with all views."""

    def features(x: np.ndarray) -> np.ndarray:
        made = random_features(key, jnp.asarray(x), num_features=recipe.num_features, activation=recipe.activation)  # pyright: ignore[reportArgumentType]
        return np.asarray(made, float)

    z = features(split.x)
    z_pos = np.mean([features(view) for view in np.moveaxis(split.views, 1, 0)], axis=0)
    cross = (z - z.mean(0)).T @ (z_pos - z_pos.mean(0))
    _, vectors = np.linalg.eigh(cross + cross.T)
    top = vectors[:, -recipe.num_components :]
    return Map(lambda x: features(x) @ top)


def _contrastive_kernel(key: jax.Array, split: Split, recipe: Recipe) -> Map:
    """An infinitely wide network under NT-Xent and gradient flow, as long as the integration goes well."""
    key_rows, key_features, key_weights = jax.random.split(key, 3)
    count = split.views.shape[1]
    order = np.asarray(jax.random.permutation(key_rows, len(split.x) * count))
    # One pair of each example before any example has a second one.
    kept = order[np.argsort(_times_seen(order // count), kind="stable")][: recipe.most_pairs]
    points = np.concatenate([split.x[kept // count], split.views[kept // count, kept % count]])
    weights = np.asarray(jax.random.normal(key_weights, (recipe.num_features, recipe.num_components)))

    def start(x: np.ndarray) -> np.ndarray:
        made = random_features(
            key_features, jnp.asarray(x), num_features=recipe.num_features, activation=recipe.activation  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
        return np.asarray(made) @ weights

    flow = _flow(_ntk(points, None, recipe), start(points), recipe)
    if flow is None:
        return Map(lambda x: _directions(start(x)), reached=0.0)
    reached = float(flow.times[-1]) / recipe.horizon
    return Map(lambda x: _directions(flow.embed(_ntk(x, points, recipe), start(x))), reached=reached)


def _flow(kernel: np.ndarray, start: np.ndarray, recipe: Recipe) -> KernelFlow | None:
    """As far as it goes: to the horizon, or to a hundredth of it, or nowhere."""
    for share in (1.0, 0.1, 0.01):
        try:
            return kernel_flow(
                PairObjective("nt_xent", "cosine", recipe.temperature), kernel, start, num_records=_FLOW_LOOKS,
                max_steps=_MOST_FLOW_STEPS, allow_partial=True, horizon=share * recipe.horizon, tolerance=1e-4,
            )  # fmt: skip
        except DivergedError:
            continue
    return None


def _times_seen(rows: np.ndarray) -> np.ndarray:
    """How often each number stands before its place."""
    seen: dict[int, int] = {}
    found = []
    for row in rows.tolist():
        found.append(seen.get(row, 0))
        seen[row] = found[-1] + 1
    return np.array(found)


def _ntk(x: np.ndarray, y: np.ndarray | None, recipe: Recipe) -> np.ndarray:
    """The kernel of the recipe's networks at infinite width, whose first layer does not divide by the root of d."""
    stds = (x.shape[1] ** 0.5, 1.0)
    return np.asarray(mlp_kernels(x, y, activation=recipe.activation, depth=1, weight_std=stds).ntk)


def _network(width: int) -> Callable[[jax.Array, Split, Recipe], Map]:
    def fit(key: jax.Array, split: Split, recipe: Recipe) -> Map:
        network = recipe.network(width)
        key_init, key_batches = jax.random.split(key)
        start = init(key_init, network, split.x.shape[1])
        probes, steps, change = jnp.asarray(split.test[:_LOOKED_AT]), [], []

        def look(done: int, params: Params) -> None:
            if not all(np.isfinite(np.asarray(one)).all() for one in params):
                raise DivergedError(
                    f"the network of width {width} has NaN or infinite weights after {done} steps: an embedding "
                    "vanished, all units of a narrow network being off for an example, where a cosine has no slope, or "
                    f"the learning rate {recipe.learning_rate:g} is too large. Take wider networks, or a smaller rate."
                )
            steps.append(done)
            change.append(float(ntk_change(_function(network), start, params, probes).relative))

        trained = train(
            key_batches, start, _loss(network, recipe.temperature),
            np.concatenate([split.x[:, None], split.views], axis=1), noisy=True, on_look=look,
            optimizer=_adam(recipe.learning_rate), num_steps=recipe.num_steps,
            batch_size=min(recipe.batch_size, len(split.x)),
        )  # fmt: skip
        motion = Motion(np.array(steps), np.array(change))
        return Map(lambda x: _directions(_function(network)(trained.params, jnp.asarray(x))), motion)

    return fit


def _directions(f: Any) -> jax.Array:
    """What a loss of cosines rules: it leaves the norms to chance."""
    return unit_rows(jnp.asarray(f))


@lru_cache(maxsize=16)
def _function(network: Network) -> Callable[[Params, jax.Array], jax.Array]:
    """One object for each network, so that its programs are compiled once."""
    return jax.jit(lambda params, x: apply(params, x, network))


@lru_cache(maxsize=16)
def _loss(network: Network, temperature: float) -> Callable[[jax.Array, Params, jax.Array], jax.Array]:
    def loss(key: jax.Array, params: Params, batch: jax.Array) -> jax.Array:
        """NT-Xent of two different views of each example, drawn anew at each step."""
        key_first, key_second = jax.random.split(key)
        size, count = batch.shape[:2]
        first = jax.random.randint(key_first, (size,), 0, count)
        second = (first + jax.random.randint(key_second, (size,), 1, count)) % count
        sides = (batch[jnp.arange(size), chosen] for chosen in (first, second))
        return nt_xent(*(apply(params, side, network) for side in sides), temperature=temperature)

    return loss


@lru_cache(maxsize=16)
def _adam(learning_rate: float) -> optax.GradientTransformation:
    return optax.adam(learning_rate)
