"""Is ours equiadapt's? python benchmarks/canonicalization_parity.py --rivals ../repsim-rivals/equiadapt [--store].

equiadapt 0.1.2 scores four color photographs of scikit-learn (48 pixels, seen at 32) for C4, C8 and D4, and six of its
gray digits, enlarged to 16 pixels, for C8, with frozen random networks whose batch norms are not the identity. Its
weights, views, orbits of the first image, activations, canonical images, and what it turns these back to are compared
with ours, in which the same weights run.

Writes benchmarks/results/canonicalization_parity.json, and with --store all of these arrays to
tests/canonicalization/equiadapt_scores.npz, with which a test repeats the comparison without torch.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from _equiadapt import Rival, convnetwork
from _record import record
from sklearn.datasets import load_digits, load_sample_images

from repsim_jax import canonicalization as canon

SEED = 0
STORED = Path(__file__).parents[1] / "tests" / "canonicalization" / "equiadapt_scores.npz"
GROUPS = {"C4": canon.cyclic(4), "C8": canon.cyclic(8), "D4": canon.dihedral(4)}
_NETWORK = {"widths": 8, "kernel": 5, "outputs": 32, "seed": SEED}
COLOR = {"shape": (3, 48, 48), "view": 32, "layers": 3, **_NETWORK}
GRAY = {"shape": (1, 16, 16), "view": 16, "layers": 2, **_NETWORK, "kernel": 3}


def images() -> dict[str, np.ndarray]:
    """Crops of photographs, the four of 40 with the greatest contrast, and digits.

    Returns:
        Whole numbers of 0 to 255, by "color" and "gray".
    """
    pictures, rng = load_sample_images()["images"], np.random.default_rng(SEED)
    corners = rng.integers(0, 350, (40, 2))
    crops = [pictures[i % 2][r : r + 48, c : c + 48] for i, (r, c) in enumerate(corners)]
    crops = sorted(crops, key=lambda crop: -float(crop.std()))[:4]
    digits = np.kron(load_digits().images[:6], np.ones((2, 2))) * 15
    return {"color": np.stack(crops).astype(np.uint8), "gray": digits[..., None].astype(np.uint8)}


def ours(group: canon.Group, view: int, x: np.ndarray, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What we make of the same images with the same weights.

    Args:
        group: Of the plane.
        view: Size of views.
        x: Images.
        found: What equiadapt stored.

    Returns:
        Arrays by its names.
    """
    params = {name: jnp.asarray(value) for name, value in found.items() if "." in name}
    energy = canon.Reference(convnetwork, params, (), jnp.asarray(found["reference"]))
    views = canon.Views(view, compat="equiadapt")
    canonicalizer = canon.Canonicalizer(group, energy, views=views)
    result, small = canonicalizer(x), views.reduced(jnp.asarray(x))
    made = {
        "views": small, "orbit": views.orbit(group, small), "activations": -result.energies,
        "canonical": result.canonical, "index": result.elements.index,
    }  # fmt: skip
    if group.name.startswith("C"):
        made["restored"] = canonicalizer.action.act(group, result.elements, result.canonical)
    return jax.tree.map(np.asarray, made)


def differences(mine: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, Any]:
    """How far both are apart.

    Args:
        mine: Ours.
        theirs: equiadapt's.

    Returns:
        Largest absolute differences by array, and the share of images with the same element.
    """
    chosen = theirs["activations"].argmax(-1)
    largest = {name: float(np.abs(mine[name] - theirs[name]).max()) for name in mine if name != "index"}
    return {"largest_difference": largest, "same_element": float((mine["index"] == chosen).mean())}


def kept(prefix: str, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What is stored for the test: all scores, two canonical images, the first orbit and the first image turned back.

    Args:
        prefix: Names the case.
        found: equiadapt's arrays.

    Returns:
        Arrays by name.
    """
    made = {
        "activations": found["activations"], "canonical": found["canonical"][:2], "orbit": found["orbit"][:, :1]
    }  # fmt: skip
    if "C" in prefix:
        made["restored"] = found["restored"][:1]
    return {f"{prefix}_{name}": value for name, value in made.items()}


def main() -> None:
    """Compares, prints and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rivals", type=Path, required=True, help="Environment that has equiadapt.")
    parser.add_argument("--store", action="store_true", help="Store what the test compares with.")
    options = parser.parse_args()
    stored: dict[str, np.ndarray] = dict(images())
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, Rival.started(options.rivals, Path(folder)) as rival:
        for kind, case in (("color", COLOR), ("gray", GRAY)):
            x = stored[kind].astype(np.float32) / 255
            for name, group in GROUPS.items():
                if kind == "gray" and name != "C8":
                    continue
                turns = {"rotations": int(name[1:]), "reflects": name.startswith("D")}
                found = rival.scores(x, case | turns)
                result[f"{kind}_{name}"] = differences(ours(group, case["view"], x, found), found)
                print(kind, name, result[f"{kind}_{name}"], flush=True)
                stored |= kept(f"{kind}_{name}", found)
                shared = {key: value for key, value in found.items() if "." in key or key in ("reference", "views")}
                stored |= {f"{kind}_{key}": value for key, value in shared.items()}
        versions = rival.versions
    if options.store:
        np.savez_compressed(STORED, **stored)
    print(record("canonicalization_parity", result, seeds=[SEED], rivals=versions).name)


if __name__ == "__main__":
    main()
