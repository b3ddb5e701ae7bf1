"""How does a local Hugging Face folder of a BERT, RoBERTa or XLM-R become a flax module with its tokenizer?"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from flax import nnx

from repsim_jax.encoders.bert import Bert, BertConfig, hidden_layers
from repsim_jax.errors import CorruptFileError, FileError, UnknownNameError
from repsim_jax.pretrained.assembly import Origin, assemble, transposed
from repsim_jax.pretrained.huggingface import read_config, read_safetensors
from repsim_jax.pretrained.registry import Pretrained
from repsim_jax.pretrained.text_preparation import TextPreparation, hugging_face, tokenizers_package

# Padding is left out by the mask; before the first block, as after any, the mean over real tokens tells texts apart.
TEXT_LAYOUT = {"*": "token_mean"}
# What may stand before every name, by the class that saved the model
PREFIXES = ("", "bert.", "roberta.")
# Heads of other tasks, the pooler (a layer of the CLS token alone), and positions 0, 1, 2, ... that old files list
IGNORED = ("cls.*", "classifier.*", "qa_outputs.*", "lm_head.*", "*pooler.dense.*", "*embeddings.position_ids")
# Hugging Face's names of activations to ours
ACTIVATION_NAMES = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
ACTIVATION_NAMES |= {"silu": "silu", "swish": "silu"}
_ROBERTAS = ("roberta", "xlm-roberta", "camembert")


def load_bert_folder(folder: str | Path) -> Pretrained:
    """Loads config.json, model.safetensors and tokenizer.json (or vocab.txt) of a BERT, RoBERTa or XLM-R.

    Args:
        folder: The folder. Where sentence_bert_config.json states a ``max_seq_length``, texts are cut to it.

    Returns:
        The model; its output is the tokens after the last block (b, t, d), without the pooler.

    Raises:
        FileError: If a file is missing, or the configuration asks for what is not supported; says which.
        UnsafeFileError: If the weights are there as a pickle only.
        CorruptFileError: If a file is damaged, or a tensor is missing, left over or of the wrong shape; names it.
        UnknownNameError: If config.json names another activation function or another family of models.
        MissingPackageError: If the package tokenizers is not installed.

    Source:
        The layout that transformers writes with ``save_pretrained``.
    """
    folder = Path(folder)
    settings = read_config(folder)
    config = bert_config(settings, folder / "config.json")
    tensors = read_safetensors(folder)
    model = assemble(lambda: Bert(config, rngs=nnx.Rngs(0)), tensors, origins(tensors), path=folder, ignored=IGNORED)
    max_tokens = min(config.max_tokens, _sentence_length(folder) or config.max_tokens)
    tokenizer = _tokenizer(folder)
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size > config.vocab_size:
        raise CorruptFileError(
            folder,
            f"its tokenizer has {size} tokens, but the model has {config.vocab_size}: they do not belong together.",
        )
    pad_id = max(config.first_position - 1, 0)  # any id would do for BERT, whose mask hides padding
    return Pretrained(
        name=str(folder),
        model=model,
        modality="text",
        prepare=TextPreparation(hugging_face(tokenizer, max_tokens), pad_id, max_tokens),
        layers=hidden_layers(config),
        layout=dict(TEXT_LAYOUT),
        source=f"{settings['model_type']} in the local folder {folder}",
        license="as stated by whoever made the folder",
    )


def bert_config(settings: dict[str, Any], path: Path) -> BertConfig:
    """Reads the shape of the model from config.json.

    Args:
        settings: The object in config.json.
        path: The file, for messages.

    Returns:
        The shape.

    Raises:
        FileError: If the model is a decoder or its positions are not absolute.
        CorruptFileError: If a size is missing or is no positive number.
        UnknownNameError: If the family or the activation function is unknown.
    """
    family, activation = str(settings.get("model_type")), str(settings.get("hidden_act", "gelu"))
    if family not in ("bert", *_ROBERTAS):
        raise UnknownNameError.of("text model_type (in config.json)", family, ("bert", *_ROBERTAS))
    if activation not in ACTIVATION_NAMES:
        raise UnknownNameError.of("hidden_act (in config.json)", activation, ACTIVATION_NAMES)
    positions = settings.get("position_embedding_type") or "absolute"
    if positions != "absolute" or settings.get("is_decoder") or settings.get("add_cross_attention"):
        raise FileError(
            path,
            f"expected an encoder with absolute positions; got position_embedding_type {positions!r}, is_decoder "
            f"{settings.get('is_decoder', False)!r}. Such models are not supported.",
        )
    padding = settings.get("pad_token_id", 1) if family in _ROBERTAS else -1
    try:
        return BertConfig(
            **{ours: _positive(settings, theirs) for ours, theirs in _SIZES.items()},
            activation=ACTIVATION_NAMES[activation],
            norm_epsilon=float(settings.get("layer_norm_eps", 1e-12)),
            first_position=int(padding) + 1,
        )
    except (TypeError, ValueError) as error:
        raise CorruptFileError(path, f"expected the sizes of a BERT: {error}") from None


_SIZES = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "num_positions": "max_position_embeddings",
    "num_types": "type_vocab_size",
}


def _positive(settings: dict[str, Any], name: str) -> int:
    value = settings.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")
    return value


def origins(names: Iterable[str], matrix_prefix: str | None = None) -> Callable[[str], Origin]:
    """Finds under which prefix a file holds a BERT, and tells where each parameter is.

    Args:
        names: Names of the file's tensors.
        matrix_prefix: What stands before the names of matrices where it is another prefix (ONNX exports).

    Returns:
        The parameter's path in a ``Bert`` ("block_3/attention/query/kernel") to its place in the file.
    """
    names = set(names)
    word = "embeddings.word_embeddings.weight"
    prefix = next((name.removesuffix(word) for name in sorted(names, key=len) if name.endswith(word)), "")

    def origin_of(path: str) -> Origin:
        *where, leaf = path.split("/")
        if leaf == "embedding":
            return Origin(f"{prefix}embeddings.{_TABLES[where[-1]]}.weight")
        if where[0] == "embeddings":
            part = "embeddings.LayerNorm"
        else:
            part = f"encoder.layer.{where[0].removeprefix('block_')}.{_PARTS['/'.join(where[1:])]}"
        if leaf == "kernel":
            return Origin(f"{prefix if matrix_prefix is None else matrix_prefix}{part}.weight", transposed)
        name = f"{prefix}{part}.{'weight' if leaf == 'scale' else 'bias'}"
        old = f"{prefix}{part}.{'gamma' if leaf == 'scale' else 'beta'}"  # what Google's first checkpoints call them
        return Origin(old if old in names and name not in names else name)

    return origin_of


_TABLES = {"word": "word_embeddings", "position": "position_embeddings", "type": "token_type_embeddings"}
_PARTS = {
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/out": "attention.output.dense",
    "norm_attention": "attention.output.LayerNorm",
    "mlp/expand": "intermediate.dense",
    "mlp/project": "output.dense",
    "norm_mlp": "output.LayerNorm",
}


def _sentence_length(folder: Path) -> int | None:
    name = "sentence_bert_config.json"
    if not (folder / name).is_file():
        return None
    length = read_config(folder, name).get("max_seq_length")
    if length is not None and (not isinstance(length, int) or length < 3):
        raise CorruptFileError(folder / name, f"expected max_seq_length of 3 tokens or more, got {length!r}.")
    return length


def _tokenizer(folder: Path) -> Any:
    tokenizers = tokenizers_package()
    whole, words = folder / "tokenizer.json", folder / "vocab.txt"
    if whole.is_file():
        try:
            return tokenizers.Tokenizer.from_buffer(whole.read_bytes())
        except Exception as error:  # the package raises plain Exception for whatever it cannot parse
            raise CorruptFileError(whole, f"expected a tokenizer of the package tokenizers: {error}.") from None
    if not words.is_file():
        raise FileError(whole, "expected this file, or vocab.txt, in the folder of a text model; both are missing.")
    try:
        lines = words.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CorruptFileError(words, f"expected a token a line in UTF-8: {error}.") from None
    settings = read_config(folder, "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    return _word_pieces(lines[:-1] if lines[-1] == "" else lines, settings, words)


def _word_pieces(lines: Sequence[str], settings: dict[str, Any], path: Path) -> Any:
    vocabulary = {line.rstrip("\r"): number for number, line in enumerate(lines)}
    missing = [token for token in ("[UNK]", "[CLS]", "[SEP]") if token not in vocabulary]
    if missing:
        raise CorruptFileError(path, f"expected BERT's vocabulary, a token a line; it lacks {', '.join(missing)}.")
    return tokenizers_package().implementations.BertWordPieceTokenizer(
        vocabulary,
        lowercase=bool(settings.get("do_lower_case", True)),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
    )
