"""Which model did the user name on the command line, and how are raw examples prepared for it?"""

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from repsim_jax.activations.tap import Tap, tap
from repsim_jax.data.batches import Batch
from repsim_jax.data.sources import Source
from repsim_jax.errors import BadArrayError, FileError, RepsimError, UnknownNameError

Prepare = Callable[[Sequence[Any], Sequence[str]], Batch]


class OpenModel(NamedTuple):
    """A model that is ready to read data.

    Attributes:
        tap: Its hidden layers, with its own default layers and layout policies where it has them.
        prepare: (raw examples, ids) to a batch.
    """

    tap: Tap
    prepare: Prepare


def open_model(spec: str, *, size: int | None = None) -> OpenModel:
    """Opens the model that a text names.

    * a built-in name of ``repsim_jax.pretrained.names()``, with the preparation it was trained with;
    * "hf:FOLDER": a local Hugging Face folder (config.json, model.safetensors), with its preparation;
    * "FILE.onnx": an ONNX model;
    * "module:factory": ``factory()`` of an importable module (the working folder is searched too) returns anything that
      ``tap`` takes; an object with ``.model`` and ``.prepare`` brings its own preparation.

    Models without a preparation of their own take arrays as they are, and images as RGB in [0, 1], squeezed to
    (size, size): (b, h, w, 3) for flax, (b, 3, h, w) for ONNX and PyTorch.

    Args:
        spec: One of these.
        size: Side in pixels to which images are resized, for a model without a preparation of its own.

    Returns:
        (tap, prepare).

    Raises:
        UnknownNameError: If nothing is called so; the message says what was tried.
        RepsimError: If the factory fails, returns something else, or ``size`` is given to a model that needs none.
        FileError: If a file or folder is missing or damaged.
        MissingPackageError: If an optional package is needed and not installed.
    """
    model = named_model(spec)
    found = tap(model)
    return OpenModel(found, preparation_of(spec, model, size, channels_first=found.channel_axis == 1))


def preparation_of(spec: str, model: Any, size: int | None, *, channels_first: bool) -> Prepare:
    """How raw examples become what a model takes: its own way, or as they are.

    Args:
        spec: What named the model, for messages.
        model: As ``named_model`` returns it.
        size: Side in pixels to which images are resized, for a model without a preparation of its own.
        channels_first: Whether images are (b, 3, h, w).

    Returns:
        (raw examples, ids) to a batch.

    Raises:
        RepsimError: If a size is given to a model that prepares its inputs itself.
        BadArrayError: If the size is not positive.
    """
    own = getattr(model, "prepare", None)
    if own is not None and size is not None:
        raise RepsimError(
            f"{spec} prepares its inputs as it was trained on them; a size of {size} cannot be chosen. Leave size out."
        )
    return own if own is not None else _Plain(spec, size, channels_first=channels_first)


def prepared(source: Source, prepare: Prepare, batch_size: int) -> Callable[[int], Iterator[Batch]]:
    """Turns a source into the batches that ``extract`` reads, so that resuming decodes nothing twice.

    Args:
        source: Raw examples.
        prepare: The model's preparation.
        batch_size: Examples per batch.

    Returns:
        A callable ``start -> batches`` from example ``start`` on.

    Raises:
        BadArrayError: If ``batch_size`` is not positive.
        RepsimError: From the batches, if the preparation fails; the message says on which examples.
    """
    if batch_size < 1:
        raise BadArrayError(f"batch_size must be at least 1 example, got {batch_size}.")

    def batches(start: int) -> Iterator[Batch]:
        for first in range(start, len(source), batch_size):
            rows = range(first, min(first + batch_size, len(source)))
            raw, ids = [source.get(row) for row in rows], source.ids[rows.start : rows.stop]
            try:
                batch = prepare(raw, ids)
            except RepsimError:
                raise
            except Exception as error:
                told = f"examples {ids[0]!r} to {ids[-1]!r}: {type(error).__name__}: {error}"
                raise RepsimError(f"the model's preparation failed on {told}") from error
            yield batch

    return batches


