"""Networks that turn inputs into representations, each hidden layer a submodule that can be tapped by name."""

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Bert": "bert",
    "BertConfig": "bert",
    "ConvNet": "convnet",
    "ConvNetConfig": "convnet",
    "EfficientNet": "efficientnet",
    "EfficientNetConfig": "efficientnet",
    "MLP": "mlp",
    "MLPConfig": "mlp",
    "UniversalSentenceEncoder": "use",
    "ViT": "vit",
    "ViTConfig": "vit",
}
__all__ = [
    "MLP",
    "Bert",
    "BertConfig",
    "ConvNet",
    "ConvNetConfig",
    "EfficientNet",
    "EfficientNetConfig",
    "MLPConfig",
    "UniversalSentenceEncoder",
    "ViT",
    "ViTConfig",
]

if TYPE_CHECKING:
    from repsim_jax.encoders.bert import Bert, BertConfig
    from repsim_jax.encoders.convnet import ConvNet, ConvNetConfig
    from repsim_jax.encoders.efficientnet import EfficientNet, EfficientNetConfig
    from repsim_jax.encoders.mlp import MLP, MLPConfig
    from repsim_jax.encoders.use import UniversalSentenceEncoder
    from repsim_jax.encoders.vit import ViT, ViTConfig


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"repsim_jax.encoders.{_HOME[name]}"), name)
    raise AttributeError(f"module 'repsim_jax.encoders' has no attribute {name!r}; it has {', '.join(_HOME)}")
