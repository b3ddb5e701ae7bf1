"""The tour's chapter on influence: which digits made a representation, with copies and broken images among them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from repsim_jax.cli.bars import bar

if TYPE_CHECKING:
    import numpy as np

    from repsim_jax.report.audits import Audit

_GOOD, _COPIES, _BROKEN = 400, 16, 12
_STEPS, _BATCH, _VIEWS = 300, 128, 3
_QUERIES, _TOP = 6, 6


class _Planted(NamedTuple):
    """Digits with copies and broken images among them, in [-1/2, 1/2]."""

    x: "np.ndarray"
    ids: tuple[str, ...]
    copies: "np.ndarray"  # (c, 2) rows
    broken: "np.ndarray"  # (n,) booleans


def chapter(console: Any, out: Path, *, seed: int) -> Path:
    """Trains without labels, scores every example, and tells what was found of what was planted; writes a page."""
    import jax

    from repsim_jax import report

    console.print(
        f"\nWhich examples made a representation? SimCLR on {_GOOD} digits, with {_COPIES} copies and {_BROKEN} broken "
        "images planted:", markup=False, soft_wrap=True,
    )  # fmt: skip
    planted = _planted(seed)
    audit = _audited(jax.random.key(seed), planted)
    for line in _found(planted, audit):
        console.print(f"  {line}", markup=False, soft_wrap=True)
    return report.write_influence(audit, out / "influence")


def _planted(seed: int) -> _Planted:
    import numpy as np

    from repsim_jax.data import open_source

    generator = np.random.default_rng(seed)
    source = open_source("digits")
    rows = generator.permutation(len(source))[:_GOOD]
    good = np.stack([source.get(int(row)) for row in rows]).astype(np.float32).reshape(-1, 8, 8, 1) - 0.5
    originals = generator.choice(_GOOD, _COPIES, replace=False)
    copies = good[originals] * generator.uniform(0.85, 0.95, (_COPIES, 1, 1, 1)).astype(np.float32)
    copies[: _COPIES // 2] = good[originals[: _COPIES // 2]]  # half of them to the last pixel
    third = _BROKEN // 3
    noise = generator.uniform(-0.5, 0.5, (third, 8, 8, 1))
    checkers = np.where(np.indices((8, 8)).sum(0) % 2, 0.5, -0.5)[None, :, :, None] * generator.uniform(
        0.6, 1, (third, 1, 1, 1)
    )
    stripes = np.where(np.arange(8) % 4 < 2, 0.5, -0.5)[None, None, :, None] * generator.uniform(
        0.6, 1, (third, 8, 1, 1)
    )
    x = np.concatenate([good, copies, noise, checkers, stripes]).astype(np.float32)
    ids = [source.ids[row] for row in rows] + [f"copy_of_{source.ids[rows[one]]}" for one in originals]
    ids += [f"{kind}_{k}" for kind in ("noise", "checkers", "stripes") for k in range(third)]
    pairs = np.stack([originals, _GOOD + np.arange(_COPIES)], axis=1)
    return _Planted(x, tuple(ids), pairs, np.arange(len(x)) >= _GOOD + _COPIES)


def _audited(key: Any, planted: _Planted) -> "Audit":
    import jax
    import numpy as np

    from repsim_jax import influence
    from repsim_jax.cli.influence_score import rarity_of
    from repsim_jax.influence.augmentations import DigitViews
    from repsim_jax.influence.curation import density, find_duplicates, quadrants, to_drop
    from repsim_jax.influence.representing import representations
    from repsim_jax.report.audits import Audit
    from repsim_jax.report.tiles import as_picture

    key_train, key_views, key_fit, key_score = jax.random.split(key, 4)
    network = influence.Network((8, 8, 1), "mlp", (64,), num_features=32, projector=(32, 16))
    recipe = influence.Recipe(num_steps=_STEPS, batch_size=_BATCH, learning_rate=3e-3)
    with bar("training without labels") as on_progress:
        trained = influence.pretrain(
            key_train, planted.x, DigitViews(), network=network, recipe=recipe, on_progress=on_progress
        )
    train = influence.augmented(key_views, planted.x, DigitViews(), num_views=_VIEWS)
    posed = influence.problem_of(trained, network, train, "simclr", batch_size=_BATCH)
    curvature = influence.ekfac(key_fit, posed, num_samples=128)
    with bar("self-influence") as on_progress:
        found = influence.self_influence(
            key_score, posed, curvature=curvature, view_groups=0, block=64, on_progress=on_progress
        )
    embeddings: Any = representations(posed, planted.x)
    own: Any = found.values
    pictures = [as_picture(np.rint(255 * (one + 0.5)).clip(0, 255).astype(np.uint8)) for one in planted.x]
    copies = find_duplicates(embeddings, images=[one for one in pictures if one is not None])
    sparse: Any = density(embeddings)
    return Audit(
        planted.ids, found.values, pictures.__getitem__, standard_errors=found.standard_errors,
        stability=found.measurements, density=sparse, quadrants=np.asarray(quadrants(sparse, own).names),
        rarity=rarity_of(planted.x, embeddings, own), duplicates=copies,
        dropped=to_drop(copies, keep="influence", self_influence=found.values).tolist(),
        queries=_queries(key_score, posed, curvature, train, embeddings, planted),
        title="Which digits made this representation?", provenance={"command": "repsim tour"},
    )  # fmt: skip


def _queries(key: Any, posed: Any, curvature: Any, train: Any, embeddings: "np.ndarray", planted: _Planted) -> Any:
    """The first digits as queries: what helped and what harmed them."""
    import numpy as np

    from repsim_jax import influence
    from repsim_jax.report.audits import ranked

    found = influence.influence(key, posed, train.rows(slice(0, _QUERIES)), curvature=curvature, block=_QUERIES)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return tuple(
        ranked(planted.ids[k], k, found.values[k], float(found.measurements[k]), unit[k] @ unit.T, top=_TOP)
        for k in range(_QUERIES)
    )


def _found(planted: _Planted, audit: "Audit") -> list[str]:
    """What was found of what was planted, and how well influence alone would have done."""
    import numpy as np

    assert audit.rarity is not None
    assert audit.density is not None
    assert audit.duplicates is not None
    groups = [{int(row) for row in group} for group in audit.duplicates.groups]
    hits = sum(any({int(a), int(b)} <= group for group in groups) for a, b in planted.copies)
    members = sum(len(group) for group in groups)
    shares = {
        name: _area_under_roc(np.asarray(values), planted.broken)
        for name, values in (("rarity", audit.rarity), ("influence", audit.self_influence), ("sparse", audit.density))
    }
    return [
        f"copies: {hits} of {len(planted.copies)} found, in {len(groups)} groups of {members} examples in all",
        f"broken images: area under the ROC curve {shares['rarity']:.2f} by the combined score; by self-influence "
        f"alone {shares['influence']:.2f}, by sparseness alone {shares['sparse']:.2f} (0.5 is chance)",
    ]


def _area_under_roc(values: "np.ndarray", positive: "np.ndarray") -> float:
    from scipy.stats import rankdata

    ranks, count = rankdata(values), int(positive.sum())
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(values) - count)))
