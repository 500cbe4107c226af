"""Reading CIFAR-10: both forms, the sums, the split."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from nasnet_det.training.data import cifar10
from nasnet_det.training.data.cifar10 import (
    CLASSES,
    RECORD_BYTES,
    TEST_BATCH,
    TRAIN_BATCHES,
    DataError,
    is_cifar10,
    load_cifar10,
    parse_binary,
    split,
    to_binary,
)


def test_reads_the_real_data(cifar10_root: Path) -> None:
    data = load_cifar10(cifar10_root)
    assert data.train.pictures.shape == (50_000, 3, 32, 32) and data.test.pictures.shape == (10_000, 3, 32, 32)
    assert np.bincount(data.train.labels).tolist() == [5_000] * 10
    for channel, (mean, std) in enumerate(zip(cifar10.MEAN, cifar10.STD, strict=True)):
        counts = np.bincount(data.train.pictures[:, channel].ravel(), minlength=256) / (50_000 * 1024)
        values = np.arange(256) / 255
        assert np.sum(counts * values) == pytest.approx(mean, abs=1e-7)
        assert np.sqrt(np.sum(counts * (values - mean) ** 2)) == pytest.approx(std, abs=1e-7)


def test_binary_round_trip(cifar_like: Path) -> None:
    content = (cifar_like / "data_batch_1.bin").read_bytes()
    images = parse_binary(content)
    assert images.pictures.shape == (20, 3, 32, 32)
    # A record is the label, then the red, green and blue planes row by row.
    assert content[RECORD_BYTES] == images.labels[1]
    assert content[RECORD_BYTES + 1 + 1024 + 32 + 5] == images.pictures[1, 1, 1, 5]
    assert to_binary(images) == content


def test_order_of_the_training_batches(cifar_like: Path) -> None:
    data = load_cifar10(cifar_like, official=False)
    first = parse_binary((cifar_like / "data_batch_2.bin").read_bytes())
    np.testing.assert_array_equal(data.train.pictures[20:40], first.pictures)
    assert len(data.train) == 100 and len(data.test) == 20


def test_the_python_form_holds_the_same(cifar_like: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, sums = tmp_path / CIFAR10.base_folder, {}
    folder.mkdir()
    for name in (*TRAIN_BATCHES, TEST_BATCH, "batches.meta"):
        content: dict[str, object] = {"label_names": list(CLASSES)}
        if name != "batches.meta":
            images = parse_binary((cifar_like / f"{name}.bin").read_bytes())
            content = {"data": images.pictures.reshape(len(images), -1), "labels": images.labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    assert is_cifar10(tmp_path) and is_cifar10(folder)
    with pytest.raises(DataError, match=CIFAR10.base_folder):
        load_cifar10(tmp_path)  # not the published sums: nothing is unpickled
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in TRAIN_BATCHES])
    monkeypatch.setattr(CIFAR10, "test_list", [[TEST_BATCH, sums[TEST_BATCH]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    binary = load_cifar10(cifar_like, official=False)
    for root in (tmp_path, folder):
        python = load_cifar10(root)
        for one, other in ((python.train, binary.train), (python.test, binary.test)):
            np.testing.assert_array_equal(one.pictures, other.pictures)
            np.testing.assert_array_equal(one.labels, other.labels)


def test_a_truncated_file_is_named(cifar_like: Path) -> None:
    content = (cifar_like / "data_batch_1.bin").read_bytes()
    with pytest.raises(DataError, match=r"some\.bin.* \d+ bytes"):
        parse_binary(content[:-1], "some.bin")


def test_labels_beyond_nine_are_refused() -> None:
    with pytest.raises(DataError, match="10"):
        parse_binary(bytes([10]) + bytes(3072))


def test_other_data_are_refused_unless_asked_for(cifar_like: Path) -> None:
    with pytest.raises(DataError, match=r"data_batch_1\.bin.*30730000.*61460"):
        load_cifar10(cifar_like)


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    content = bytearray(10_000 * RECORD_BYTES)
    for name in (*TRAIN_BATCHES, TEST_BATCH):
        (tmp_path / f"{name}.bin").write_bytes(content)
    found = hashlib.md5(content).hexdigest()
    with pytest.raises(DataError, match=rf"data_batch_1\.bin.*5dd7e06a.*{found}"):
        load_cifar10(tmp_path)


def test_a_wrong_root_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.*prepare-cifar10"):
        load_cifar10(tmp_path / "nowhere")
    with pytest.raises(DataError, match="cifar-10-batches-bin"):
        load_cifar10(tmp_path)
    (tmp_path / "data_batch_2.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"lacks data_batch_1\.bin, data_batch_3\.bin"):
        load_cifar10(tmp_path)


def test_split_is_fixed_disjoint_and_nested() -> None:
    train, validation = split(50_000, 5_000, 45_000, seed=0)
    assert sorted([*train, *validation]) == list(range(50_000))
    # Recorded from this very generator: whoever changes it changes which images every search was judged on.
    assert validation[:4].tolist() == [11841, 19602, 45519, 25747]
    fewer_train, fewer_validation = split(50_000, 500, 2_000, seed=0)
    np.testing.assert_array_equal(fewer_validation, validation[:500])
    np.testing.assert_array_equal(fewer_train, train[:2_000])
    assert not np.array_equal(split(50_000, 5_000, 45_000, seed=1)[1], validation)


@pytest.mark.parametrize(("validation", "train"), [(0, 10), (10, 0), (60, 41)])
def test_a_split_of_too_few_is_refused(validation: int, train: int) -> None:
    with pytest.raises(DataError, match="100"):
        split(100, validation, train, seed=0)
