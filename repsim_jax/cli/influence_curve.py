"""``repsim influence select --curve``: what does each way to select cost, by training anew on what it keeps?"""

import json
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    from repsim_jax.cli.influence_runs import Run
    from repsim_jax.influence.curation import PruningCurve

PRUNING_FILE = "pruning.npz"
# Of the examples, which neither train nor are selected from: the models are judged by them.
_TEST_SHARE = 0.25
_PROBE, _VIEWS = "accuracy of a linear probe, %", "views told apart, %"


def pruned(
    run: "Run", *, drops: str, methods: str | None, seeds: int, steps: int, labels: str | None, redundant: Any
) -> None:
    """Computes the curve into the run's folder; each training that is done is kept."""
    import numpy as np

    from repsim_jax.cli.bars import bar
    from repsim_jax.cli.influence_audits import scores
    from repsim_jax.cli.influence_score import SHARDS
    from repsim_jax.errors import RepsimError
    from repsim_jax.influence import Shards, fingerprint
    from repsim_jax.influence.stored import save_arrays
    from repsim_jax.report.columns import write_columns

    if run.network is None:
        raise RepsimError(
            "--curve trains anew, and this run's model was given (--model). Fit a run without it, or call "
            "influence.curation.pruning_curve with your own training."
        )
    shares, arms = _shares(drops), _arms(methods)
    _check_left(len(run.examples.ids), shares[-1])
    classes = None if labels is None else _labels(run, labels)
    told = {
        "drops": shares, "arms": [list(arm) for arm in arms], "steps": steps, "redundant": sorted(map(int, redundant)),
        "labels": None if classes is None else fingerprint(np.unique(classes, return_inverse=True)[1]),
        "own": fingerprint(scores(run)["self_influence"]) if any(arm.method == "influence" for arm in arms) else None,
    }  # fmt: skip
    found = []
    for seed in range(seeds):
        stamp = {**run.fingerprints, "curve": told, "seed": seed}
        with Shards(run.folder / SHARDS, stamp) as kept, bar(f"training anew, seed {seed}") as on_progress:
            given = {"kept": kept, "on_progress": on_progress}
            found.append(_one_seed(run, seed, shares, arms, steps, classes, redundant, given))
    arrays: dict[str, Any] = {
        "names": np.asarray(found[0].names), "drops": found[0].drops,
        "scores": np.concatenate([one.scores for one in found], axis=2),
        "whole": np.concatenate([one.whole for one in found]),
    }  # fmt: skip
    save_arrays(
        run.folder / PRUNING_FILE, arrays,
        {"what": _VIEWS if classes is None else _PROBE, "steps": steps, "fingerprints": run.fingerprints},
    )  # fmt: skip
    write_columns(run.folder, "pruning", _columns(arrays))


def _shares(drops: str) -> list[float]:
    from repsim_jax.errors import RepsimError

    try:
        found = sorted({float(one) for one in drops.split(",")})
    except ValueError as error:
        raise RepsimError(f"--drops takes shares with commas, such as 0.1,0.3,0.5; got {drops!r}.") from error
    if not all(0 < one < 1 for one in found):
        raise RepsimError(f"--drops takes shares between 0 and 1, got {drops!r}.")
    return found


def _check_left(n: int, share: float) -> None:
    """Before the first training, not after it."""
    from repsim_jax.errors import RepsimError

    pool = n - round(_TEST_SHARE * n)
    if round((1 - share) * pool) < 2:
        raise RepsimError(
            f"--drops {share:g} leaves fewer than two of the {pool} examples that are selected from (a quarter of the "
            f"{n} is set aside). Lower it."
        )


def _arms(methods: str | None) -> Any:
    from repsim_jax.errors import UnknownNameError
    from repsim_jax.influence.curation.coresets import METHODS
    from repsim_jax.influence.curation.pruning import ARMS

    if methods is None:
        return ARMS
    asked = [one.strip() for one in methods.split(",")]
    for one in asked:
        if one not in METHODS:
            raise UnknownNameError.of("method", one, METHODS)
    return tuple(arm for arm in ARMS if arm.method in asked)


def _labels(run: "Run", labels: str) -> "np.ndarray":
    import numpy as np

    from repsim_jax.cli.influence_verify import per_example
    from repsim_jax.errors import RepsimError

    if labels != "own":
        return np.asarray(per_example(run, labels, "--labels"))
    if run.examples.labels is None:
        raise RepsimError(f"{run.examples.name} bring no labels of their own. Name a FILE.npy or a column: --labels.")
    return np.asarray(run.examples.labels)


