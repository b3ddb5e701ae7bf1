"""How does a local Hugging Face folder become a flax module? No network, no pickles, no code from the folder."""

import importlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from repsim_jax.errors import CorruptFileError, FileError, UnknownNameError, UnsafeFileError
from repsim_jax.pretrained.registry import Pretrained

_MAX_JSON_BYTES = 8 * 2**20  # a configuration has kilobytes, the index of the largest model a megabyte
_PICKLES = ("pytorch_model.bin", "model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")

# model_type to "module:function"; the function takes the folder, whose config.json is known to be a JSON object
FAMILIES = {
    "bert": "repsim_jax.pretrained.hf_text:load_bert_folder",
    "camembert": "repsim_jax.pretrained.hf_text:load_bert_folder",
    "clip": "repsim_jax.pretrained.hf_vision:load_clip",
    "clip_vision_model": "repsim_jax.pretrained.hf_vision:load_clip",
    "dinov2": "repsim_jax.pretrained.hf_vision:load_dinov2",
    "roberta": "repsim_jax.pretrained.hf_text:load_bert_folder",
    "vit": "repsim_jax.pretrained.hf_vision:load_vit",
    "vit_mae": "repsim_jax.pretrained.hf_vision:load_mae",
    "xlm-roberta": "repsim_jax.pretrained.hf_text:load_bert_folder",
}


def load_folder(folder: str | os.PathLike[str]) -> Pretrained:
    """Loads a folder with config.json and model.safetensors.

    Args:
        folder: The folder; preprocessor_config.json is read where it exists.

    Returns:
        The model; ViTs embed an image as its normalized class token, CLIP projects it.

    Raises:
        FileError: If a file is missing, or asks for something that is not supported; says which.
        UnsafeFileError: If the weights are there as a pickle only.
        CorruptFileError: If a file is damaged, or a tensor is missing, left over or of the wrong shape; names it.
        UnknownNameError: If the folder holds another family of models.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileError(folder, "expected a folder with config.json and model.safetensors; there is no such folder.")
    family = str(read_config(folder).get("model_type"))
    if family not in FAMILIES:
        raise UnknownNameError.of("model_type (in config.json)", family, FAMILIES)
    module, function = FAMILIES[family].split(":")
    return getattr(importlib.import_module(module), function)(folder)


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        folder: The folder.
        name: The file's name.

    Returns:
        The object.

    Raises:
        FileError: If the file does not exist.
        CorruptFileError: If it is larger than 8 MiB or no JSON object.
    """
    path = folder / name
    if not path.is_file():
        raise FileError(path, "expected this file in the folder of a Hugging Face model; it is missing.")
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise CorruptFileError(path, f"expected a few kilobytes of JSON, got {path.stat().st_size} bytes.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested to exhaust the stack
        raise CorruptFileError(path, f"expected JSON, but it cannot be parsed ({error}).") from None
    if not isinstance(value, dict):
        raise CorruptFileError(path, f"expected a JSON object, got a {type(value).__name__}.")
    return value


def read_safetensors(folder: Path) -> dict[str, np.ndarray]:
    """Reads the weights: model.safetensors, or the parts that model.safetensors.index.json lists.

    Args:
        folder: The folder.

    Returns:
        Tensors by name, in the file's dtype.

    Raises:
        FileError: If there are no such files.
        UnsafeFileError: If there is only a pickle.
        CorruptFileError: If a file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    tensors: dict[str, np.ndarray] = {}
    for path in _weight_files(folder):
        try:
            tensors.update(load_file(path))
        except (SafetensorError, OSError, KeyError, TypeError) as error:  # the last two: dtypes that NumPy lacks
            raise CorruptFileError(path, f"expected a whole safetensors file, but {error}. Copy it again.") from None
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if index.is_file():
        places = read_config(folder, index.name).get("weight_map")
        names = sorted({str(one) for one in places.values()}) if isinstance(places, dict) else []
        if not names or not all(re.fullmatch(r"[\w-][\w.-]*\.safetensors", name) for name in names):
            raise CorruptFileError(index, "expected a weight_map that names safetensors files in this folder.")
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise FileError(folder / missing[0], f"expected this file, which {index.name} lists; it is missing.")
        return [folder / name for name in names]
    for name in _PICKLES:
        if (folder / name).is_file():
            raise UnsafeFileError(
                folder / name,
                "is not read here: such a file can run code, or needs another framework. Load it where you trust it, "
                "and save it again with save_pretrained(folder, safe_serialization=True).",
            )
    raise FileError(whole, "expected this file in the folder of a Hugging Face model; it is missing.")
