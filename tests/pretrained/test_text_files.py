"""The files of the packaged text models are read as their formats say, and damaged ones are refused."""

import contextlib
import struct

import numpy as np
import oracles_text as oracle
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from repsim_jax import activations
from repsim_jax.encoders.bert import Bert, BertConfig
from repsim_jax.errors import AlignmentError, BadArrayError, CorruptFileError
from repsim_jax.pretrained.assembly import assemble
from repsim_jax.pretrained.e5_file import e5_origin, read_e5
from repsim_jax.pretrained.sentencepiece_file import Normalizer, read_character_map, read_sentencepiece
from repsim_jax.pretrained.text_preparation import TextPreparation, framed
from repsim_jax.pretrained.unigram import Unigram

SCORES = {"▁": -2.0, "a": -3.0, "b": -3.1, "▁a": -2.5, "ab": -4.0, "▁ab": -5.1, "ba": -4.5, "bab": -9.0}


def unigram(scores: dict[str, float]) -> Unigram:
    pieces = [(piece, number + 1, score) for number, (piece, score) in enumerate(scores.items())]
    return Unigram(pieces, unknown_id=0, worst=min(scores.values()))


@given(text=st.text("ab▁c", max_size=9), spaces_inside=st.booleans())
def test_a_unigram_model_finds_the_most_probable_segmentation(text: str, spaces_inside: bool):
    scores = SCORES | ({"b▁a": -3.3} if spaces_inside else {})
    numbers = unigram(scores).encode(text)
    unknown = min(scores.values()) - 10
    total = sum([unknown, *scores.values()][number] for number in numbers)
    assert total == pytest.approx(oracle.best_segmentation(text, scores, unknown)[0])


@given(text=st.text("ab▁c", max_size=9))
def test_the_pieces_of_a_segmentation_spell_the_text(text: str):
    known = ["", *SCORES]
    covered = "".join(known[number] or "?" for number in unigram(SCORES).encode(text))
    assert covered == text.replace("c", "?")


def test_of_equal_pieces_the_first_counts():
    assert Unigram([("a", 1, -1.0), ("a", 2, -0.5)], unknown_id=0, worst=-1.0).encode("a") == [1]


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, value: bytes | float | int) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def sentencepiece(scores: dict[str, float], rules: bytes = b"") -> bytes:
    special = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces = [*special, *((piece, score, 1) for piece, score in scores.items())]
    content = b"".join(
        field(1, field(1, piece.encode()) + field(2, score) + (field(3, kind) if kind != 1 else b""))
        for piece, score, kind in pieces
    )
    return content + field(2, field(3, 1)) + field(3, field(1, b"nmt_nfkc") + rules)


def character_map(replacements: dict[str, str]) -> bytes:
    """A double-array trie in which every node has 256 places of its own."""
    nodes = [b"", *sorted({key.encode()[: n + 1] for key in replacements for n in range(len(key.encode()))})]
    base = {node: 256 * (number + 1) for number, node in enumerate(nodes)}
    units = [0] * (256 * (len(nodes) + 1))
    # A child of a node is where its label is flipped into the node's base; offsets are relative to the child's place.
    units[0] = base[b""] << 10
    texts = b""
    for node in nodes[1:]:
        place = base[node[:-1]] ^ node[-1]
        units[place] = (place ^ base[node]) << 10 | node[-1]
        if node.decode("utf-8", "ignore") in replacements and node.decode("utf-8", "replace") in replacements:
            units[place] |= 0x100
            units[base[node]] = 0x80000000 | len(texts)
            texts += replacements[node.decode()].encode() + b"\0"
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + texts


MAP = {"A": "a", "é": "e", "e\u0301": "e", "ab": "x", "\t": " ", "\u200b": ""}


def test_a_character_map_is_read_as_it_was_written():
    assert read_character_map(character_map(MAP)) == MAP
    assert read_character_map(b"") == {}


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Aab", "ax"),
        ("abab", "xx"),
        ("aab", "ax"),
        ("e\u0301é", "ee"),
        ("a\u200bb", "ab"),
        ("", ""),
        ("ß", "ß"),
        ("e", "e"),
    ],
)
def test_the_normalizer_takes_the_longest_match(text: str, normal: str):
    assert Normalizer(MAP)(text) == normal


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a", ["▁a"]),
        ("  a \t ab  ", ["▁a", "▁a", "b"]),
        ("", ["<unk>"]),
        (" \t", ["<unk>"]),
        ("q", ["▁", "<unk>"]),
        ("<s>", ["▁", "<unk>", "<unk>", "<unk>"]),
    ],
)
def test_a_sentencepiece_model_cuts_text_by_the_librarys_whitespace_rules(text: str, pieces: list[str]):
    names = ["<unk>", "<s>", "</s>", *SCORES]
    replaced = {"\t": " "}
    model = read_sentencepiece(sentencepiece(SCORES | {"▁ab": -9.0}, field(2, character_map(replaced))), "sp.model")
    assert [names[number] for number in model.encode(text)] == pieces


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        sentencepiece(SCORES)[:-3],
        sentencepiece(SCORES, field(4, 0)),
        sentencepiece(SCORES, field(2, b"\x01\x02")),
        sentencepiece(SCORES, field(2, character_map(MAP)[:-300])),
        field(1, field(1, b"a")) + field(3, field(1, b"x")),
    ],
    ids=["empty", "no field", "cut", "other whitespace rules", "no map", "map cut", "no unknown piece"],
)
def test_a_damaged_sentencepiece_model_is_refused(content: bytes):
    with pytest.raises(CorruptFileError, match=r"sp\.model: expected a whole SentencePiece model"):
        read_sentencepiece(content, "sp.model")


