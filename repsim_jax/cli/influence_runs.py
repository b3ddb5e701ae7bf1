"""The folder of an influence run: what was chosen, what it was chosen for, and the problem that all commands pose."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from repsim_jax.cli.seeds import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import jax

    from repsim_jax.cli.examples import Examples
    from repsim_jax.influence import Checkpoint, Curvature, Damping, Problem

RUN_FILE, CURVATURE_FILE, CHECKPOINTS = "run.json", "curvature.npz", "checkpoints"
SCHEMA = "repsim.influence.run/1"
# Images of at most so many numbers are learned by an MLP, larger ones by convolutions.
_SMALL = 1024


class Run(NamedTuple):
    """An influence run that is open.

    Attributes:
        folder: Where it is.
        options: What was chosen, by name.
        examples: The training examples.
        posed: Model, objective and examples.
        network: Of a run that trained its own; None for a model that was given.
        augment: The augmentation.
        fingerprints: Of data, augmentation and model.
        provenance: How it came about.
        checkpoints: Models on the way, of a run that trained its own and kept several.
    """

    folder: Path
    options: dict[str, Any]
    examples: "Examples"
    posed: "Problem"
    network: Any
    augment: Any
    fingerprints: dict[str, str]
    provenance: dict[str, Any]
    checkpoints: "tuple[Checkpoint, ...]" = ()

    def key(self, purpose: str) -> "jax.Array":
        """A random key of this run for one purpose."""
        return key_of(self.options["seed"], purpose)

    @property
    def trained(self) -> bool:
        """Whether the model is known to be trained on these examples; of one that was given nobody can tell."""
        return self.network is not None

    def damping(self) -> "Damping":
        """As it was chosen."""
        from repsim_jax.influence import Damping

        return Damping(self.options["damping"])

    def curvature(self) -> "Curvature":
        """Reads the curvature; refuses that of another model, other data or another augmentation."""
        from repsim_jax.influence import load_curvature

        return load_curvature(self.folder / CURVATURE_FILE, self.posed, stamp=self.fingerprints)[0]

    def embeddings(self) -> Any:
        """Representations of all training examples."""
        from repsim_jax.influence.representing import representations

        return representations(self.posed, self.examples.x)


def posed_run(
    folder: Path, options: dict[str, Any], provenance: dict[str, Any], before: "Callable[[Problem], None] | None" = None
) -> Run:
    """Reads the data, trains the model or goes on with it, or loads it, and poses the problem.

    A folder that holds another run is refused. ``before`` may refuse the problem before its network is trained.
    """
    from repsim_jax import influence
    from repsim_jax.cli.examples import read_examples, views_of

    loaded, prepare = _given_model(options)
    examples = read_examples(
        options["data"], column=options["column"], id_column=options["id_column"], limit=options["limit"],
        size=None if loaded is not None else options["size"], prepare=prepare,
    )  # fmt: skip
    augment = views_of(options["views"], examples.x)
    train = influence.augmented(
        key_of(options["seed"], "views"), examples.x, augment, num_views=options["num_views"], ids=examples.numbers()
    )
    found = {"data": examples.fingerprint(), "augmentation": _views_fingerprint(train)}
    _check_same(folder, options, found)
    posed, network, checkpoints = _posed(folder, options, loaded, examples, train, augment, before)
    found["model"] = influence.fingerprint(posed.params)
    _check_same(folder, options, found)
    return Run(folder, options, examples, posed, network, augment, found, provenance, checkpoints)


def write_run(run: Run) -> None:
    """Writes what was chosen and what it was chosen for."""
    from repsim_jax.durable import replace_file

    told = {
        "schema": SCHEMA, "options": run.options, "fingerprints": run.fingerprints, "provenance": run.provenance,
        "skipped": run.examples.skipped,
    }  # fmt: skip
    run.folder.mkdir(parents=True, exist_ok=True)
    replace_file(run.folder / RUN_FILE, (json.dumps(told, indent=1) + "\n").encode())


def opened_run(folder: Path, data: str | None = None) -> Run:
    """Opens the run in a folder; the data may have been moved, but not changed."""
    told = _read(folder)
    if told is None:
        from repsim_jax.errors import FileError

        raise FileError(folder, "holds no influence run. Begin with: repsim influence fit DATA --out RUN.")
    return posed_run(folder, told["options"] | ({} if data is None else {"data": data}), told["provenance"])


def recorded(folder: Path) -> dict[str, Any] | None:
    """What the folder of a run says of it; None where there is no run."""
    return _read(folder)


def _read(folder: Path) -> dict[str, Any] | None:
    from repsim_jax.errors import CorruptFileError

    path = folder / RUN_FILE
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["schema"] != SCHEMA or not {"options", "fingerprints", "provenance"} <= told.keys():
            raise KeyError("schema")
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(path, "is no record of an influence run. Choose another folder.") from error
    return told


def read_record(path: Path, needed: "Sequence[str]") -> dict[str, Any]:
    """A JSON file of a run: what it tells, or which command writes it again."""
    from repsim_jax.errors import CorruptFileError

    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if not set(needed) <= told.keys():
            raise KeyError(*needed)
    except (ValueError, KeyError, AttributeError) as error:
        raise CorruptFileError(path, "is damaged or not ours. Delete it and compute it again.") from error
    return told


def _check_same(folder: Path, options: dict[str, Any], found: dict[str, str]) -> None:
    from repsim_jax.errors import StoreMismatchError

    told = _read(folder)
    if told is None:
        return
    known = told["options"]
    moved = {"data"}  # known by its fingerprint
    other = [name for name in options if name not in moved and known.get(name) != options[name]]
    if other:
        parts = ", ".join(f"--{name.replace('_', '-')} {known.get(name)}, not {options[name]}" for name in other[:4])
        raise StoreMismatchError(folder, f"holds a run with {parts}. Choose another --out, or the same options.")
    changed = [name for name, value in found.items() if told["fingerprints"].get(name, value) != value]
    if changed:
        parts = " and another ".join(changed)
        raise StoreMismatchError(
            folder,
            f"this run was made with another {parts}. Give the same again (--data where it was moved), or fit anew.",
        )


def _given_model(options: dict[str, Any]) -> tuple[Any, Any]:
    """A model that was named, and its preparation; None twice where the run trains its own."""
    from repsim_jax.activations.specs import named_model, preparation_of
    from repsim_jax.errors import RepsimError

    if options["model"] is None:
        return None, None
    loaded = named_model(options["model"])
    model = getattr(loaded, "model", loaded)
    if isinstance(model, str | Path) or hasattr(model, "named_parameters"):  # the latter is PyTorch's
        raise RepsimError(
            f"{options['model']}: influence needs a model that JAX differentiates; ONNX files and PyTorch modules are "
            "not. Write it as a flax module or as apply_fn(params, x)."
        )
    return model, preparation_of(options["model"], loaded, options["size"], channels_first=False)


def preparation(options: dict[str, Any]) -> Any:
    """How a model that was named prepares its inputs; None where the run trains its own."""
    return _given_model(options)[1]


def _views_fingerprint(train: Any) -> str:
    """Of the views of a few examples: what an augmentation is, whoever wrote it."""
    import numpy as np

    from repsim_jax.influence import fingerprint

    return fingerprint(np.round(np.asarray(train.rows(slice(0, 2)).seen(), np.float32), 3) + 0.0)


def _posed(
    folder: Path, options: dict[str, Any], loaded: Any, examples: "Examples", train: Any, augment: Any, before: Any
) -> "tuple[Problem, Any, tuple[Checkpoint, ...]]":
    from repsim_jax import influence
    from repsim_jax.influence.objectives import BarlowTwins, SimCLR, SpectralContrastive, VICReg

    if loaded is None:
        return _trained(folder, options, examples, train, augment, before)
    known = {"simclr": SimCLR, "barlow-twins": BarlowTwins, "vicreg": VICReg, "spectral": SpectralContrastive}
    if options["objective"] not in known:
        from repsim_jax.errors import RepsimError

        raise RepsimError(
            f"--objective {options['objective']} needs the predictor of training, which a model that is only named "
            f"does not bring. Choose one of {', '.join(known)}, or pose the problem in Python: influence.problem."
        )
    parts, params = loaded if isinstance(loaded, tuple) and len(loaded) == 2 else (loaded, None)
    posed = influence.problem(
        parts, params, train, objective=known[options["objective"]](), batch_size=options["batch_size"],
        params_filter=options["layers"],
    )  # fmt: skip
    if before is not None:
        before(posed)
    return posed, None, ()


def _trained(
    folder: Path, options: dict[str, Any], examples: "Examples", train: Any, augment: Any, before: Any
) -> "tuple[Problem, Any, tuple[Checkpoint, ...]]":
    """Trains the run's own network, or goes on where it was stopped; a finished one is read."""
    from repsim_jax import influence
    from repsim_jax.cli.bars import bar

    _check_different(examples)
    network = network_of(options, examples.x.shape[1:])
    told = before is None or _asked_before(before, network, options, train)
    recipe = influence.Recipe(
        num_steps=options["steps"], batch_size=min(options["batch_size"], len(examples.ids)),
        learning_rate=options["learning_rate"],
    )  # fmt: skip
    with bar(f"training ({options['objective']})") as on_progress:
        trained = influence.pretrain(
            key_of(options["seed"], "training"), examples.x, augment, network=network, objective=options["objective"],
            recipe=recipe, num_checkpoints=options["checkpoints"], folder=folder / CHECKPOINTS, on_progress=on_progress,
        )  # fmt: skip
    posed = influence.problem_of(trained, network, train, options["objective"], batch_size=options["batch_size"])
    if before is not None and not told:
        before(posed)
    return posed, network, trained.checkpoints


