"""A child's training: settings, result, failures that are results, determinism."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nasnet_det.search import child
from nasnet_det.search.child import ChildResult, DeviceLost, check_child_config, train_child, train_to
from nasnet_det.search.child_config import ChildConfig
from nasnet_det.training.data.cifar10 import DataError
from nasnet_det.training.execution import choose_execution
from nasnet_det.training.recipe import RecipeError
from nasnet_det.training.run import EpochReport
from tests.helpers import ONE_BLOCK, write_cifar


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ChildConfig:
    """A cheap proxy on made images, each class of its own colour."""
    return ChildConfig(
        str(write_cifar(tmp_path_factory.mktemp("cifar"), 50)),
        num_cells=1,
        num_filters=4,
        epochs=2,
        batch_size=20,
        train_images=100,
        validation_images=50,
        official_data=False,
    )


def test_a_child_is_trained_and_measured(config: ChildConfig) -> None:
    reports: list[EpochReport] = []
    result = train_child(ONE_BLOCK, config, seed=0, device="cpu", progress=reports.append)
    assert result.status == "ok" and result.message == "" and result.device == "cpu"
    assert result.reward == result.accuracies[-1] == reports[-1].top1
    assert len(result.accuracies) == len(result.losses) == len(reports) == 2
    assert result.losses[1] < result.losses[0]
    assert result.num_params == sum(p.numel() for p in child.child_network(ONE_BLOCK, config).parameters())


def test_the_same_seed_gives_the_same_result(config: ChildConfig) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    results = [train_child(ONE_BLOCK.to_dict(), config, seed, "cpu") for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert replace(results[0], seconds=0.0) == replace(results[1], seconds=0.0)
    assert results[0].losses != results[2].losses


def test_a_child_continued_from_checkpoints_is_the_undisturbed_one(config: ChildConfig) -> None:
    config = replace(config, epochs=4)
    whole = train_child(ONE_BLOCK, config, seed=0, device="cpu")
    checkpoint: bytes | None = None
    for epochs in (1, 3, 4):
        again = train_to(ONE_BLOCK, config, 0, "cpu", epochs, checkpoint)
        trained = train_to(ONE_BLOCK, config, 0, "cpu", epochs, again.checkpoint)  # a job done twice trains nothing
        assert replace(trained.result, seconds=0.0) == replace(again.result, seconds=0.0)
        assert len(again.result.accuracies) == epochs and again.result.status == "ok"
        checkpoint = again.checkpoint
    assert checkpoint is None and replace(again.result, seconds=0.0) == replace(whole, seconds=0.0)


def test_a_child_with_a_damaged_checkpoint_begins_again(config: ChildConfig) -> None:
    first = train_to(ONE_BLOCK, config, 0, "cpu", 1)
    assert first.checkpoint is not None
    other = train_to(ONE_BLOCK, config, 1, "cpu", 1).checkpoint
    for checkpoint in (first.checkpoint[:1000], b"", b"x" * 50, other):
        continued = train_to(ONE_BLOCK, config, 0, "cpu", 2, checkpoint)
        assert continued.result.losses[0] == first.result.losses[0] and len(continued.result.losses) == 2


def test_a_rung_does_not_hide_a_stop_rule(config: ChildConfig) -> None:
    strict = replace(config, epochs=3, stop_rules=((1, 1.1),))
    trained = train_to(ONE_BLOCK, strict, 0, "cpu", 1)
    assert trained.result.status == "stopped_early" and trained.checkpoint is None


def test_the_papers_child() -> None:
    """Appendix A.1 and A.6; the network of TF-slim's cifar_config at N = 2."""
    config = ChildConfig("data")
    assert (config.num_cells, config.epochs, config.momentum) == (2, 20, 0.9)
    assert (config.train_images, config.validation_images) == (45_000, 5_000)
    recipe = config.recipe
    assert recipe.schedule == "cosine" and recipe.warmup_epochs == 0 and recipe.augmentation == {"whitening": "channel"}
    network = child.child_network(ONE_BLOCK, config)
    assert [plan.reduces for plan in network.plan] == [False, False, True, False, False, True, False, False]


