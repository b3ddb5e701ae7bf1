"""What is in a SentencePiece model: pieces with log probabilities, and the map that normalizes text before them."""

import functools
import os
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from repsim_jax.errors import CorruptFileError
from repsim_jax.pretrained.unigram import SPACE, Unigram

# Kinds of pieces in sentencepiece_model.proto. Control pieces (<s>, </s>) and unused ones are never read from text.
_NORMAL, _UNKNOWN, _USER_DEFINED = 1, 2, 4
# Bytes; Unicode composes at most a handful of characters, so a longer key is a damaged trie that runs in circles.
_LONGEST_KEY = 100
# Wire types of protobuf
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class SentencePiece(NamedTuple):
    """A tokenizer with SentencePiece's default whitespace rules: one space at most, none at the ends, one before all.

    Attributes:
        normalizer: What characters are replaced by.
        unigram: The pieces.
        unknown_id: The id of what no piece covers, and of an empty text.
    """

    normalizer: "Normalizer"
    unigram: Unigram
    unknown_id: int

    def encode(self, text: str) -> list[int]:
        """Cuts a text into pieces, without special tokens.

        Args:
            text: The text.

        Returns:
            Ids of its pieces; the unknown id alone where nothing is left of the text.

        Differs:
            From the library, which merges neighboring unknown characters into one token: each is one here, as in the
            package that carries the multilingual Universal Sentence Encoder.
        """
        normal = re.sub(" +", " ", self.normalizer(text)).strip(" ")
        return self.unigram.encode((SPACE + normal.replace(" ", SPACE)).rstrip(SPACE)) or [self.unknown_id]


class Normalizer:
    """Replaces the longest match at every character, left to right.

    Args:
        replacements: What is replaced, by what.
    """

    def __init__(self, replacements: dict[str, str]):
        self._replacements = replacements
        self._longest: dict[str, int] = {}
        for key in replacements:
            self._longest[key[0]] = max(self._longest.get(key[0], 0), len(key))

    def __call__(self, text: str) -> str:
        """Normalizes a text.

        Args:
            text: The text.

        Returns:
            What is left of it.
        """
        parts, at = [], 0
        while at < len(text):
            first = text[at]
            for size in range(self._longest.get(first, 0), 0, -1):
                replacement = self._replacements.get(text[at : at + size])
                if replacement is not None and at + size <= len(text):
                    parts.append(replacement)
                    at += size
                    break
            else:
                parts.append(first)
                at += 1
        return "".join(parts)


def read_sentencepiece(content: bytes, path: str | os.PathLike[str]) -> SentencePiece:
    """Reads a SentencePiece unigram model.

    Args:
        content: The bytes of the file.
        path: Where they come from, for messages.

    Returns:
        The tokenizer.

    Raises:
        CorruptFileError: If this is no SentencePiece model, a damaged one, or one with other whitespace rules.

    Source:
        sentencepiece_model.proto: field 1 of a model are its pieces (1 text, 2 score, 3 kind), field 3 is the
        normalizer (2 map, 3 space before all, 4 spaces removed, 5 spaces escaped).
    """
    try:
        fields = list(_fields(content))
        pieces = [dict(_fields(value)) for number, value in fields if number == 1 and isinstance(value, bytes)]
        rules = dict(_fields(next(value for number, value in fields if number == 3 and isinstance(value, bytes))))
        if not all(rules.get(switch, 1) for switch in (3, 4, 5)):
            raise ValueError("its whitespace rules are not the default ones")
        unigram, unknown_id = _unigram(pieces)
        normalizer = Normalizer(read_character_map(_bytes(rules.get(2, b""))))
    except (ValueError, IndexError, KeyError, TypeError, StopIteration, struct.error) as error:
        raise CorruptFileError(path, f"expected a whole SentencePiece model, but it cannot be read: {error}.") from None
    return SentencePiece(normalizer, unigram, unknown_id)


def _unigram(pieces: list[dict[int, int | bytes]]) -> tuple[Unigram, int]:
    scores = [struct.unpack("<f", _bytes(piece.get(2, bytes(4))))[0] for piece in pieces]
    kinds = [piece.get(3, _NORMAL) for piece in pieces]
    unknown_id = kinds.index(_UNKNOWN)
    readable = [number for number, kind in enumerate(kinds) if kind in (_NORMAL, _USER_DEFINED)]
    words = ((_bytes(pieces[number][1]).decode("utf-8"), number, scores[number]) for number in readable)
    return Unigram(words, unknown_id=unknown_id, worst=min(scores)), unknown_id


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where bytes were expected")
    return value


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields (number, value) of each field of a protobuf message; values are integers or bytes."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(content, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(content, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"unknown wire type {wire} at byte {at}")
        if at + size > len(content):
            raise ValueError(f"{size} bytes expected at byte {at} of {len(content)}")
        yield number, content[at : at + size]
        at += size


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = content[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError(f"a number without an end at byte {at}")


def read_character_map(content: bytes) -> dict[str, str]:
    """Lists what SentencePiece's precompiled character map replaces.

    Args:
        content: The size of a double-array trie, the trie, and its replacements, each ended by a zero byte.

    Returns:
        What is replaced, by what.

    Raises:
        ValueError: If the map is damaged.

    Source:
        Units of darts-clone: bits 0 to 7 are the label, 8 says that a value follows, 10 to 30 are the offset of the
        children (in steps of 256 where bit 9 is set), and bit 31 marks a value.
    """
    if not content:
        return {}
    (size,) = struct.unpack_from("<I", content)
    units = np.frombuffer(content[4 : 4 + size], "<u4").astype(np.int64)
    labels, bases = units & 0x800000FF, (units >> 10) << ((units & 0x200) >> 6)
    replacements = content[4 + size :]

    @functools.cache  # many keys share their endings, which the trie stores once
    def children(base: int) -> list[tuple[bytes, int, str | None]]:
        nodes = base ^ np.arange(1, 256)
        if nodes.max() >= len(units):
            raise ValueError("the character map points outside of itself")
        found = []
        for node in nodes[labels[nodes] == np.arange(1, 256)].tolist():
            inside = node ^ int(bases[node])
            value = value_at(inside) if units[node] & 0x100 else None
            found.append((bytes([int(labels[node])]), inside, value))
        return found

    @functools.cache
    def value_at(base: int) -> str:
        start = int(units[base] & 0x7FFFFFFF)
        return replacements[start : replacements.index(b"\0", start)].decode("utf-8")

    found: dict[str, str] = {}
    waiting = [(b"", int(bases[0]))]
    while waiting:
        key, base = waiting.pop()
        if len(key) > _LONGEST_KEY:
            raise ValueError("the character map has no end")
        for label, inside, value in children(base):
            if value is not None:
                found[(key + label).decode("utf-8")] = value
            waiting.append((key + label, inside))
    return found
