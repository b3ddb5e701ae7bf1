"""Kernel and PCA beyond the theory: python benchmarks/theory_beyond.py [--dataset digits ...] [--small].

A phase diagram of the kernel's change over width, time and learning rate for each loss; the exponent of that change in
the width under other architectures, optimizers, batches, temperatures and normalizations; and how fast training leaves
PCA with depth, penalties and a closing gap. Writes benchmarks/results/theory_{phase,beyond,pca}_DATASET.json, and for
the first of the data sets docs/pictures/theory-phase.png. Only digits come with the package's dependencies; MNIST and
CIFAR-10 are read from --data. Convolutions see images that are cropped and averaged to 8 x 8 places.
"""

import argparse
import io
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from _record import ROOT, record

from repsim_jax.report.claims import claims_to_json
from repsim_jax.report.phase import phase_figure, phase_to_json
from repsim_jax.report.plots import encode
from repsim_jax.theory import Claim, Setup, triplets
from repsim_jax.theory.beyond import beyond_the_theory
from repsim_jax.theory.beyond_pca import beyond_pca
from repsim_jax.theory.claims import Told
from repsim_jax.theory.phase import phase_diagram
from repsim_jax.theory.triplets import Triplets, image_triplets

SEED, TRIPLETS, EXAMPLES = 0, 16, 2000
PARTS = ("phase", "beyond", "pca")
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

    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    few_widths: tuple[int, ...] = (128, 512, 2048)
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


class Data(NamedTuple):
    """Triplets of one data set.

    Attributes:
        name: Of the data set.
        key: Draws networks.
        given: For fully connected networks.
        places: The same triplets as small images.
        image_shape: Of these.
    """

    name: str
    key: jax.Array
    given: Triplets
    places: Triplets
    image_shape: tuple[int, int, int]


def drawn(dataset: str, folder: Path | None) -> Data:
    """Draws the triplets.

    Args:
        dataset: Its name.
        folder: Where it lies.

    Returns:
        Triplets in both forms.
    """
    images = images_of(dataset, folder)
    key_data, key = jax.random.split(jax.random.key(SEED))
    small = eight_by_eight(images)
    given = triplets(key_data, images, num_triplets=TRIPLETS)
    return Data(dataset, key, given, image_triplets(key_data, small, num_triplets=TRIPLETS), (8, 8, small.shape[-1]))


def beyond(data: Data, size: Size, told: Told) -> Claim:
    """What leaves the kernel.

    Args:
        data: Triplets.
        size: How much.
        told: Takes lines of progress.

    Returns:
        The claim.
    """
    setup = Setup(size.few_widths, size.seeds, num_outputs=8, activations=("tanh",), horizon=16.0)
    return beyond_the_theory(data.key, data.given, setup, told, images=data.places, image_shape=data.image_shape)


def departed(data: Data, size: Size, told: Told) -> Claim:
    """What leaves PCA.

    Args:
        data: Triplets.
        size: How much.
        told: Takes lines of progress.

    Returns:
        The claim.
    """
    setup = Setup(size.pca_widths, size.seeds, num_outputs=2, activations=("tanh",))
    return beyond_pca(data.key, data.given, setup, told)


def of_claim(claim: Claim, told: Told) -> dict[str, Any]:
    """A claim for JSON.

    Args:
        claim: What was found.
        told: Takes the verdict.

    Returns:
        The claim, under its name.
    """
    told(f"{claim.verdict}: {claim.name}. {claim.observed}")
    return {"claim": claims_to_json([claim])["claims"][0]}


def phase(data: Data, size: Size, told: Told, picture: Path | None) -> dict[str, Any]:
    """The phase diagram.

    Args:
        data: Triplets.
        size: How much.
        told: Takes lines of progress.
        picture: Where to draw it; None: nowhere.

    Returns:
        It, for JSON.
    """
    diagram = phase_diagram(
        data.key, data.given, widths=size.widths, rates=size.rates, num_seeds=size.seeds, on_progress=told
    )
    if picture is not None:
        figure = phase_figure(diagram, data=f"{TRIPLETS} triplets of {TITLES[data.name]}")
        picture.write_bytes(encode(figure)[0])
    return {"phase": phase_to_json(diagram)}


def main() -> None:
    """Runs, prints progress and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with mnist.npz and cifar10_train_first4000_lossless.npz")
    parser.add_argument("--dataset", nargs="+", choices=tuple(TITLES), default=["digits"])
    parser.add_argument("--only", choices=PARTS, help="one of the parts")
    parser.add_argument("--small", action="store_true", help="a few minutes; the names of results end in _small")
    given = parser.parse_args()
    size, suffix = (SMALL, "_small") if given.small else (Size(), "")
    for place, dataset in enumerate(given.dataset):
        data = drawn(dataset, given.data)
        picture = ROOT / "docs" / "pictures" / "theory-phase.png" if place == 0 and not given.small else None
        for part in PARTS if given.only is None else (given.only,):
            start = time.perf_counter()

            def told(line: str, start: float = start, dataset: str = dataset) -> None:
                print(f"{dataset} {time.perf_counter() - start:7.1f} s  {line}", flush=True)

            if part == "phase":
                result = phase(data, size, told, picture)
            else:
                result = of_claim((beyond if part == "beyond" else departed)(data, size, told), told)
            result |= {"data": TITLES[dataset], "triplets": TRIPLETS, "seeds_per_cell": size.seeds}
            result["seconds"] = time.perf_counter() - start
            path = record(f"theory_{part}_{dataset}{suffix}", result, seeds=[SEED], packages=("optax",))
            told(path.name)


if __name__ == "__main__":
    main()
