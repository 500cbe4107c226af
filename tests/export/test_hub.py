"""Hub folders: timm brings back the same model, and the card says what the weights are and are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from nasnet_det import Genotype
from nasnet_det.export import push_run_to_hub, push_to_hub, save_hub_folder
from tests.helpers import ONE_BLOCK, FakeHub

WEIGHTS, LIMITS = "Random numbers, seed 0.", "Not trained at all."


def found() -> Any:
    torch.manual_seed(0)
    return timm.create_model("nasnet", genotype=ONE_BLOCK, num_cells=1, num_filters=4, num_classes=3).eval()


def test_a_found_cells_model_comes_back(tmp_path: Path) -> None:
    model = found()
    folder = save_hub_folder(model, tmp_path / "hub", WEIGHTS, LIMITS)
    assert {file.name for file in folder.iterdir()} == {
        "README.md",
        "config.json",
        "genotype.json",
        "model.safetensors",
    }
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)
    assert loaded.genotype == Genotype.load(folder / "genotype.json") == ONE_BLOCK


def test_transformers_load_the_folder(tmp_path: Path) -> None:
    """Of a config that names the classes among the arguments, too, transformers would pass their number twice."""
    folder = save_hub_folder(found(), tmp_path / "hub", WEIGHTS)
    config = json.loads((folder / "config.json").read_text())
    assert config["num_classes"] == 3 and "num_classes" not in config["model_args"]
    transformers = pytest.importorskip("transformers")
    loaded = transformers.TimmWrapperForImageClassification.from_pretrained(folder).eval()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded(x).logits, found()(x))


def test_the_card_says_what_the_weights_are_and_are_not(tmp_path: Path) -> None:
    card = (save_hub_folder(found(), tmp_path / "hub", WEIGHTS, LIMITS, license="mit") / "README.md").read_text()
    for text in (WEIGHTS, LIMITS, "license: mit", "mine", "a search", "3 classes", "local-dir:"):
        assert text in card
    assert "ImageNet" not in card.split("## Use")[0]  # nothing is claimed that was not said


def test_a_papers_accuracy_is_named_as_the_papers(tmp_path: Path) -> None:
    model = timm.create_model("darts_v1_cifar", num_cells=1, num_filters=4, stem_channels=12)
    card = (save_hub_folder(model, tmp_path / "hub", WEIGHTS) / "README.md").read_text()
    limits = card.split("## What they are not")[1].split("## Use")[0]
    assert "97.00" in limits and "arXiv:1806.09055" in limits and "says nothing of these" in limits


def test_what_cannot_be_published_is_refused(tmp_path: Path) -> None:
    diverged = found()
    diverged.fc.bias.data[1] = float("nan")
    features = timm.create_model("nasnet", genotype=ONE_BLOCK, num_cells=1, num_filters=4, features_only=True)
    for model, weights, license, words in (
        (found(), "  ", "mit", "weights"),
        (found(), WEIGHTS, "mit\ntags: [best]", "license"),
        (diverged, WEIGHTS, "mit", "fc.bias"),
        (features, WEIGHTS, "mit", "FeatureGetterNet|features_only"),
    ):
        with pytest.raises(ValueError, match=words):
            save_hub_folder(model, tmp_path / "hub", weights, license=license)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_whole_keeps_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_hub_folder(found(), tmp_path / "hub", WEIGHTS)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(self: Any, path: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Genotype, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_hub_folder(found(), folder, "Others.")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_what_is_pushed_can_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, model = FakeHub(tmp_path), found()
    assert push_to_hub(model, "me/found", WEIGHTS, private=True, api=hub) == "https://hub/me/found"
    assert hub.private
    loaded = timm.create_model(f"local-dir:{tmp_path / 'me' / 'found'}", pretrained=True).eval()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)
    assert "hf-hub:me/found" in (tmp_path / "me" / "found" / "README.md").read_text()

    def download(repo_id: str, filename: str, **_: Any) -> str:
        return str(tmp_path / repo_id / filename)

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", download)
    from_hub = timm.create_model("hf-hub:me/found", pretrained=True).eval()
    torch.testing.assert_close(from_hub(x), model(x), rtol=0, atol=0)
    features = timm.create_model("hf-hub:me/found", pretrained=True, features_only=True)
    assert [one.shape[2] for one in features(x)] == [31, 16, 8, 4, 2]


def test_weights_without_a_description_are_not_pushed() -> None:
    with pytest.raises(ValueError, match="weights"):
        push_to_hub(found(), "me/found", "", api=FakeHub(Path("nowhere")))


def test_a_run_is_pushed_without_checkpoints_and_logs(tmp_path: Path) -> None:
    run, hub = tmp_path / "run", FakeHub(tmp_path / "store")
    run.mkdir()
    with pytest.raises(ValueError, match=r"run.*model\.safetensors"):
        push_run_to_hub(run, "me/hens", api=hub)
    assert not hub.store.exists()
    shown = {"model.safetensors", "config.yaml", "README.md", "samples/1-yard.jpg"}
    for name in (*shown, "last.pth", "run.json", "tensorboard/events.out", "samples.zip"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).touch()
    assert push_run_to_hub(run, "me/hens", api=hub) == "https://hub/me/hens"
    pushed = hub.store / "me" / "hens"
    assert {path.relative_to(pushed).as_posix() for path in pushed.rglob("*") if path.is_file()} == shown
