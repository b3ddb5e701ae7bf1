"""How alike are image classifiers that differ in nothing but their seed? Kornblith et al. (ICML 2019), section 6.1."""

import io
import os
from dataclasses import asdict, dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from repsim_jax.activations import Store, extract
from repsim_jax.data import batched, open_source
from repsim_jax.encoders import ConvNet, ConvNetConfig
from repsim_jax.errors import CorruptFileError, FileError, MissingPackageError
from repsim_jax.evaluation.populations.members import Progress, file_sha256, stored_members, weights_sha256
from repsim_jax.training import train

_NUM_CLASSES = 10
# Draws which images are held out, and their order: the same for every network of every population.
_SPLIT_SEED = 0
# Rows that the network reads together when it is measured and stored.
_ROWS = 500


@dataclass(frozen=True)
class ImageRecipe:
    """What all networks of a population share.

    Attributes:
        widths: Channels of each block; equal ones make every layer comparable by measures that want equal widths.
        strides: Stride of each block.
        hidden: Features of the dense layer before the head.
        num_train: Training images.
        num_held_out: Images whose layers are stored; none of them is trained on.
        num_steps: Updates.
        batch_size: Images per update.
        learning_rate: Where the cosine schedule starts.
        weight_decay: Of AdamW.
        gain: Factor on flax's initial kernels of the blocks (LeCun's spread); sqrt(2) is He's, which keeps the signal
            through many ReLUs.
        flips: Whether half of the training images are mirrored, drawn anew at each update.
    """

    widths: tuple[int, ...]
    strides: tuple[int, ...]
    hidden: int
    num_train: int
    num_held_out: int
    num_steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    gain: float
    flips: bool


DIGITS = ImageRecipe((32,) * 6, (1, 2, 1, 1, 1, 1), 64, 1197, 600, 300, 64, 3e-3, 1e-4, 1.0, False)
CIFAR10 = ImageRecipe((64,) * 8, (2, 1, 2, 1, 1, 1, 1, 1), 128, 25_000, 3_000, 1_500, 32, 1e-3, 1e-3, 2**0.5, True)


class Images(NamedTuple):
    """Images (n, h, w, c), uint8, and their labels (n,).

    Attributes:
        train: Those to train on.
        held_out: Those whose layers are stored.
        ids: One per held-out image.
    """

    train: tuple[np.ndarray, np.ndarray]
    held_out: tuple[np.ndarray, np.ndarray]
    ids: tuple[str, ...]


def image_networks(
    out: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str],
    num_models: int = 12,
    seed: int = 0,
    recipe: ImageRecipe | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Store]:
    """Trains convolutional networks that differ in nothing but their seed, and stores their blocks on held-out images.

    The seed draws the initial weights, the batches and the flips. Every store holds "block_0", "block_1", ..., each
    averaged over space, of the same images in the same order. A store that is finished is not made again.

    Args:
        out: Folder of the stores, one per network: "seed-0.store", "seed-1.store", ...
        data: "digits" (scikit-learn's, 8 x 8), or a .parquet file of CIFAR-10 with the columns split ("train" or
            "test"), label, num_in_class and jpeg.
        num_models: How many networks.
        seed: Seed of the first network; the others follow it.
        recipe: Architecture and training; None takes the one of the data.
        on_progress: Called with (name of the network, steps done, all steps).

    Returns:
        {"seed-0": store, ...}. The metadata of each hold "seed", "held_out_accuracy" (top-1, in [0, 1], of the stored
        images), "final_loss" (mean of the last updates), "settings" and "weights_sha256".

    Raises:
        ValueError: If ``num_models`` or ``seed`` is out of range.
        FileError: If the data file does not exist, is damaged, or holds fewer images than the recipe wants.
        StoreMismatchError: If a store in ``out`` was made with other settings.
        MissingPackageError: If scikit-learn, Pillow or pyarrow is needed and not installed.

    Source:
        Kornblith et al., "Similarity of Neural Network Representations Revisited" (ICML 2019), section 6.1: ten
        networks from ten seeds; layers of the same depth should be found alike.

    Differs:
        Smaller networks, of equal widths, without batch normalization.
    """
    is_digits = os.fspath(data) == "digits"
    recipe = recipe or (DIGITS if is_digits else CIFAR10)
    source = (
        {"data": "scikit-learn digits", "lossy": False}
        if is_digits
        else {"data": "CIFAR-10 as JPEG of quality 75", "lossy": True, "data_sha256": file_sha256(Path(data))}
    )
    settings = source | asdict(recipe)
    images = cache(lambda: _digits(recipe) if is_digits else cifar10_images(Path(data), recipe))

    def make(one: int, path: Path) -> Store:
        program = _program(recipe, images().train[0].shape[-1])
        return _member(program, images(), recipe, path, seed=one, settings=settings, on_progress=on_progress)

    return stored_members(Path(out), num_models=num_models, seed=seed, settings=settings, make=make)


def _member(
    program: "_Program",
    images: Images,
    recipe: ImageRecipe,
    path: Path,
    *,
    seed: int,
    settings: dict[str, Any],
    on_progress: Progress | None,
) -> Store:
    trained = train(
        jax.random.key(seed), _initial(program.config, recipe.gain, seed), program.loss, images.train,
        optimizer=program.optimizer, num_steps=recipe.num_steps, batch_size=recipe.batch_size, noisy=True,
        on_progress=on_progress and partial(on_progress, path.stem),
    )  # fmt: skip
    model, probes = nnx.merge(program.graph, trained.params), prepared(images.held_out[0])
    right = [
        np.asarray(program.logits(trained.params, probes[row : row + _ROWS])).argmax(1)
        == images.held_out[1][row : row + _ROWS]
        for row in range(0, len(probes), _ROWS)
    ]
    store = extract(
        model,
        batched(probes, batch_size=min(_ROWS, len(probes)), ids=images.ids),
        layers=tuple(f"block_{i}" for i in range(len(recipe.widths))),
        layout="spatial_mean",
        store=path,
        metadata={
            "model": f"ConvNet {path.stem}",
            "data": f"{settings['data']}, held-out images",
            "seed": seed,
            "held_out_accuracy": float(np.concatenate(right).mean()),
            "final_loss": float(trained.losses[-50:].mean()),
            "settings": settings,
            "weights_sha256": weights_sha256(trained.params),
        },
    )
    assert isinstance(store, Store)
    return store