@given(st.binary(max_size=60))
def test_no_bytes_make_the_sentencepiece_reader_fail_otherwise(content: bytes):
    with pytest.raises(CorruptFileError):
        read_sentencepiece(content, "sp.model")


E5 = BertConfig(vocab_size=16, width=32, num_layers=2, num_heads=2, mlp_width=64, num_positions=12, norm_epsilon=1e-6)
PIECES = [(one, 0.0) for one in ("<s>", "<pad>", "</s>", "<unk>")] + list(SCORES.items()) + [("fi", -3.0)]
CONTENT, MEANT = oracle.e5_file(E5, oracle.bert_tensors(E5), PIECES)


def test_an_e5_file_gives_the_model_that_was_packed():
    config, tensors, _ = read_e5(CONTENT, "e5.bin")
    assert vars(config) == vars(E5) | {"norm_epsilon": pytest.approx(1e-6)}
    model = assemble(lambda: Bert(config, rngs=nnx.Rngs(0)), tensors, e5_origin, path="e5.bin")
    ids = [0, 4, 7, 2]
    expected = oracle.bert_layers(MEANT, ids, E5)
    inputs = {"ids": np.array([ids], np.int32), "mask": np.ones((1, 4), np.int32)}
    for name, value in activations.tap(model).read(inputs, tuple(expected)).items():
        np.testing.assert_allclose(value[0], expected[name], atol=2e-4, err_msg=name)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a", ["▁a"]),
        (" a", ["▁a"]),
        ("a   b", ["▁a", "▁", "b"]),
        ("ﬁ\u200b", ["▁", "fi"]),
        ("", ["▁"]),
        ("q", ["▁", "<unk>"]),
    ],
)
def test_an_e5_tokenizer_normalizes_and_cuts(text: str, pieces: list[str]):
    numbers = read_e5(CONTENT, "e5.bin").tokenizer.encode(text)
    assert [PIECES[number][0] for number in numbers] == pieces


def test_a_cut_e5_file_is_refused_wherever_it_is_cut():
    for length in [0, 3, *range(4, len(CONTENT), len(CONTENT) // 60), len(CONTENT) - 1]:
        with pytest.raises(CorruptFileError, match=r"e5\.bin: expected"):
            read_e5(CONTENT[:length], "e5.bin")


@pytest.mark.parametrize("seed", range(4))
def test_a_changed_header_of_an_e5_file_never_fails_otherwise(seed: int):
    generator = np.random.default_rng(seed)
    for _ in range(50):
        content = bytearray(CONTENT)
        content[generator.integers(0, 400)] = generator.integers(0, 256)
        with contextlib.suppress(CorruptFileError):
            read_e5(bytes(content), "e5.bin")


PREPARE = TextPreparation(framed(lambda text: list(map(ord, text)), 1, 2, 40), pad_id=9, max_tokens=40)


def test_texts_are_framed_padded_to_a_bucket_and_masked():
    batch = PREPARE(["ab", "a" * 30, ""], ["x", "y", "z"])
    assert batch.ids == ("x", "y", "z")
    assert batch.inputs["ids"].shape == batch.inputs["mask"].shape == (3, 32)
    assert batch.inputs["ids"][0, :5].tolist() == [1, 97, 98, 2, 9]
    assert batch.mask is batch.inputs["mask"]
    assert batch.mask.sum(axis=1).tolist() == [4, 32, 2]


def test_long_texts_are_cut_and_keep_their_last_token():
    batch = PREPARE(["a" * 100], ["x"])
    assert batch.inputs["ids"].shape == (1, 40)
    assert batch.inputs["ids"][0, -2:].tolist() == [97, 2]


def test_few_shapes_serve_texts_of_all_lengths():
    shapes = {PREPARE(["a" * n], ["x"]).inputs["ids"].shape for n in range(60)}
    assert shapes == {(1, 32), (1, 40)}
    assert PREPARE([], []).inputs["ids"].shape == (0, 32)


@pytest.mark.parametrize(
    ("texts", "ids", "error", "said"),
    [
        (["a"], [], AlignmentError, "got 0 ids for 1 texts"),
        (["a", None], ["x", "y"], BadArrayError, "text 'y': expected a string, got NoneType"),
        (["a\ud800"], ["x"], BadArrayError, "text 'x' holds half of a surrogate pair at character 1"),
    ],
)
def test_what_is_no_text_is_refused_by_its_id(texts: list, ids: list[str], error: type[Exception], said: str):
    with pytest.raises(error, match=said):
        PREPARE(texts, ids)


def test_oracle_packs_and_unpacks_four_bits():
    matrix = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)
    content, meant = oracle.q4_0(matrix)
    assert len(content) == 2 * 18
    assert np.abs(meant - matrix).max() < 0.3
