"""The files that ``pretrained=True`` fetches, and weights loaded into networks that differ from the file's."""

from __future__ import annotations

import hashlib
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, file_download
from safetensors.torch import save_file

from nasnet_det import FAMILY
from nasnet_det.weights import (
    PRETRAINED,
    PUBLISHED_WEIGHTS,
    PublishedWeights,
    WeightsError,
    load_published,
    published,
    resolve,
)
from nasnet_det.weights.download import HUB, Unreachable
from tests.helpers import assert_same
from tests.weights.stored import Server, small, stored, write_keras

NETWORK = {"num_cells": 1, "num_filters": 8, "stem_channels": 8, "num_classes": 7}


def keras_file(path: Path, **other: object) -> Path:
    return write_keras(path, stored(small(**other), "keras"))


@pytest.fixture
def miniature(server: Server, tmp_path: Path) -> PublishedWeights:
    """A published Keras file of a small network."""
    server.files["small.h5"] = keras_file(tmp_path / "small.h5").read_bytes()
    digest = hashlib.md5(server.files["small.h5"]).hexdigest()
    return PublishedWeights("small.keras", NETWORK, server.url("small.h5"), f"md5:{digest}")


def fresh(**other: object) -> torch.nn.Module:
    """A small network with other weights than the file's."""
    model = small(**other)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    return model


def assert_loads(source: PublishedWeights | str | Path) -> None:
    model = fresh()
    load_published(model, source)
    assert_same(model.state_dict(), small().state_dict())


def test_published_weights_are_converted_once_and_work_offline(
    miniature: PublishedWeights, server: Server, cache: Path
) -> None:
    for _ in range(2):
        assert_loads(miniature)
        server.files.clear()
    assert server.asked == ["small.h5"]
    assert (cache / "small.keras-v1.safetensors").is_file()


def test_a_file_that_is_another_network_leaves_model_and_cache(server: Server, cache: Path, tmp_path: Path) -> None:
    server.files["small.h5"] = keras_file(tmp_path / "other.h5", num_cells=2).read_bytes()
    model = fresh()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"small\.h5"):
        load_published(model, PublishedWeights("small.keras", NETWORK, server.url("small.h5")))
    assert_same(model.state_dict(), before)
    assert not list(cache.glob("*.safetensors"))


