"""How do sentences become what a text model was trained on: token ids, padded to few shapes, with a mask?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from repsim_jax.data.batches import Batch
from repsim_jax.errors import AlignmentError, BadArrayError, MissingPackageError

# Texts are padded to a multiple of this many tokens, so that a model that reads 512 is traced at most 16 times.
BUCKET = 32


@dataclass(frozen=True)
class TextPreparation:
    """Tokenizes and pads; call it with texts and their ids.

    Attributes:
        tokenize: Texts to token ids, special tokens included, each text cut to at most ``max_tokens``.
        pad_id: What padding is filled with; the mask says that it does not count.
        max_tokens: Tokens of the longest text that the model reads; what follows is cut off.
    """

    tokenize: Callable[[Sequence[str]], list[list[int]]]
    pad_id: int
    max_tokens: int

    def __call__(self, texts: Sequence[Any], ids: Sequence[str]) -> Batch:
        """Prepares a few texts.

        Args:
            texts: Strings.
            ids: One string per text.

        Returns:
            Batch whose inputs are {"ids", "mask"}, int32 (b, t), t a multiple of 32 or the most that the model reads.

        Raises:
            AlignmentError: If there are not as many ids as texts.
            BadArrayError: If a text is no string, or holds half of a surrogate pair; names its id.
            MissingPackageError: If the model's tokenizer needs a package that is not installed.
        """
        if len(texts) != len(ids):
            raise AlignmentError(f"prepare wants one id per text: got {len(ids)} ids for {len(texts)} texts.")
        for text, one in zip(texts, ids, strict=True):
            _check_text(text, one)
        rows = self.tokenize(list(texts)) if len(texts) else []
        longest = max(map(len, rows), default=1)
        t = min(-(-longest // BUCKET) * BUCKET, self.max_tokens)
        numbers = np.full((len(rows), t), self.pad_id, np.int32)
        mask = np.zeros((len(rows), t), np.int32)
        for row, tokens in enumerate(rows):
            numbers[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return Batch(tuple(ids), {"ids": numbers, "mask": mask}, mask)


def framed(
    encode: Callable[[str], list[int]], first: int, last: int, max_tokens: int
) -> Callable[..., list[list[int]]]:
    """Puts a model's first and last token around the pieces of each text, cutting pieces where there are too many.

    Args:
        encode: One text to the ids of its pieces.
        first: Id of the token that starts every text.
        last: Id of the token that ends every text.
        max_tokens: The most tokens of a text, both special ones included.

    Returns:
        Texts to token ids.
    """
    return lambda texts: [[first, *encode(text)[: max_tokens - 2], last] for text in texts]


def hugging_face(tokenizer: Any, max_tokens: int) -> Callable[[Sequence[str]], list[list[int]]]:
    """Makes a function of a tokenizer of the package ``tokenizers``; its own padding and truncation are put aside.

    Args:
        tokenizer: A ``tokenizers.Tokenizer``.
        max_tokens: The most tokens of a text, special ones included.

    Returns:
        Texts to token ids.
    """
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return lambda texts: [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]


def tokenizers_package() -> Any:
    """Imports the package ``tokenizers``.

    Returns:
        The module.

    Raises:
        MissingPackageError: If it is not installed.
    """
    try:
        import tokenizers
    except ImportError:
        raise MissingPackageError.of("tokenizers", "to cut texts into this model's tokens", "pretrained") from None
    return tokenizers


def _check_text(text: Any, name: str) -> None:
    if not isinstance(text, str):
        raise BadArrayError(f"text {name!r}: expected a string, got {type(text).__name__}. Pass str, one per example.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadArrayError(
            f"text {name!r} holds half of a surrogate pair at character {error.start}, which is no Unicode text. "
            'Decode it anew, for example with errors="replace".'
        ) from None
