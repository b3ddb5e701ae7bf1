"""How alike are language models that differ in nothing but their seed? Sellam et al., "The MultiBERTs" (ICLR 2022)."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from repsim_jax.activations import Store, extract
from repsim_jax.data import batched
from repsim_jax.encoders import Bert, BertConfig
from repsim_jax.evaluation.populations.members import Progress, file_sha256, stored_members, weights_sha256
from repsim_jax.evaluation.populations.sentences import (
    FILES,
    MASK,
    PAD,
    SPECIAL,
    UNKNOWN,
    Corpus,
    cut_corpus,
    read_sentences,
)
from repsim_jax.training import train

# Draws which held-out words are masked when a model is measured: the same for every model.
_TEST_SEED = 0
# Rows that the model reads together when it is measured and stored.
_ROWS = 500


@dataclass(frozen=True)
class LanguageRecipe:
    """What all models of a population share.

    Attributes:
        num_layers: Blocks.
        width: Features d of a token.
        num_heads: Attention heads per block.
        mlp_width: Hidden width of each block's MLP.
        vocabulary_size: Words, the special ones among them; all others are "<unk>".
        num_tokens: Words of a row; longer sentences are cut.
        masked: Share of the words of a row that are to be guessed, redrawn at each update.
        num_held_out_treebank: Sentences of the treebank that are not trained on; a word of each is stored.
        num_held_out_tatoeba: The same of Tatoeba.
        num_steps: Updates.
        batch_size: Rows per update.
        learning_rate: Where the cosine schedule starts, after a linear warm-up over a tenth of the updates.
        weight_decay: Of AdamW.
    """

    num_layers: int = 6
    width: int = 128
    num_heads: int = 4
    mlp_width: int = 512
    vocabulary_size: int = 4000
    num_tokens: int = 24
    masked: float = 0.15
    num_held_out_treebank: int = 1750
    num_held_out_tatoeba: int = 750
    num_steps: int = 1500
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.01


class MaskedLanguageModel(nnx.Module):
    """A BERT, and the guess of each word: a dense layer, GELU and LayerNorm, then the word table transposed.

    Args:
        config: Shape of the BERT.
        rngs: Random keys of the initial parameters.
    """

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.bert = Bert(config, rngs=rngs)
        self.transform = nnx.Linear(config.width, config.width, rngs=rngs)
        self.norm = nnx.LayerNorm(config.width, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(config.vocab_size))

    def __call__(self, ids: jax.Array, places: jax.Array) -> jax.Array:
        """Guesses the words at some places.

        Args:
            ids: (b, t), 0 where padded.
            places: (b, k), each in [0, t).

        Returns:
            Logits (b, k, vocabulary).
        """
        tokens = self.bert({"ids": ids, "mask": ids != PAD})
        chosen = jnp.take_along_axis(tokens, places[..., None], axis=1)
        guessed = self.norm(jax.nn.gelu(self.transform(chosen)))
        return guessed @ self.bert.embeddings.word.embedding[...].T + self.bias[...]


def language_models(
    out: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str],
    num_models: int = 12,
    seed: int = 0,
    recipe: LanguageRecipe | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Store]:
    """Trains small BERTs that differ in nothing but their seed, and stores their blocks on held-out words in context.

    The seed draws the initial weights, the batches and the masks. Every store holds "block_0", "block_1", ...: the
    vectors of one word of each held-out sentence, which the model reads whole and unmasked; the same words in the same
    order for all. A store that is finished is not made again.

    Args:
        out: Folder of the stores, one per model: "seed-0.store", "seed-1.store", ...
        data: Folder with ptb_wsj_sample.parquet (column tokens) and tatoeba.parquet (column english).
        num_models: How many models.
        seed: Seed of the first model; the others follow it.
        recipe: Architecture and training; None takes the default.
        on_progress: Called with (name of the model, steps done, all steps).

    Returns:
        {"seed-0": store, ...}. The metadata of each hold "seed", "masked_accuracy" and "masked_perplexity" (of masked
        words of the held-out sentences), "unigram_accuracy" and "unigram_perplexity" (of the same words, guessed by
        their frequency), "num_masked", "final_loss", "settings" and "weights_sha256". Ids are "ptb/123:7": word 7 of
        row 123 of the file.

    Raises:
        ValueError: If ``num_models`` or ``seed`` is out of range, or the data hold too few sentences for the recipe.
        FileError: If a data file does not exist or is damaged.
        StoreMismatchError: If a store in ``out`` was made with other settings.
        MissingPackageError: If pyarrow is not installed.

    Source:
        Sellam et al., "The MultiBERTs: BERT Reproductions for Robustness Analysis" (ICLR 2022); masking by Devlin et
        al., "BERT" (NAACL 2019), section 3.1.

    Differs:
        Six small blocks, whole words, two small corpora, and no next-sentence task.
    """
    recipe, folder = recipe or LanguageRecipe(), Path(data)
    hashes = {f"{name.removesuffix('.parquet')}_sha256": file_sha256(folder / name) for name in FILES}
    settings = {"data": "Penn Treebank sample and Tatoeba's English", **hashes, **asdict(recipe)}
    corpus = cache(lambda: _corpus(folder, recipe))

    def make(one: int, path: Path) -> Store:
        program = _program(recipe, len(corpus().vocabulary))
        return _member(program, corpus(), recipe, path, seed=one, settings=settings, on_progress=on_progress)

    return stored_members(Path(out), num_models=num_models, seed=seed, settings=settings, make=make)


def _corpus(folder: Path, recipe: LanguageRecipe) -> Corpus:
    return cut_corpus(
        read_sentences(folder),
        vocabulary_size=recipe.vocabulary_size,
        num_tokens=recipe.num_tokens,
        num_held_out_treebank=recipe.num_held_out_treebank,
        num_held_out_tatoeba=recipe.num_held_out_tatoeba,
    )


def _member(
    program: "_Program",
    corpus: Corpus,
    recipe: LanguageRecipe,
    path: Path,
    *,
    seed: int,
    settings: dict[str, Any],
    on_progress: Progress | None,
) -> Store:
    trained = train(
        jax.random.key(seed), _initial(program.config, seed), program.loss, corpus.train,
        optimizer=program.optimizer, num_steps=recipe.num_steps, batch_size=recipe.batch_size, noisy=True,
        on_progress=on_progress and partial(on_progress, path.stem),
    )  # fmt: skip
    inputs = {"ids": corpus.held_out, "position": corpus.positions}
    store = extract(
        (program.words, trained.params),
        batched(inputs, batch_size=min(_ROWS, len(corpus.ids)), ids=corpus.ids),
        store=path,
        metadata={
            "model": f"MaskedLanguageModel {path.stem}",
            "data": f"{settings['data']}: held-out words in context",
            "seed": seed,
            **_measured(program, trained.params, corpus),
            "final_loss": float(trained.losses[-50:].mean()),
            "settings": settings,
            "weights_sha256": weights_sha256(trained.params),
        },
    )
    assert isinstance(store, Store)
    return store


def _initial(config: BertConfig, seed: int) -> Any:
    """Draws weights with BERT's spread of 0.02; with flax's wider one 1,200 updates learned word frequencies alone."""

    def narrowed(path: Any, leaf: jax.Array) -> jax.Array:
        is_kernel = "kernel" in jax.tree_util.keystr(path)
        # flax draws with spread 1 / sqrt(inputs).
        return leaf * (0.02 * leaf.shape[0] ** 0.5) if is_kernel else leaf

    return jax.tree_util.tree_map_with_path(narrowed, nnx.state(MaskedLanguageModel(config, rngs=nnx.Rngs(seed))))


class _Program(NamedTuple):
    """What is compiled once for all seeds."""

    config: BertConfig
    loss: Any
    guesses: Any
    words: Any
    optimizer: optax.GradientTransformation


@lru_cache(maxsize=4)
def _program(recipe: LanguageRecipe, vocabulary_size: int) -> _Program:
    config = BertConfig(
        vocab_size=vocabulary_size, width=recipe.width, num_layers=recipe.num_layers, num_heads=recipe.num_heads,
        mlp_width=recipe.mlp_width, num_positions=recipe.num_tokens, num_types=1,
    )  # fmt: skip
    graph = nnx.graphdef(MaskedLanguageModel(config, rngs=nnx.Rngs(0)))

    def guesses(key: jax.Array, params: Any, ids: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        seen, places, wanted, weights = masked(key, ids, recipe.masked, vocabulary_size)
        return nnx.merge(graph, params)(seen, places), wanted, weights

    def loss(key: jax.Array, params: Any, ids: jax.Array) -> jax.Array:
        logits, wanted, weights = guesses(key, params, ids)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, wanted)
        return (losses * weights).sum() / weights.sum()

    def words(params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return _words_in_context(nnx.merge(graph, params).bert, inputs["ids"], inputs["position"])

    warmup = max(recipe.num_steps // 10, 1)
    schedule = optax.warmup_cosine_decay_schedule(0.0, recipe.learning_rate, warmup, recipe.num_steps)
    descent = optax.adamw(schedule, b2=0.98, weight_decay=recipe.weight_decay)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), descent)
    return _Program(config, loss, jax.jit(guesses), words, optimizer)


def masked(
    key: jax.Array, ids: jax.Array, share: float, vocabulary_size: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Hides some known words of each row: 80 % become "<mask>", 10 % another word, 10 % stay.

    Args:
        key: Random key.
        ids: (b, t), 0 where padded.
        share: Of the known words, those to be guessed; at least one in a row that has any.
        vocabulary_size: Words, the special ones among them.

    Returns:
        What the model sees (b, t), the places of the hidden words (b, k), those words (b, k), and 1 where a place
        counts, 0 where the row has fewer than k (b, k).

    Source:
        Devlin et al., "BERT" (NAACL 2019), section 3.1.
    """
    key_place, key_fate, key_word = jax.random.split(key, 3)
    known = (ids != PAD) & (ids != UNKNOWN)
    most = max(round(share * ids.shape[1]), 1)
    _, places = jax.lax.top_k(jnp.where(known, jax.random.uniform(key_place, ids.shape), -1.0), most)
    num_hidden = jnp.clip(jnp.round(share * known.sum(1)), 1, most)
    weights = (jnp.arange(most) < num_hidden[:, None]) & jnp.take_along_axis(known, places, axis=1)
    wanted, fate = jnp.take_along_axis(ids, places, axis=1), jax.random.uniform(key_fate, places.shape)
    other = jax.random.randint(key_word, places.shape, len(SPECIAL), vocabulary_size)
    hidden = jnp.where(fate < 0.8, MASK, jnp.where(fate < 0.9, other, wanted))
    seen = ids.at[jnp.arange(len(ids))[:, None], places].set(jnp.where(weights, hidden, wanted))
    return seen, places, wanted, weights.astype(jnp.float32)


