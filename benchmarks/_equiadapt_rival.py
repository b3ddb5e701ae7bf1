"""Canonicalization by equiadapt in its own environment: reads requests line by line, answers in JSON.

Requests name what to make ("network": a canonicalizer by a name, or a predictor of torchvision) and what to do with it:
"scores" stores all that it decides of given images, "time" its processor seconds, "train" those of a training step.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

# PyPI's torchvision is built for CUDA: beside a CPU build of torch its operators do not load, and it fails where it
# looks for these two. Nothing here calls them.
_OPERATORS = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

warnings.simplefilter("ignore")
import torchvision  # noqa: E402
from equiadapt import ConvNetwork, OptimizedGroupEquivariantImageCanonicalization  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

Asked = dict[str, Any]


def canonicalizer(asked: Asked) -> OptimizedGroupEquivariantImageCanonicalization:
    """Its canonicalizer with a random network.

    Args:
        asked: "shape" of an image (c, h, w), "view", "kernel", "widths", "layers", "outputs", "rotations", "reflects",
            "seed".

    Returns:
        The module, in evaluation.
    """
    torch.manual_seed(asked["seed"])
    channels, height, width = asked["shape"]
    seen = (height, width) if channels == 1 else (asked["view"], asked["view"])
    network = ConvNetwork((channels, *seen), asked["widths"], asked["kernel"], asked["layers"], asked["outputs"])
    options = {
        "group_type": "roto-reflection" if asked["reflects"] else "rotation", "num_rotations": asked["rotations"],
        "beta": 1.0, "artifact_err_wt": 0, "learn_ref_vec": False, "resize_shape": asked["view"],
        "input_crop_ratio": 0.8,
    }  # fmt: skip
    return OptimizedGroupEquivariantImageCanonicalization(
        network, OmegaConf.create(options), (channels, height, width)
    ).eval()


def settle(made: OptimizedGroupEquivariantImageCanonicalization, x: torch.Tensor) -> None:
    """Lets batch norms see views and their quarter turns, whatever the group, so that scores differ.

    Args:
        made: A canonicalizer.
        x: Images.
    """
    views = made.transformations_before_canonicalization_network_forward(x)
    posed = torch.cat([torch.rot90(views, turn, (2, 3)) for turn in range(4)])
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.3)
    made.train()
    for _ in range(30):
        made.canonicalization_network(posed)
    made.eval()


def weights(made: OptimizedGroupEquivariantImageCanonicalization) -> dict[str, np.ndarray]:
    """All numbers of a canonicalizer.

    Args:
        made: It.

    Returns:
        By torch's names.
    """
    state = made.canonicalization_network.state_dict()
    found = {name: value.numpy() for name, value in state.items() if value.is_floating_point()}
    return found | {"reference": made.reference_vector.detach().numpy()[0]}


def scores(asked: Asked, folder: Path) -> Asked:
    """Everything that it makes of the images in ``images.npy`` (b, h, w, c), stored in ``found.npz``.

    Args:
        asked: As for ``canonicalizer``.
        folder: Where arrays are exchanged.

    Returns:
        Nothing to say.
    """
    made = canonicalizer(asked)
    x = torch.from_numpy(np.load(folder / "images.npy")).permute(0, 3, 1, 2).contiguous()
    last = lambda images: images.permute(0, 2, 3, 1).numpy()  # noqa: E731
    with torch.no_grad():
        settle(made, x)
        canonical = made(x)
        activations = made.canonicalization_info_dict["group_activations"]
        restored = made.invert_canonicalization(canonical, induced_rep_type="scalar")
        views = made.transformations_before_canonicalization_network_forward(x)
        orbit = last(made.group_augment(views))
    np.savez(
        folder / "found.npz", canonical=last(canonical), activations=activations.numpy(), restored=last(restored),
        views=last(views), orbit=orbit.reshape(activations.shape[1], len(x), *orbit.shape[1:]), **weights(made),
    )  # fmt: skip
    return {}


def spent(call: Callable[[], Any], calls: int) -> Asked:
    """Times calls.

    Args:
        call: What.
        calls: How many are timed together, after one that is not.

    Returns:
        Processor seconds of all threads, and seconds, of one call.
    """
    call()
    start = time.process_time(), time.perf_counter()
    for _ in range(calls):
        call()
    return {"processor": (time.process_time() - start[0]) / calls, "clock": (time.perf_counter() - start[1]) / calls}


def training_step(made: OptimizedGroupEquivariantImageCanonicalization, x: torch.Tensor) -> Callable[[], None]:
    """One step of its label-free training: 100 times the prior and 1e-4 times the loss of its optimization, Adam.

    Args:
        made: Its canonicalizer.
        x: A batch.

    Returns:
        A call. The step canonicalizes the batch too, as its own training step does.
    """
    made.train()
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-3)

    def step() -> None:
        made(x)
        loss = 100 * made.get_prior_regularization_loss() + 1e-4 * made.get_optimization_specific_loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def prepared(asked: Asked) -> Callable[[], Any]:
    """What is timed, on random images.

    Args:
        asked: "network": "canonicalizer", "training", or a model of torchvision; "batch" and "shape".

    Returns:
        A call.
    """
    x = torch.rand(asked["batch"], *asked["shape"])
    if asked["network"] == "training":
        return training_step(canonicalizer(asked), x)
    predicts = asked["network"] != "canonicalizer"
    made = torchvision.models.get_model(asked["network"]).eval() if predicts else canonicalizer(asked)

    def call() -> torch.Tensor:
        with torch.no_grad():
            return made(x)

    return call


def main() -> None:
    """Answers until the requests end."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]))
    answers, sys.stdout = sys.stdout, sys.stderr
    names = ("torch", "torchvision", "kornia", "equiadapt")
    print(json.dumps({name: metadata.version(name) for name in names}), file=answers, flush=True)
    calls: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "scores":
            said = scores(asked, folder)
        else:
            key = json.dumps(asked["case"])
            calls[key] = calls.get(key) or prepared(asked["case"])
            said = spent(calls[key], asked["calls"])
        print(json.dumps(said), file=answers, flush=True)


if __name__ == "__main__":
    main()
