"""Duplicates by imagededup and cleanvision, in an environment of their own: python _duplicates_rival.py FOLDER OUT.

FOLDER holds images by name. imagededup imports torchvision for its CNN, whose weights cannot be had here; a stand-in
of that name is enough for its hashes.
"""

import json
import sys
import time
from importlib import metadata
from unittest.mock import MagicMock

for _name in (
    "",
    ".models",
    ".models.vision_transformer",
    ".models.efficientnet",
    ".models.mobilenetv3",
    ".transforms",
):
    sys.modules[f"torchvision{_name}"] = MagicMock()


def pairs_of(found):
    """Pairs of names from lists of copies by name."""
    return sorted({tuple(sorted((one, other))) for one, others in found.items() for other in others})


def main():
    """Finds duplicates and writes pairs and processor seconds."""
    folder, out = sys.argv[1:]
    result = {}
    from imagededup.methods import DHash, PHash

    for name, method, most in (("phash_10", PHash, 10), ("phash_4", PHash, 4), ("dhash_10", DHash, 10)):
        start = time.process_time()
        found = method(verbose=False).find_duplicates(
            image_dir=folder, max_distance_threshold=most, num_enc_workers=0, num_dist_workers=0
        )
        result[f"imagededup_{name}"] = {"pairs": pairs_of(found), "cpu": time.process_time() - start}
    from cleanvision import Imagelab

    start = time.process_time()
    lab = Imagelab(data_path=folder, verbose=False)
    lab.find_issues({"near_duplicates": {}, "exact_duplicates": {}}, n_jobs=1, verbose=False)
    groups = lab.info["near_duplicates"]["sets"] + lab.info["exact_duplicates"]["sets"]
    names = [[path.rsplit("/", 1)[-1] for path in group] for group in groups]
    pairs = sorted({tuple(sorted((a, b))) for group in names for a in group for b in group if a < b})
    result["cleanvision"] = {"pairs": pairs, "cpu": time.process_time() - start}
    versions = {name: metadata.version(name) for name in ("imagededup", "cleanvision", "imagehash")}
    with open(out, "w", encoding="utf-8") as file:
        json.dump({"found": result, "versions": versions}, file)


if __name__ == "__main__":
    main()
