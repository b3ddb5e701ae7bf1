"""What the commands of one run have found so far, put together for a summary and for the page."""

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from repsim_jax.cli.influence_runs import Run
    from repsim_jax.report.audits import Audit, Truth


def scores(run: "Run") -> "dict[str, np.ndarray]":
    """The arrays of ``repsim influence score``; refuses those of another model."""
    from repsim_jax.errors import FileError, StoreMismatchError
    from repsim_jax.influence.stored import load_arrays

    path = run.folder / "scores.npz"
    if not path.is_file():
        raise FileError(run.folder, f"has no scores yet. Give: repsim influence score {run.folder}")
    arrays, about = load_arrays(path)
    if about.get("fingerprints") != run.fingerprints:
        raise StoreMismatchError(
            path, f"holds scores of another model or other data. Give: repsim influence score {run.folder}"
        )
    return arrays


def audit_of(run: "Run") -> "Audit":
    """All that was found out in a run that has scores."""
    from repsim_jax.cli.influence_curve import read_pruning
    from repsim_jax.influence.stored import load_arrays
    from repsim_jax.report.audits import Audit, Checkpoints

    found, mode = scores(run), str(load_arrays(run.folder / "scores.npz")[1]["mode"])
    known: dict[str, Any] = {
        name: found.get(name) for name in ("standard_errors", "stability", "density", "quadrants", "rarity")
    }
    if "checkpoint_means" in found:
        known["checkpoints"] = Checkpoints(
            *(found[f"checkpoint_{name}"] for name in ("steps", "means", "errors", "agreement"))
        )
    known |= _swept(run, mode)
    known |= _copies(run) | _selected(run) | read_pruning(run.folder, run.fingerprints) | _asked(run)
    known |= _verified(run)
    return Audit(
        ids=run.examples.ids, self_influence=found["self_influence"], picture=run.examples.picture,
        labels=None if run.examples.labels is None else run.examples.labels.tolist(), skipped=run.examples.skipped,
        trained=run.trained, damping=run.options["damping"], mode=mode,
        provenance={"mode": mode} | _provenance(run), **known,
    )  # fmt: skip


def _swept(run: "Run", mode: str) -> dict[str, Any]:
    """The sweep, where it is of the scores that are shown."""
    from repsim_jax.influence.stored import load_arrays
    from repsim_jax.influence.sweeps import DampingSweep

    path = run.folder / "sweep.npz"
    if not path.is_file():
        return {}
    arrays, about = load_arrays(path)
    same = about.get("mode") == mode and about.get("fingerprints", run.fingerprints) == run.fingerprints
    return {"sweep": DampingSweep(**arrays)} if same else {}


def _verified(run: "Run") -> "dict[str, Truth]":
    """The check by training anew, where it is of this run."""
    from repsim_jax.cli.influence_runs import read_record

    path = run.folder / "verification.json"
    if not path.is_file():
        return {}
    told = read_record(path, ("verdicts", "ceiling", "told", "fingerprints"))
    return {"truth": truth_of(told)} if told["fingerprints"] == run.fingerprints else {}


def _asked(run: "Run") -> dict[str, Any]:
    """Queries of the folder, with their pictures."""
    import numpy as np

    from repsim_jax.cli.influence_runs import read_record
    from repsim_jax.report.audits import Ranked

    path = run.folder / "queries.json"
    if not path.is_file():
        return {}
    told = read_record(path, ("measurement", "from_data", "ids", "source", "model", "queries"))
    if told["model"] != run.fingerprints["model"]:
        return {}
    arrays = ("helpful", "helpful_values", "harmful", "harmful_values")
    queries = tuple(Ranked(**{**one, **{name: np.asarray(one[name]) for name in arrays}}) for one in told["queries"])
    return {"queries": queries, "measurement": told["measurement"], "query_picture": _pictures(run, told)}


def _pictures(run: "Run", told: dict[str, Any]) -> Any:
    from repsim_jax.cli.examples import read_examples
    from repsim_jax.cli.messages import say
    from repsim_jax.errors import RepsimError

    if told["from_data"]:
        places = {one: row for row, one in enumerate(run.examples.ids)}
        return lambda k: run.examples.picture(places[told["ids"][k]])
    data, column, id_column = told["source"]
    try:
        found = read_examples(data, column=column, id_column=id_column, any_size=True)
    except RepsimError as error:
        say(f"the queries are shown without pictures: {error}")
        return lambda _: None
    places = {one: row for row, one in enumerate(found.ids)}
    return lambda k: found.picture(places[told["ids"][k]]) if told["ids"][k] in places else None


def _copies(run: "Run") -> dict[str, Any]:
    from repsim_jax.cli.influence_curate import read_duplicates, read_leaks

    ids = run.examples.ids
    return read_duplicates(run.folder, ids) | read_leaks(run.folder, ids)


def _selected(run: "Run") -> dict[str, Any]:
    from repsim_jax.cli.influence_curate import read_selection

    return read_selection(run.folder, run.examples.ids)


def truth_of(told: dict[str, Any]) -> "Truth":
    """What ``repsim influence verify`` found, for the page."""
    from repsim_jax.report.audits import Truth, Verdict

    verdicts = tuple(Verdict(**one) for one in told["verdicts"])
    return Truth(verdicts, told["ceiling"], told["told"], told.get("held_out_ceiling"), told.get("seeds", 1))


def _provenance(run: "Run") -> dict[str, str]:
    told = {
        name.replace("_", " "): str(value)
        for name, value in run.options.items()
        if value is not None and name != "data"
    }
    told = {"data": run.examples.name} | told | {f"{name} sha256": value for name, value in run.fingerprints.items()}
    return told | {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in run.provenance.items()
    }
