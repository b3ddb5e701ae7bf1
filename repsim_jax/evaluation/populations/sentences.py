"""Which words, in which sentences? Reads two small corpora, and cuts them into what is learned and what is held out."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from repsim_jax.errors import CorruptFileError, FileError, MissingPackageError

PAD, UNKNOWN, MASK = range(3)
SPECIAL = ("<pad>", "<unk>", "<mask>")
# The files of a corpus folder, and the column of each that holds English.
_PTB, _TATOEBA = "ptb_wsj_sample.parquet", "tatoeba.parquet"
FILES = (_PTB, _TATOEBA)
# Splits "don't" and "I'll" as the Penn Treebank does: do n't, i 'll.
_WORDS = re.compile(r"\w+?(?=n't)|n't|'\w+|\w+(?:-\w+)*|[^\w\s]")
# Draws what is held out, which word of it is looked at, and how training sentences are packed: the same for all seeds.
_SPLIT_SEED = 0
# Words more frequent than these hold sentences together and mean little by themselves: they are looked at last.
_NUM_FUNCTION_WORDS = 120


class Sentence(NamedTuple):
    """A sentence in lower case.

    Attributes:
        name: Where it stands, "ptb/123": the row of the file in which it comes first.
        words: Its words and marks.
    """

    name: str
    words: tuple[str, ...]


class Corpus(NamedTuple):
    """Sentences as numbers.

    Attributes:
        vocabulary: Words by their number, ``SPECIAL`` first.
        train: (n, t) packed training sentences, 0 where padded.
        held_out: (m, t) one held-out sentence a row, 0 where padded.
        positions: (m,) the place of the word that is looked at.
        ids: m strings, "ptb/123:7" for word 7 of sentence ptb/123.
    """

    vocabulary: tuple[str, ...]
    train: np.ndarray
    held_out: np.ndarray
    positions: np.ndarray
    ids: tuple[str, ...]


def read_sentences(folder: Path) -> list[Sentence]:
    """Reads every different sentence of both files.

    Args:
        folder: Holds ``FILES``.

    Returns:
        The sentences of the Penn Treebank sample, then those of Tatoeba.

    Raises:
        FileError: If a file is not there.
        CorruptFileError: If it is no parquet file with that column.
        MissingPackageError: If pyarrow is not installed.
    """
    treebank = [tuple(word.lower() for word in words) for words in _column(folder / _PTB, "tokens")]
    tatoeba = [tuple(_WORDS.findall(text.lower())) for text in _column(folder / _TATOEBA, "english")]
    first: dict[tuple[str, ...], str] = {}
    for name, sentences in (("ptb", treebank), ("tatoeba", tatoeba)):
        for row, words in enumerate(sentences):
            if words:
                first.setdefault(words, f"{name}/{row}")
    return [Sentence(name, words) for words, name in first.items()]


def _column(path: Path, column: str) -> list:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError.of("pyarrow", "to read parquet files", "table") from error
    if not path.is_file():
        raise FileError(path, f"no such file; expected a folder that holds {' and '.join(FILES)}.")
    try:
        return pyarrow.parquet.read_table(path, columns=[column])[column].to_pylist()
    except (pyarrow.ArrowException, KeyError, OSError, ValueError) as error:
        raise CorruptFileError(path, f"is not a parquet file with a column {column!r} ({error}).") from error


def cut_corpus(
    sentences: Sequence[Sentence],
    *,
    vocabulary_size: int,
    num_tokens: int,
    num_held_out_treebank: int,
    num_held_out_tatoeba: int,
) -> Corpus:
    """Cuts sentences into training rows and held-out words in context; the vocabulary is that of the training rows.

    Args:
        sentences: Different ones.
        vocabulary_size: Words at most, ``SPECIAL`` among them.
        num_tokens: Columns t; longer sentences are cut, and training sentences are packed into rows of this length.
        num_held_out_treebank: Sentences held out of the treebank's.
        num_held_out_tatoeba: Sentences held out of Tatoeba's.

    Returns:
        The corpus.

    Raises:
        ValueError: If fewer sentences are there than are to be held out, or none is left to train on.
    """
    generator = np.random.default_rng(_SPLIT_SEED)
    held_out: list[Sentence] = []
    rest: list[Sentence] = []
    for name, wanted in (("ptb/", num_held_out_treebank), ("tatoeba/", num_held_out_tatoeba)):
        own = [one for one in sentences if one.name.startswith(name)]
        if wanted > len(own):
            raise ValueError(f"{wanted} sentences of {name} are to be held out, and there are {len(own)}.")
        shuffled = [own[row] for row in generator.permutation(len(own))]
        held_out += shuffled[:wanted]
        rest += shuffled[wanted:]
    if not rest or not held_out:
        raise ValueError(
            f"a corpus needs sentences of both kinds; got {len(rest)} to train on, {len(held_out)} held out."
        )
    counts = Counter(word for one in rest for word in one.words)
    vocabulary = (*SPECIAL, *(word for word, _ in counts.most_common(vocabulary_size - len(SPECIAL))))
    number = {word: index for index, word in enumerate(vocabulary)}
    order = generator.permutation(len(rest))
    packed = _packed(
        [[number.get(word, UNKNOWN) for word in rest[row].words[:num_tokens]] for row in order], num_tokens
    )
    chosen = [held_out[row] for row in generator.permutation(len(held_out))]
    numbered = [[number.get(word, UNKNOWN) for word in one.words[:num_tokens]] for one in chosen]
    positions = [_looked_at(one.words, row, generator) for one, row in zip(chosen, numbered, strict=True)]
    ids = tuple(f"{one.name}:{position}" for one, position in zip(chosen, positions, strict=True))
    return Corpus(vocabulary, packed, _rows(numbered, num_tokens), np.asarray(positions, np.int32), ids)


def _packed(numbered: list[list[int]], num_tokens: int) -> np.ndarray:
    """As many whole sentences to a row as fit, in the order in which they come."""
    rows: list[list[int]] = [[]]
    for one in numbered:
        if len(rows[-1]) + len(one) > num_tokens:
            rows.append([])
        rows[-1] = rows[-1] + one
    return _rows(rows, num_tokens)


def _rows(numbered: list[list[int]], num_tokens: int) -> np.ndarray:
    table = np.full((len(numbered), num_tokens), PAD, np.int32)
    for row, one in zip(table, numbered, strict=True):
        row[: len(one)] = one
    return table


def _looked_at(words: tuple[str, ...], numbers: list[int], generator: np.random.Generator) -> int:
    """A known content word where there is one, else a known word, else any."""
    known = [place for place, number in enumerate(numbers) if number != UNKNOWN]
    content = [
        place for place in known if words[place].isalpha() and numbers[place] >= len(SPECIAL) + _NUM_FUNCTION_WORDS
    ]
    return int(generator.choice(content or known or range(len(numbers))))
