"""Detector configs: files, command-line options and TensorFlow's pipelines are read, or refused by name."""

from __future__ import annotations

import functools
import math
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("detectron2")

from detectron2.config import CfgNode

from nasnet_det.detection.config import ConfigError, network_arguments, read_config
from nasnet_det.detection.convert.pipeline_config import follow
from nasnet_det.detection.convert.protobuf_text import PipelineConfigError, parse
from nasnet_det.detection.engine.predictor import load_config
from nasnet_det.detection.modeling.backbone import build_network
from nasnet_det.detection.modeling.rcnn import build_detector
from nasnet_det.genotypes.genotype import GenotypeError
from nasnet_det.weights import WeightsError
from tests.detection.conftest import CONFIGS, SMALL
from tests.fuzz.conftest import Fuzz
from tests.fuzz.engine import Case
from tests.fuzz.mutate import spoil_settings, spoil_text, spoil_value
from tests.helpers import PIPELINE

NAMES = sorted(path.name for path in CONFIGS.glob("*.yaml"))


def code(case: Case) -> str:
    """Return YAML that makes a folder where it is read by an unsafe loader."""
    return f"!!python/object/apply:os.mkdir ['{case.folder}/ran']"


def test_detector_config_file(fuzz: Fuzz) -> None:
    texts = {name: (CONFIGS / name).read_text() for name in NAMES}

    def attempt(case: Case) -> None:
        text, path = texts[case.random.choice(NAMES)], case.folder / "config.yaml"
        text = text.replace("_BASE_: ", f"_BASE_: {CONFIGS}/")
        if case.random.random() < 0.5:
            text = yaml.safe_dump(spoil_value(yaml.safe_load(text), case, ("", "config.yaml", "BN", [1], "1e3")))
        else:
            pieces = [f"X: {code(case)}\n", "_BASE_: config.yaml\n", "_BASE_: .\n", "VERSION: 1\n", "  NUM_CELLS: 1\n"]
            text = spoil_text(text, case, pieces)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        read = case.random.choice((read_config, load_config))
        with case.allows(ConfigError, naming=path):
            assert isinstance(read(path), CfgNode)
        assert not (case.folder / "ran").exists()

    fuzz(attempt)


def test_detector_options(fuzz: Fuzz) -> None:
    """``KEY VALUE`` on the command line, of keys that exist or not."""
    cfg = read_config(CONFIGS / "nasnet_frcnn.yaml")
    keys = [*_keys(cfg.MODEL, "MODEL."), *_keys(cfg.SOLVER, "SOLVER."), *_keys(cfg.INPUT, "INPUT.")]
    values = ["0", "-1", "1", "0.5", "[]", "[1,2]", "(1,)", "{}", "None", "True", "x", "", "1e999", "'a'", "__import__"]

    def attempt(case: Case) -> None:
        random = case.random
        opts = ["SEED", "1"]
        for _ in range(0 if case.pristine else random.randint(1, 3)):
            key, value = random.choice(keys), random.choice([*values, "(" * 300, "9" * 5000, code(case)])
            opts += [spoil_text(key, case) if random.random() < 0.2 else key, value][: random.choice((2, 2, 2, 2, 1))]
        with case.allows(ConfigError, naming="nasnet_frcnn.yaml"):
            read_config(CONFIGS / "nasnet_frcnn.yaml", opts)

    fuzz(attempt)


def test_detector_network(fuzz: Fuzz) -> None:
    """The node MODEL.NASNET with other values: a network, or an error."""
    node = read_config(CONFIGS / "nasnet_frcnn.yaml").MODEL.NASNET
    kinds = {"NUM_CELLS": 1, "NUM_FILTERS": 4, "STEM_CHANNELS": 4, "GENOTYPE": "darts_v2", "PRETRAINED": ""}

    def attempt(case: Case) -> None:
        settings = {**kinds, "NORM": "BN", "BN_MOMENTUM": 0.1, "DROP_PATH_RATE": 0.2}
        values = spoil_settings(settings, case, ("GN", "LN", 8))
        values.pop("NETWORK", None)
        opts: list[Any] = []
        for key, value in values.items():
            if key in node and not (isinstance(value, (int, float)) and abs(value) > 64):
                opts += [f"MODEL.NASNET.{key}", value]
        with case.allows(ConfigError, GenotypeError, WeightsError):
            small = [p for k, v in kinds.items() for p in (f"MODEL.NASNET.{k}", v)]
            cfg = read_config(CONFIGS / "nasnet_frcnn.yaml", [*small, *opts])
            build_network(**network_arguments(cfg))

    fuzz(attempt, share=0.3)


def test_detector_model(fuzz: Fuzz) -> None:
    """Any key of MODEL with another value of its type: a detector, or an error."""
    cfg = read_config(CONFIGS / "nasnet_frcnn.yaml")
    keys = [key for key in _keys(cfg.MODEL, "MODEL.") if "WEIGHTS" not in key]
    small = {**SMALL, "MODEL.NASNET.NUM_FILTERS": 4, "MODEL.NASNET.GENOTYPE": "darts_v2"}
    files = ["nasnet_frcnn.yaml", "fpn_mobile.yaml", "retinanet_fpn_large.yaml", "cascade_fpn_large.yaml"]

    def attempt(case: Case) -> None:
        random, opts = case.random, [part for pair in small.items() for part in pair]
        for _ in range(0 if case.pristine else random.choice((1, 1, 2))):
            key = random.choice(keys)
            opts += [key, _another(functools.reduce(getitem, key.split("."), cfg), random)]
        with case.allows(ConfigError, GenotypeError, WeightsError):
            build_detector(read_config(CONFIGS / random.choice(files), opts))

    fuzz(attempt, share=0.05)


def test_pipeline_config(fuzz: Fuzz) -> None:
    base = read_config(CONFIGS / "nasnet_frcnn.yaml")
    words = ["faster_rcnn {", "x: [1, 2", "<", ">", "x: 1e999", "batch_size: -5 ", "learning_rate: 0 ", "width: 1e9 "]

    def attempt(case: Case) -> None:
        with case.allows(PipelineConfigError):
            follow(parse(spoil_text(PIPELINE, case, words)), base.clone())

    fuzz(attempt)


def _keys(node: CfgNode, prefix: str) -> list[str]:
    found = []
    for key, value in node.items():
        found += _keys(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else [prefix + key]
    return found


def _another(value: Any, random: Any) -> Any:
    """Return another value of the same type, small enough not to take long."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return random.choice((0, -1, 1, 2, 3, 16, 32))
    if isinstance(value, float):
        return random.choice((0.0, -1.0, 1.0, 0.5, math.nan, math.inf, 20.0))
    if isinstance(value, (list, tuple)):
        more = type(value)([_another(item, random) for item in value])
        return random.choice((more, more[:-1], more + more, type(value)()))
    return random.choice(("", "x", "BN", "GN", "c5", "../x", str(Path("x").absolute())))
