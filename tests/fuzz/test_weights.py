"""Files of weights: read, or refused with a WeightsError that names the file; nothing in them is executed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save as safetensors_bytes

from nasnet_det.weights import FORMATS, WeightsError, load_published, read_arrays
from nasnet_det.weights.formats import read_state_dict
from nasnet_det.weights.formats.tf_slim import AVERAGE
from nasnet_det.weights.layout import Arrays
from tests.fuzz.conftest import Fuzz
from tests.fuzz.engine import Case
from tests.fuzz.mutate import spoil_bytes, spoil_header, spoil_value
from tests.fuzz.tensors import as_arrays, ordered, ran, spoil_tensors
from tests.weights.stored import small, stored, write_keras

TENSORS = {"stem.conv.weight": torch.arange(54.0).reshape(2, 3, 3, 3), "b": torch.ones(300), "c": torch.tensor(3)}


def as_pth(path: Path, state: Any = TENSORS) -> None:
    torch.save(state, path)


def as_old_pth(path: Path, state: Any = TENSORS) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def as_safetensors(path: Path) -> None:
    path.write_bytes(safetensors_bytes(TENSORS))


def as_keras(path: Path) -> None:
    write_keras(path, {f"layer/{name}": value.numpy() for name, value in TENSORS.items()})


@pytest.mark.parametrize("write", [as_pth, as_old_pth, as_safetensors, as_keras])
def test_weights_bytes(write: Callable[[Path], None], fuzz: Fuzz, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = tmp_path_factory.mktemp("whole") / "weights"
    write(whole)
    data = whole.read_bytes()

    def attempt(case: Case) -> None:
        path = case.folder / case.random.choice(("weights", "weights.pth", "weights.h5", "weights.safetensors"))
        path.write_bytes(spoil_bytes(data, case))
        with case.allows(WeightsError, naming=path):
            arrays = read_arrays(path)
            assert all(isinstance(value, np.ndarray) for value in arrays.values())

    fuzz(attempt)


@pytest.mark.parametrize("write", [as_pth, as_old_pth])
def test_weights_tensors(write: Callable[[Path, Any], None], fuzz: Fuzz) -> None:
    """Undamaged PyTorch files with unexpected content, such as code."""

    def attempt(case: Case) -> None:
        path = case.folder / "weights.pth"
        write(path, ordered(spoil_tensors(TENSORS, case), case))
        with case.allows(WeightsError, naming=path):
            arrays = read_arrays(path)
            assert sum(value.nbytes for value in arrays.values()) < 1 << 40
        assert not ran(case)

    fuzz(attempt)


def test_weights_safetensors_header(fuzz: Fuzz) -> None:
    data = safetensors_bytes(TENSORS)
    odd = ("F16", "BF16", "F8_E4M3", "BOOL", "C64", "F4", [2**40, 2**40], [0, 2**62])

    def attempt(case: Case) -> None:
        path = case.folder / "weights.safetensors"
        path.write_bytes(spoil_header(data, lambda header: spoil_value(header, case, odd)))
        with case.allows(WeightsError, naming=path):
            read_arrays(path)

    fuzz(attempt)


def test_weights_keras_structure(fuzz: Fuzz) -> None:
    """Undamaged HDF5 files with unusual objects."""

    def attempt(case: Case) -> None:
        path = case.folder / "weights.h5"
        as_keras(path)
        with h5py.File(path, "a") as file:
            for _ in range(0 if case.pristine else case.random.randint(1, 3)):
                _spoil_keras(file, case)
        with case.allows(WeightsError, naming=path):
            assert sum(value.nbytes for value in read_arrays(path).values()) < 1 << 30

    fuzz(attempt)


def _spoil_keras(file: h5py.File, case: Case) -> None:
    random = case.random
    group = file.require_group(random.choice(("layer", "other", "layer/deep/er", "model_weights")))
    name, kind = f"n{random.random()}", random.randrange(9)
    if kind == 0:
        group[name] = h5py.ExternalLink(str(case.folder / "none.h5"), "/x")
    elif kind == 1:
        group[name] = h5py.SoftLink(random.choice(("/", "/layer", "/nowhere", ".", "/layer/" + name)))
    elif kind == 2:
        record = np.zeros(3, dtype=[("a", "f4"), ("b", "i8")])
        group[name] = random.choice(("text", [b"a", b"b"], h5py.Empty("f"), record))
    elif kind == 3:
        group.create_dataset(name, (random.choice((10**6, 10**10, 10**14)),), "f4", chunks=(1000,))
    elif kind == 4:
        group.create_dataset(name, (2**26,), "f4", chunks=(2**20,), compression="gzip", fillvalue=1.0)[:4] = 2
    elif kind == 5:
        group.create_dataset(name, (4,), "f4", external=[(str(case.folder / "raw"), 0, 16)])
    elif kind == 6:
        group[name] = np.array(file.ref, dtype=h5py.ref_dtype)
    elif kind == 7:
        group[name] = np.zeros(0, dtype=random.choice(("f2", "f8", "i4", "?", "c8", "S3")))
    elif "layer" in file:
        del file["layer"]


def test_weights_slim_checkpoint(fuzz: Fuzz, tmp_path_factory: pytest.TempPathFactory) -> None:
    tf = pytest.importorskip("tensorflow").compat.v1
    whole = tmp_path_factory.mktemp("whole")
    with tf.Graph().as_default(), tf.Session() as session:
        for name in ("conv0/weights", f"conv0/weights{AVERAGE}", "cell_0/beginning_bn/gamma", "global_step"):
            tf.Variable(np.ones((3, 3), np.float32), name=name)
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(whole / "model.ckpt"), write_meta_graph=False, write_state=False)
    parts = {path.name: path.read_bytes() for path in whole.iterdir()}

    def attempt(case: Case) -> None:
        spoiled = case.random.choice(sorted(parts))
        for name, data in parts.items():
            (case.folder / name).write_bytes(spoil_bytes(data, case) if name == spoiled else data)
        if not case.pristine and case.random.random() < 0.05:
            (case.folder / spoiled).unlink()
        given = case.folder / case.random.choice(("model.ckpt", "model.ckpt.index"))
        with case.allows(WeightsError, naming=case.folder):
            read_arrays(given)

    fuzz(attempt)


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_weights_into_a_network(kind: str, fuzz: Fuzz) -> None:
    """Files of every format with a few tensors spoiled: the network loads all of it or nothing."""
    model = small(num_filters=4, stem_channels=4, num_classes=5)
    arrays = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in stored(model, kind).items()}
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def attempt(case: Case) -> None:
        path = case.folder / "weights.pth"
        torch.save(spoil_tensors(arrays, case), path)
        with case.allows(WeightsError, naming=path):
            load_published(model, path)
        assert not ran(case)
        state = model.state_dict()
        if case.refused:
            assert all(torch.equal(state[name], value) for name, value in before.items()), "it loaded a part"
        else:
            assert all(torch.isfinite(value).all() for value in state.values())
            model.load_state_dict(before)

    fuzz(attempt, share=0.25)


def test_weights_named_tensors(fuzz: Fuzz) -> None:
    """Arrays of any type, given to every format's naming rules."""
    model = small(num_filters=4, stem_channels=4, num_classes=5)
    formats: dict[str, Arrays] = {kind: stored(model, kind) for kind in FORMATS}

    def attempt(case: Case) -> None:
        kind = case.random.choice(sorted(formats))
        arrays: dict[Any, Any] = dict(formats[kind])
        for _ in range(0 if case.pristine else case.random.randint(1, 2)):
            name = case.random.choice(sorted(arrays))
            odd = (
                np.zeros((), np.float32),
                np.zeros((0,)),
                np.array(["a"]),
                np.array([None]),
                np.float32(1),
                [[1.0], [2]],
            )
            arrays[name] = case.random.choice((*odd, arrays[case.random.choice(sorted(arrays))]))
        with case.allows(WeightsError):
            read_state_dict(model, arrays)

    fuzz(attempt, share=0.25)


def test_weights_of_a_detector(fuzz: Fuzz, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of a TF detector, a few of them spoiled: all are converted, or the file is refused."""
    pytest.importorskip("detectron2")
    from nasnet_det.detection.convert import tf_detector
    from tests.helpers import tf_detector_variables as arrays

    whole = {name: torch.from_numpy(np.asarray(value)) for name, value in arrays().items()}

    def attempt(case: Case) -> None:
        given = {name: as_arrays(value) for name, value in spoil_tensors(whole, case, hostile=False).items()}
        read = {str(name): value for name, value in given.items() if value is not None}
        monkeypatch.setattr(tf_detector, "read_arrays", lambda path: read)
        with case.allows(WeightsError, naming=case.folder):
            state = tf_detector.read_detector(case.folder / "model.ckpt", tf_detector.base_config())
            assert all(torch.isfinite(value).all() for value in state.values())

    fuzz(attempt, share=0.25)
