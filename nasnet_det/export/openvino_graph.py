"""ONNX's results in OpenVINO: the order of equal values, and divisions.

ONNX's TopK returns the earlier of equal values first. OpenVINO's reader of ONNX files does not ask for this order, and
the plugin's stable TopK is slow (35 ms for the best 1,000 of 14,000, where the unordered one takes 0.1).

The plugin multiplies by reciprocals instead of dividing, which rounds otherwise. Positions in a crop then end on the
other side of a map's border, beyond which there are zeros: of crops that touch the border up to 20 % were wrong.
"""

from __future__ import annotations

from typing import Any

#: The attribute that ``ov::disable_divide_conversion`` sets.
_KEPT = "nonconvertable_divide_0"


def keep_divisions(model: Any) -> None:
    """Keep the divisions of an OpenVINO model, in the bodies of its loops as well."""
    for node in model.get_ops():
        if node.get_type_name() == "Divide":
            node.get_rt_info()[_KEPT] = True
        elif node.get_type_name() in ("Loop", "TensorIterator"):
            keep_divisions(node.get_function())


def order_equal_values(model: Any) -> None:
    """Make each TopK over the rows of a matrix in an OpenVINO model return the earlier of equal values first."""
    from openvino.utils import replace_node

    for node in model.get_ops():
        if node.get_type_name() == "TopK" and node.get_attributes()["mode"] == "max":
            replace_node(node, list(_stable_topk(node)))


def _stable_topk(node: Any) -> tuple[Any, Any]:
    """Return the values and the indices of a TopK ``(B, N)`` to ``(B, K)``, made of TopKs of any order.

    The values above the smallest one taken are sorted by a whole number: first by value, then by index. The others are
    equal; of these the first ones are taken.
    """
    from openvino import Type
    from openvino import opset11 as op

    data, size = node.input_values()

    def number(value: int) -> Any:
        return op.constant(value, dtype=Type.i32)

    def count(value: Any, axis: int) -> Any:
        return op.gather(op.shape_of(value, output_type="i32"), number(axis), number(0))

    def smallest(values: Any) -> Any:
        return op.topk(values, size, 1, "min", "value", index_element_type="i32").output(0)

    def whole(condition: Any) -> Any:
        return op.convert(condition, "i32")

    values, indices = op.topk(data, size, 1, "max", "value", index_element_type="i32").outputs()
    length, last = count(data, 1), op.reduce_min(values, number(1), keep_dims=True)
    above = op.greater(values, last)
    before = op.concat([op.slice(values, [0], [1], [1], [1]), op.slice(values, [0], [-1], [1], [1])], 1)
    group = op.cum_sum(whole(op.not_equal(values, before)), number(1))
    keys = op.select(above, op.add(op.multiply(group, length), indices), number(2**31 - 1))
    ordered = op.floor_mod(smallest(keys), length)
    all_indices = op.unsqueeze(op.range(number(0), length, number(1), "i32"), number(0))
    equal = smallest(op.select(op.equal(data, last), all_indices, length))
    positions = op.unsqueeze(op.range(number(0), count(values, 1), number(1), "i32"), number(0))
    offset = op.subtract(positions, op.reduce_sum(whole(above), number(1), keep_dims=True))
    rest = op.gather_elements(equal, op.maximum(offset, number(0)), 1)
    chosen = op.select(op.less(offset, number(0)), ordered, rest)
    return values, op.convert(chosen, node.get_attributes()["index_element_type"]).output(0)
