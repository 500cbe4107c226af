"""The published cells, each with its source.

Two conventions are in print. TF-slim lists operations and inputs pair by pair, 0 being the current and 1 the previous
state, and flags the states that are *not* concatenated. The DARTS convention numbers the inputs the other way round and
lists (operation, input) pairs and the concatenated states.

NASNet-B and NASNet-C are not among them: the wiring of both is only in the paper's pictures, and neither its text nor
released code gives it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nasnet_det.genotypes.darts import is_darts, parse_darts, swap_inputs
from nasnet_det.genotypes.genotype import Block, CellGenotype, Genotype, GenotypeError
from nasnet_det.safe_io.files import exists
from nasnet_det.safe_io.values import format_value, parse_yaml

_SHORT = {
    "id": "identity",
    "1x1": "conv_1x1",
    "3x3": "conv_3x3",
    "1x7": "conv_1x7_7x1",
    "7x1": "conv_7x1_1x7",
    "sep3": "sep_conv_3x3",
    "sep5": "sep_conv_5x5",
    "sep7": "sep_conv_7x7",
    "dilsep5": "dil_sep_conv_5x5",
    "dil3": "dil_sep_conv_3x3_once",
    "dil5": "dil_sep_conv_5x5_once",
    "avg3": "avg_pool_3x3",
    "max2": "max_pool_2x2",
    "max3": "max_pool_3x3",
}


def from_tf(operations: str, inputs: Sequence[int], used: Sequence[int]) -> CellGenotype:
    """Build a cell from TF-slim's convention: operations in short names, inputs, and a 1 for each state left out of the
    output."""
    names = [_SHORT[name] for name in operations.split()]
    blocks = tuple(Block(inputs[i], inputs[i + 1], names[i], names[i + 1]) for i in range(0, len(names), 2))
    return CellGenotype(blocks, tuple(state for state, flag in enumerate(used) if not flag))


def from_darts(edges: str, concat: Sequence[int]) -> CellGenotype:
    """Build a cell from the DARTS convention: ``operation:input`` pairs, input 0 two cells back and 1 one cell back."""
    pairs = [edge.split(":") for edge in edges.split()]
    ends = [(swap_inputs(int(state)), _SHORT[name]) for name, state in pairs]
    blocks = tuple(
        Block(left, right, left_operation, right_operation)
        for (left, left_operation), (right, right_operation) in zip(ends[::2], ends[1::2], strict=True)
    )
    return CellGenotype(blocks, tuple(concat))


def _from_enas(arc: Sequence[int]) -> CellGenotype:
    """Build a cell from ENAS's micro convention: (input, operation, input, operation) per node, inputs as in DARTS;
    unread states are concatenated."""
    names = ("sep3", "sep5", "avg3", "max3", "id")
    edges = " ".join(f"{names[arc[i + 1]]}:{arc[i]}" for i in range(0, len(arc), 2))
    read = set(arc[::2])
    return from_darts(edges, [s for s in range(2, 2 + len(arc) // 4) if s not in read])


_TPU = "tensorflow/tpu models/official/amoeba_net (Real et al., arXiv:1802.01548)"
_DARTS = "quark0/darts cnn/genotypes.py (Liu et al., arXiv:1806.09055)"
_PC_DARTS = "yuhuixu1993/PC-DARTS genotypes.py (Xu et al., arXiv:1907.05737)"

_PNASNET_CELL = from_tf(
    "sep5 max3 sep7 max3 sep5 sep3 sep3 max3 sep3 id", (1, 1, 0, 0, 0, 0, 4, 0, 1, 0), (1, 1, 0, 0, 0, 0, 0)
)

_GENOTYPES = (
    Genotype(
        from_tf("sep5 sep3 sep5 sep3 avg3 id avg3 avg3 sep3 id", (0, 1, 1, 1, 0, 1, 1, 1, 0, 0), (1, 0, 0, 0, 0, 0, 0)),
        from_tf(
            "sep5 sep7 max3 sep7 avg3 sep5 id avg3 sep3 max3", (0, 1, 0, 1, 0, 1, 3, 2, 2, 0), (1, 1, 1, 0, 0, 0, 0)
        ),
        name="nasnet_a",
        source="TF-slim nets/nasnet/nasnet_utils.py (Zoph et al., arXiv:1707.07012, figure 4)",
    ),
    Genotype(
        from_tf("avg3 max3 sep3 id id avg3 sep3 sep5 avg3 sep3", (0, 0, 1, 1, 0, 1, 0, 2, 5, 0), (1, 0, 1, 0, 0, 1, 0)),
        from_tf(
            "sep3 avg3 max3 sep7 max3 max3 sep3 1x7 avg3 sep7", (1, 0, 0, 2, 1, 0, 4, 0, 1, 0), (1, 1, 0, 0, 0, 0, 0)
        ),
        name="amoebanet_a",
        source=_TPU,
    ),
    Genotype(
        from_tf("1x1 max3 id sep3 1x1 sep3 1x1 id avg3 1x1", (1, 1, 1, 0, 1, 0, 2, 2, 1, 5), (0, 1, 1, 0, 0, 1, 0)),
        from_tf(
            "max2 max3 id 3x3 dilsep5 max3 id sep3 avg3 1x1", (0, 0, 2, 1, 2, 2, 3, 1, 4, 3), (1, 1, 1, 1, 1, 0, 0)
        ),
        name="amoebanet_b",
        source=_TPU,
    ),
    Genotype(
        from_tf("avg3 sep3 id sep3 avg3 sep3 id sep3 avg3 sep3", (0, 0, 0, 0, 2, 1, 0, 1, 3, 0), (1, 0, 0, 1, 0, 0, 0)),
        from_tf(
            "max3 max3 sep7 sep3 sep7 max3 sep5 sep5 max3 sep3", (0, 0, 2, 0, 0, 1, 4, 4, 1, 1), (0, 1, 0, 0, 0, 0, 0)
        ),
        name="amoebanet_c",
        source=_TPU,
    ),
    Genotype(
        from_tf("1x1 max3 id 1x7 1x1 1x7 max3 id avg3 1x1", (1, 1, 1, 0, 0, 0, 2, 2, 1, 5), (0, 1, 1, 0, 0, 1, 0)),
        from_tf("max2 max3 id 3x3 1x7 max3 id max2 avg3 1x1", (0, 0, 2, 1, 2, 2, 3, 1, 2, 3), (1, 1, 1, 1, 0, 0, 0)),
        name="amoebanet_d",
        source=_TPU,
    ),
    Genotype(
        from_darts("avg3:0 max3:1 sep3:0 sep5:2 sep3:0 avg3:3 sep3:1 id:1 id:0 avg3:1", (4, 5, 6)),
        from_darts("avg3:0 sep3:1 max3:0 sep7:2 sep7:0 avg3:1 max3:0 max3:1 7x1:0 sep3:5", (3, 4, 6)),
        name="amoebanet_a_darts",
        source=_DARTS + ", as DARTS wires AmoebaNet-A",
    ),
    Genotype(
        _PNASNET_CELL,
        _PNASNET_CELL,
        name="pnasnet_5",
        source="TF-slim nets/nasnet/pnasnet.py (Liu et al., arXiv:1712.00559)",
    ),
    Genotype(
        from_darts("sep3:1 sep3:0 id:0 sep3:1 id:0 sep3:1 sep3:0 id:2", (2, 3, 4, 5)),
        from_darts("max3:0 max3:1 id:2 max3:0 max3:0 id:2 id:2 avg3:0", (2, 3, 4, 5)),
        name="darts_v1",
        source=_DARTS,
    ),
    Genotype(
        from_darts("sep3:0 sep3:1 sep3:0 sep3:1 sep3:1 id:0 id:0 dil3:2", (2, 3, 4, 5)),
        from_darts("max3:0 max3:1 id:2 max3:1 max3:0 id:2 id:2 max3:1", (2, 3, 4, 5)),
        name="darts_v2",
        source=_DARTS,
    ),
    Genotype(
        from_darts("sep3:1 id:0 sep3:0 dil3:1 sep5:0 sep3:1 avg3:0 dil3:1", (2, 3, 4, 5)),
        from_darts("sep5:1 max3:0 sep5:1 sep5:2 sep3:0 sep3:3 sep3:1 sep3:2", (2, 3, 4, 5)),
        name="pc_darts_cifar",
        source=_PC_DARTS,
    ),
    Genotype(
        from_darts("id:1 sep3:0 sep3:0 id:1 sep3:1 sep3:3 sep3:1 dil5:4", (2, 3, 4, 5)),
        from_darts("sep3:0 id:1 dil5:2 max3:1 sep3:2 sep3:1 sep5:0 sep3:3", (2, 3, 4, 5)),
        name="pc_darts_imagenet",
        source=_PC_DARTS,
    ),
    Genotype(
        _from_enas((0, 2, 0, 0, 0, 4, 0, 1, 0, 4, 1, 1, 1, 0, 0, 1, 0, 2, 1, 1)),
        _from_enas((1, 0, 1, 0, 0, 3, 0, 2, 1, 1, 3, 1, 1, 0, 0, 4, 0, 3, 1, 1)),
        name="enas",
        source="melodyguan/enas micro search, published arc (Pham et al., arXiv:1802.03268)",
    ),
    Genotype(
        CellGenotype(
            (
                Block(1, 1, "conv_1x1", "sep_conv_7x7", "concat"),
                Block(1, 0, "sep_conv_3x3", "max_pool_3x3", "concat"),
                Block(1, 3, "max_pool_3x3", "max_pool_3x3"),
                Block(0, 0, "dil_conv_3x3", "identity"),
                Block(1, 1, "sep_conv_7x7", "sep_conv_7x7"),
            ),
            (2, 4, 5, 6),
        ),
        CellGenotype(
            (
                Block(0, 0, "max_pool_5x5", "max_pool_5x5"),
                Block(2, 2, "sep_conv_7x7", "max_pool_5x5", "concat"),
                Block(0, 0, "max_pool_7x7", "max_pool_7x7", "concat"),
                Block(2, 1, "conv_3x3", "max_pool_7x7", "concat"),
                Block(3, 3, "max_pool_3x3", "max_pool_3x3"),
            ),
            (4, 5, 6),
        ),
        name="nasnet_det_1",
        source="this project's search on CIFAR-10, trial 31 (benchmarks/results/found_cell)",
    ),
)

#: Every published genotype by name.
PUBLISHED: dict[str, Genotype] = {genotype.name: genotype for genotype in _GENOTYPES if genotype.name}


def as_genotype(value: Genotype | Mapping[str, Any] | str | Path) -> Genotype:
    """Return the genotype that a value describes.

    Args:
        value: a genotype, its JSON form as a mapping or as JSON or YAML text, a printed DARTS genotype
            (``Genotype(normal=[...], ...)``, see :mod:`nasnet_det.genotypes.darts`), a published name, or the path of a
            JSON file.

    Raises:
        GenotypeError: for an illegal genotype, or a value that is none of these.
    """
    if isinstance(value, Genotype):
        return value
    if isinstance(value, Mapping):
        return Genotype.from_dict(value)
    if isinstance(value, str) and value in PUBLISHED:
        return PUBLISHED[value]
    if isinstance(value, Path) or (isinstance(value, str) and names_file(value)):
        return Genotype.load(value)
    if isinstance(value, str) and is_darts(value):
        return parse_darts(value)
    if isinstance(value, str) and ("{" in value or "normal:" in value):
        return _from_yaml(value)
    raise GenotypeError(
        f"expected a JSON file, a genotype as text, or a published name ({', '.join(PUBLISHED)}), got "
        f"{format_value(value)}"
    )


def names_file(text: str) -> bool:
    """Return True for the path of an existing file, and for one that can only be meant as a JSON file's."""
    return ("\n" not in text and text.endswith(".json")) or (exists(text) and Path(text).is_file())


def _from_yaml(text: str) -> Genotype:
    try:
        data = parse_yaml(text)
    except ValueError as error:
        raise GenotypeError(f"genotype: neither JSON nor YAML ({str(error)[:200]})") from None
    return Genotype.from_dict(data)
