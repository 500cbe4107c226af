"""Optional dependencies of versions that are too old."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError

import pytest

from nasnet_det.cli.shared.errors import explain
from nasnet_det.safe_io import extras


@pytest.fixture(autouse=True)
def needed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    listed = ["torch>=2", "faster-coco-eval>=1.6; extra == 'fast-eval'", "openvino>=2026.1; extra == 'openvino'"]
    monkeypatch.setattr(extras, "requires", lambda _: listed)
    extras.outdated.cache_clear()
    yield
    extras.outdated.cache_clear()


@pytest.mark.parametrize("found", ["2026.1.0", "2026.2.0rc1", "2027.0"])
@pytest.mark.parametrize("module", ["openvino", "openvino.tools", "onnx_ir"])
def test_versions_that_the_metadata_allows_pass(monkeypatch: pytest.MonkeyPatch, module: str, found: str) -> None:
    monkeypatch.setattr(extras, "version", lambda _: found)
    extras.refuse_outdated(module)


@pytest.mark.parametrize(
    ("module", "name", "found"), [("openvino", "openvino", "2025.4.1"), ("faster_coco_eval", "faster-coco-eval", "1.5")]
)
def test_an_older_version_is_named_with_the_one_needed(
    monkeypatch: pytest.MonkeyPatch, module: str, name: str, found: str
) -> None:
    monkeypatch.setattr(extras, "version", lambda _: found)
    with pytest.raises(ImportError, match=rf"{name} {found}.*>=(2026\.1|1\.6)"):
        extras.refuse_outdated(module)
    message = explain(ImportError("cannot import name", name=f"{module}.part"))
    assert message and found in message and "not installed" not in message


def test_what_is_not_installed_is_not_old(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "version", missing)
    extras.refuse_outdated("openvino")
    monkeypatch.setattr(extras, "requires", missing)  # a checkout on PYTHONPATH
    extras.outdated.cache_clear()
    extras.refuse_outdated("openvino")
