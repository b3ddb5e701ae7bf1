"""A fitted measure on disk: numbers in a safetensors file, everything else in a manifest with checksums; no pickle."""

import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from repsim_jax.activations.manifest import FileSum, file_sums, seal, unseal
from repsim_jax.activations.safetensors_files import read_safetensors
from repsim_jax.durable import replace_file, writing
from repsim_jax.errors import BadArrayError, CorruptFileError, FileError, IncompleteStoreError, RepsimError
from repsim_jax.similarity.contrasim.diagnosis import Accuracy, Diagnosis
from repsim_jax.similarity.contrasim.encoder import Params
from repsim_jax.similarity.contrasim.inputs import Standard
from repsim_jax.similarity.contrasim.measure import ContraSim, FittedSource
from repsim_jax.similarity.contrasim.options import Options

MEASURE_FILE, MANIFEST_FILE = "measure.safetensors", "manifest.json"
FORMAT, FORMAT_VERSION = "repsim_jax contrasim", 1
# Names of sources, layers and anchors: a manifest beyond this size is not one of ours.
_LARGEST_MANIFEST = 64 * 2**20
_EXAMPLES = "training_examples"
_REPAIR = "Restore the folder from a copy, or fit the measure again."
_ACCURACIES = ("training", "seen", "unseen")
# What checked access to a manifest raises where a value is missing, of another type, or nested without end.
_MALFORMED = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)


