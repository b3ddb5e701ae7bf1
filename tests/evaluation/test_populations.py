"""Populations differ in their seed alone: stores align, seeds repeat, finished networks stay, others are refused."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from repsim_jax.errors import CorruptFileError, FileError, StoreMismatchError
from repsim_jax.evaluation.populations import ImageRecipe, LanguageRecipe, image_networks, language_models
from repsim_jax.evaluation.populations.images import cifar10_images
from repsim_jax.evaluation.populations.language import masked
from repsim_jax.evaluation.populations.sentences import MASK, SPECIAL, Sentence, cut_corpus

TINY_IMAGES = ImageRecipe((4, 4), (1, 2), 8, 64, 20, 3, 16, 1e-2, 0.0, 1.0, True)
TINY_LANGUAGE = LanguageRecipe(
    num_layers=1, width=8, num_heads=2, mlp_width=16, vocabulary_size=40, num_tokens=8, num_held_out_treebank=6,
    num_held_out_tatoeba=4, num_steps=3, batch_size=4,
)  # fmt: skip
FIRST = ["the", "a", "of", "to", "cats", "dogs", "birds", "fish"]
SECOND = ["see", "hear", "like", "chase", "follow", "know"]


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory):
    out, told = tmp_path_factory.mktemp("digits"), []
    options = {"data": "digits", "recipe": TINY_IMAGES, "on_progress": lambda *said: told.append(said)}
    stores = image_networks(out, num_models=2, **options)
    assert told == [("seed-0", 3, 3), ("seed-1", 3, 3)]
    return out, stores


def layers(store) -> np.ndarray:
    return np.stack([store.read(name) for name in store.layers])


def test_every_block_of_every_network_is_stored_on_the_same_images(population):
    out, stores = population
    assert sorted(path.name for path in out.iterdir()) == ["seed-0.store", "seed-1.store"]
    assert list(stores) == ["seed-0", "seed-1"]
    first, second = stores.values()
    assert first.ids == second.ids
    assert len(set(first.ids)) == 20
    assert list(first.layers) == ["block_0", "block_1"]
    assert layers(first).shape == (2, 20, 4)
    assert [store.metadata["seed"] for store in stores.values()] == [0, 1]
    assert 0 <= first.metadata["held_out_accuracy"] <= 1


def test_a_seed_repeats_its_network_and_another_gives_another(population, tmp_path: Path):
    _, stores = population
    again = image_networks(tmp_path, data="digits", num_models=1, seed=1, recipe=TINY_IMAGES)["seed-1"]
    np.testing.assert_array_equal(layers(again), layers(stores["seed-1"]))
    assert np.abs(layers(again) - layers(stores["seed-0"])).max() > 1e-3


def test_a_finished_network_is_not_trained_again(population):
    told: list[tuple[str, int, int]] = []
    options = {"data": "digits", "recipe": TINY_IMAGES, "on_progress": lambda *said: told.append(said)}
    found = image_networks(population[0], num_models=2, **options)
    assert told == []
    np.testing.assert_array_equal(layers(found["seed-0"]), layers(population[1]["seed-0"]))


def test_a_network_of_other_settings_is_refused(population):
    other = dataclasses.replace(TINY_IMAGES, num_steps=4)
    with pytest.raises(StoreMismatchError, match=r"num_steps 3; asked for 4.*another folder"):
        image_networks(population[0], data="digits", num_models=3, recipe=other)
    assert not (population[0] / "seed-2.store").exists()


def test_what_no_population_can_be_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="num_models >= 1"):
        image_networks(tmp_path, data="digits", num_models=0)
    with pytest.raises(ValueError, match="seed >= 0"):
        image_networks(tmp_path, data="digits", seed=-1)
    greedy = dataclasses.replace(TINY_IMAGES, num_train=1797)
    with pytest.raises(FileError, match=r"1797 images; 1797 \+ 20"):
        image_networks(tmp_path, data="digits", recipe=greedy)


def test_data_that_are_not_there_are_named(tmp_path: Path):
    with pytest.raises(FileError, match="no such file"):
        image_networks(tmp_path, data=tmp_path / "cifar.parquet")
    with pytest.raises(FileError, match="no such file"):
        language_models(tmp_path, data=tmp_path)


def test_a_file_that_is_no_cifar_is_refused(tmp_path: Path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "cifar.parquet"
    path.write_bytes(b"not parquet")
    with pytest.raises(CorruptFileError, match="CIFAR-10"):
        image_networks(tmp_path / "out", data=path)


def test_cifar_is_read_balanced_and_too_few_images_are_refused(tmp_path: Path):
    write_cifar(tmp_path / "cifar.parquet")
    recipe = dataclasses.replace(TINY_IMAGES, num_train=30, num_held_out=20)
    found = cifar10_images(tmp_path / "cifar.parquet", recipe)
    assert sorted(one.rsplit("/", 1)[0] for one in found.ids) == sorted(f"test/{label}" for label in [*range(10)] * 2)
    assert found.train[0].shape == (30, 8, 8, 3)
    assert [int(one.split("/")[1]) for one in found.ids] == found.held_out[1].tolist()
    greedy = dataclasses.replace(recipe, num_train=50)
    with pytest.raises(FileError, match="40 training and 20 balanced"):
        image_networks(tmp_path / "greedy", data=tmp_path / "cifar.parquet", recipe=greedy)


def write_cifar(path: Path) -> None:
    import io

    pyarrow = pytest.importorskip("pyarrow")
    image = pytest.importorskip("PIL.Image")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        (split, label, number) for split, n in (("train", 4), ("test", 3)) for label in range(10) for number in range(n)
    ]
    generator, encoded = np.random.default_rng(0), []
    for _ in rows:
        buffer = io.BytesIO()
        image.fromarray(generator.integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(buffer, "JPEG")
        encoded.append(buffer.getvalue())
    split, label, number = zip(*rows, strict=True)
    parquet.write_table(pyarrow.table({"split": split, "label": label, "num_in_class": number, "jpeg": encoded}), path)


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path_factory.mktemp("corpus")
    treebank = [[one.title(), two, three, "."] for one in FIRST for two in SECOND for three in ("it", "them")]
    tatoeba = [f"I don't {two} {one}." for one in FIRST for two in SECOND]
    parquet.write_table(pyarrow.table({"tokens": treebank}), folder / "ptb_wsj_sample.parquet")
    parquet.write_table(pyarrow.table({"english": tatoeba + tatoeba[:3]}), folder / "tatoeba.parquet")
    return folder


def test_language_models_store_the_same_words_in_context(corpus_folder: Path, tmp_path: Path):
    stores = language_models(tmp_path, data=corpus_folder, num_models=2, recipe=TINY_LANGUAGE)
    first, second = stores.values()
    assert first.ids == second.ids
    assert len(set(first.ids)) == 10
    assert sum(one.startswith("ptb/") for one in first.ids) == 6
    assert layers(first).shape == (1, 10, 8)
    assert np.abs(layers(first) - layers(second)).max() > 1e-3
    assert {"masked_accuracy", "masked_perplexity", "unigram_accuracy", "unigram_perplexity"} <= set(first.metadata)
    other = dataclasses.replace(TINY_LANGUAGE, masked=0.3)
    with pytest.raises(StoreMismatchError, match=r"masked 0\.15; asked for 0.3"):
        language_models(tmp_path, data=corpus_folder, recipe=other)


def test_a_file_that_is_no_corpus_is_refused(corpus_folder: Path, tmp_path: Path):
    (tmp_path / "ptb_wsj_sample.parquet").write_bytes((corpus_folder / "tatoeba.parquet").read_bytes())
    (tmp_path / "tatoeba.parquet").write_bytes(b"")
    with pytest.raises(CorruptFileError, match="column 'tokens'"):
        language_models(tmp_path, data=tmp_path)


SENTENCES = [Sentence(f"ptb/{row}", ("w" * (row + 1), "the", "!")) for row in range(6)]
CUT = {"vocabulary_size": 20, "num_tokens": 7, "num_held_out_treebank": 2, "num_held_out_tatoeba": 0}


def test_held_out_sentences_are_not_in_the_training_rows():
    corpus = cut_corpus(SENTENCES, **CUT)
    assert {one.split(":")[0] for one in corpus.ids} < {one.name for one in SENTENCES}
    unseen = {SENTENCES[int(one.split("/")[1].split(":")[0])].words[0] for one in corpus.ids}
    assert not unseen & set(corpus.vocabulary)
    assert corpus.train.shape == (2, 7)  # two sentences of three words to a row


def test_impossible_cuts_are_refused():
    with pytest.raises(ValueError, match="7 sentences of ptb/"):
        cut_corpus(SENTENCES, **{**CUT, "num_held_out_treebank": 7})
    with pytest.raises(ValueError, match="0 to train on"):
        cut_corpus(SENTENCES, **{**CUT, "num_held_out_treebank": 6})


def test_masking_hides_known_words_alone_and_tells_which():
    ids = jnp.array([[5, 6, 7, 8, 9, 10, 1, 0], [4, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]] * 50)
    seen, places, wanted, weights = (np.asarray(one) for one in masked(jax.random.key(0), ids, 0.3, 12))
    assert weights.sum(1).tolist() == [2.0, 1.0, 0.0] * 50
    np.testing.assert_array_equal(wanted, np.take_along_axis(np.asarray(ids), places, 1))
    changed = seen != np.asarray(ids)
    assert not changed[np.asarray(ids) < len(SPECIAL)].any()
    assert 0.7 < (seen == MASK).sum() / weights.sum() < 0.9
