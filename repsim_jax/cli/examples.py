"""Which examples did the user name, as one array that a model takes? What cannot be used is named and skipped."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from repsim_jax.data.sources import Source

_UNEQUAL_NAMED = 3  # files of other sizes that a message names


class Examples(NamedTuple):
    """Examples as a model takes them.

    Attributes:
        name: Of the data.
        ids: Of the examples that are used.
        x: (n, ...) float32, as the model takes them.
        picture: ``picture(row)`` gives an example as uint8 for a page, or None.
        skipped: {id: reason}.
        labels: Classes where the data bring them; for show only.
    """

    name: str
    ids: tuple[str, ...]
    x: "np.ndarray"
    picture: "Callable[[int], np.ndarray | None]"
    skipped: dict[str, str]
    labels: "np.ndarray | None"

    def fingerprint(self) -> str:
        """Which examples these are."""
        import numpy as np

        from repsim_jax.influence import fingerprint

        return fingerprint(
            {"x": self.x, "ids": np.frombuffer("\0".join(self.ids).encode("utf-8", "replace"), np.uint8)}
        )

    def numbers(self) -> list[int]:
        """A number for each id: its views stay the same, whatever other examples there are."""
        import hashlib

        digests = (hashlib.sha256(one.encode("utf-8", "surrogatepass")).digest()[:4] for one in self.ids)
        return [int.from_bytes(one, "big") >> 1 for one in digests]


def read_examples(
    data: str, *, column: str | None = None, id_column: str | None = None, limit: int | None = None,
    size: int | None = None, prepare: Any = None, any_size: bool = False, taker: str = "influence",
) -> Examples:  # fmt: skip
    """Reads all examples; what is damaged, not finite or of another shape is skipped, and its reason kept.

    Images become RGB in [-1/2, 1/2] of one size; arrays stay as they are, digits are moved into that range. With
    ``any_size`` there is no array of all of them, and sizes may differ. ``taker`` is who takes them, for messages.
    """
    import numpy as np

    from repsim_jax.data.sources import open_source
    from repsim_jax.errors import BadArrayError

    source = open_source(data, column=column, id_column=id_column, limit=limit)
    if source.modality == "text":
        raise BadArrayError(f"{source.name} holds text; {taker} takes images or arrays. Save token ids as an array.")
    raw, rows, skipped = _readable(source, size)
    if not any_size and prepare is None:  # a model that prepares its inputs brings them to its own size
        _check_shapes(raw, [source.ids[row] for row in rows], taker)
    if not rows:
        first = next(iter(skipped.items()))
        raise BadArrayError(
            f"none of the {len(source)} examples of {source.name} can be used. The first: {first[0]}: {first[1]}"
        )
    ids = tuple(source.ids[row] for row in rows)
    labels = None if source.labels is None else source.labels[rows]
    if any_size:
        x = np.zeros((len(rows), 0), np.float32)
    else:
        x = _stacked(raw, source, taker) if prepare is None else _prepared(prepare, raw, ids)
    return Examples(source.name, ids, x, lambda row: _picture(raw[row]), skipped, labels)


def _readable(source: "Source", size: int | None) -> "tuple[list[np.ndarray], list[int], dict[str, str]]":
    """Examples that can be used, their rows, and why the others cannot."""
    import numpy as np

    from repsim_jax.errors import BadArrayError, FileError

    raw, rows, skipped = [], [], {}
    for row, one in enumerate(source.ids):
        try:
            example = source.get(row)
            if hasattr(example, "convert"):
                example = example.convert("RGB")
                example = example if size is None else example.resize((size, size))
            example = np.asarray(example)
        except (FileError, BadArrayError) as error:
            skipped[one] = _short(error, one)
            continue
        if example.dtype.kind == "f" and not np.isfinite(example).all():
            skipped[one] = "holds NaN or infinity."
            continue
        raw.append(example)
        rows.append(row)
    return raw, rows, skipped


def _short(error: Exception, name: str) -> str:
    """What is wrong, without the path that stands beside it."""
    told = getattr(error, "reason", None) or str(error)
    return str(told).removeprefix(f"{name}: ").replace(", or skip bad examples (--skip-bad)", "")


def _check_shapes(raw: "list[np.ndarray]", ids: list[str], taker: str) -> None:
    from repsim_jax.errors import BadArrayError

    shapes = [one.shape for one in raw]
    if len(set(shapes)) < 2:
        return
    usual = max(set(shapes), key=shapes.count)
    odd = [(ids[k], shape) for k, shape in enumerate(shapes) if shape != usual]
    named = ", ".join(f"{one} {shape}" for one, shape in odd[:_UNEQUAL_NAMED])
    more = f" and {len(odd) - _UNEQUAL_NAMED} more" if len(odd) > _UNEQUAL_NAMED else ""
    raise BadArrayError(
        f"{taker} takes examples of one size: most are {usual}, but {named}{more}. Resize all of them: --size "
        f"{min(usual[:2]) if len(usual) > 1 else 32}."
    )


def _stacked(raw: "list[np.ndarray]", source: "Source", taker: str) -> "np.ndarray":
    import numpy as np

    from repsim_jax.errors import BadArrayError

    x = np.stack(raw)
    if x.dtype == np.uint8:
        x = x.astype(np.float32) / 255 - 0.5
    elif x.dtype.kind in "iu":
        raise BadArrayError(
            f"{source.name} holds {x.dtype} numbers; {taker} takes uint8 images or floating-point arrays."
        )
    elif x.ndim >= 3 and x.min() >= 0 and x.max() > 2:
        if x.max() > 255:
            raise BadArrayError(
                f"{source.name} holds images with values up to {x.max():g}, such as 16 bits. Scale them to [-1/2, 1/2]."
            )
        x = x / 255 - 0.5  # floats that are bytes in disguise
    elif x.min() >= 0 and x.max() <= 1:
        x = x - 0.5
    x = x.astype(np.float32)
    side = round(x[0].size ** 0.5)
    if x.ndim == 2 and side * side == x.shape[1] and side >= 4:
        return x.reshape(len(x), side, side, 1)
    return x[..., None] if x.ndim == 3 else x


def _prepared(prepare: Any, raw: "list[np.ndarray]", ids: tuple[str, ...]) -> "np.ndarray":
    """As a pretrained model takes them, in its own way; images that stay bytes become [-1/2, 1/2], as everywhere."""
    import numpy as np

    from repsim_jax.errors import RepsimError

    parts = []
    for start in range(0, len(raw), 64):
        inputs = prepare(raw[start : start + 64], ids[start : start + 64]).inputs
        if not hasattr(inputs, "shape"):
            raise RepsimError("this model takes several arrays (such as token ids and a mask); influence takes one.")
        parts.append(np.asarray(inputs))
    x = np.concatenate(parts)
    # a model that prepares nothing itself: influence differentiates by numbers, not by bytes
    return x.astype(np.float32) / 255 - 0.5 if x.dtype == np.uint8 else x


def _picture(raw: "np.ndarray") -> "np.ndarray | None":
    from repsim_jax.report.tiles import as_picture

    return as_picture(raw)


def views_of(spec: str | None, x: "np.ndarray") -> Any:
    """The augmentation of a name, or the one that suits the examples."""
    from repsim_jax.activations.specs import named_model
    from repsim_jax.errors import BadArrayError, UnknownNameError
    from repsim_jax.influence.augmentations import DigitViews, ImageViews

    is_image = x.ndim == 4 and x.shape[-1] in (1, 3)
    if spec is None and not is_image:
        raise BadArrayError(
            f"examples of shape {x.shape[1:]} are no images: say how views of them are drawn, with --views "
            "module:factory, whose factory() returns augment(key, x)."
        )
    low, high = float(x.min()), float(x.max())
    if spec is None:
        spec = "digits" if x.shape[-1] == 1 else "images"
    if spec == "digits":
        return DigitViews(background=low)
    if spec == "images":
        return ImageViews(low=low, high=high) if high > low else ImageViews()
    if ":" in spec:
        found = named_model(spec)
        if callable(found):
            return found
        raise BadArrayError(f"--views {spec}: the factory must return augment(key, x), got {type(found).__name__}.")
    raise UnknownNameError.of("augmentation (or module:factory)", spec, ("digits", "images"))


def content_of(data: str) -> str:
    """The path of the data from anywhere, or their name."""
    return str(Path(data).resolve()) if Path(data).exists() else data
