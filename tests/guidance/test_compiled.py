# SPDX-License-Identifier: Apache-2.0
"""torch.compile and CUDA graphs where batch sizes change, where they cannot work, and together with other settings."""

import sysconfig

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from arguments import GuidanceParams
from guidance import cuda_graphs
from guidance.cuda_graphs import MOST_GRAPHS, GraphedCall
from guidance.execution import Execution, speed_up
from guidance.feature_cache import DeepFeatures, outer_layers
from tests.drawn import Draws
from tests.guidance.test_feature_cache import ATTENTION, ONE_LAYER, tiny_unet
from tests.recorded_call import Recorded

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
BATCHES = (4, 3, 2, 1, 8, 16, 3)  # an inversion whose views end one after the other, then two and four texts


@pytest.fixture
def compiled(monkeypatch):
    """A compiler that counts what it compiles and runs it as it is."""
    torch._dynamo.reset()
    counter, real = CompileCounter(), nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: real(self, **{**options, "backend": counter}))
    yield counter
    torch._dynamo.reset()


def compiled_unet(**shape):
    unet = tiny_unet(**shape)
    speed_up(unet, Execution.of(GuidanceParams(compile_unet=True), CPU))
    return unet


def inputs(batch, size=8):
    draws = Draws([batch, size])
    return draws.normal(batch, 4, size, size), torch.full((batch,), 500), draws.normal(batch, 5, 8)


@torch.no_grad()
def test_changing_batch_sizes_are_compiled_once_for_each_width(compiled):
    """Blocks of two widths, each for one sample and for several; the limit of torch is 8, Stable Diffusion has three widths.

    Without `dynamic` each width is compiled for its first batch size as well: 3 x 2, and 9 for Stable Diffusion.
    """
    unet, plain = (make(kinds=(ATTENTION, ATTENTION), block_out_channels=(8, 16), layers_per_block=1) for make in (compiled_unet, tiny_unet))
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, recompile_limit=4):
        for batch in BATCHES:
            x, t, text = inputs(batch)
            expected = plain(x, t, encoder_hidden_states=text).sample
            torch.testing.assert_close(unet(x, t, encoder_hidden_states=text).sample, expected, rtol=1e-4, atol=1e-5)
    assert compiled.frame_count == 4


@torch.no_grad()
def test_cached_features_run_the_blocks_that_are_compiled_already(compiled):
    unet, (x, t, text) = compiled_unet(kinds=(ATTENTION, ONE_LAYER), layers_per_block=1), inputs(3)
    with DeepFeatures(unet) as deep:
        expected = unet(x, t, encoder_hidden_states=text).sample
    made = compiled.frame_count
    assert torch.equal(outer_layers(unet, x, t, text, deep.value), expected) and compiled.frame_count == made > 0


@pytest.mark.slow
@torch.no_grad()
def test_torchs_own_compiler_gives_the_same():
    """With g++: one block, compiled once for several samples; 1.8e-6 apart were measured."""
    torch._dynamo.reset()
    shape = {"kinds": (ATTENTION, ONE_LAYER), "block_out_channels": (8, 8), "layers_per_block": 1}
    unet, plain = compiled_unet(**shape), tiny_unet(**shape)
    for batch in (3, 2, 5):
        x, t, text = inputs(batch)
        expected = plain(x, t, encoder_hidden_states=text).sample
        torch.testing.assert_close(unet(x, t, encoder_hidden_states=text).sample, expected, rtol=1e-3, atol=1e-4)
    torch._dynamo.reset()


LACKS = {
    "no g++": (None, "GuidanceParams.compile_unet is True, but a CPU needs a compiler on the host, and g\\+\\+ is not found; install it, or leave it out"),
    "CXX": (None, "and /no/such/compiler is not found"),
    "no headers": (None, "but a CPU needs Python's headers, which are not in .*; install them"),
    "no triton": ((9, 0), "but a GPU of compute capability 9.0 is compiled for by the package triton, which is not installed"),
    "no gcc": ((9, 0), "needs a compiler on the host, and gcc is not found"),
}


@pytest.mark.parametrize("kind", LACKS)
def test_a_machine_that_cannot_compile_is_refused(kind, monkeypatch, tmp_path):
    capability, sentence = LACKS[kind]
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("guidance.execution.find_spec", lambda name: None if kind == "no triton" else name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    if kind == "CXX":
        monkeypatch.setenv("CXX", "/no/such/compiler")
    elif kind == "no headers":
        monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    elif kind != "no triton":
        monkeypatch.setenv("PATH", str(tmp_path))
    device = CPU if capability is None else GPU
    with pytest.raises(ValueError, match=sentence):
        Execution.of(GuidanceParams(compile_unet=True), device)
    assert not Execution.of(GuidanceParams(), device).compile_unet


# --- CUDA graphs ------------------------------------------------------------------------------------------------------


def test_shapes_beyond_the_limit_run_without_a_graph_and_none_is_recorded_twice(monkeypatch, caplog):
    monkeypatch.setattr(Recorded, "made", 0)
    call = GraphedCall(lambda x: (x + 1,), record=Recorded)
    (first,) = call(torch.zeros(1))
    for _ in range(3):
        for size in range(1, MOST_GRAPHS + 4):
            assert torch.equal(call(torch.full((size,), 2.0))[0], torch.full((size,), 3.0))
    assert Recorded.made == MOST_GRAPHS and torch.equal(first, torch.ones(1))
    assert [record.getMessage() for record in caplog.records] == ["more than 16 batch sizes meet the U-Net; the others run without a CUDA graph"]


def test_what_cannot_be_recorded_runs_without_a_graph(caplog):
    def refuse(*_):
        raise RuntimeError("operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA")

    call = GraphedCall(lambda x: (x + 1,), record=refuse)
    for size in (1, 2, 1):
        assert torch.equal(call(torch.zeros(size))[0], torch.ones(size))
    assert [record.getMessage() for record in caplog.records] == [
        "the U-Net's calls cannot be recorded as CUDA graphs (operation not permitted when stream is capturing), "
        "so they run without; set GuidanceParams.cuda_graphs to false"
    ]


def test_a_lack_of_memory_is_not_hidden():
    def exhaust(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        GraphedCall(lambda x: (x,), record=exhaust)(torch.zeros(1))


@torch.no_grad()
def test_a_compiled_u_net_is_recorded_for_every_batch_size(compiled, monkeypatch):
    """A recording calls the U-Net several times before it is made: what it records is compiled by then."""
    monkeypatch.setattr(Recorded, "made", 0)
    unet = compiled_unet(kinds=(ATTENTION, ONE_LAYER), layers_per_block=1)

    def recorded(call, given, pool):
        for _ in range(cuda_graphs.WARM_UP_CALLS):
            call(*given)
        before = compiled.frame_count
        made = Recorded(call, given, pool)
        assert compiled.frame_count == before
        return made

    def call(x, t, text):
        return (unet(x, t, encoder_hidden_states=text).sample,)

    graphed = GraphedCall(call, record=recorded)
    for batch in (3, 2, 3, 2):
        torch.testing.assert_close(graphed(*inputs(batch)), call(*inputs(batch)))
    assert Recorded.made == 2
