"""Local Hugging Face folders of BERT and RoBERTa compute what their tensors say; wrong ones are refused by name."""

from pathlib import Path
from typing import Any

import numpy as np
import oracles_text as oracle
import pytest

from repsim_jax import activations
from repsim_jax.encoders.bert import BertConfig
from repsim_jax.errors import CorruptFileError, FileError, UnknownNameError, UnsafeFileError
from repsim_jax.pretrained import Pretrained
from repsim_jax.pretrained.hf_text import load_bert_folder

pytest.importorskip("tokenizers", reason="tokenizers is not installed: pip install 'repsim_jax[pretrained]'")

SMALL = BertConfig(vocab_size=12, width=8, num_layers=2, num_heads=2, mlp_width=12, num_positions=40, norm_epsilon=1e-6)
TENSORS = oracle.bert_tensors(SMALL)
TEXT = "The cats sat on a mat"
TOKENS = [2, 4, 5, 7, 6, 8, 10, 9, 3]


def written(folder: Path, tensors: oracle.Tensors | None = None, **settings: Any) -> Path:
    return oracle.write_bert_folder(folder, SMALL, TENSORS if tensors is None else tensors, **settings)


def check(loaded: Pretrained, config: BertConfig) -> None:
    """The loaded model's hidden layers are the twin's, on a text padded to the bucket."""
    expected = oracle.bert_layers(TENSORS, TOKENS, config)
    batch = loaded.prepare([TEXT], ["x"])
    assert batch.inputs["ids"][0, : len(TOKENS)].tolist() == TOKENS
    found = activations.tap(loaded.model).read(batch.inputs, tuple(expected))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name][0, : len(TOKENS)], value, atol=3e-5, err_msg=name)


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_a_bert_folder_computes_what_its_tensors_say(tmp_path: Path, prefix: str):
    heads = {"cls.predictions.bias": np.zeros(12, np.float32), f"{prefix}pooler.dense.bias": np.zeros(8, np.float32)}
    heads |= {f"{prefix}embeddings.position_ids": np.arange(40)[None]}
    folder = written(tmp_path, {f"{prefix}{name}": value for name, value in TENSORS.items()} | heads)
    loaded = load_bert_folder(folder)
    check(loaded, SMALL)
    assert loaded.modality == "text"
    assert loaded.layers == ("embeddings", "block_0", "block_1")
    assert loaded.layout == {"*": "token_mean"}


def test_a_roberta_folder_counts_positions_from_after_the_padding_id(tmp_path: Path):
    tensors = {f"roberta.{name}": value for name, value in TENSORS.items()}
    folder = written(tmp_path, tensors, model_type="xlm-roberta", pad_token_id=1)
    loaded = load_bert_folder(folder)
    check(loaded, BertConfig(**{**vars(SMALL), "first_position": 2}))
    assert loaded.prepare(["a " * 99], ["x"]).inputs["ids"].shape == (1, 38)


def test_norms_of_old_checkpoints_are_called_gamma_and_beta(tmp_path: Path):
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = {
        next((name.replace(new, before) for new, before in old.items() if new in name), name): value
        for name, value in TENSORS.items()
    }
    check(load_bert_folder(written(tmp_path, tensors)), SMALL)


def test_half_precision_tensors_become_float32(tmp_path: Path):
    loaded = load_bert_folder(written(tmp_path, {name: value.astype(np.float16) for name, value in TENSORS.items()}))
    batch = loaded.prepare([TEXT], ["x"])
    found = activations.tap(loaded.model).read(batch.inputs, ("output",))["output"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0, :9], oracle.bert_layers(TENSORS, TOKENS, SMALL)["block_1"], atol=2e-2)


def test_a_tokenizer_json_is_preferred_and_a_shorter_sentence_length_is_kept(tmp_path: Path):
    import tokenizers

    folder = written(tmp_path)
    words = tokenizers.implementations.BertWordPieceTokenizer({word: n for n, word in enumerate(oracle.WORDS)})
    words.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").unlink()
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 6}')
    batch = load_bert_folder(folder).prepare([TEXT], ["x"])
    assert batch.inputs["ids"].tolist() == [[2, 4, 5, 7, 6, 3]]


