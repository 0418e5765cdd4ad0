"""A decode step on tensors that say they are on CUDA: nothing of it is on the CPU, nothing waits, bfloat16 stays so.

PyTorch's fake tensors have device, shape and type but no content, and need no GPU: an operation on tensors of two
devices, or one whose result the host would have to read, raises as it would there.
"""

import copy
from types import EllipsisType

import pytest
import torch
from tiny import FAMILIES, LONGROPES
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM

from litestage.decoder.decoder import Decoder
from litestage.engine import Decoding
from litestage.engine.graph.cache import StaticKVCache
from litestage.engine.graph.compiled import Regions
from litestage.engine.graph.decode_step import DecodeStep, Ends
from litestage.engine.graph.runner import GraphRunner
from litestage.engine.sampler import Sampler
from litestage.plan import SkipSet, StagePlan


class WithoutCuda(TorchFunctionMode):
    """What PyTorch's Python bindings do on CUDA itself, which is not there, in operations that can be faked."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.__getitem__:
            return _picked(*args)
        if func is torch.Tensor.__setitem__:
            into, value = _picked(*args[:2]), args[2]
            return torch.ops.aten.copy_(into, value) if isinstance(value, torch.Tensor) else into.fill_(value)
        if func in (torch.Tensor.copy_, torch.Tensor.contiguous):
            return getattr(torch.ops.aten, func.__name__)(*args)
        if func is torch.tensor and kwargs:
            made = func(*args, dtype=kwargs.get("dtype"))
            return torch.empty(made.shape, dtype=made.dtype, device=kwargs.get("device"))
        return func(*args, **(kwargs or {}))


def _picked(tensor, index):
    index = index if isinstance(index, tuple) else (index,)
    dim = 0
    for at, part in enumerate(index):
        if isinstance(part, EllipsisType):
            dim = tensor.dim() - sum(behind is not None for behind in index[at + 1 :])
        elif part is None:
            tensor, dim = tensor.unsqueeze(dim), dim + 1
        elif isinstance(part, int):
            tensor = tensor.select(dim, part)
        elif isinstance(part, slice):
            tensor, dim = torch.ops.aten.slice(tensor, dim, part.start, part.stop, part.step or 1), dim + 1
        else:
            which = torch.empty(len(part), dtype=torch.long, device=tensor.device)
            tensor, dim = tensor.index_select(dim, which), dim + 1
    return tensor


@pytest.fixture
def cuda(request, monkeypatch):
    """Everything in the test happens there; ``family``, where there is one, is already on the meta device."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    model = meta_model(request.getfixturevalue("family")) if "family" in request.fixturenames else None
    with FakeTensorMode(), WithoutCuda(), torch.inference_mode():
        yield model and moved(model)


def meta_model(family):
    with torch.device("meta"):
        config = copy.deepcopy(FAMILIES[family].config)
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def moved(model):
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                    held[name] = torch.nn.Parameter(held[name], False) if held is module._parameters else held[name]
    return model


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("make", ["lean", "regions"])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in LONGROPES])
def test_a_whole_step(family, make, rows, cuda, monkeypatch):
    """Greedy with the confidence rule and without, and drawn; one row alone in its lane, and four in two."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    decoder = Decoder(cuda)
    runner, plan = GraphRunner(decoder), StagePlan(SkipSet(mhsa=(1,), ffn=(2,)))
    regions = Regions(decoder, runner.lean) if make == "regions" else None
    path = runner.path(plan, "decode", sublayers=regions.sublayers if regions else None)
    cache = StaticKVCache(runner.lean, -(-rows // 2), 100, decoder.device)
    for decoding, ends in (
        (Decoding(), Ends((2,), 3, True)),
        (Decoding(), Ends((2, 5), 0, False)),
        (Decoding(temperature=0.7, top_k=5, top_p=0.9), Ends((2,), 0, True)),
    ):
        sampler = Sampler(decoding)
        step = DecodeStep(decoder, cache, rows, 128, plan, path, sampler, ends, regions)
        for _ in range(2):
            step.run()
        assert {tensor.device.type for tensor in step.kept if tensor is not None} == {"cuda"}
        assert step._stream().dtype == torch.bfloat16
    assert {layer.whole.dtype for layer in cache._layers.values()} == {torch.bfloat16}
    assert len(cache._layers) == decoder.layers - 1  # nothing is kept for an attention that is skipped


def test_what_would_wait_for_the_device_or_mix_devices_is_seen(cuda):
    on_gpu = torch.ones(3, device="cuda")
    with pytest.raises(DataDependentOutputException):
        on_gpu.sum().item()
    with pytest.raises(RuntimeError, match="device"):
        on_gpu + torch.ones(3)
