"""Download of files from a URL or a model hub: complete and with the expected hash, or not at all."""

from __future__ import annotations

import http.client
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from nasnet_det.safe_io.files import file_digest
from nasnet_det.safe_io.values import first_line
from nasnet_det.weights.layout import WeightsError

HUB = "hf-hub:"
#: The files of a hub repository that have its weights, as timm looks for them.
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_BLOCK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_OFFLINE_ADVICE = (
    "without a network, download the file on another machine and pass its path instead "
    "(timm: pretrained_cfg_overlay=dict(file=PATH)), or copy that machine's cache folder"
)


class Unreachable(WeightsError):
    """A file that could not be downloaded; another location may have it.

    Args:
        what: the file and the reason.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; {_OFFLINE_ADVICE}")
        self.what = what


def is_remote(location: str) -> bool:
    """Return whether a location is a URL or on a model hub, not a path."""
    return location.startswith((HUB, "http://", "https://", "file://"))


@contextmanager
def fetched(location: str, folder: Path) -> Iterator[Path]:
    """Yield the local file of a location; a download is deleted at the end of the block.

    Args:
        location: a URL; ``hf-hub:OWNER/REPOSITORY`` or ``hf-hub:OWNER/REPOSITORY/FILE``; or a path, yielded unchanged.
        folder: the folder for the temporary download.

    Raises:
        WeightsError: if it cannot be reached or is incomplete.
    """
    if location.startswith(HUB):
        yield from_hub(location)
    elif is_remote(location):
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as part:
            yield _from_url(location, Path(part))
    else:
        yield Path(location)


def check_digest(path: Path, expected: str, location: str) -> None:
    """Raise an error for a file whose hash is not the published one.

    Args:
        path: the file.
        expected: ``ALGORITHM:HASH``; the hash may be its first digits only, as in the file names of PyTorch's hub.
        location: the file's name in the error.

    Raises:
        WeightsError: if the hash differs.
    """
    algorithm, _, digest = expected.partition(":")
    found = file_digest(path, algorithm)
    if not digest or not found.startswith(digest):
        raise WeightsError(
            f"{location}: its {algorithm} hash is {found}, expected {digest}: the file is damaged or not the published "
            "one; nothing was kept, download it again"
        )


def _from_url(url: str, folder: Path) -> Path:
    target = folder / (Path(urlsplit(url).path).name or "download")
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "nasnet_det"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response, target.open("wb") as file:
            total = int(response.headers.get("Content-Length") or 0)
            with tqdm(total=total or None, unit="B", unit_scale=True, desc=target.name, disable=None) as progress:
                while block := response.read(_BLOCK):
                    file.write(block)
                    progress.update(len(block))
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise Unreachable(f"{url}: the download failed ({reason})") from None
    size = target.stat().st_size
    if total and size != total:
        raise Unreachable(f"{url}: the connection broke after {size} of {total} bytes; nothing was kept")
    return target


def from_hub(location: str, cache_dir: str | Path | None = None) -> Path:
    """Return a file of a hub repository in the hub client's cache; the client verifies its downloads.

    Args:
        location: ``hf-hub:OWNER/REPOSITORY``, for its weights, or ``hf-hub:OWNER/REPOSITORY/FILE``.
        cache_dir: the client's cache, as of timm's argument of that name; its own if None.

    Raises:
        WeightsError: if the file does not exist or cannot be reached.
    """
    from huggingface_hub import hf_hub_download

    owner, _, rest = location.removeprefix(HUB).partition("/")
    repository, _, filename = rest.partition("/")
    if not owner or not repository:
        raise WeightsError(f"{location}: expected {HUB}OWNER/REPOSITORY or {HUB}OWNER/REPOSITORY/FILE")
    problems: list[Exception] = []
    for name in (filename,) if filename else _HUB_FILES:
        try:
            return Path(hf_hub_download(f"{owner}/{repository}", name, cache_dir=cache_dir))
        except Exception as error:  # the client passes on its HTTP library's own exceptions
            problems.append(error)
    raise Unreachable(f"{location}: the download failed ({first_line(problems[0])})")
