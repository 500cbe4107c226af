"""Packages: their metadata are read without running them, or refused with a PackageError that names the file."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from nasnet_det.export import PackageError, PackageInfo, Program, description, load_package, read_info, save_program
from nasnet_det.export.package_files import FORMAT
from tests.fuzz.conftest import Fuzz
from tests.fuzz.engine import Case
from tests.fuzz.mutate import spoil_bytes, spoil_value
from tests.fuzz.tensors import hostile_object, ran


def repacked(data: bytes, case: Case) -> bytes:
    """Return a zip archive with one of its members spoiled, renamed or replaced by a pickle that runs code."""
    if case.pristine:
        return data
    random, buffer = case.random, io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        names = old.namelist()
        chosen = random.choice(names)
        for name in names:
            content = old.read(name)
            if name == chosen:
                content = _spoiled_member(content, case)
                name = random.choice((name, name, name, name, f"{name}x", "../x", "/x"))
            new.writestr(name, content)
        if random.random() < 0.1:
            name = random.choice((*names, "archive/data/weights/model.pt", "version"))
            new.writestr(name, pickle.dumps(hostile_object(case)))
    return buffer.getvalue()


def _spoiled_member(content: bytes, case: Case) -> bytes:
    if case.random.random() < 0.1:
        return pickle.dumps(hostile_object(case))
    if case.random.random() < 0.1:
        buffer = io.BytesIO()
        torch.save({"a": hostile_object(case)}, buffer)
        return buffer.getvalue()
    if content[:1] == b"{" and case.random.random() < 0.8:
        return json.dumps(spoil_value(json.loads(content), case)).encode("utf-8", "surrogatepass")
    return spoil_bytes(content, case)


def test_exported_package(fuzz: Fuzz, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = tmp_path_factory.mktemp("whole") / "model.pt2"
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()).eval()
    save_program(Program(model, torch.ones(1, 3, 8, 8), ["maps"], description={"model": "fuzz"}), whole)
    data = whole.read_bytes()

    def attempt(case: Case) -> None:
        path = case.folder / "model.pt2"
        path.write_bytes(spoil_bytes(data, case) if case.random.random() < 0.4 else repacked(data, case))
        with case.allows(PackageError, naming=path):
            assert isinstance(description(path), dict)
        with case.allows(PackageError, naming=path):
            load_package(path)
        assert not ran(case)

    fuzz(attempt, share=0.2)


def test_native_package(fuzz: Fuzz) -> None:
    fields = {
        **{"model": "fuzz", "runtime": "inductor", "outputs": ["logits"], "input_size": [1, 3, 32, 32]},
        **{"precision": "float32", "device": "cpu", "torch": "0.0", "needs": ["x86_64", "avx2"]},
    }

    def attempt(case: Case) -> None:
        path, buffer = case.folder / "model.pt2", io.BytesIO()
        inner = {"AOTI_DEVICE_KEY": "cpu", FORMAT: json.dumps(spoil_value(fields, case))}
        outer = inner if case.random.random() < 0.5 else spoil_value(inner, case)
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("model/data/aotinductor/model/x_metadata.json", json.dumps(outer))
            archive.writestr("model/data/aotinductor/model/x.so", b"\x7fELF")
        data = buffer.getvalue()
        path.write_bytes(spoil_bytes(data, case) if case.random.random() < 0.4 else repacked(data, case))
        with case.allows(PackageError, naming=path):
            assert isinstance(read_info(path), PackageInfo)
        if not case.pristine:
            with case.allows(PackageError, naming=path):  # compiled by torch 0.0, so it is never run
                load_package(path)
            assert case.refused

    fuzz(attempt)


def test_nothing_is_there(tmp_path: Path) -> None:
    for load in (description, load_package):
        with pytest.raises(PackageError, match=r"none\.pt2"):
            load(tmp_path / "none.pt2")
