"""PyTorch modules: hooks are always taken out, the mode is put back, and torch is never imported on our account."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import twin_models as twins

from repsim_jax.activations.tap import tap
from repsim_jax.errors import UnknownNameError


def test_torch_is_not_imported_without_a_torch_module():
    code = (
        "import sys, numpy as np; from repsim_jax.activations import extract, tap;"
        "extract((lambda p, x: {'x': x}, 0), np.ones((2, 3)));"
        "assert not any(m.split('.')[0] in ('torch', 'onnx', 'onnxruntime') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


class TestWithTorch:
    @pytest.fixture(autouse=True)
    def torch(self):
        return pytest.importorskip("torch")

    def test_hooks_and_mode_are_put_back_even_when_the_model_fails(self, torch):
        model = twins.torch_twin(twins.weights())
        model.fc.eval()
        x = np.moveaxis(twins.images(), -1, 1)
        for inputs in (x, x[:, :1]):
            try:
                tap(model).read(inputs, ("conv",))
            except RuntimeError:
                assert inputs.shape[1] == 1
        assert all(not part._forward_hooks for part in model.modules())
        assert model.training
        assert model.head.training
        assert not model.fc.training
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_the_first_tensor_of_a_tuple_or_dict_is_the_layer(self, torch):
        class Attention(torch.nn.Module):
            def forward(self, x):
                return {"none": None, "x": (x + 1, x + 2)}

        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.attention = Attention()

            def forward(self, x):
                return self.attention(self.attention(x)["x"][0])["x"][0]

        x = np.zeros((2, 3), np.float32)
        found = tap(Model())
        assert list(found.layers(x)) == ["attention", "attention#1", "output"]
        assert found.read(x, ("attention#1",))["attention#1"].tolist() == (x + 2).tolist()
        with pytest.raises(UnknownNameError, match="Did you mean 'attention#1'"):
            found.read(x, ("attention#2",))

    def test_dicts_are_keyword_arguments_and_bfloat16_comes_as_float32(self, torch):
        class Model(torch.nn.Module):
            def forward(self, *, a, b):
                return (a + b).to(torch.bfloat16)

        inputs = {"a": np.ones((2, 3), np.float32), "b": torch.ones(2, 3)}
        found = tap(Model())
        assert found.layers(inputs)["output"].dtype == np.float32
        assert found.read(inputs, ("output",))["output"].tolist() == [[2.0] * 3] * 2
