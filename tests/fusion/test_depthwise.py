"""The GPU's kernels and their schedule. Their numbers are tested in Triton's interpreter, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from nasnet_det.fusion import depthwise, optimize_for_inference
from nasnet_det.fusion.depthwise import Branch, Product
from nasnet_det.fusion.fallback import warn_once
from nasnet_det.fusion.schedule import Task, schedule
from nasnet_det.genotypes.published import PUBLISHED
from nasnet_det.models.network import NASNet
from tests.fusion.test_optimize import SMALL, difference
from tests.models.test_operations import randomize

ROOT = Path(__file__).parents[2]


def test_the_kernels_numbers() -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/fusion/interpreted.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_the_kernels_compile_for_a_gpu() -> None:
    """Which need not be there: down to its machine code."""
    pytest.importorskip("triton")
    script = ROOT / "tests" / "fusion" / "compiled.py"
    command = [sys.executable, str(script)]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_schedule_computes_what_the_cell_computes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another order, with ReLUs and products moved: every task by its own steps, in double precision."""
    network = randomize(NASNet(name, **SMALL)).double()
    fused = optimize_for_inference(network)
    x = torch.randn(1, 3, 45, 38).double()
    with torch.no_grad():
        expected = fused(x)
        monkeypatch.setattr(depthwise, "is_covered", lambda x: True)
        monkeypatch.setattr(depthwise, "can_share", lambda branches: False)
        ran: list[Task] = []
        run = Task.run
        monkeypatch.setattr(Task, "run", lambda self, values: (ran.append(self), run(self, values))[1])
        assert difference(fused(x), expected) < 1e-12
    assert sum(len(task.parts) for task in ran) > 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_depthwise_convolution_is_launched_once(name: str) -> None:
    fused = optimize_for_inference(NASNet(name, **SMALL))
    for cell in fused.cells.values():
        filters = [one.step for task in cell.tasks for part in task.parts for one in part.filters]
        assert {id(one) for one in filters} == {id(s) for s in cell.steps if getattr(s, "is_depthwise", False)}
        assert len(filters) == len({id(one) for one in filters})
        for task in cell.tasks:
            firsts = [one.step for part in task.parts for one in part.filters]
            assert len({(one.stride, one.dilation, one.groups) for one in firsts}) <= 1


def test_wide_sums_keep_their_product() -> None:
    """Where a result needs more than one tile, each of them would filter again."""
    fused = optimize_for_inference(NASNet(num_cells=1, num_filters=depthwise.MOST_OUT))
    concat = {
        name: any(part.sum is not None for task in cell.tasks for part in task.parts)
        for name, cell in fused.cells.items()
    }
    assert concat["cell_stem_1"] and concat["cell_0"] and not concat["reduction_cell_0"]


def test_a_cell_without_depthwise_convolutions_has_no_schedule() -> None:
    assert schedule([torch.nn.ReLU()], [(0,)], [1], [1]) == ()


def test_inputs_of_other_sizes_or_types_do_not_share() -> None:
    weight = torch.ones(9, 4)
    alike = [Branch(torch.zeros(1, 4, 5, 5), weight, (3, 3)) for _ in range(2)]
    assert depthwise.can_share(alike)
    assert not depthwise.can_share([*alike, Branch(torch.zeros(1, 4, 5, 6), weight, (3, 3))])
    assert not depthwise.can_share([*alike, Branch(torch.zeros(1, 4, 5, 5).half(), weight.half(), (3, 3))])
    warn_once.cache_clear()
    with pytest.warns(UserWarning, match="2\\^31"):
        assert not depthwise.can_share([Branch(torch.zeros(1, 1, 1, 1).expand(2**20, 4, 64, 64), weight, (3, 3))])


def test_a_cpu_takes_the_plain_path_without_a_word() -> None:
    warn_once.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not depthwise.is_covered(torch.zeros(1, 4, 5, 5))
        assert not depthwise.is_covered(torch.zeros(1, 4, 5, 5, device="meta"))


def test_without_triton_a_gpu_takes_the_plain_path_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    warn_once.cache_clear()
    monkeypatch.setattr(depthwise, "_INTERPRETED", True)  # a CPU then stands for a GPU
    monkeypatch.setattr(depthwise, "_HAS_TRITON", False)
    fused = optimize_for_inference(randomize(NASNet(**SMALL)))
    with torch.no_grad(), pytest.warns(UserWarning, match="Triton is not installed") as record:
        fused(torch.randn(1, 3, 40, 40))
    assert len(record) == 1


def test_parts_of_a_product_are_those_of_its_sum() -> None:
    fused = optimize_for_inference(NASNet(num_cells=2, num_filters=8))
    parts = [part for task in fused.cells["cell_1"].tasks for part in task.parts]
    values = {value: torch.zeros(1, 8, 4, 4) for value in range(200)}
    for part in parts:
        branches = [one.branch(values) for one in part.filters]
        product = part.product(branches, values)
        assert isinstance(product, Product)
        assert product.weight.shape == (8, 8 * len(branches)) and len(product.others) == len(product.factors)
