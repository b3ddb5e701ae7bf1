"""Influence by kronfluence, TRAK and dattri, in the rivals' environment: reads requests line by line, answers in JSON.

Every tool gets the same weights, views and loss: half the squared distance of the unit embeddings of two views, which
is one minus their cosine. The pseudo-loss of the true Fisher is the difference of these embeddings times given signs.
"""

import json
import logging
import shutil
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

Spent = dict[str, float]
Answer = tuple[Spent, dict[str, np.ndarray]]


class Network(torch.nn.Module):
    """The network of ``_influence_networks``, with channels second.

    Args:
        arrays: Kernels and biases by name.
        strides: Of the convolutions.
        activation: Between dense layers.
    """

    def __init__(self, arrays: dict[str, np.ndarray], strides: list[int], activation: str):
        super().__init__()
        count = sum(name.startswith("kernel_") for name in arrays)
        convolutions, dense = [], []
        for i in range(count):
            kernel = torch.from_numpy(arrays[f"kernel_{i}"])
            if i < len(strides):
                layer = torch.nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, stride=strides[i], padding=1)
                kernel = kernel.permute(3, 2, 0, 1)
                convolutions.append(layer)
            else:
                layer, kernel = torch.nn.Linear(*kernel.shape), kernel.T
                dense.append(layer)
            layer.weight.data = kernel.contiguous()
            layer.bias.data = torch.from_numpy(arrays[f"bias_{i}"])
        self.convolutions, self.dense = torch.nn.ModuleList(convolutions), torch.nn.ModuleList(dense)
        self.activation = getattr(torch, activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embeds images with channels second, or rows."""
        for layer in self.convolutions:
            x = torch.relu(layer(x))
        x = x.mean((2, 3)) if len(self.convolutions) else x
        for layer in self.dense[:-1]:
            x = self.activation(layer(x))
        return self.dense[-1](x)


def difference(embed: Callable[[torch.Tensor], torch.Tensor], views: torch.Tensor) -> torch.Tensor:
    """Unit embeddings of the first view less those of the second."""
    first, second = (functional.normalize(embed(views[:, k])) for k in range(2))
    return first - second


def timed(spent: Spent, name: str, call: Callable[[], Any]) -> Any:
    """Calls, and adds the seconds of all threads."""
    start = time.process_time()
    result = call()
    spent[name] = time.process_time() - start
    return result


def kronfluence_task(pairwise: bool) -> Any:
    """The alignment of two views, as kronfluence asks for it."""
    from kronfluence.task import Task

    class Alignment(Task):
        # Without a function of its own kronfluence 1.0.1 counts only one use of a layer in pairwise scores.
        enable_post_process_per_sample_gradient = pairwise

        def post_process_per_sample_gradient(self, module_name: str, gradient: torch.Tensor) -> torch.Tensor:
            del module_name
            return gradient

        def compute_train_loss(self, batch: Any, model: torch.nn.Module, sample: bool = False) -> torch.Tensor:
            apart = difference(model, batch[0])
            return (apart * batch[1]).sum() if sample else apart.square().sum() / 2

        def compute_measurement(self, batch: Any, model: torch.nn.Module) -> torch.Tensor:
            return self.compute_train_loss(batch, model)

    return Alignment()


def by_kronfluence(model: Network, views: torch.Tensor, request: dict[str, Any], folder: Path) -> Answer:
    """EK-FAC by kronfluence: factors, self-influence, and influence on the first examples."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments

    with np.load(folder / "signs.npz") as held:
        rows, signs = torch.from_numpy(held["rows"]), torch.from_numpy(held["signs"]).to(views.dtype)
    fitted = torch.utils.data.TensorDataset(views[rows], signs)
    scored = torch.utils.data.TensorDataset(views, torch.zeros(len(views), 1))
    task = kronfluence_task(bool(request["queries"]))
    where = folder / "kronfluence"
    shutil.rmtree(where, ignore_errors=True)
    analyzer = Analyzer("one", prepare_model(model, task), task, cpu=True, output_dir=str(where), disable_tqdm=True,
                        log_level=logging.ERROR, disable_model_save=True)  # fmt: skip
    dtypes = ("activation_covariance_dtype", "gradient_covariance_dtype", "per_sample_gradient_dtype", "lambda_dtype")
    factors = FactorArguments("ekfac", has_shared_parameters=True, **dict.fromkeys(dtypes, views.dtype))
    dtypes = ("per_sample_gradient_dtype", "precondition_dtype", "score_dtype")
    scores = ScoreArguments(damping_factor=None, **dict.fromkeys(dtypes, views.dtype))
    spent: Spent = {}
    options = {"factors_name": "factors", "per_device_batch_size": request["batch"]}
    fitting = {"dataset": fitted, "factor_args": factors}
    timed(spent, "covariances", lambda: analyzer.fit_covariance_matrices(**options, **fitting))
    timed(
        spent, "eigenvectors", lambda: analyzer.perform_eigendecomposition(factors_name="factors", factor_args=factors)
    )
    timed(spent, "lambdas", lambda: analyzer.fit_lambda_matrices(**options, **fitting))
    found: dict[str, np.ndarray] = {}
    if request["own"]:
        scoring = {"scores_name": "self", "train_dataset": scored, "score_args": scores}
        mine = {"factors_name": "factors", "per_device_train_batch_size": request["batch"]}
        result = timed(spent, "self", lambda: analyzer.compute_self_scores(**scoring, **mine))
        found["self"] = analyzer.load_self_scores("self")["all_modules"].numpy()
        del result
    if request["queries"]:
        queries = torch.utils.data.Subset(scored, range(request["queries"]))
        scoring = {"scores_name": "pairs", "train_dataset": scored, "query_dataset": queries, "score_args": scores}
        mine = {"factors_name": "factors", "per_device_train_batch_size": request["batch"]}
        mine["per_device_query_batch_size"] = request["batch"]
        timed(spent, "pairwise", lambda: analyzer.compute_pairwise_scores(**scoring, **mine))
        found["pairs"] = analyzer.load_pairwise_scores("pairs")["all_modules"].numpy()
    return spent, found


def by_trak(model: Network, views: torch.Tensor, request: dict[str, Any], folder: Path) -> Answer:
    """TRAK's features of all examples, and their scores on the first ones."""
    from trak import TRAKer
    from trak.modelout_functions import AbstractModelOutput

    class Alignment(AbstractModelOutput):
        def __init__(self) -> None:
            super().__init__()

        def get_output(self, model: Any, weights: Any, buffers: Any, views: torch.Tensor) -> torch.Tensor:
            embed = lambda x: torch.func.functional_call(model, (weights, buffers), x)  # noqa: E731
            return difference(embed, views[None]).square().sum() / 2

        def get_out_to_loss_grad(self, model: Any, weights: Any, buffers: Any, batch: Any) -> torch.Tensor:
            del model, weights, buffers
            return torch.ones(len(batch[0]), 1)

    where = folder / "trak"
    shutil.rmtree(where, ignore_errors=True)
    traker = TRAKer(model, Alignment(), len(views), save_dir=str(where), device="cpu", proj_dim=request["dimension"],
                    use_half_precision=False, logging_level=logging.ERROR)  # fmt: skip
    batches = views.split(request["batch"])
    spent: Spent = {}

    def featurize() -> None:
        traker.load_checkpoint(model.state_dict(), model_id=0)
        for batch in batches:
            traker.featurize(batch=[batch], num_samples=len(batch))
        traker.finalize_features()

    def score() -> np.ndarray:
        count = request["queries"]
        traker.start_scoring_checkpoint("one", model.state_dict(), model_id=0, num_targets=count)
        for batch in views[:count].split(request["batch"]):
            traker.score(batch=[batch], num_samples=len(batch))
        return np.asarray(traker.finalize_scores("one"))

    timed(spent, "features", featurize)
    return spent, {"pairs": timed(spent, "pairwise", score).T}


def by_dattri(model: Network, views: torch.Tensor, request: dict[str, Any], folder: Path) -> Answer:
    """Products of gradients by dattri, and its projections as TRAK has them."""
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.task import AttributionTask

    del folder

    def loss(params: Any, data: Any) -> torch.Tensor:
        embed = lambda x: torch.func.functional_call(model, params, x)  # noqa: E731
        return difference(embed, data[0][None]).square().sum() / 2

    task = AttributionTask(loss_func=loss, model=model, checkpoints=[model.state_dict()])
    attributor = TracInAttributor(task=task, weight_list=torch.ones(1), normalized_grad=False, device="cpu")
    attributor.projector_kwargs = None  # whole gradients
    everything, queries = (
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(part), batch_size=request["batch"], shuffle=False)
        for part in (views, views[: request["queries"]])
    )
    spent: Spent = {}
    pairs = timed(spent, "pairwise", lambda: attributor.attribute(everything, queries))
    return spent, {"pairs": pairs.detach().numpy().T}


TOOLS = {"kronfluence": by_kronfluence, "traker": by_trak, "dattri": by_dattri}


def main() -> None:
    """Answers requests until the input ends."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]))
    answers, sys.stdout = sys.stdout, sys.stderr  # what the tools print is no answer
    versions = {name: metadata.version(name) for name in ("torch", *TOOLS)}
    print(json.dumps(versions), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        with np.load(folder / "case.npz") as held:
            arrays = {name: held[name].astype(request["dtype"]) for name in held.files}
        views = torch.from_numpy(arrays.pop("views"))
        views = views.permute(0, 1, 4, 2, 3).contiguous() if views.ndim == 5 else views
        model = Network(arrays, request["strides"], request["activation"])
        spent, found = TOOLS[request["tool"]](model, views, request, folder)
        np.savez(folder / "found.npz", **found)
        print(json.dumps(spent), file=answers, flush=True)


if __name__ == "__main__":
    main()
