"""How does a unigram language model cut a text into pieces? Kudo, "Subword Regularization" (ACL 2018), section 3.2."""

import functools
import re
from collections.abc import Iterable

# SentencePiece writes a space as this character, so that pieces can be joined back into the text.
SPACE = "▁"
# SentencePiece's kUnkPenalty: an unknown character scores this much below the worst piece.
_UNKNOWN_PENALTY = 10.0


class Unigram:
    """Finds the most probable segmentation of a text into pieces, by the Viterbi algorithm.

    Where no piece holds a space after its first character, words are cut one by one and remembered, which changes
    nothing but the time.

    Args:
        pieces: (piece, its id, its log probability); of equal pieces the first one counts.
        unknown_id: The id of a character that no piece covers.
        worst: The lowest log probability of all pieces, those that text cannot use among them.
    """

    def __init__(self, pieces: Iterable[tuple[str, int, float]], *, unknown_id: int, worst: float):
        self._pieces: dict[str, tuple[int, float]] = {}
        for piece, number, score in pieces:
            if piece:
                self._pieces.setdefault(piece, (number, score))
        self._longest: dict[str, int] = {}
        for piece in self._pieces:
            self._longest[piece[0]] = max(self._longest.get(piece[0], 0), len(piece))
        self._unknown = (unknown_id, worst - _UNKNOWN_PENALTY)
        by_words = not any(SPACE in piece[1:] for piece in self._pieces)
        self._segments = re.compile(f"{SPACE}[^{SPACE}]*|[^{SPACE}]+" if by_words else "(?s:.+)")
        self._best = functools.lru_cache(maxsize=1 << 16)(self._viterbi)

    def encode(self, text: str) -> list[int]:
        """Cuts a normalized text.

        Args:
            text: The text, its spaces written as ``SPACE``.

        Returns:
            Ids of its pieces; of equally probable segmentations, the one whose pieces are found first from the left.
        """
        return [number for segment in self._segments.findall(text) for number in self._best(segment)]

    def _viterbi(self, text: str) -> tuple[int, ...]:
        n = len(text)
        best = [0.0] + [float("-inf")] * n
        came: list[tuple[int, int]] = [(0, 0)] * (n + 1)
        pieces, longest, (unknown, penalty) = self._pieces, self._longest, self._unknown
        for start in range(n):
            base = best[start]
            for end in range(start + 1, min(start + longest.get(text[start], 0), n) + 1):
                found = pieces.get(text[start:end])
                if found is not None and base + found[1] > best[end]:
                    best[end], came[end] = base + found[1], (start, found[0])
            if base + penalty > best[start + 1]:
                best[start + 1], came[start + 1] = base + penalty, (start, unknown)
        numbers, end = [], n
        while end > 0:
            end, number = came[end]
            numbers.append(number)
        return tuple(reversed(numbers))
