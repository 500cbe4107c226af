"""Files of every kind, told apart by their bytes; damaged, missing and hostile ones refused by name."""

from __future__ import annotations

import io
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nasnet_det.detection.convert.checkpoint_files import read_checkpoint_file
from nasnet_det.detection.convert.identity import CheckpointError
from nasnet_det.weights import WeightsError, arrays, read_arrays
from tests.helpers import Hostile, assert_same
from tests.weights.stored import write_keras

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(40000)}


def write_checkpoint(prefix: Path) -> Path:
    tf = pytest.importorskip("tensorflow").compat.v1
    with tf.Graph().as_default(), tf.Session() as session:
        for name, value in TENSORS.items():
            tf.Variable(value.numpy(), name=name)
        tf.Variable(np.float32(3), name="global_step")
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(prefix), write_meta_graph=False, write_state=False)
    return prefix


def as_safetensors(folder: Path) -> Path:
    save_file(TENSORS, folder / "weights.bin")
    return folder / "weights.bin"


def as_pth(folder: Path) -> Path:
    torch.save(TENSORS, folder / "weights.pth")
    return folder / "weights.pth"


def as_old_pth(folder: Path) -> Path:
    torch.save({"state_dict": TENSORS}, folder / "old.pth", _use_new_zipfile_serialization=False)
    return folder / "old.pth"


def as_keras(folder: Path) -> Path:
    return write_keras(folder / "weights.h5", {f"layer/{name}": value.numpy() for name, value in TENSORS.items()})


def as_checkpoint(folder: Path) -> Path:
    return write_checkpoint(folder / "model.ckpt")


KINDS: list[Callable[[Path], Path]] = [as_safetensors, as_pth, as_old_pth, as_keras, as_checkpoint]


def assert_whole(path: Path) -> None:
    found = {name.removesuffix(":0"): torch.from_numpy(value) for name, value in read_arrays(path).items()}
    assert_same({name.removeprefix("layer/"): value for name, value in found.items()}, TENSORS)


@pytest.mark.parametrize("write", KINDS)
def test_a_file_a_folder_and_an_archive(write: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = write(folder)
    assert_whole(path)
    assert_whole(folder)
    for ending in ("tar", "tar.gz"):
        archive = tmp_path / f"published.{ending}"
        with tarfile.open(archive, f"w:{ending.removeprefix('tar').removeprefix('.')}") as tar:
            tar.add(folder, "nested/weights")
        assert_whole(archive)
    assert {entry.name for entry in tmp_path.iterdir()} == {"folder", "published.tar", "published.tar.gz"}


@pytest.mark.parametrize("write", KINDS[:-1])
@pytest.mark.parametrize("share", [0.999, 0.5, 0.01])
def test_a_truncated_file_is_refused_by_name(write: Callable[[Path], Path], share: float, tmp_path: Path) -> None:
    path = write(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match=r"weights\.|old\.pth") as caught:
        read_arrays(path)
    assert str(path) in str(caught.value)


def test_a_checkpoints_other_files_name_it_too(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model.ckpt-7")
    assert_whole(tmp_path / "model.ckpt-7.index")
    assert_whole(tmp_path / "model.ckpt-7.data-00000-of-00001")


@pytest.mark.parametrize("part", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:40] + b"!" + data[41:]])
def test_a_damaged_checkpoint_is_refused_by_name(part: str, damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    prefix = write_checkpoint(tmp_path / "model.ckpt")
    file = prefix.with_name(f"model.ckpt.{part}")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(WeightsError, match=r"model\.ckpt"):
        read_arrays(prefix)


def test_a_checkpoint_without_tensorflow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.ckpt.index").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match=r"pip install 'nasnet-det\[tensorflow\]'"):
        read_arrays(tmp_path / "model.ckpt")


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "published.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(as_pth(tmp_path), "weights.pth")
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(WeightsError, match=r"published\.tar\.gz"):
        read_arrays(archive)


@pytest.mark.parametrize("name", ["../outside.pth", "/outside.pth", "a/../../outside.pth"])
def test_an_archive_cannot_write_outside_itself(name: str, tmp_path: Path) -> None:
    archive = tmp_path / "hostile.tar"
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 4
        tar.addfile(member, io.BytesIO(b"data"))
    with pytest.raises(WeightsError, match=r"outside\.pth"):
        read_arrays(archive)
    assert not (tmp_path / "outside.pth").exists()


def test_links_in_an_archive_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "secret.pth").write_bytes(as_pth(tmp_path).read_bytes())
    archive = tmp_path / "hostile.tar"
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo("weights.pth")
        member.type, member.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.pth")
        tar.addfile(member)
    with pytest.raises(WeightsError, match=r"hostile\.tar"):
        read_arrays(archive)