def save(measure: ContraSim, folder: str | os.PathLike[str]) -> Path:
    """Writes a fitted measure: ``measure.safetensors``, and then ``manifest.json``, which makes it whole.

    Args:
        measure: From ``fit``.
        folder: Made where it does not exist; a measure that is there is replaced, other files are left alone.

    Returns:
        The folder.

    Raises:
        FileError: If the folder holds something else with a manifest (a store), or cannot be written; NoSpaceError if
            the disk is full.
        BadArrayError: If a weight is NaN or infinite.
    """
    from safetensors.numpy import save as encoded

    folder = Path(folder)
    tensors = _tensors(measure)
    broken = [name for name, array in tensors.items() if not np.isfinite(array).all()]
    if broken:
        raise BadArrayError(
            f"contrasim cannot save a measure whose {broken[0]} is not finite: the fit has diverged. Fit again with a "
            "smaller learning rate."
        )
    data = encoded(tensors)
    check_replaceable(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Until the new manifest is there, the folder says that it is not whole.
        (folder / MANIFEST_FILE).unlink(missing_ok=True)
    replace_file(folder / MEASURE_FILE, data)
    replace_file(folder / MANIFEST_FILE, seal(_entry(measure, FileSum.of(data))))
    return folder


def load(folder: str | os.PathLike[str]) -> ContraSim:
    """Reads a fitted measure; every checksum, shape and number is checked, and nothing that is read can run code.

    Args:
        folder: As ``save`` wrote it.

    Returns:
        The measure; its scores are those of the measure that was saved.

    Raises:
        FileError: If there is no such folder, no measure in it, or one of a newer version.
        IncompleteStoreError: If saving was stopped before the end.
        CorruptFileError: If a file is missing, damaged, or not what its manifest says.
    """
    folder = Path(folder)
    entry = _manifest(folder)
    path = folder / MEASURE_FILE
    try:
        options, sources = _options(entry["options"]), _sources(entry["sources"])
        anchors, (wanted,) = _strings(entry["anchor_ids"]), file_sums([entry["measure"]])
        diagnosis, settings = _diagnosis(entry["diagnosis"]), dict(entry["settings"])
    except _MALFORMED as error:
        reason = f"is damaged ({error or type(error).__name__}). {_REPAIR}"
        raise CorruptFileError(folder / MANIFEST_FILE, reason) from error
    tensors = _read(path, wanted)
    try:
        examples = _hashes(tensors.pop(_EXAMPLES))
        params = _params(tensors, options, sources, len(anchors))
    except _MALFORMED as error:
        raise CorruptFileError(
            path, f"does not hold what its manifest says ({error or type(error).__name__}). {_REPAIR}"
        ) from error
    return ContraSim(params, options, sources, anchors, examples, diagnosis, settings)


def check_replaceable(folder: Path) -> None:
    """Refuses a folder whose manifest is not that of a whole measure: it could be a store, and would be lost.

    Args:
        folder: Where a measure is to be saved; it need not exist.

    Raises:
        FileError: If a manifest is there that is not one of ours.
    """
    path = folder / MANIFEST_FILE
    if not path.exists():
        return
    try:
        _manifest(folder)
    except RepsimError as error:
        if path.is_file() and FORMAT.encode() in path.read_bytes()[:_LARGEST_MANIFEST]:
            return  # of another version, or damaged: ours all the same
        reason = (
            f"holds the {MANIFEST_FILE} of something else, such as a store, or a damaged one. Choose another folder."
        )
        raise FileError(folder, reason) from error


def diagnosis_to_json(found: Diagnosis | None) -> dict[str, Any] | None:
    """A diagnosis as plain values.

    Args:
        found: Of a measure.

    Returns:
        Name to value, None for what is not a number; None where there is no diagnosis.
    """
    if found is None:
        return None
    plain: dict[str, Any] = dict(found._asdict())
    plain |= {name: _accuracy_to_json(getattr(found, name)) for name in _ACCURACIES}
    plain["by_source"] = {name: _accuracy_to_json(one) for name, one in found.by_source.items()}
    plain |= {name: value if math.isfinite(value) else None for name, value in plain.items() if type(value) is float}
    plain["sensitivity"] = {name: float(change) for name, change in found.sensitivity.items()}
    return plain


def _accuracy_to_json(one: Accuracy | None) -> dict[str, Any] | None:
    return None if one is None else {**one._asdict(), "share": one.share}


def _tensors(measure: ContraSim) -> dict[str, np.ndarray]:
    """Arrays by the place of what they belong to: a name of the user's never becomes part of a file's names."""
    params = measure.params
    arrays: dict[str, np.ndarray] = {_EXAMPLES: measure.training_examples.astype(np.uint64)}
    for i, layer in enumerate(params["trunk"]):
        arrays |= {f"trunk/{i}/{part}": np.asarray(layer[part], np.float32) for part in ("weight", "bias")}
    for i, (name, source) in enumerate(measure.sources.items()):
        if name in params.get("projections", {}):
            arrays[f"projections/{i}"] = np.asarray(params["projections"][name], np.float32)
        for j, layer in enumerate(source.layers):
            standard = params.get("standards", {}).get(name, {}).get(layer)
            if standard is not None:
                arrays[f"standards/{i}/{j}/mean"] = np.asarray(standard.mean, np.float32)
                arrays[f"standards/{i}/{j}/scale"] = np.asarray(standard.scale, np.float32)
    return {name: np.array(array, order="C") for name, array in arrays.items()}


def _entry(measure: ContraSim, total: FileSum) -> dict[str, Any]:
    import jax

    import repsim_jax

    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "measure": total,
        "options": measure.options.to_json(),
        "sources": [{"name": name, **source._asdict()} for name, source in measure.sources.items()],
        "anchor_ids": measure.anchor_ids,
        "settings": measure.settings,
        "diagnosis": diagnosis_to_json(measure.diagnosis),
        "versions": {"repsim_jax": repsim_jax.__version__, "jax": jax.__version__, "numpy": np.__version__},
    }


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST_FILE
    if not path.is_file():
        if not folder.is_dir():
            raise FileError(folder, "no such folder. Give the folder of a measure that repsim contrasim fit wrote.")
        if (folder / MEASURE_FILE).exists():
            raise IncompleteStoreError(folder, "saving this measure was stopped before the end. Fit it again.")
        raise FileError(folder, "holds no fitted measure (no manifest.json). Write one by repsim contrasim fit.")
    try:
        with open(path, "rb") as file:
            entry = unseal(file.read(_LARGEST_MANIFEST))
        kind, version = entry["format"], entry["version"]
    except (*_MALFORMED, OSError) as error:
        raise CorruptFileError(path, f"is damaged ({error or type(error).__name__}). {_REPAIR}") from error
    if kind != FORMAT:
        raise FileError(folder, f"is no fitted measure but {kind!r}. Give a folder that repsim contrasim fit wrote.")
    if version != FORMAT_VERSION:
        raise FileError(
            folder, f"this measure has format version {version!r}, and {FORMAT_VERSION} is known. Update repsim_jax."
        )
    return entry


def _options(values: dict[str, Any]) -> Options:
    defaults = Options().to_json()
    unknown = sorted(set(values) ^ set(defaults))
    if unknown:
        raise ValueError(f"its options and those that are known differ in {', '.join(map(repr, unknown))}")
    for name, value in values.items():
        wanted = (bool,) if name == "residual" else (int, float) if name == "ridge" else (type(defaults[name]),)
        if type(value) not in wanted:
            raise ValueError(f"its option {name} cannot be {value!r}")
    try:
        return Options.from_json(values)
    except RepsimError as error:
        raise ValueError(str(error)) from error


def _sources(values: list[dict[str, Any]]) -> dict[str, FittedSource]:
    found = {}
    for one in values:
        name, layers, widths = one["name"], _strings(one["layers"]), tuple(one["widths"])
        weights, held_out = one["weights_sha256"], one["held_out"]
        right = isinstance(name, str) and name not in found and isinstance(weights, str | None)
        right = right and type(held_out) is bool and len(layers) == len(widths) == len(set(layers))
        if not right or any(type(width) is not int or width < 1 for width in widths):
            raise ValueError(f"its source {name!r} is malformed")
        found[name] = FittedSource(layers, widths, weights, held_out)
    return found


