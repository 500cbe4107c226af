"""The order of equal values in OpenVINO's TopK, and its divisions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("openvino")

import openvino
from openvino import opset11 as op

from nasnet_det.export.openvino_graph import keep_divisions, order_equal_values
from nasnet_det.export.runtimes import openvino_core, openvino_settings


def largest(limit: int) -> openvino.CompiledModel:
    """Return a model of the ``limit`` largest of each row, with any number of rows and columns."""
    data = op.parameter([-1, -1], dtype=np.float32)
    model = openvino.Model(op.topk(data, limit, 1, "max", "value", index_element_type="i64").outputs(), [data])
    order_equal_values(model)
    return openvino_core().compile_model(model, "CPU", openvino_settings("float32"))


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(0, 60), st.sampled_from([1, 2, 7]))
def test_the_earlier_of_equal_values_is_first(seed: int, rows: int, more: int, limit: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    data = torch.randint(-3, 3, (rows, limit + more), generator=generator).float()
    order = data.argsort(dim=1, descending=True, stable=True)[:, :limit]
    values, indices = largest(limit)([data.numpy()]).to_tuple()
    assert indices.dtype == np.int64
    assert np.array_equal(indices, order.numpy())
    assert np.array_equal(values, data.gather(1, order).numpy())


def test_a_large_row_of_a_single_value_is_taken_in_order() -> None:
    _, indices = largest(1000)([np.zeros((2, 300_000), dtype=np.float32)]).to_tuple()
    assert np.array_equal(indices, np.tile(np.arange(1000), (2, 1)))


@pytest.mark.parametrize("in_a_loop", [False, True])
def test_divisions_are_rounded_as_divisions(in_a_loop: bool) -> None:
    data = op.parameter([100, 7], dtype=np.float32)
    if in_a_loop:
        row = op.parameter([1, 7], dtype=np.float32)
        result = op.divide(row, op.constant(49, dtype=np.float32))
        loop = op.tensor_iterator()
        loop.set_function(openvino.Model([result], [row]))
        loop.set_sliced_input(row, data.output(0), 0, 1, 1, -1, 0)
        quotient = loop.get_concatenated_slices(result.output(0), 0, 1, 1, -1, 0)
    else:
        quotient = op.divide(data, op.constant(49, dtype=np.float32)).output(0)
    model = openvino.Model([quotient], [data])
    keep_divisions(model)
    values = np.arange(700, dtype=np.float32).reshape(100, 7)
    found = openvino_core().compile_model(model, "CPU", openvino_settings("float32"))([values])[0]
    assert np.array_equal(found, values / np.float32(49))