@pytest.mark.parametrize("new", [True, False])
def test_a_pickle_executes_nothing(new: bool, tmp_path: Path) -> None:
    hostile = Hostile(tmp_path / "ran")
    torch.save({"a": hostile}, tmp_path / "hostile.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(WeightsError, match=r"hostile\.pth"):
        read_arrays(tmp_path / "hostile.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(hostile))
    with pytest.raises(WeightsError, match=r"plain\.pth"):
        read_arrays(tmp_path / "plain.pth")
    assert not (tmp_path / "ran").exists()


def test_what_holds_no_weights_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "page.h5").write_text("<html>404</html>")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pth")
    for path in ("page.h5", "empty.pth", "list.pth", "nothing.h5"):
        with pytest.raises(WeightsError, match=path):
            read_arrays(tmp_path / path)


def test_a_file_of_keras_3_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        file.create_dataset("layers/conv2d/vars/0", data=np.ones(3, np.float32))
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.5.0"}')
        archive.writestr("config.json", "{}")
        archive.write(tmp_path / "model.weights.h5", "model.weights.h5")
    for name in ("model.keras", "model.weights.h5"):
        with pytest.raises(WeightsError, match=rf"{name}.*Keras 3.*\.h5"):
            read_arrays(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"model\.keras.*Keras 3"):
        read_checkpoint_file(str(tmp_path / "model.keras"))


def test_a_file_of_several_networks_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "is_known", lambda state: {*state} == {*TENSORS})
    both = {f"{name}.{key}": value for name in ("student", "teacher") for key, value in TENSORS.items()}
    torch.save(both, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a\.pth: it holds.*student.*teacher"):
        read_arrays(tmp_path / "a.pth")


def test_a_folder_with_several_files_asks_for_one(tmp_path: Path) -> None:
    for name in ("first.pth", "second.pth"):
        torch.save(TENSORS, tmp_path / name)
    with pytest.raises(WeightsError, match=r"first\.pth, second\.pth"):
        read_arrays(tmp_path)


def test_a_folders_own_file_comes_before_those_below(tmp_path: Path) -> None:
    (tmp_path / "older").mkdir()
    torch.save({"a": torch.zeros(1)}, tmp_path / "older" / "weights.pth")
    assert read_arrays(tmp_path).keys() == {"a"}
    assert_whole(as_pth(tmp_path).parent)


def test_bfloat16_is_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3, dtype=torch.bfloat16)}, tmp_path / "half.safetensors")
    np.testing.assert_array_equal(read_arrays(tmp_path / "half.safetensors")["a"], np.ones(3, np.float32))


def test_wrappers_prefixes_are_removed_from_every_format(tmp_path: Path) -> None:
    save_file({"module.a": torch.ones(3)}, tmp_path / "a.safetensors")
    torch.save({"module.a": torch.ones(3)}, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        assert read_arrays(tmp_path / name).keys() == {"a"}


def test_the_prefix_of_all_names_is_removed_where_the_rest_are_a_network_s(tmp_path: Path) -> None:
    for prefix in ("_model.", "backbone.", "module.encoder."):
        torch.save({f"{prefix}stem.conv.weight": torch.ones(3), f"{prefix}a": torch.ones(3)}, tmp_path / "a.pth")
        assert read_arrays(tmp_path / "a.pth").keys() == {"stem.conv.weight", "a"}


def test_bombs_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_LEAST_ALLOWED", 2 << 20)  # what is allowed to any file
    archive = tmp_path / "bomb.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for number in range(3):
            member = tarfile.TarInfo(f"{number}.bin")
            member.size = 1 << 20
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(WeightsError, match=r"bomb\.tar\.gz"):
        read_arrays(archive)


def test_an_archive_of_very_many_members_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "many.tar"
    with tarfile.open(archive, "w") as tar:
        for number in range(10_001):
            tar.addfile(tarfile.TarInfo(str(number)))
    with pytest.raises(WeightsError, match="10000"):
        read_arrays(archive)


def test_a_member_with_a_very_long_name_is_not_read(tmp_path: Path) -> None:
    archive = tmp_path / "long.tar"
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(as_pth(tmp_path), "weights.pth")
        tar.addfile(tarfile.TarInfo("x" * (2 << 20)))
    with pytest.raises(WeightsError, match=r"long\.tar"):
        read_arrays(archive)


def test_a_tensor_that_stands_for_more_than_its_file_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1).expand(10**12)}, tmp_path / "endless.pth")
    with pytest.raises(WeightsError, match=r"endless\.pth"):
        read_arrays(tmp_path / "endless.pth")


def test_keras_files_lead_to_no_other_file(tmp_path: Path) -> None:
    write_keras(tmp_path / "secret.h5", {"layer/a": np.ones(3)})
    write_keras(tmp_path / "weights.h5", {"layer/b": np.ones(3)})
    with h5py.File(tmp_path / "weights.h5", "a") as file:
        file["linked"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/layer")
    assert list(read_arrays(tmp_path / "weights.h5")) == ["layer/b:0"]
    with h5py.File(tmp_path / "weights.h5", "a") as file:
        file["layer"].create_dataset("c", (4,), "f4", external=[(str(tmp_path / "secret.h5"), 0, 16)])
    with pytest.raises(WeightsError):
        read_arrays(tmp_path / "weights.h5")
    with h5py.File(tmp_path / "large.h5", "w") as file:
        file.create_group("layer").create_dataset("a", (10**12,), "f4", chunks=(1000,))
    with pytest.raises(WeightsError, match=r"large\.h5"):
        read_arrays(tmp_path / "large.h5")