def _strings(values: list[str]) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise ValueError("a list of names holds something else")
    return tuple(values)


def _diagnosis(values: dict[str, Any] | None) -> Diagnosis | None:
    if values is None:
        return None
    if set(values) != set(Diagnosis._fields):
        raise ValueError("its diagnosis has other fields")
    plain: dict[str, Any] = dict(values)
    plain |= {name: _accuracy(values[name]) for name in _ACCURACIES}
    if plain["training"] is None or plain["seen"] is None or not isinstance(values["task"], str):
        raise ValueError("its diagnosis lacks an accuracy")
    plain["by_source"] = {name: _accuracy(one) for name, one in values["by_source"].items()}
    for name in ("chance_mean", "chance_high", "positive_mean", "negative_mean", "effective_examples", "twins"):
        plain[name] = math.nan if values[name] is None else float(values[name])
    fewest, middle, most = map(int, values["positives"])
    plain |= {"positives": (fewest, middle, most), "negatives": int(values["negatives"])}
    plain["sensitivity"] = {name: float(change) for name, change in values["sensitivity"].items()}
    plain["verdict"] = _strings(values["verdict"])
    return Diagnosis(**plain)


def _accuracy(values: dict[str, Any] | None) -> Accuracy | None:
    if values is None:
        return None
    chance, low, high = (float(values[name]) for name in ("chance", "low", "high"))
    return Accuracy(int(values["correct"]), int(values["total"]), chance, low, high)


def _read(path: Path, wanted: FileSum) -> dict[str, np.ndarray]:
    try:
        size = path.stat().st_size
        # Not a byte is read of a file that has another size: it may not fit into memory.
        data = path.read_bytes() if size == wanted.size else b""
    except OSError as error:
        raise CorruptFileError(path, f"is missing or cannot be read ({error.strerror}). {_REPAIR}") from error
    if size != wanted.size:
        raise CorruptFileError(path, f"should have {wanted.size} bytes, has {size}. {_REPAIR}")
    if FileSum.of(data) != wanted:
        raise CorruptFileError(path, f"its bytes changed since they were written (sha256 differs). {_REPAIR}")
    try:
        return read_safetensors(data, path).arrays
    except _MALFORMED as error:
        raise CorruptFileError(path, f"is not a whole safetensors file ({error}). {_REPAIR}") from error


def _hashes(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint64 or array.ndim != 1 or (array[1:] < array[:-1]).any():
        raise ValueError(f"{_EXAMPLES} are not sorted hashes")
    return np.array(array)


def _params(
    tensors: dict[str, np.ndarray], options: Options, sources: dict[str, FittedSource], num_anchors: int
) -> Params:
    """The parameters, of exactly the shapes that options, sources and anchors ask for."""
    inputs = {"projected": options.projection, "relative": num_anchors * options.num_metrics}.get(options.input)
    if inputs is None:
        inputs = int(tensors["trunk/0/weight"].shape[0])
    outputs = inputs if options.residual else options.width
    sizes = (inputs, *(options.hidden or ()), outputs)
    params: Params = {
        "trunk": [
            {
                "weight": _taken(tensors, f"trunk/{i}/weight", (before, after)),
                "bias": _taken(tensors, f"trunk/{i}/bias", (after,)),
            }
            for i, (before, after) in enumerate(pairwise(sizes))
        ]
    }
    if options.input == "projected":
        numbered = list(enumerate(sources.items()))
        params["projections"] = {
            name: _taken(tensors, f"projections/{i}", (source.widths[0], options.projection))
            for i, (name, source) in numbered
        }
        params["standards"] = {
            name: {
                layer: _standard(tensors, f"standards/{i}/{j}", width)
                for j, (layer, width) in enumerate(zip(source.layers, source.widths, strict=True))
            }
            for i, (name, source) in numbered
        }
    if tensors:
        raise ValueError(f"it holds {next(iter(tensors))!r}, which belongs to no part of the measure")
    return params


def _standard(tensors: dict[str, np.ndarray], name: str, width: int) -> Standard:
    return Standard(_taken(tensors, f"{name}/mean", (width,)), _taken(tensors, f"{name}/scale", ()))


def _taken(tensors: dict[str, np.ndarray], name: str, shape: tuple[int, ...]) -> Any:
    if name not in tensors:
        raise ValueError(f"{name} is missing")
    array = tensors.pop(name)
    if array.dtype != np.float32 or array.shape != shape:
        raise ValueError(f"{name} should be float32 {shape}, is {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity")
    return jnp.asarray(array)
