"""Signals that end long work between two steps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

#: Takes steps on batches of worker processes until it is told to stop, then says that the last step was complete.
WORK = """
import time
from torch.utils.data import DataLoader
from nasnet_det.safe_io.stopping import stop_on_signal

with stop_on_signal() as should_stop:
    for batch in DataLoader(range(1000), batch_size=1, num_workers=2):
        print("step", flush=True)
        for _ in range(100):
            time.sleep(0.01)
        if should_stop():
            print("complete", flush=True)
            break
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_a_loaders_workers_too_lets_the_step_end(number: signal.Signals) -> None:
    command = [sys.executable, "-c", WORK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "step\n"
        os.killpg(process.pid, number)
        printed = process.stdout.read()
    assert (process.returncode, printed) == (0, "complete\n")
