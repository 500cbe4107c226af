"""The kinds of layers in ``benchmarks/runtime_profile.py``."""

from __future__ import annotations

import tempfile

import pytest

pytest.importorskip("openvino")

import runtime_profile
import timm
import torch
from runtime_profile import DENSE, DEPTHWISE, KINDS, POINTWISE, WHOLE
from torch.utils.flop_counter import FlopCounterMode

import nasnet_det  # noqa: F401


def test_convolutions_are_counted_by_kind() -> None:
    model = timm.create_model("nasnet", genotype="nasnet_a", num_cells=1, num_filters=4).eval()
    images = torch.zeros(1, 3, 64, 64)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
        expected = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
        found = runtime_profile.arithmetic(model, images)
    assert set(found) == {POINTWISE, DEPTHWISE, DENSE} and found.total() == expected


@pytest.mark.parametrize(
    ("layer", "kernel", "kind"),
    [
        ("Convolution", "brgconv_avx512_1x1_f32", POINTWISE),
        ("Convolution", "brgconv_avx2_f32", DENSE),
        ("GroupConvolution", "jit_avx512_dw_f32", DEPTHWISE),
        ("Pooling", "jit_avx512_f32", ""),
    ],
)
def test_nodes_of_openvino_have_kinds(layer: str, kernel: str, kind: str) -> None:
    assert runtime_profile.kind_of_node(layer, kernel) == kind


@pytest.mark.parametrize(("groups", "side", "kind"), [(64, 5, DEPTHWISE), (1, 3, DENSE)])
def test_the_log_of_onednn_is_read(groups: int, side: int, kind: str) -> None:
    convolution = torch.nn.Conv2d(64, 64, side, groups=groups)
    with torch.no_grad(), tempfile.TemporaryFile() as file:
        verbose = torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON)
        with runtime_profile.printed_to(file.fileno()), verbose:
            convolution(torch.randn(4, 64, 64, 64))
        file.seek(0)
        times = runtime_profile.logged_times(file.read().decode())
    assert set(times) == {kind} and times[kind] > 0


def test_the_table_has_a_row_for_each_kind() -> None:
    rows = [
        {"runtime": name, "kind": kind, "ms": 1.5, "gflops": 2.0 if kind == WHOLE else 0.0}
        for name in ("openvino", "inductor")
        for kind in KINDS
    ]
    lines = runtime_profile.table(rows).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == list(KINDS)
    assert lines[-1].split()[2:] == ["1.50", "2.0", "1.50", "2.0"]
