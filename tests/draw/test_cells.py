"""Pictures of cells: labels, files, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from nasnet_det.draw import draw_cell, draw_genotype, operation_label, save_figure
from nasnet_det.genotypes.genotype import OPERATIONS, Block, CellGenotype, Genotype
from nasnet_det.genotypes.published import PUBLISHED
from nasnet_det.models.operations import register_operation


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def passing_all() -> Genotype:
    cell = CellGenotype((Block(0, 1, "identity", "conv_1x1"), Block(2, 0, "identity", "identity", "concat")), (2, 3))
    return Genotype(cell, cell, passes_all=True)


def test_a_label_has_the_operations_kernel_below_its_kind() -> None:
    assert operation_label("sep_conv_5x5") == "sep\n5x5"
    assert operation_label("avg_pool_3x3") == "avg\n3x3"
    assert operation_label("conv_1x7_7x1") == "conv\n1x7 7x1"
    assert operation_label("dil_sep_conv_3x3_once") == "dil sep\n3x3 once"
    assert operation_label("identity") == "identity"
    assert operation_label("add_layer_norm") == "add\nlayer norm"


def test_every_operation_has_a_label_of_its_own() -> None:
    labels = {operation_label(name) for name in OPERATIONS}
    assert len(labels) == len(OPERATIONS)
    assert all(1 <= len(label.split("\n")) <= 2 for label in labels)


def test_a_picture_names_what_the_cell_holds() -> None:
    shown = texts(draw_genotype(PUBLISHED["nasnet_a"]))
    assert shown.count("add") == 10
    assert shown.count("$h_{i-1}$") == 2
    assert shown.count("identity") == 3
    assert {"nasnet_a", "Normal cell", "Reduction cell", "concat"} <= set(shown)


def test_states_passed_on_are_outputs_of_their_own() -> None:
    shown = texts(draw_genotype(passing_all()))
    assert shown.count("$h_{i+1,0}$") == shown.count("$h_{i+1,1}$") == shown.count("$h_{i,1}$") == 2
    assert shown.count("concat") == 2  # the combiners; the outputs are not joined


def test_labels_stay_within_their_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    from nasnet_det.models import operations

    monkeypatch.setattr(operations, "_BUILDERS", dict(operations._BUILDERS))
    monkeypatch.delitem(OPERATIONS, "a_very_long_name_of_an_operation_9x9", raising=False)
    register_operation("a_very_long_name_of_an_operation_9x9", "long", operations._BUILDERS["identity"])
    cell = CellGenotype((Block(0, 1, "a_very_long_name_of_an_operation_9x9", "identity"),), (2,))
    figure = draw_cell(cell)
    del OPERATIONS["a_very_long_name_of_an_operation_9x9"]
    figure.canvas.draw()
    boxes = [patch.get_window_extent() for patch in figure.axes[0].patches if hasattr(patch, "get_boxstyle")]
    labels = [text.get_window_extent() for text in figure.axes[0].texts if text.get_size() == 9.0]
    assert len(labels) == 7  # two inputs, two operations (one on two lines), a combiner, an output
    for label in labels:
        assert any(
            box.x0 <= label.x0 and label.x1 <= box.x1 and box.y0 <= label.y0 and label.y1 <= box.y1 for box in boxes
        )


def test_svg_is_the_same_byte_for_byte_and_png_is_a_picture(tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg", "cell.png"):
        draw_genotype(PUBLISHED["darts_v2"], tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    with Image.open(tmp_path / "cell.png") as image:
        assert image.format == "PNG" and min(image.size) > 500
        assert len(image.convert("RGB").getcolors(maxcolors=1 << 16) or ()) > 6


def test_a_name_is_text_whatever_it_holds(tmp_path: Path) -> None:
    cell = CellGenotype((Block(0, 1, "identity", "identity"),), (2,))
    draw_genotype(Genotype(cell, cell, name=r"found $\frac{ <&>"), tmp_path / "cell.svg")
    assert (tmp_path / "cell.svg").stat().st_size > 0


def test_another_ending_is_refused_and_nothing_written(tmp_path: Path) -> None:
    figure = draw_cell(PUBLISHED["nasnet_a"].normal)
    for name in ("cell.pdf", "cell"):
        with pytest.raises(ValueError, match=r"\.svg or \.png"):
            save_figure(figure, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
