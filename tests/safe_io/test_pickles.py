"""Pickles of others are data: what is plain comes out, what would run or take the memory is refused."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from nasnet_det.safe_io.pickles import from_pickle
from tests.helpers import Hostile

PLAIN = OrderedDict(weights=[np.arange(6.0).reshape(2, 3), np.float32(2)], name="n", numbers=(1, 2.5, None, True, b"b"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_out_of_every_protocol(protocol: int) -> None:
    found = from_pickle(pickle.dumps(PLAIN, protocol), encoding="latin1")
    assert np.array_equal(found["weights"][0], PLAIN["weights"][0])
    assert found["weights"][1] == 2
    assert (found["name"], found["numbers"]) == (PLAIN["name"], PLAIN["numbers"])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_run(tmp_path: Path, protocol: int) -> None:
    with pytest.raises(pickle.UnpicklingError, match="mkdir"):
        from_pickle(pickle.dumps([PLAIN, Hostile(tmp_path / "made")], protocol), encoding="latin1")
    assert not (tmp_path / "made").exists()


def test_a_table_of_billions_is_not_made() -> None:
    """A damaged index of the memo: Python would allocate all entries below it first."""
    content = pickle.dumps({"weights": np.zeros(3)}, protocol=2)
    at = content.index(b"q\x01")
    with pytest.raises(pickle.UnpicklingError, match="4294967295"):
        from_pickle(content[:at] + b"r\xff\xff\xff\xff" + content[at + 2 :], encoding="latin1")