def _initial(config: ConvNetConfig, gain: float, seed: int) -> Any:
    def widened(path: Any, leaf: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path)
        return gain * leaf if "block_" in name and "kernel" in name else leaf

    return jax.tree_util.tree_map_with_path(widened, nnx.state(ConvNet(config, rngs=nnx.Rngs(seed))))


class _Program(NamedTuple):
    """What is compiled once for all seeds."""

    config: ConvNetConfig
    graph: Any
    loss: Any
    logits: Any
    optimizer: optax.GradientTransformation


@lru_cache(maxsize=4)
def _program(recipe: ImageRecipe, channels: int) -> _Program:
    config = ConvNetConfig(recipe.widths, recipe.hidden, _NUM_CLASSES, channels, recipe.strides)
    graph = nnx.graphdef(ConvNet(config, rngs=nnx.Rngs(0)))

    def loss(key: jax.Array, params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, labels = prepared(batch[0]), batch[1]
        if recipe.flips:
            mirrored = jax.random.bernoulli(key, shape=(len(x), 1, 1, 1))
            x = jnp.where(mirrored, x[:, :, ::-1], x)
        logits = nnx.merge(graph, params)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    schedule = optax.cosine_decay_schedule(recipe.learning_rate, recipe.num_steps)
    optimizer = optax.adamw(schedule, weight_decay=recipe.weight_decay)
    return _Program(config, graph, loss, jax.jit(lambda params, x: nnx.merge(graph, params)(x)), optimizer)


def prepared(images: Any) -> Any:
    """Centers pixels as the networks of a population read them: (x / 255 - 1/2) / (1/4).

    Args:
        images: uint8, (n, h, w, c).

    Returns:
        float32, in [-2, 2].
    """
    return images.astype(np.float32) / 63.75 - 2


def _digits(recipe: ImageRecipe) -> Images:
    source = open_source("digits")
    pixels = np.stack([source.get(row) for row in range(len(source))]).reshape(-1, 8, 8, 1)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(pixels))
    if recipe.num_train + recipe.num_held_out > len(pixels):
        raise FileError("digits", f"holds {len(pixels)} images; {recipe.num_train} + {recipe.num_held_out} are wanted.")
    held_out, train_rows = order[: recipe.num_held_out], order[recipe.num_held_out :][: recipe.num_train]
    # 17 levels of ink, which uint8 keeps exactly apart.
    ink, labels = np.round(pixels * 255).astype(np.uint8), np.asarray(source.labels, np.int32)
    return Images(
        (ink[train_rows], labels[train_rows]),
        (ink[held_out], labels[held_out]),
        tuple(source.ids[row] for row in held_out),
    )


def cifar10_images(path: Path, recipe: ImageRecipe) -> Images:
    """Decodes as many training images, and test images of balanced classes, as a recipe wants.

    Args:
        path: The .parquet file.
        recipe: Says how many.

    Returns:
        The images; the id "test/3/17" is number 17 of class 3 of the test images.

    Raises:
        FileError: If there are fewer.
        CorruptFileError: If the file or an image in it is damaged.
        MissingPackageError: If Pillow or pyarrow is not installed.
    """
    table = _table(path)
    labels, in_class = np.asarray(table["label"], np.int32), np.asarray(table["num_in_class"])
    is_test, generator = np.asarray(table["split"]) == "test", np.random.default_rng(_SPLIT_SEED)
    per_class = -(-recipe.num_held_out // _NUM_CLASSES)
    chosen = [
        generator.permutation(np.flatnonzero(is_test & (labels == one)))[:per_class] for one in range(_NUM_CLASSES)
    ]
    held_out = generator.permutation(np.concatenate(chosen))[: recipe.num_held_out]
    train_rows = generator.permutation(np.flatnonzero(~is_test))[: recipe.num_train]
    if len(held_out) < recipe.num_held_out or len(train_rows) < recipe.num_train:
        raise FileError(
            path,
            f"holds {len(train_rows)} training and {len(held_out)} balanced test images; the recipe wants "
            f"{recipe.num_train} and {recipe.num_held_out}.",
        )
    ids = tuple(f"test/{labels[row]}/{in_class[row]}" for row in held_out)
    train_images, probes = (_decoded(path, table["jpeg"], rows) for rows in (train_rows, held_out))
    return Images((train_images, labels[train_rows]), (probes, labels[held_out]), ids)


def _table(path: Path) -> dict[str, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError.of("pyarrow", "to read parquet files", "table") from error
    try:
        return pyarrow.parquet.read_table(path, columns=["split", "label", "num_in_class", "jpeg"]).to_pydict()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise CorruptFileError(path, f"is not a parquet file of CIFAR-10 ({error}).") from error


def _decoded(path: Path, encoded: list[bytes], rows: np.ndarray) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPackageError.of("pillow", "to decode images", "images") from error
    try:
        return np.stack([np.asarray(Image.open(io.BytesIO(encoded[row])).convert("RGB")) for row in rows])
    except (OSError, ValueError) as error:
        raise CorruptFileError(path, f"holds an image that cannot be decoded ({error}).") from error
