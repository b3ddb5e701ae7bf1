"""Runs in the rivals' environment: what transformers and sentence-transformers compute from the same weights.

    python benchmarks/_pretrained_text_rival.py FOLDER MINILM

FOLDER holds ``tokens.npz`` (ids, mask, and small_ids below 60) and ``texts.json``; MINILM is the folder of
all-MiniLM-L6-v2. Outputs go to ``FOLDER/minilm.npz`` and ``FOLDER/NAME/`` (a model with random weights, saved by
transformers, and its hidden states).
"""

import json
import sys
from pathlib import Path

import numpy as np
import sentence_transformers
import torch
import transformers

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 60,
    "max_position_embeddings": 70,
    # Spread the weights so that a wrong layer cannot hide behind small numbers.
    "initializer_range": 0.3,
}


def models() -> dict[str, transformers.PreTrainedModel]:
    """Small models with random weights; RoBERTa's family pads with 1."""
    roberta = {"pad_token_id": 1, "type_vocab_size": 1}
    return {
        "bert": transformers.BertModel(transformers.BertConfig(**SMALL)),
        "bert_masked_lm": transformers.BertForMaskedLM(transformers.BertConfig(**SMALL, hidden_act="gelu_new")),
        "roberta": transformers.RobertaModel(transformers.RobertaConfig(**SMALL, **roberta)),
        "xlm_roberta": transformers.XLMRobertaForMaskedLM(transformers.XLMRobertaConfig(**SMALL, **roberta)),
    }


def hidden_states(model: transformers.PreTrainedModel, ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Embeddings and every block."""
    said = model(
        input_ids=torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask).long(), output_hidden_states=True
    )
    return {f"hidden_{index}": state.numpy() for index, state in enumerate(said.hidden_states)}


def main() -> None:
    """Fills the folder."""
    folder, minilm = Path(sys.argv[1]), sys.argv[2]
    torch.manual_seed(0)
    tokens = np.load(folder / "tokens.npz")
    with torch.no_grad():
        states = hidden_states(transformers.AutoModel.from_pretrained(minilm), tokens["ids"], tokens["mask"])
        encoder = sentence_transformers.SentenceTransformer(minilm, device="cpu")
        embedding = encoder.encode(json.loads((folder / "texts.json").read_text(encoding="utf-8")))
        np.savez(folder / "minilm.npz", embedding=embedding, **states)
        for name, model in models().items():
            model.eval()
            for parameter in model.parameters():
                if parameter.ndim < 2:  # biases and norms start as 0 and 1, where a mix-up would not show
                    parameter.copy_(parameter + 0.3 * torch.randn_like(parameter))
            model.save_pretrained(folder / name)
            pad = model.config.pad_token_id
            ids = np.where(tokens["small_mask"] == 1, tokens["small_ids"], pad)
            np.savez(folder / name / "outputs.npz", **hidden_states(model, ids, tokens["small_mask"]))
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sentence-transformers": sentence_transformers.__version__,
    }
    print(json.dumps(versions))


if __name__ == "__main__":
    main()
