"""What kind of learned measure is fitted, and how it is trained."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from repsim_jax.errors import BadArrayError, UnknownNameError

Positives = Literal["layer", "example"]
Input = Literal["raw", "projected", "relative"]
Objective = Literal["contrasim", "deep_dot", "deep_cka", "max_margin"]
Similarity = Literal["dot", "distance"]
Metric = Literal["plain", "whitened", "both"]
_CHOICES = {
    "positives": Positives, "input": Input, "objective": Objective, "similarity": Similarity, "metric": Metric,
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """The measure's shape; the defaults are ours, ``FAITHFUL`` is the paper's.

    Attributes:
        positives: ``layer``: the same layer of different sources belongs together, over the whole set of examples (the
            paper's layer prediction). ``example``: the same example in different sources belongs together
            (translations, image and caption, old and new model).
        input: ``raw``: features as they are, one width for all. ``projected``: standardized, then a linear map of each
            source's own, for sources of different widths; measures no model that it was not fitted on. ``relative``:
            cosines to anchor examples that all sources share, whatever a source's width and basis: the only input that
            carries over to models that were not there at the fit.
        objective: ``contrasim``: supervised contrastive loss. ``max_margin``: hinge on the hardest negative.
            ``deep_dot``, ``deep_cka``: attraction of positives alone, the paper's baselines.
        similarity: ``dot`` (cosine), or ``distance`` (one minus Euclidean distance of unit vectors).
        hidden: Widths of the hidden layers; by default (512, 256) as in the paper, and none for a residual measure,
            whose few examples do not carry more than a linear map.
        width: Width of the learned space.
        projection: Width of the map of each source, for ``projected``.
        num_anchors: Anchor examples, for ``relative``; half of the training examples where that is fewer.
        metric: In which metric the cosines of ``relative`` are taken: ``plain``, the features' own, which shows how
            variance is spread over directions; ``whitened``, that of the anchors' covariance, which shows what a few
            large directions drown; ``both``, side by side, so that the fit may choose. By default both for positives of
            ``layer`` (in vision networks the one tells layers apart, in language models the other), and whitened for
            ``example``.
        ridge: What is added to that covariance, in units of its mean variance per direction, > 0.
        residual: Whether the map is added to its input and starts at zero, for ``relative``: an untrained measure is
            then the mean cosine of relative representations, and training moves away from there (``width`` is then that
            of the input). By default for positives of ``example``, where there are few examples and a good start.
    """

    positives: Positives = "layer"
    input: Input = "relative"
    objective: Objective = "contrasim"
    similarity: Similarity = "dot"
    hidden: tuple[int, ...] | None = None
    width: int = 128
    projection: int = 256
    num_anchors: int = 256
    metric: Metric | None = None
    ridge: float = 3.0
    residual: bool | None = None

    def __post_init__(self) -> None:
        if self.metric is None:
            object.__setattr__(self, "metric", "both" if self.positives == "layer" else "whitened")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise UnknownNameError.of(f"contrasim option {name}", str(getattr(self, name)), get_args(choices))
        sizes = {"width": self.width, "projection": self.projection, "num_anchors": self.num_anchors}
        sizes |= {"hidden": min(self.hidden or (), default=1)}
        for name, size in sizes.items():
            if type(size) is not int or size < 1:
                raise BadArrayError(f"contrasim needs whole numbers >= 1 for {name}, got {getattr(self, name)!r}.")
        if self.residual is None:
            object.__setattr__(self, "residual", self.input == "relative" and self.positives == "example")
        if self.residual and self.input != "relative":
            raise BadArrayError(f"contrasim options: residual is for input='relative', got input={self.input!r}.")
        if not 0 < self.ridge < float("inf"):
            raise BadArrayError(f"contrasim needs ridge > 0, got {self.ridge!r}.")
        hidden = (() if self.residual else (512, 256)) if self.hidden is None else tuple(self.hidden)
        object.__setattr__(self, "hidden", hidden)

    @property
    def num_metrics(self) -> int:
        """How many cosines there are to each anchor."""
        return 2 if self.metric == "both" else 1

    def to_json(self) -> dict[str, Any]:
        """These options as plain values.

        Returns:
            Name to value; tuples as lists.
        """
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Options":
        """Undoes ``to_json``.

        Args:
            values: Name to value.

        Returns:
            The options.

        Raises:
            TypeError: If a name is not known.
        """
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**plain)


@dataclass(frozen=True)
class Training:
    """How a measure is trained; the defaults are ours, ``FAITHFUL_LAYERS`` and ``FAITHFUL_EXAMPLES`` the paper's.

    Attributes:
        num_steps: Updates.
        batch_size: Examples per update; all training examples where those are fewer.
        learning_rate: Of Adam.
        weight_decay: Decoupled from the gradient, or added to it where ``coupled``.
        coupled: Whether weight decay is the old-fashioned L2 penalty.
        schedule: ``cosine`` to zero, or ``constant``.
        temperature: Of the contrastive loss, > 0.
        margin: Of ``max_margin``, > 0.
        anchor_dropout: Share of the anchors that a step does without, for relative input, in [0, 1). By default
            0.5 for a residual measure, which starts where it is good already, and none for others.
        negatives: ``random``, or ``hard``: half of each batch are near neighbors of the other half. For positives of
            ``example``; among layers every other layer is a negative anyway.
    """

    num_steps: int = 500
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    coupled: bool = False
    schedule: Literal["cosine", "constant"] = "cosine"
    temperature: float = 0.2
    margin: float = 0.2
    anchor_dropout: float | None = None
    negatives: Literal["random", "hard"] = "random"

    def __post_init__(self) -> None:
        for name, choices in (("schedule", ("cosine", "constant")), ("negatives", ("random", "hard"))):
            if getattr(self, name) not in choices:
                raise UnknownNameError.of(f"contrasim training {name}", str(getattr(self, name)), choices)
        positive = ("num_steps", "batch_size", "learning_rate", "temperature", "margin")
        for name in positive:
            if not 0 < getattr(self, name) < float("inf"):
                raise BadArrayError(f"contrasim training needs {name} > 0, got {getattr(self, name)!r}.")
        for name in ("num_steps", "batch_size"):
            if type(getattr(self, name)) is not int:
                raise BadArrayError(f"contrasim training needs a whole number for {name}, got {getattr(self, name)!r}.")
        if self.anchor_dropout is not None and not 0 <= self.anchor_dropout < 1:
            raise BadArrayError(f"contrasim training needs anchor_dropout in [0, 1), got {self.anchor_dropout!r}.")
        if not 0 <= self.weight_decay < float("inf"):
            raise BadArrayError(f"contrasim training needs weight_decay >= 0, got {self.weight_decay!r}.")


FAITHFUL = Options(input="raw")
# Released code: Adam 1e-4 with coupled L2 of 5e-4 for layers, none for pairs; its step decay never fires.
FAITHFUL_LAYERS = Training(
    temperature=0.07, batch_size=1024, learning_rate=1e-4, weight_decay=5e-4, coupled=True, schedule="constant"
)
FAITHFUL_EXAMPLES = Training(
    temperature=0.07, num_steps=300, batch_size=1024, learning_rate=1e-4, weight_decay=0.0, schedule="constant"
)
