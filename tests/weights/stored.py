"""Published files in miniature: a network's tensors as each format stores them, and a server to fetch them from."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from nasnet_det import NASNet
from nasnet_det.weights import FORMATS
from nasnet_det.weights.layout import _targets
from tests.helpers import randomize


def small(**other: Any) -> NASNet:
    """A network of one cell a stage with random weights and statistics, as published networks are wired."""
    torch.manual_seed(0)
    model = NASNet(**{"num_cells": 1, "num_filters": 8, "stem_channels": 8, "num_classes": 7, **other})
    randomize(model)
    return model.eval()


def stored(model: NASNet, name: str) -> dict[str, np.ndarray]:
    """The tensors of a network under the names and with the axes of a format."""
    state = model.state_dict()
    arrays = {}
    for target in _targets(model, FORMATS[name], auxiliary=True):
        value = state[target.name].numpy()
        arrays[target.source] = value if target.axes is None else value.transpose(np.argsort(target.axes))
    return arrays


def write_keras(path: Path, arrays: dict[str, np.ndarray], scope: str = "") -> Path:
    """A Keras ``.h5``: a group for each layer, in it the weights under their names, possibly inside a scope."""
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file[f"{name.split('/')[0]}/{scope}{name}:0"] = value
    return path


class Server:
    """The files of a test's server, and the requests it got.

    Attributes:
        files: the content of each path.
        headers: more headers of each path.
        claimed: a content length to claim instead of the true one.
        asked: the GET requests so far.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.claimed: dict[str, int] = {}
        self.asked: list[str] = []

    def url(self, path: str) -> str:
        """The address of a path."""
        return f"{self.address}/{path}"


@contextmanager
def serving() -> Iterator[Server]:
    """A server on this machine for the time of the block."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            server.asked.append(self.path.lstrip("/"))
            self.answer()

        def answer(self) -> None:
            path = self.path.lstrip("/")
            if path not in server.files:
                self.send_error(404)
                return
            content = server.files[path]
            self.send_response(200)
            self.send_header("Content-Length", str(server.claimed.get(path, len(content))))
            for key, value in server.headers.get(path, {}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        server = Server(f"http://127.0.0.1:{listener.server_address[1]}")
        thread = threading.Thread(target=listener.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()