def named_model(spec: str) -> Any:
    """Loads or builds the model that a text names, whatever it is.

    Args:
        spec: As in ``open_model``.

    Returns:
        What ``pretrained.load`` or the factory returned; the path of an .onnx file.

    Raises:
        UnknownNameError: If nothing is called so; the message says what was tried.
        RepsimError: If the factory fails.
        FileError: If a file or folder is missing or damaged.
        MissingPackageError: If an optional package is needed and not installed.
    """
    if spec.startswith("hf:"):
        from repsim_jax.pretrained import load_local

        return load_local(spec.removeprefix("hf:"))
    if spec.lower().endswith(".onnx"):
        return Path(spec)
    from repsim_jax import pretrained

    if spec in pretrained.names():
        return pretrained.load(spec)
    if ":" in spec:
        return _from_factory(spec)
    if Path(spec).is_file():
        raise FileError(
            spec, "a model is FILE.onnx, hf:FOLDER, or module:factory, whose factory() builds it and loads such a file."
        )
    if Path(spec).is_dir():
        raise FileError(spec, f"a folder is no model by itself. A Hugging Face folder is named so: hf:{spec}")
    near = UnknownNameError.of("built-in model", spec, pretrained.names())
    raise UnknownNameError(f"{near} A model may also be hf:FOLDER, FILE.onnx, or module:factory.")


def _from_factory(spec: str) -> Any:
    module_name, _, factory_name = spec.partition(":")
    with _working_folder_importable():
        try:
            module = importlib.import_module(module_name)
        except SystemExit as error:
            guard = 'Put what it does as a program behind: if __name__ == "__main__"'
            raise RepsimError(f"{spec}: {module_name!r} ends the program when imported (sys.exit). {guard}") from error
        except Exception as error:
            tried = f"tried to import the module {module_name!r} from the working folder {Path.cwd()} and from what is"
            raise UnknownNameError(
                f"{spec}: {tried} installed, which raised {type(error).__name__}: {error}. "
                "Write module:factory as you would write: from module import factory."
            ) from error
        factory = getattr(module, factory_name, None)
        if not callable(factory):
            known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
            raise UnknownNameError.of(f"function of {module_name}", factory_name, known)
        try:
            return factory()
        except (Exception, SystemExit) as error:
            raise RepsimError(f"{spec}: {factory_name}() raised {type(error).__name__}: {error}") from error


@contextmanager
def _working_folder_importable() -> Iterator[None]:
    folder = str(Path.cwd())
    added = folder not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        yield
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)


class _Plain:
    """Stacks arrays as they are, and images in [0, 1] of a size that the user chose."""

    def __init__(self, spec: str, size: int | None, *, channels_first: bool):
        if size is not None and size < 1:
            raise BadArrayError(f"size must be at least 1 pixel, got {size}.")
        self.spec, self.size, self.channels_first = spec, size, channels_first

    def __call__(self, raw: Sequence[Any], ids: Sequence[str]) -> Batch:
        first = raw[0]
        if isinstance(first, str):
            raise BadArrayError(
                f"{self.spec} does not say how text becomes numbers. Let the factory return an object with .model and "
                ".prepare, where prepare(texts, ids) returns a Batch; or save token ids as an array (n, t)."
            )
        if hasattr(first, "convert") or self.size is not None:
            return self._images(raw, ids)
        arrays = [np.asarray(one) for one in raw]
        odd = next((row for row, one in enumerate(arrays) if one.shape != arrays[0].shape), None)
        if odd is not None:
            text = f"example {ids[odd]!r} has shape {arrays[odd].shape}, example {ids[0]!r} {arrays[0].shape}"
            raise BadArrayError(f"{self.spec} takes arrays of one shape: {text}. Resize images with a size (--size).")
        return Batch(tuple(ids), np.stack(arrays))

    def _images(self, raw: Sequence[Any], ids: Sequence[str]) -> Batch:
        if self.size is None:
            raise BadArrayError(
                f"{self.spec} does not say what images it takes. Give the side in pixels (--size 224): they are then "
                "resized to (size, size), RGB in [0, 1]. For another preparation let a factory return .prepare."
            )
        from repsim_jax.pretrained.preparation import ImagePreparation

        squeeze = ImagePreparation(self.size, None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
        batch = squeeze(raw, ids)
        return batch._replace(inputs=np.moveaxis(batch.inputs, -1, 1)) if self.channels_first else batch
