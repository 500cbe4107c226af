"""The content of the wheel and the sdist, built offline from a copy of the checkout."""

from __future__ import annotations

import email
import email.message
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import nasnet_det

ROOT = Path(__file__).parents[1]
#: Files of a checkout that are not part of the project.
NOT_OURS = shutil.ignore_patterns(
    ".git",
    ".venv",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "*.egg-info",
    "build",
    "dist",
    "output",
    "runs",
    "datasets",
)
BUILD = "import sys; from setuptools import build_meta as build; print(build.build_{}(sys.argv[1]))"

pytest.importorskip("setuptools", minversion="77", reason="the build needs setuptools 77")


def built(kind: str, source: Path, folder: Path) -> Path:
    """The ``wheel`` or ``sdist`` of ``source``, with what is installed here and no network."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind), str(folder)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist of this checkout."""
    place = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, place / "checkout", ignore=NOT_OURS)
    archive = built("sdist", place / "checkout", place)
    with tarfile.open(archive) as tar:
        tar.extractall(place, filter="data")
    return place / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> zipfile.ZipFile:
    """The wheel, built from the sdist."""
    return zipfile.ZipFile(built("wheel", sdist, sdist.parent))


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> email.message.Message:
    """The wheel's."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def files(folder: Path) -> set[str]:
    """The names of all files in a folder of the checkout, compiled ones aside."""
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT / folder).as_posix() for path in found}


def test_the_wheel_holds_the_package_whole_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {f"nasnet_det/{name}" for name in files(Path("nasnet_det"))}
    expected |= {f"nasnet_det/configs/{name}" for name in files(Path("configs"))}
    assert held == expected
    for needed in ("nasnet_det/py.typed", "nasnet_det/configs/nasnet_frcnn.yaml", "nasnet_det/cli/predict.py"):
        assert needed in held
    assert any(name.startswith("nasnet_det/training/recipes/") for name in held)
    assert any(name.startswith("nasnet_det/detection/assets/samples/") for name in held)


def test_the_metadata(metadata: email.message.Message, wheel: zipfile.ZipFile) -> None:
    assert metadata["Name"] == "nasnet-det" and metadata["Version"] == nasnet_det.__version__
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Description-Content-Type"] == "text/markdown"
    extras = set(metadata.get_all("Provides-Extra", []))
    assert extras == {
        "detection",
        "fast-eval",
        "data",
        "search",
        "tensorflow",
        "train",
        "loggers",
        "export",
        "openvino",
    }
    required = [line.split(";")[0].strip() for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert required and all(">=" in line for line in required), "every dependency has its oldest version"
    (scripts,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "nasnet-det = nasnet_det.cli.main:main" in wheel.read(scripts).decode()
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_the_changelog_and_the_citation_name_the_version() -> None:
    assert f"## [{nasnet_det.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {nasnet_det.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "folder", ["tests", "tools", "configs", "docs", "examples", "notebooks", "benchmarks", "requirements", ".ci"]
)
def test_the_sdist_holds_what_the_tests_need(folder: str, sdist: Path) -> None:
    missing = sorted(name for name in files(Path(folder)) if not (sdist / folder / name).is_file())
    assert not missing


def test_the_sdist_holds_the_files_beside_them(sdist: Path) -> None:
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "Makefile"):
        assert (sdist / name).read_bytes() == (ROOT / name).read_bytes()


def test_the_wheel_works_where_no_checkout_is(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Unpacked, with nothing of the checkout in reach: a verb, and a config by its name."""
    wheel.extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import nasnet_det; from nasnet_det.cli import main as nasnet_det_cli\n"
        "print(nasnet_det_cli.__file__, nasnet_det.__file__, sep='\\n')\n"
        "nasnet_det_cli.main(['draw-cell', 'nasnet_a'])\n"
        "try:\n    import detectron2\nexcept ImportError:\n    sys.exit()\n"
        "from nasnet_det.detection.config import find_config\n"
        "print(find_config('configs/nasnet_frcnn.yaml'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cli, package, picture, *config = done.stdout.split()
    assert all(path.startswith(str(tmp_path / "site")) for path in (cli, package, *config))
    assert "<svg" in (tmp_path / picture).read_text()
