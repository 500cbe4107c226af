"""Models by name or genotype, saved as timm's local-dir models and built again from the folder alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

from nasnet_det.training.models import ModelChoice, ModelError, load_weights, save_local_dir
from tests.helpers import ONE_BLOCK


@pytest.fixture
def choice() -> ModelChoice:
    return ModelChoice.of_genotype(ONE_BLOCK, num_cells=1, num_filters=4, stem="imagenet")


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_a_found_genotype_travels_inside_its_model(tmp_path: Path, stem: str) -> None:
    choice = ModelChoice.of_genotype(ONE_BLOCK, num_cells=1, num_filters=4, stem=stem)
    network = choice.build_for_training(7, 32, drop_rate=0.5, drop_path_rate=0.3, auxiliary=stem == "cifar").eval()
    assert any(key.startswith("aux_head.") for key in network.state_dict()) == (stem == "cifar")
    names = list("abcdefg")
    save_local_dir(choice, network.state_dict(), tmp_path / "model", 7, choice.input_config(64), names)
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors"}
    loaded = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    assert loaded.genotype == ONE_BLOCK
    assert tuple(loaded.pretrained_cfg["input_size"]) == (3, 64, 64) and loaded.pretrained_cfg["label_names"] == names
    assert not any(key.startswith("aux_head.") for key in loaded.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(images), network(images))
    # A backbone of it, as a detector makes one.
    features = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True, features_only=True)
    assert len(features(images)) == (5 if stem == "imagenet" else 3)


def test_a_saved_model_is_trained_on_with_other_classes(choice: ModelChoice, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = choice.build(num_classes=5)
    save_local_dir(choice, network.state_dict(), tmp_path / "model", 5, choice.input_config(64))
    name = f"local-dir:{tmp_path / 'model'}"
    again = ModelChoice.named(name)
    assert again.architecture == "nasnet" and again.arguments["num_classes"] == 5
    target = again.build_for_training(3, 96, 0.0, 0.0, auxiliary=True)
    load_weights(target, name)
    assert torch.equal(target.stem.conv.weight, network.stem.conv.weight)
    assert target.fc.weight.shape[0] == 3 and not target.fc.weight.any() and not target.aux_head.fc.weight.any()
    same = again.build_for_training(5, 96, 0.0, 0.0, auxiliary=True)
    load_weights(same, name)
    assert torch.equal(same.fc.weight, network.fc.weight) and same.aux_head.fc.weight.any()


def test_an_older_model_is_replaced(choice: ModelChoice, tmp_path: Path) -> None:
    for _ in range(2):
        network = choice.build(num_classes=5)
        save_local_dir(choice, network.state_dict(), tmp_path / "model", 5, choice.input_config(64))
    loaded = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True)
    assert torch.equal(loaded.fc.weight, network.fc.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert len({path.stat().st_mode for path in (tmp_path / "model").iterdir()}) == 1, "who may read its files"


def test_models_of_timm_train_as_well() -> None:
    network = ModelChoice.named("test_resnet").build_for_training(4, 64, 0.1, 0.1, auxiliary=True)
    assert network.num_classes == 4


def test_wrong_models_are_named(tmp_path: Path, choice: ModelChoice) -> None:
    with pytest.raises(ModelError, match="nasnet_z"):
        ModelChoice.named("nasnet_z")
    with pytest.raises(ModelError, match=r"config\.json"):
        ModelChoice.named(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"license": "mit"}))
    with pytest.raises(ModelError, match="architecture"):
        ModelChoice.named(f"local-dir:{tmp_path}")
    with pytest.raises(ModelError, match="nasnet"):
        ModelChoice("nasnet", {"num_filters": 0}).build()
    save_local_dir(choice, choice.build(num_classes=5).state_dict(), tmp_path / "model", 5, choice.input_config(64))
    wider = ModelChoice.of_genotype(ONE_BLOCK, num_cells=1, num_filters=8, stem="imagenet").build(num_classes=5)
    with pytest.raises(ModelError, match="local-dir:"):
        load_weights(wider, f"local-dir:{tmp_path / 'model'}")
