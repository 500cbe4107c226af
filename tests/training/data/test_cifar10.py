"""Reading CIFAR-10: both forms, the sums, the restricted unpickler, the split."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from nasnet_det.training.data import cifar10
from nasnet_det.training.data.cifar10 import (
    PICKLED,
    RECORD_BYTES,
    TEST_BATCH,
    TRAIN_BATCHES,
    DataError,
    load_cifar10,
    parse_binary,
    parse_pickled,
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


def _pickled(content: object) -> bytes:
    return pickle.dumps(content, protocol=2)


def test_pickled_form_holds_the_same(cifar_like: Path, tmp_path: Path) -> None:
    for name in (*TRAIN_BATCHES, TEST_BATCH):
        images = parse_binary((cifar_like / f"{name}.bin").read_bytes())
        rows = images.pictures.reshape(len(images), -1)
        buffer = _in_python_2({b"data": rows, b"labels": images.labels.tolist()})
        (tmp_path / PICKLED.folder).mkdir(exist_ok=True)
        (tmp_path / PICKLED.folder / name).write_bytes(buffer)
    pickled, binary = load_cifar10(tmp_path, official=False), load_cifar10(cifar_like, official=False)
    np.testing.assert_array_equal(pickled.train.pictures, binary.train.pictures)
    np.testing.assert_array_equal(pickled.test.labels, binary.test.labels)


def _in_python_2(batch: dict[bytes, object]) -> bytes:
    """A pickle whose byte strings are Python 2's, as in the published files: no bytes objects of Python 3."""

    class Pickler(pickle._Pickler):  # the Python implementation, whose way of writing bytes can be replaced
        dispatch = dict(pickle._Pickler.dispatch)

        def save_bytes(self, value: bytes) -> None:
            self.write(b"T" + struct.pack("<i", len(value)) + value)

        dispatch[bytes] = save_bytes

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(batch)
    return buffer.getvalue()


class _Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("where", ["bare", "inside"])
def test_a_pickle_that_would_run_something_runs_nothing(tmp_path: Path, where: str) -> None:
    harmful = _Harmful(tmp_path / "made")
    content = _pickled(harmful if where == "bare" else {"labels": [harmful]})
    with pytest.raises(DataError, match="mkdir"):
        parse_pickled(content, "batch")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [b"", b"no pickle", _pickled([1, 2]), _pickled({"data": 1})])
def test_what_is_no_batch_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="batch_7"):
        parse_pickled(content, "batch_7")


def test_a_truncated_file_is_named(cifar_like: Path) -> None:
    content = (cifar_like / "data_batch_1.bin").read_bytes()
    with pytest.raises(DataError, match=r"some\.bin: \d+ bytes are not whole records"):
        parse_binary(content[:-1], "some.bin")


def test_labels_beyond_nine_are_refused() -> None:
    with pytest.raises(DataError, match="0 to 9"):
        parse_binary(bytes([10]) + bytes(3072))


def test_other_data_are_refused_unless_asked_for(cifar_like: Path) -> None:
    with pytest.raises(DataError, match=r"data_batch_1\.bin: 61460 bytes instead of 30730000"):
        load_cifar10(cifar_like)


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    content = bytearray(10_000 * RECORD_BYTES)
    for name in (*TRAIN_BATCHES, TEST_BATCH):
        (tmp_path / f"{name}.bin").write_bytes(content)
    found = hashlib.md5(content).hexdigest()
    with pytest.raises(DataError, match=rf"data_batch_1\.bin: MD5 sum {found} instead of 5dd7e06a"):
        load_cifar10(tmp_path)


def test_a_wrong_root_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no folder; run `nasnet-det prepare-cifar10 ROOT"):
        load_cifar10(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no CIFAR-10"):
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
    with pytest.raises(DataError, match="of 100"):
        split(100, validation, train, seed=0)
