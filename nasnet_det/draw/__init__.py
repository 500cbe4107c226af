"""Pictures: cells as the paper's figure 4, accuracy against cost as figure 5, search curves as figure 6."""

from nasnet_det.draw.accuracy import NetworkPoint, draw_accuracy
from nasnet_det.draw.cells import draw_cell, draw_genotype, operation_label
from nasnet_det.draw.figures import save_figure
from nasnet_det.draw.search_curves import draw_search_curves, top_means

__all__ = [
    "NetworkPoint",
    "draw_accuracy",
    "draw_cell",
    "draw_genotype",
    "draw_search_curves",
    "operation_label",
    "save_figure",
    "top_means",
]