@pytest.mark.parametrize("form", ["path", "text", "folder", "url", "file url"])
def test_any_place_of_a_file(form: str, server: Server, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    path = keras_file(tmp_path / "folder" / "any.h5")
    server.files["any.h5"] = path.read_bytes()
    source = {
        "path": path,
        "text": str(path),
        "folder": tmp_path / "folder",
        "url": server.url("any.h5"),
        "file url": path.as_uri(),
    }[form]
    assert_loads(source)


def test_other_classes_need_a_word(tmp_path: Path) -> None:
    path = keras_file(tmp_path / "seven.h5")
    model = fresh(num_classes=3)
    with pytest.raises(WeightsError, match=r"seven\.h5.* 3.*num_classes=7.*classifier='new'"):
        load_published(model, path)
    load_published(model, path, classifier="new")
    assert torch.equal(model.fc.weight, torch.full((3, 192), 0.5))
    assert torch.equal(model.stem.conv.weight, small().stem.conv.weight)


def test_other_image_channels_are_adapted_as_timm_does(tmp_path: Path) -> None:
    path = keras_file(tmp_path / "rgb.h5")
    grey = fresh(in_chans=1)
    load_published(grey, path)
    torch.testing.assert_close(grey.stem.conv.weight, small().stem.conv.weight.sum(1, keepdim=True))


def test_parts_that_the_file_lacks_stay(tmp_path: Path) -> None:
    path = keras_file(tmp_path / "plain.h5")
    model = fresh(aux_head=True, img_size=96)
    load_published(model, path)
    assert torch.equal(model.aux_head.fc.weight, torch.full((7, 768), 0.5))
    assert torch.equal(model.fc.weight, small().fc.weight)
    bare = fresh(num_classes=0)
    bare.prune_intermediate_layers([1])
    load_published(bare, path)
    assert torch.equal(bare.stem.conv.weight, small().stem.conv.weight)


def test_a_network_that_the_file_is_not_of_is_unchanged(tmp_path: Path) -> None:
    path = keras_file(tmp_path / "narrow.h5")
    model = fresh(num_filters=12)
    with pytest.raises(WeightsError, match=r"narrow\.h5"):
        load_published(model, path)
    assert torch.equal(model.stem.conv.weight, torch.full((8, 3, 3, 3), 0.5))


def test_what_pretrained_tries_is_published_for_that_member() -> None:
    for name, tried in PRETRAINED.items():
        assert name in FAMILY
        assert [PUBLISHED_WEIGHTS[entry].model for entry in tried] == [name] * len(tried)


def test_the_hashes_are_those_that_keras_publishes() -> None:
    nasnet = pytest.importorskip("keras.src.applications.nasnet")
    source = Path(nasnet.__file__).read_text()
    for name, path in (("mobile", nasnet.NASNET_MOBILE_WEIGHT_PATH), ("large", nasnet.NASNET_LARGE_WEIGHT_PATH)):
        weights = PUBLISHED_WEIGHTS[f"nasnet_a_{name}.keras"]
        assert weights.location == path
        assert f'file_hash="{weights.digest.removeprefix("md5:")}"' in source.split(f"nasnet_{name}.h5")[1]


def place(monkeypatch: pytest.MonkeyPatch, *weights: PublishedWeights) -> None:
    """Let ``pretrained=True`` of a member try these instead."""
    monkeypatch.setattr(published, "PUBLISHED_WEIGHTS", {entry.name: entry for entry in weights})
    monkeypatch.setattr(published, "PRETRAINED", {"small": tuple(entry.name for entry in weights)})


def test_the_second_place_is_tried_when_the_first_is_out_of_reach(
    miniature: PublishedWeights, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = PublishedWeights("small.gone", NETWORK, server.url("gone.h5"))
    place(monkeypatch, gone, miniature)
    assert resolve("small").name == "small.keras-v1.safetensors"
    asked = len(server.asked)
    assert resolve("small").name == "small.keras-v1.safetensors"
    assert len(server.asked) == asked, "what is cached needs no network"


@pytest.mark.parametrize("problem", ["hash", "network", "format", "extra"])
def test_a_file_that_is_of_no_use_is_passed_over_with_a_warning(
    problem: str,
    miniature: PublishedWeights,
    server: Server,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A wrong hash, another network's weights, a page instead of a file, and a format whose reader is not installed."""
    server.files["bad"] = keras_file(tmp_path / "two.h5", num_cells=2).read_bytes()
    if problem == "format":
        server.files["bad"] = b"<html>" * 100
    if problem == "extra":
        server.files["bad"] = _tar_of(tmp_path, {"model.ckpt.index": b"", "model.ckpt.data-00000-of-00001": b""})
        monkeypatch.setitem(sys.modules, "tensorflow", None)
    bad = PublishedWeights("small.bad", NETWORK, server.url("bad"), "md5:00" if problem == "hash" else None)
    place(monkeypatch, bad, miniature)
    assert resolve("small").name == "small.keras-v1.safetensors"
    assert "bad" in caplog.text
    assert not list(cache.glob("small.bad*.safetensors"))
    place(monkeypatch, bad)
    cache_before = sorted(cache.iterdir())
    with pytest.raises(WeightsError, match="bad"):
        resolve("small")
    assert sorted(cache.iterdir()) == cache_before


def _tar_of(folder: Path, files: dict[str, bytes]) -> bytes:
    with tarfile.open(folder / "made.tar", "w") as tar:
        for name, content in files.items():
            (folder / name).write_bytes(content)
            tar.add(folder / name, name)
    return (folder / "made.tar").read_bytes()


def test_without_a_network_every_place_is_named_once(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (PublishedWeights(f"small.{n}", NETWORK, server.url(f"{n}.h5")) for n in ("one", "two"))
    place(monkeypatch, first, second)
    with pytest.raises(Unreachable, match=r"one\.h5.*two\.h5") as caught:
        resolve("small")
    assert str(caught.value).count("file=PATH") == 1 and not caplog.text


def test_weights_from_a_hub(server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(small().state_dict(), tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    path = "owner/repository/resolve/main/model.safetensors"
    server.files[path] = content
    server.headers[path] = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": "0" * 40}
    template = server.url("{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    # Clients before 1.0 have it under a name of their own.
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    weights = PublishedWeights("small.hub", NETWORK, f"{HUB}owner/repository")
    assert_loads(weights)
    server.files.clear()
    assert_loads(weights)
    path = "owner/older/resolve/main/pytorch_model.bin"  # timm's other name; cache_dir is the client's, as in timm
    server.files[path], server.headers[path] = content, {"ETag": '"1"', "X-Repo-Commit": "0" * 40}
    file = resolve(f"{HUB}owner/older", tmp_path / "mine")
    assert file.is_relative_to(tmp_path / "mine") and file.read_bytes() == content
    with pytest.raises(Unreachable, match="hf-hub:owner/nothing"):
        resolve(f"{HUB}owner/nothing")
    with pytest.raises(WeightsError, match="hf-hub:owner"):
        resolve(f"{HUB}owner")
