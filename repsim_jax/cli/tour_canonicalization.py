"""The tour's chapter on canonicalization: a network that knows upright digits only, repaired without touching it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from repsim_jax.cli.bars import bar

if TYPE_CHECKING:
    import numpy as np

_TRAINING, _TEST, _STEPS = 1200, 256, 300


def chapter(console: Any, out: Path, *, seed: int) -> Path:
    """Trains a network and a canonicalizer on upright digits, turns others, and tells what was right; writes a page."""
    import jax

    from repsim_jax import canonicalization as canon
    from repsim_jax import report
    from repsim_jax.cli.canonicalize_report import Asked, audited, small_classifier

    console.print(
        f"\nA network that knows upright digits only, and {_TEST} held-out digits in all four poses:", markup=False,
        soft_wrap=True,
    )  # fmt: skip
    train, test, ids = _digits(seed)
    key_model, key_fit, key_audit = jax.random.split(jax.random.key(seed), 3)
    model = small_classifier(key_model, *train)
    with bar("learning which pose is upright") as told:
        found = canon.fit(key_fit, train[0], canon.cyclic(4), recipe=canon.Recipe(num_steps=_STEPS), on_progress=told)
    asked = Asked(ids, *test, model, "a small network trained on upright digits")
    audit = audited(key_audit, found.canonicalizer, asked, train[0])
    for way in audit.equivariance.ways:
        console.print(f"  {way.name:>19}: {way.upright:.1%} upright, {way.orbit:.1%} over all poses", markup=False)
    audit = audit._replace(title="Digits in any pose", provenance={"command": "repsim tour"})
    return report.write_canonicalization(audit, out / "canonicalization")


def _digits(seed: int) -> "tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], tuple[str, ...]]":
    import numpy as np

    from repsim_jax.data import open_source

    source = open_source("digits")
    images = np.stack([source.get(row) for row in range(len(source))]).astype(np.float32).reshape(-1, 8, 8, 1)
    labels = np.asarray(source.labels)
    order = np.random.default_rng(seed).permutation(len(images))
    train, test = order[:_TRAINING], order[_TRAINING : _TRAINING + _TEST]
    ids = tuple(source.ids[row] for row in test)
    return (images[train], labels[train]), (images[test], labels[test]), ids