def test_case_and_accents_follow_the_tokenizers_settings(tmp_path: Path):
    folder = written(tmp_path)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    prepare = load_bert_folder(folder).prepare
    assert prepare(["The é"], ["x"]).inputs["ids"][0, :4].tolist() == [2, 1, 11, 3]
    (folder / "tokenizer_config.json").unlink()
    assert load_bert_folder(folder).prepare(["The é"], ["x"]).inputs["ids"][0, :4].tolist() == [2, 4, 1, 3]


WORD = "embeddings.word_embeddings.weight"
QUERY = "encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({QUERY: None}, f"expected the tensor '{QUERY}', which is missing"),
        ({QUERY: np.zeros((8, 9), np.float32)}, rf"'{QUERY}' has shape \(8, 9\).*wants \(8, 8\)"),
        ({QUERY: np.zeros(8, np.float32)}, rf"'{QUERY}' has shape \(8,\).*wants \(8, 8\)"),
        ({QUERY: np.full((8, 8), np.nan, np.float32)}, f"'{QUERY}' holds NaN or Inf"),
        ({"encoder.layer.2.output.dense.bias": np.zeros(8, np.float32)}, r"also holds 'encoder\.layer\.2\.output"),
        ({WORD: None}, f"expected the tensor '{WORD}', which is missing"),
    ],
    ids=["missing", "shape", "rank", "NaN", "extra", "no words"],
)
def test_a_wrong_tensor_is_named(tmp_path: Path, change: dict[str, np.ndarray | None], said: str):
    tensors = {name: value for name, value in (TENSORS | change).items() if value is not None}
    with pytest.raises(CorruptFileError, match=said):
        load_bert_folder(written(tmp_path, tensors))


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"model_type": "gpt2"}, UnknownNameError, "'gpt2'.*bert, roberta"),
        ({"hidden_act": "gelu_neww"}, UnknownNameError, "Did you mean 'gelu_new'"),
        ({"position_embedding_type": "relative_key"}, FileError, "absolute positions; got .*'relative_key'"),
        ({"is_decoder": True}, FileError, "is_decoder True"),
        ({"hidden_size": None}, CorruptFileError, "hidden_size must be a positive integer, got None"),
        ({"hidden_size": "8"}, CorruptFileError, "hidden_size must be a positive integer, got '8'"),
        ({"num_attention_heads": 3}, CorruptFileError, "num_heads to divide width"),
        ({"layer_norm_eps": "small"}, CorruptFileError, r"config\.json"),
    ],
)
def test_a_configuration_that_is_not_supported_is_refused(tmp_path: Path, settings: dict, error: type, said: str):
    with pytest.raises(error, match=said):
        load_bert_folder(written(tmp_path, **settings))


def test_a_pickle_is_refused(tmp_path: Path):
    folder = written(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsafeFileError, match=r"pytorch_model\.bin"):
        load_bert_folder(folder)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"vocab.txt": None}, r"tokenizer\.json: expected this file, or vocab\.txt"),
        ({"vocab.txt": b"[PAD]\nthe\n"}, r"lacks \[UNK\], \[CLS\], \[SEP\]"),
        ({"vocab.txt": b"\xff\xfe"}, "a token a line in UTF-8"),
        ({"vocab.txt": "\n".join([*oracle.WORDS, "dog"]).encode()}, "tokenizer has 13 tokens, but the model has 12"),
        ({"tokenizer.json": b"{}"}, "expected a tokenizer of the package tokenizers"),
        ({"model.safetensors": b"\x00" * 30}, r"model\.safetensors"),
        ({"sentence_bert_config.json": b'{"max_seq_length": 1}'}, "max_seq_length of 3 tokens or more, got 1"),
    ],
)
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, files: dict[str, bytes | None], said: str):
    folder = written(tmp_path)
    for name, content in files.items():
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(FileError, match=said):
        load_bert_folder(folder)
