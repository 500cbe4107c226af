"""When a call is recorded, replayed, recorded anew, or run as it is. Recording itself needs a GPU; without one, a
stand-in records on the CPU: it runs the module into a result that every replay overwrites, as a graph does."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from nasnet_det.fusion import cuda_graphs, optimize_for_inference
from nasnet_det.fusion.cuda_graphs import GraphedForward, Recorded
from nasnet_det.fusion.fallback import warn_once
from nasnet_det.models.network import NASNet
from tests.fusion.test_optimize import SMALL, difference
from tests.models.test_operations import randomize


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes recorded so far, by the stand-in."""
    shapes: list[tuple[int, ...]] = []

    def record(run: Any, images: Tensor) -> Recorded:
        shapes.append(tuple(images.shape))
        own = images.clone()
        made = run(own).clone()
        return Recorded(own, lambda: made.copy_(run(own)), made)

    monkeypatch.setattr(cuda_graphs, "record", record)
    monkeypatch.setattr(GraphedForward, "_can_record", lambda self, args, kwargs: not self.gave_up)
    return shapes


@torch.no_grad()
def test_one_graph_a_shape(recorded: list[tuple[int, ...]]) -> None:
    network = randomize(NASNet(**SMALL))
    fused, graphed = optimize_for_inference(network), optimize_for_inference(network, cuda_graphs=True)
    batches = [torch.randn(n, 3, 40, 40) for n in (1, 2, 1, 2, 1)]
    results = [graphed(images) for images in batches]
    for result, images in zip(results, batches, strict=True):  # none was overwritten by a later call
        assert torch.equal(result, fused(images))
    assert recorded == [(1, 3, 40, 40), (2, 3, 40, 40)]


@torch.no_grad()
def test_changed_weights_are_recorded_anew(recorded: list[tuple[int, ...]]) -> None:
    graphed, images = optimize_for_inference(randomize(NASNet(**SMALL)), cuda_graphs=True), torch.randn(1, 3, 40, 40)
    before = graphed(images)
    graphed.fc.weight.mul_(2)  # in place
    graphed(images)
    graphed.fc.weight = nn.Parameter(graphed.fc.weight * 2)  # another tensor
    graphed(images)
    graphed.double().float()  # other memory
    after = graphed(images)
    assert len(recorded) == 4
    assert difference(after - graphed.fc.bias, 4 * (before - graphed.fc.bias)) < 1e-6


@torch.no_grad()
def test_only_the_last_graphs_are_kept(recorded: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "MOST_GRAPHS", 2)
    graphed = optimize_for_inference(NASNet(**SMALL), cuda_graphs=True)
    for count in (1, 2, 1, 3, 1, 2):
        graphed(torch.randn(count, 3, 40, 40))
    assert [shape[0] for shape in recorded] == [1, 2, 3, 2]


@torch.no_grad()
def test_what_cannot_be_recorded_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    warn_once.cache_clear()

    def record(run: Any, images: Tensor) -> Recorded:
        raise RuntimeError("operation not permitted when stream is capturing\nlong story")

    monkeypatch.setattr(cuda_graphs, "record", record)
    monkeypatch.setattr(GraphedForward, "_can_record", lambda self, args, kwargs: not self.gave_up)
    network = randomize(NASNet(**SMALL))
    graphed, images = optimize_for_inference(network, cuda_graphs=True), torch.randn(1, 3, 40, 40)
    with pytest.warns(UserWarning, match="not permitted when stream is capturing; it runs as it is") as record_of:
        for _ in range(2):
            assert torch.equal(graphed(images), optimize_for_inference(network)(images))
    assert len(record_of) == 1


@torch.no_grad()
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_cpu_has_none_and_says_so_once() -> None:
    warn_once.cache_clear()
    network = randomize(NASNet(**SMALL))
    graphed, images = optimize_for_inference(network, cuda_graphs=True), torch.randn(1, 3, 40, 40)
    with pytest.warns(UserWarning, match="there are none on cpu; it runs as it is") as record:
        for _ in range(2):
            assert torch.equal(graphed(images), optimize_for_inference(network)(images))
    assert len(record) == 1
    with pytest.warns(UserWarning, match="something else than one tensor"):
        assert torch.equal(graphed(x=images), graphed(images))


def test_a_feature_extractor_is_recorded_as_a_whole() -> None:
    model = timm.create_model("nasnet", features_only=True, num_cells=1, num_filters=8)
    graphed = optimize_for_inference(model, cuda_graphs=True)
    assert isinstance(graphed.forward, GraphedForward) and graphed.forward.module is graphed
    assert not any(isinstance(module.forward, GraphedForward) for module in graphed.modules() if module is not graphed)


@torch.no_grad()
def test_copies_and_files_begin_without_graphs() -> None:
    graphed = optimize_for_inference(randomize(NASNet(**SMALL)), cuda_graphs=True)
    for other in (copy.deepcopy(graphed), pickle.loads(pickle.dumps(graphed))):
        assert isinstance(other.forward, GraphedForward)
        assert other.forward.module is other and not other.forward.recorded


@torch.no_grad()
def test_compilers_see_the_module() -> None:
    network = randomize(NASNet(**SMALL)).double()
    graphed, images = optimize_for_inference(network, cuda_graphs=True), torch.randn(1, 3, 40, 40).double()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="CUDA graphs")
        program = torch.export.export(graphed, (images,))
    assert difference(program.module()(images), network(images)) < 1e-11


@torch.no_grad()
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_recorded_on_a_gpu() -> None:
    network = randomize(NASNet(**SMALL)).cuda()
    fused, graphed = optimize_for_inference(network), optimize_for_inference(network, cuda_graphs=True)
    for count in (1, 2, 1):
        images = torch.randn(count, 3, 40, 40, device="cuda").contiguous(memory_format=torch.channels_last)
        assert difference(graphed(images), fused(images)) < 2e-6
    assert len(graphed.forward.recorded) == 2
