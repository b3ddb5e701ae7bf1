"""Runs in the rivals' environment: what PyTorch and transformers compute from the same weights and images.

    python benchmarks/_pretrained_rival.py FOLDER

FOLDER holds ``images.npz`` (one array of NHWC images per model) and ``weights/NAME.pth``; the outputs go to
``FOLDER/efficientnet.npz`` and ``FOLDER/NAME/`` (a model with random weights, saved by transformers, and its outputs).
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from torch.nn import functional

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
    # Spread the weights so that a wrong layer cannot hide behind small numbers.
    "initializer_range": 0.3,
}
STRIDES = (1, 2, 2, 2, 1, 2, 1)  # Table 1 of the EfficientNet paper


def convolve(x: torch.Tensor, weight: torch.Tensor, stride: int = 1, groups: int = 1) -> torch.Tensor:
    """TensorFlow's "SAME" padding, which puts the odd pixel at the lower right."""
    pads = []
    for size in (x.shape[3], x.shape[2]):
        pad = max((-(-size // stride) - 1) * stride + weight.shape[-1] - size, 0)
        pads += [pad // 2, pad - pad // 2]
    return functional.conv2d(functional.pad(x, pads), weight, stride=stride, groups=groups)


def efficientnet(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Logits; the shape of the network is read off the shapes of its weights."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        leaves = (state[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *leaves, eps=1e-3)

    x = functional.relu6(norm(convolve(x, state["_conv_stem.weight"], 2), "_bn0"))
    stage, width = -1, 0
    for index in range(1 + max(int(name.split(".")[1]) for name in state if name.startswith("_blocks."))):
        at = f"_blocks.{index}."
        first = state[at + "_project_conv.weight"].shape[0] != width
        stage, width = stage + first, state[at + "_project_conv.weight"].shape[0]
        y = x
        if at + "_expand_conv.weight" in state:
            y = functional.relu6(norm(convolve(y, state[at + "_expand_conv.weight"]), at + "_bn0"))
        y = convolve(y, state[at + "_depthwise_conv.weight"], STRIDES[stage] if first else 1, y.shape[1])
        y = norm(convolve(functional.relu6(norm(y, at + "_bn1")), state[at + "_project_conv.weight"]), at + "_bn2")
        x = x + y if x.shape == y.shape else y
    x = functional.relu6(norm(convolve(x, state["_conv_head.weight"]), "_bn1"))
    return functional.linear(x.mean((2, 3)), state["_fc.weight"], state["_fc.bias"])


def transformers_models() -> dict[str, transformers.PreTrainedModel]:
    """Small models with random weights, one per family."""
    clip = {"projection_dim": 20}
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 60,
    }
    text |= {"bos_token_id": 1, "eos_token_id": 2}
    return {
        "vit": transformers.ViTModel(transformers.ViTConfig(**SMALL)),
        "vit_classifier": transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL)),
        "dinov2": transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, layerscale_value=0.7)),
        "clip_vision": transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**SMALL, **clip)),
        "clip": transformers.CLIPModel(transformers.CLIPConfig(vision_config=SMALL, text_config=text, **clip)),
        "vit_mae": transformers.ViTMAEModel(transformers.ViTMAEConfig(**SMALL, mask_ratio=0.0)),
        "vit_mae_pretraining": transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**SMALL, mask_ratio=0.0)),
    }


def outputs(name: str, model: transformers.PreTrainedModel, images: torch.Tensor) -> dict[str, np.ndarray]:
    """Every hidden state, and what the encoder says at the end."""
    encoder, options = model, {}
    if name == "clip":
        encoder = model.vision_model
    elif name == "vit_classifier":
        encoder = model.vit
    elif name.startswith("vit_mae"):
        # Noise that sorts the patches as they are: nothing is masked, nothing is shuffled.
        encoder = getattr(model, "vit", model)
        options["noise"] = torch.arange(images.shape[2] // 8 * (images.shape[3] // 8)).float().repeat(len(images), 1)
    resized = images.shape[2] != SMALL["image_size"]
    if resized and name != "dinov2":  # which always interpolates
        options["interpolate_pos_encoding"] = True
    said = encoder(pixel_values=images, output_hidden_states=True, **options)
    if name == "clip":
        final = model.visual_projection(said.pooler_output)
    else:
        final = said.image_embeds if name == "clip_vision" else said.last_hidden_state[:, 0]
    hidden = {f"hidden_{index}": state for index, state in enumerate(said.hidden_states)}
    return {key: value.numpy() for key, value in (hidden | {"output": final}).items()}


def main() -> None:
    """Fills the folder."""
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    images = {
        name: torch.from_numpy(array).permute(0, 3, 1, 2) for name, array in np.load(folder / "images.npz").items()
    }
    with torch.no_grad():
        logits = {}
        for path in sorted((folder / "weights").glob("*.pth")):
            state = torch.load(path, weights_only=True)
            logits[path.stem] = efficientnet(state, images[path.stem]).numpy()
        np.savez(folder / "efficientnet.npz", **logits)
        for name, model in transformers_models().items():
            model.eval()
            for parameter in model.parameters():
                if parameter.ndim < 2:  # biases and norms start as 0 and 1, where a mix-up would not show
                    parameter.copy_(parameter + 0.3 * torch.randn_like(parameter))
            model.save_pretrained(folder / name)
            np.savez(folder / name / "outputs.npz", **outputs(name, model, images["square"]))
            if not name.startswith("clip"):  # which is read at its own size
                np.savez(folder / name / "outputs_other_size.npz", **outputs(name, model, images["oblong"]))
    print(f"torch {torch.__version__} transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