def _asked_before(before: "Callable[[Problem], None]", network: Any, options: dict[str, Any], train: Any) -> bool:
    """Lets the problem of first weights be refused; False where these cannot pose one, and only training may."""
    from repsim_jax import influence
    from repsim_jax.errors import BadArrayError

    first = network.initial(key_of(options["seed"], "training"))
    untrained = influence.Checkpoint(0, first, first if options["objective"] == "byol" else None)
    try:
        posed = influence.problem_of(untrained, network, train, options["objective"], batch_size=options["batch_size"])
    except BadArrayError:
        return False
    before(posed)
    return True


def _check_different(examples: "Examples") -> None:
    """Refuses what no training could tell apart, before the training."""
    from repsim_jax.errors import BadArrayError

    x = examples.x
    if len(x) < 2:
        raise BadArrayError(f"{examples.name} has one example that can be used; influence compares at least two.")
    if (x == x[:1]).all():
        raise BadArrayError(f"all {len(x)} examples of {examples.name} are equal: nothing can be learned from them.")


def network_of(options: dict[str, Any], shape: tuple[int, ...]) -> Any:
    """The run's own network, by the kind that was chosen or suits the size of the examples."""
    import math

    from repsim_jax.influence import Network

    small = math.prod(shape) <= _SMALL or len(shape) != 3
    kind = options["network"] or ("mlp" if small else "convnet")
    predictor = (64,) if options["objective"] in ("byol", "simsiam") else ()
    widths = (128,) if kind == "mlp" else (32, 64, 128)
    return Network(shape, kind, widths, predictor=predictor)