def _one_seed(
    run: "Run", seed: int, shares: list[float], arms: Any, steps: int, classes: Any, redundant: Any,
    given: dict[str, Any],
) -> "PruningCurve":  # fmt: skip
    import jax
    import numpy as np

    from repsim_jax.cli.influence_audits import scores
    from repsim_jax.influence.curation import pruning_curve

    key = jax.random.fold_in(run.key("curve"), seed)
    key_split, key_select, key_train, key_judge = jax.random.split(key, 4)
    n = len(run.examples.ids)
    order = np.asarray(jax.random.permutation(key_split, n))
    test, pool = np.sort(order[: round(_TEST_SHARE * n)]), np.sort(order[round(_TEST_SHARE * n) :])
    own = scores(run)["self_influence"][pool] if any(arm.method == "influence" for arm in arms) else None
    retrain = _trainer(run, pool, test, classes, steps, key_judge)
    return pruning_curve(
        key_select, [key_train], run.embeddings()[pool], retrain, drops=shares, arms=arms, self_influence=own,
        redundant=np.flatnonzero(np.isin(pool, redundant)), **given,
    )  # fmt: skip


def _trainer(
    run: "Run", pool: "np.ndarray", test: "np.ndarray", classes: Any, steps: int, key_judge: Any
) -> "Callable[[Any, np.ndarray], float]":
    """Trains the run's network on some of the pool, and judges it by what was set aside."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from repsim_jax import influence
    from repsim_jax.influence.curation import probe_accuracy, views_found

    x, options = run.examples.x, run.options
    drawn = influence.augmented(key_judge, x[test], run.augment, num_views=2)
    seen = np.asarray(drawn.seen())
    represent = jax.jit(run.network.represent)

    def rows(params: Any, x: Any) -> Any:
        return np.concatenate([np.asarray(represent(params, jnp.asarray(part))) for part in np.array_split(
            x, -(-len(x) // 512))])  # fmt: skip

    def retrain(key: Any, kept: "np.ndarray") -> float:
        recipe = influence.Recipe(
            num_steps=steps, batch_size=min(options["batch_size"], len(kept)), learning_rate=options["learning_rate"]
        )
        found = influence.pretrain(
            key, x[pool[kept]], run.augment, network=run.network, objective=options["objective"], recipe=recipe
        )
        if classes is None:
            return views_found(rows(found.params, seen[:, 1]), rows(found.params, seen[:, 2]))
        sides = (rows(found.params, x[pool]), classes[pool], rows(found.params, x[test]), classes[test])
        return probe_accuracy(*sides)

    return retrain


def _columns(found: dict[str, Any]) -> "dict[str, np.ndarray]":
    """One row for each way, share and seed."""
    import numpy as np

    lines = [("all examples", 0.0, seed, value) for seed, value in enumerate(found["whole"])]
    lines += [
        (name, drop, seed, value)
        for name, of_drops in zip(found["names"], found["scores"], strict=True)
        for drop, values in zip(found["drops"], of_drops, strict=True)
        for seed, value in enumerate(values)
    ]
    names = ("method", "dropped", "seed", "score")
    return {name: np.asarray([line[k] for line in lines]) for k, name in enumerate(names)}


def read_pruning(folder: "Path", fingerprints: dict[str, str]) -> dict[str, Any]:
    """The curve for an audit; nothing where there is none, or of another run."""
    from repsim_jax.influence.stored import load_arrays

    if not (folder / PRUNING_FILE).is_file():
        return {}
    arrays, about = load_arrays(folder / PRUNING_FILE)
    if about["fingerprints"] != fingerprints:
        return {}
    curves = {str(name): 100 * values for name, values in zip(arrays["names"], arrays["scores"], strict=True)}
    return {"pruning": {"curves": curves, "shares": arrays["drops"], "whole": 100 * arrays["whole"],
                        "what": about["what"]}}  # fmt: skip


def tell_curve(run: "Run", *, as_json: bool) -> None:
    """Means over seeds, with the difference to random selection in pairs."""
    import numpy as np

    found = read_pruning(run.folder, run.fingerprints)["pruning"]
    whole, random = found["whole"], found["curves"].get("random")
    if as_json:
        plain = {name: values.tolist() for name, values in found["curves"].items()}
        typer.echo(json.dumps({"what": found["what"], "dropped": found["shares"].tolist(), "whole": whole.tolist(),
                               "curves": plain}))  # fmt: skip
        return
    typer.echo(f"{found['what']}; all examples: {whole.mean():.1f}{_error(whole)}; {len(whole)} seeds")
    typer.echo(f"{'dropped':>30}: {'  '.join(f'{100 * share:>14.0f} %' for share in found['shares'])}")
    for name, values in found["curves"].items():
        cells = [f"{one.mean():.1f}{_error(one)}" for one in values]
        typer.echo(f"{name:>30}: {'  '.join(f'{cell:>16}' for cell in cells)}")
    if random is not None and len(whole) > 1:
        gains = {name: (values - random).mean(0) for name, values in found["curves"].items() if name != "random"}
        best = max(gains, key=lambda name: float(np.mean(gains[name])), default=None)
        if best is not None:
            error = gains[best].std(ddof=1) / len(whole) ** 0.5
            typer.echo(
                f"most above random: {best}, by {gains[best].mean():+.1f} ± {error:.1f} points, mean over shares and "
                f"its standard error over seeds, of the best of {len(gains)}"
            )


def _error(values: "np.ndarray") -> str:
    return "" if len(values) < 2 else f" ± {values.std(ddof=1):.1f}"