def test_a_diverging_child_is_a_result(config: ChildConfig) -> None:
    wild = replace(config, learning_rate=1e12, clip_gradient_norm=0.0)
    result = train_child(ONE_BLOCK, wild, seed=0, device="cpu")
    assert result.status == "diverged" and result.reward == 0.0 and "loss is" in result.message


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("shapes do not match"), "crashed"),
        (ZeroDivisionError("division by zero"), "crashed"),
    ],
)
def test_a_failing_child_is_a_result(
    config: ChildConfig, monkeypatch: pytest.MonkeyPatch, error: Exception, status: str
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(child, "child_network", fail)
    result = train_child(ONE_BLOCK, config, seed=3, device="cpu")
    assert (result.status, result.reward, result.num_params, result.seed) == (status, 0.0, 0, 3)
    assert str(error) in result.message


def test_a_child_beyond_the_memory_is_not_built(config: ChildConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "child_network", lambda *_: pytest.fail("it is built"))
    result = train_child(ONE_BLOCK, replace(config, num_cells=100, num_filters=10_000), seed=0, device="cpu")
    assert result.status == "out_of_memory" and "GiB" in result.message


def test_a_lost_device_is_not_the_childs_failure(config: ChildConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: torch.device) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    with pytest.raises(DeviceLost, match="illegal memory access"):
        child._judge(RuntimeError("any"), torch.device("cuda"))


def test_a_hopeless_child_is_stopped(config: ChildConfig) -> None:
    strict = replace(config, epochs=3, stop_rules=((1, 1.1), (3, 1.1)))
    result = train_child(ONE_BLOCK, strict, seed=0, device="cpu")
    assert result.status == "stopped_early" and "epoch 1" in result.message
    assert result.accuracies == (result.reward,)
    lenient = replace(config, stop_rules=((1, 0.0), (2, 1.1)))
    assert train_child(ONE_BLOCK, lenient, seed=0, device="cpu").status == "ok"


def test_what_progress_raises_is_the_callers(config: ChildConfig) -> None:
    class Pruned(Exception):
        pass

    def prune(report: EpochReport) -> None:
        raise Pruned("enough")

    with pytest.raises(Pruned, match="enough"):
        train_child(ONE_BLOCK, config, seed=0, device="cpu", progress=prune)


def test_what_is_wrong_with_the_search_is_no_result(config: ChildConfig, tmp_path: Path) -> None:
    for wrong, words in (
        (replace(config, data=str(tmp_path / "nowhere")), "nowhere"),
        (replace(config, train_images=201), r"250.*201.*50"),
        (replace(config, official_data=True), "data_batch_1"),
        (replace(config, whitening="zca"), "whitening"),  # type: ignore[arg-type]
        (replace(config, image_size=33), "image_size"),
        (replace(config, recipe_settings={"augmentation.cutout": 50}), "cutout"),
    ):
        with pytest.raises(DataError, match=words):
            check_child_config(wrong, "cpu")
        with pytest.raises(DataError, match=words):
            train_child(ONE_BLOCK, wrong, seed=0, device="cpu")
    for settings, words in (
        ({"epochs": 3}, "epochs"),
        ({"warmup": 1}, "warmup"),
        ({"label_smoothing": 2}, "label_smoothing"),
        ({"aux_weight": 0.4}, "aux_weight"),
    ):
        with pytest.raises(RecipeError, match=words):
            check_child_config(replace(config, recipe_settings=settings), "cpu")
    with pytest.raises(ValueError, match="epochs"):
        check_child_config(replace(config, epochs=0), "cpu")
    check_child_config(config, "cpu")


def test_a_childs_classifier_starts_at_zero_as_the_recipe_says(config: ChildConfig) -> None:
    network = child.child_network(ONE_BLOCK, replace(config, recipe_settings={"zero_classifier": True}))
    assert not network.get_classifier().weight.any()


def test_a_child_sees_smaller_images_under_further_settings_of_the_recipe(config: ChildConfig) -> None:
    settings = {"optimizer": "sgd", "ema_decay": 0.9, "augmentation.cutout": 4}
    config = replace(config, image_size=12, recipe_settings=settings)
    recipe = config.recipe
    assert (recipe.optimizer, recipe.ema_decay, recipe.augmentation["cutout"]) == ("sgd", 0.9, 4)
    assert recipe.augmentation["pad"] == 1
    batches = child.batches_of(config, choose_execution("cpu"), seed=0)
    sizes = {images.shape[1:] for images, _ in (*batches.training(0), *batches.validating())}
    assert sizes == {(3, 12, 12)}
    result = train_child(ONE_BLOCK, config, seed=0, device="cpu")
    assert result.status == "ok" and ChildConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_progressive_sizes_follow_the_childs_epochs(config: ChildConfig) -> None:
    config = replace(config, epochs=2, recipe_settings={"augmentation.sizes": [16, 32]})
    batches = child.batches_of(config, choose_execution("cpu"), seed=0)
    assert [next(iter(batches.training(epoch)))[0].shape[-1] for epoch in range(2)] == [16, 32]


def test_settings_and_results_are_plain(config: ChildConfig) -> None:
    config = replace(config, stop_rules=((1, 0.2), (5, 0.5)))
    assert ChildConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="filters"):
        ChildConfig.from_dict({"data": "x", "filters": 3})
    result = ChildResult("ok", 0.5, (0.4, 0.5), (2.0, 1.5), 10, 1.0, "cpu", 3)
    assert ChildResult(**result.to_dict() | {"accuracies": (0.4, 0.5), "losses": (2.0, 1.5)}) == result
    with pytest.raises(ValueError, match="fine"):
        ChildResult("fine", 0.5)  # type: ignore[arg-type]
