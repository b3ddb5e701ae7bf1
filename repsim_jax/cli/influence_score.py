"""``repsim influence score``: who is memorized, who is rare, and how firm is that."""

import json
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from repsim_jax.cli.influence import AsJson, Moved, RunFolder

if TYPE_CHECKING:
    import numpy as np

    from repsim_jax.cli.influence_runs import Run

_NEIGHBORS = 10
_VIEWS_OF_SWEEP = 4
# Of the sweep, as multiples of the damping that was chosen.
_AROUND = (0.1, 1.0, 10.0, 100.0, 1000.0)
SHARDS, SWEEP_FILE = "shards", "sweep.npz"
Mode = Annotated[str, typer.Option(help="batch (what training weighs) or paper (alignment on both sides).")]
Block = Annotated[int, typer.Option(min=1, help="Examples whose gradients are held at once: memory falls with it.")]


def score(
    run: RunFolder,
    mode: Mode = "batch",
    block: Block = 32,
    sweep: Annotated[bool, typer.Option(help="Also show how much the ranking hangs on the damping.")] = False,
    data: Moved = None,
    as_json: AsJson = False,
) -> None:
    """Self-influence of every training example, with standard errors, sparseness, quadrant and rarity.

    Standard errors are over views; where `fit --checkpoints` kept several models of the training, the mean over them
    and its standard error are told, too, and how far their rankings agree. Writes RUN/scores.csv (and .parquet, where
    pyarrow is installed). Each finished batch is kept: a run that was stopped goes on, and ends with the same bytes.

    \b
    repsim influence score digits.run
    repsim influence score digits.run --mode paper --sweep
    """
    from rich.console import Console

    from repsim_jax.cli.influence_audits import audit_of
    from repsim_jax.cli.influence_runs import opened_run
    from repsim_jax.report.columns import write_columns
    from repsim_jax.report.influence import influence_summary, influence_to_json

    opened = opened_run(run, data)
    scores_of(opened, mode=mode, block=block, sweep=sweep)
    audit = audit_of(opened)
    columns = audit.columns()
    columns.pop("duplicate_group", None)
    columns.pop("may_be_dropped", None)
    write_columns(run, "scores", columns)
    if as_json:
        typer.echo(json.dumps(influence_to_json(audit), allow_nan=False))
        return
    console = Console(highlight=False)
    console.print(influence_summary(audit))
    console.print(
        f"{run / 'scores.csv'}; next: repsim influence query {run}, dedup {run}, report {run}", soft_wrap=True
    )


def scores_of(run: "Run", *, mode: str = "batch", block: int = 32, sweep: bool = False) -> None:
    """Computes self-influence and what belongs to it into the run's folder; what is there is not computed again."""
    import numpy as np

    from repsim_jax.cli.bars import bar
    from repsim_jax.errors import RepsimError
    from repsim_jax.influence import Shards, damping_sweep, self_influence
    from repsim_jax.influence.curation import density, quadrants
    from repsim_jax.influence.stored import save_arrays

    if sweep and run.options["num_views"] < _VIEWS_OF_SWEEP:
        raise RepsimError(
            f"--sweep needs {_VIEWS_OF_SWEEP} views, two for each half, and this run has {run.options['num_views']}. "
            f"Leave it out, or fit with --num-views {_VIEWS_OF_SWEEP}."
        )
    curvature = run.curvature()
    stamp = {**run.fingerprints, "mode": mode, "damping": run.options["damping"], "curvature": curvature_digest(run)}
    options: dict[str, Any] = {"curvature": curvature, "mode": mode, "damping": run.damping(), "block": block}
    with Shards(run.folder / SHARDS, stamp) as kept, bar("self-influence") as told:
        found = self_influence(run.key("batches"), run.posed, **options, kept=kept, on_progress=told)
    embeddings, own = run.embeddings(), cast(Any, found.values)
    sparse: Any = density(embeddings, num_neighbors=min(_NEIGHBORS, len(embeddings) - 1))
    arrays = {
        "self_influence": found.values, "stability": found.measurements, "density": sparse,
        "quadrants": np.asarray(quadrants(sparse, own, trained=run.trained).names).astype("U"),
        "rarity": rarity_of(run.examples.x, embeddings, own),
    }  # fmt: skip
    if found.standard_errors is not None:
        arrays["standard_errors"] = found.standard_errors
    if len(run.checkpoints) > 1:
        arrays |= over_training(run, stamp, options)
    save_arrays(run.folder / "scores.npz", arrays, {"mode": mode, "fingerprints": run.fingerprints})
    if sweep:
        chosen = options.pop("damping").relative
        options["relative"] = [chosen * around for around in _AROUND]
        with bar("damping sweep") as told:
            swept = damping_sweep(run.key("batches"), run.posed, **options, on_progress=told)
        about = {"mode": mode, "fingerprints": run.fingerprints}
        save_arrays(run.folder / SWEEP_FILE, swept._asdict(), about)


def over_training(run: "Run", stamp: dict[str, Any], options: dict[str, Any]) -> "dict[str, np.ndarray]":
    """Self-influence at every model that training kept, each with a curvature of its own: what belongs to the data."""
    import numpy as np

    from repsim_jax.cli.bars import bar
    from repsim_jax.cli.influence_fit import fitted
    from repsim_jax.influence import SelfInfluence, Shards, fingerprint, over_checkpoints, self_influence

    given = {name: value for name, value in options.items() if name != "curvature"}

    def estimate(key: Any, at: Any) -> SelfInfluence:
        with Shards(run.folder / SHARDS, {**stamp, "checkpoint": fingerprint(at.params)}) as kept:

            def compute() -> dict[str, np.ndarray]:
                curvature = fitted(run.key("curvature"), at, run.options)
                found = self_influence(key, at, curvature=curvature, view_groups=0, kept=kept, **given)
                return {"values": found.values, "measurements": found.measurements}

            found = kept("own", compute)
        return SelfInfluence(found["values"], None, found["measurements"], {})

    steps = [one.step for one in run.checkpoints]
    targets: Any = [one.target_params for one in run.checkpoints]
    with bar(f"self-influence at {len(steps)} checkpoints") as told:
        over = over_checkpoints(
            run.key("batches"), run.posed, [one.params for one in run.checkpoints], estimate,
            targets=None if targets[0] is None else targets, on_progress=told,
        )  # fmt: skip
    return {"checkpoint_steps": np.asarray(steps), "checkpoint_means": over.values,
            "checkpoint_errors": over.standard_errors, "checkpoint_agreement": over.agreement}  # fmt: skip


def rarity_of(x: Any, embeddings: Any, own: Any) -> "np.ndarray":
    """The combined score of rare and broken examples: sparseness, influence and, of images, how they look."""
    from repsim_jax.influence.curation import density, image_statistics, rare_neighbors, rarity, unusualness

    odd: Any = unusualness(image_statistics(x)) if x.ndim == 4 and x.shape[-1] in (1, 3) else None
    sparse: Any = density(embeddings, num_neighbors=rare_neighbors(len(embeddings)))
    return rarity(sparse, own, odd)


def curvature_digest(run: "Run") -> str:
    """The bytes of the curvature's file: scores of another one are others."""
    import hashlib

    from repsim_jax.cli.influence_runs import CURVATURE_FILE

    return hashlib.sha256((run.folder / CURVATURE_FILE).read_bytes()).hexdigest()
