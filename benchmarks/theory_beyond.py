"""Kernel and PCA beyond the theory: python benchmarks/theory_beyond.py [--dataset digits ...] [--small].

A phase diagram of the kernel's change over width, time and learning rate for each loss; the exponent of that change in
the width under other architectures, optimizers, batches, temperatures and normalizations; and how fast training leaves
PCA with depth, penalties and a closing gap. Writes benchmarks/results/theory_beyond_DATASET.json, and for the first of
the data sets docs/pictures/theory-phase.png. Only digits come with the package's dependencies; MNIST and CIFAR-10 are
read from --data. Convolutions see images that are cropped and averaged to 8 x 8 places.
"""

import argparse
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from _record import ROOT, record

from repsim_jax.report.claims import claims_to_json
from repsim_jax.report.phase import phase_figure, phase_to_json
from repsim_jax.report.plots import encode
from repsim_jax.theory import Setup, triplets
from repsim_jax.theory.beyond import beyond_the_theory
from repsim_jax.theory.beyond_pca import beyond_pca
from repsim_jax.theory.phase import phase_diagram
from repsim_jax.theory.triplets import image_triplets

SEED, TRIPLETS, EXAMPLES = 0, 16, 2000
TITLES = {"digits": "digits (8 x 8)", "mnist": "MNIST", "cifar10": "CIFAR-10 (first 4,000, lossless)"}


class Size(NamedTuple):
    """How much is run.

    Attributes:
        widths: Of the phase diagram.
        few_widths: Of everything else.
        pca_widths: Of the departure from PCA.
        rates: Of the phase diagram.
        seeds: Networks of each kind.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    few_widths: tuple[int, ...] = (64, 256, 1024, 4096)
    pca_widths: tuple[int, ...] = (64, 256, 1024)
    rates: tuple[float, ...] = (1 / 16, 1.0, 4.0)
    seeds: int = 5


SMALL = Size((64, 256), (64, 128, 256), (64, 128, 256), (1 / 16, 1.0), 3)


def images_of(dataset: str, folder: Path | None) -> np.ndarray:
    """Images of a data set as numbers.

    Args:
        dataset: "digits", "mnist" or "cifar10".
        folder: Where the latter two lie.

    Returns:
        (n, height, width, channels).

    Raises:
        SystemExit: If there is no folder for a data set that needs one.
    """
    if dataset == "digits":
        from sklearn.datasets import load_digits

        return load_digits().images[..., None]
    if folder is None:
        raise SystemExit(f"{dataset} is read from a folder: pass --data DIR.")
    if dataset == "mnist":
        with np.load(folder / "mnist.npz") as stored:
            return stored["x_train"][:EXAMPLES, ..., None].astype(float)
    from PIL import Image

    with np.load(folder / "cifar10_train_first4000_lossless.npz") as stored:
        whole = np.asarray(Image.open(io.BytesIO(stored["png"].tobytes())))
    return whole.reshape(-1, 32, 32, 3)[:EXAMPLES].astype(float)


def eight_by_eight(images: np.ndarray) -> np.ndarray:
    """Images cropped at the center and averaged to 8 x 8 places.

    Args:
        images: (n, side, side, channels).

    Returns:
        (n, 8, 8, channels).
    """
    side = images.shape[1]
    factor, margin = side // 8, (side % 8) // 2
    kept = images[:, margin : margin + 8 * factor, margin : margin + 8 * factor]
    return kept.reshape(len(kept), 8, factor, 8, factor, -1).mean((2, 4))


def measured(images: np.ndarray, size: Size, told: Callable[[str], None]) -> tuple[Any, list[Any]]:
    """All of it on one data set.

    Args:
        images: (n, height, width, channels).
        size: How much.
        told: Takes lines of progress.

    Returns:
        The phase diagram and the claims.
    """
    key_data, key = jax.random.split(jax.random.key(SEED))
    given = triplets(key_data, images, num_triplets=TRIPLETS)
    small = eight_by_eight(images)
    places = image_triplets(key_data, small, num_triplets=TRIPLETS)
    setup = Setup(size.few_widths, size.seeds, num_outputs=8, activations=("tanh",), horizon=16.0)
    narrow = Setup(size.pca_widths, size.seeds, num_outputs=2, activations=("tanh",))
    diagram = phase_diagram(
        key, given, widths=size.widths, rates=size.rates, num_seeds=size.seeds, horizon=128.0, num_records=10,
        on_progress=told,
    )  # fmt: skip
    departed = beyond_pca(key, given, narrow, told)
    shape = (8, 8, small.shape[-1])
    return diagram, [beyond_the_theory(key, given, setup, told, images=places, image_shape=shape), departed]


def main() -> None:
    """Runs, prints progress and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with mnist.npz and cifar10_train_first4000_lossless.npz")
    parser.add_argument("--dataset", nargs="+", choices=tuple(TITLES), default=["digits"])
    parser.add_argument("--small", action="store_true", help="a few minutes; writes theory_beyond_DATASET_small.json")
    given = parser.parse_args()
    size, suffix = (SMALL, "_small") if given.small else (Size(), "")
    for place, dataset in enumerate(given.dataset):
        start = time.perf_counter()
        told = lambda line, start=start, dataset=dataset: print(  # noqa: E731
            f"{dataset} {time.perf_counter() - start:7.1f} s  {line}", flush=True
        )
        diagram, claims = measured(images_of(dataset, given.data), size, told)
        document = claims_to_json(claims)
        result = {
            "data": TITLES[dataset], "triplets": TRIPLETS, "outputs_kernel": 8, "outputs_pca": 2,
            "seeds_per_cell": size.seeds, "seconds": time.perf_counter() - start, "phase": phase_to_json(diagram),
            "claims": document["claims"],
        }  # fmt: skip
        path = record(f"theory_beyond_{dataset}{suffix}", result, seeds=[SEED], packages=("optax",))
        for claim in claims:
            print(f"{claim.verdict}: {claim.name}. {claim.observed}")
        if place == 0 and not given.small:
            figure = phase_figure(diagram, data=f"{TRIPLETS} triplets of {TITLES[dataset]}")
            (ROOT / "docs" / "pictures" / "theory-phase.png").write_bytes(encode(figure)[0])
        print(path.name, flush=True)


if __name__ == "__main__":
    main()