def _words_in_context(bert: Bert, ids: jax.Array, position: jax.Array) -> dict[str, jax.Array]:
    mask = ids != PAD
    tokens, found = bert.embeddings(ids, mask), {}
    for index in range(bert.config.num_layers):
        tokens = getattr(bert, f"block_{index}")(tokens, mask)
        found[f"block_{index}"] = tokens[jnp.arange(len(ids)), position]
    return found


def _measured(program: _Program, params: Any, corpus: Corpus) -> dict[str, Any]:
    """How well masked words of the held-out sentences are guessed, by the model and by their frequency alone."""
    # One more count each: a word of the vocabulary may be wanted that the training rows cut off.
    counts = np.bincount(corpus.train.ravel(), minlength=len(corpus.vocabulary)).astype(np.float64) + 1
    counts[: len(SPECIAL)] = 0
    unigram = counts / counts.sum()
    right, loss, frequent, surprise = [], [], [], []
    for start in range(0, len(corpus.held_out), _ROWS):
        key = jax.random.fold_in(jax.random.key(_TEST_SEED), start)
        rows = corpus.held_out[start : start + _ROWS]
        logits, wanted, weights = (np.asarray(one) for one in program.guesses(key, params, rows))
        logits, wanted = logits[weights > 0].astype(np.float64), wanted[weights > 0]
        right.append(logits.argmax(1) == wanted)
        shifted = logits - logits.max(1, keepdims=True)
        loss.append(np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(wanted)), wanted])
        frequent.append(wanted == unigram.argmax())
        surprise.append(-np.log(unigram[wanted]))
    return {
        "masked_accuracy": float(np.concatenate(right).mean()),
        "masked_perplexity": float(np.exp(np.concatenate(loss).mean())),
        "unigram_accuracy": float(np.concatenate(frequent).mean()),
        "unigram_perplexity": float(np.exp(np.concatenate(surprise).mean())),
        "num_masked": sum(map(len, right)),
    }
