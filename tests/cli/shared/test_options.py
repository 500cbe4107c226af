"""Options that commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasnet_det.cli.shared.options import add_image_size, add_output, add_settings, new_parser
from nasnet_det.cli.shared.search_options import add_worker_options


def test_every_shared_option_is_read() -> None:
    parser = new_parser("A command.")
    add_output(parser, "the file")
    add_image_size(parser)
    add_settings(parser, "settings")
    options = parser.parse_args(["--out", "a.png", "--image-size", "3", "4", "--set", "a=1", "b=2", "--set", "c=3"])
    assert (options.output, options.image_size, options.set) == (Path("a.png"), (3, 4), ["a=1", "b=2", "c=3"])
    options = parser.parse_args(["--output", "b", "--img-size", "5"])
    assert (options.output, options.image_size) == (Path("b"), (5, 5))
    options = parser.parse_args([])
    assert (options.output, options.image_size, options.set) == (None, None, [])


@pytest.mark.parametrize("words", [["--", "-a", "b"], ["-n", "--", "-a", "b"], ["b", "-n", "--", "-a"]])
def test_what_follows_two_hyphens_is_a_path(words: list[str]) -> None:
    parser = new_parser(None)
    parser.add_argument("paths", nargs="+")
    parser.add_argument("-n", action="store_true")
    options = parser.parse_args(words)
    assert {*options.paths} == {"./-a", "b"} and options.n == ("-n" in words)


@pytest.mark.parametrize("sides", [["0"], ["2"], ["-3"], ["4", "5", "6"], ["x"], ["1e3"], ["99999"]])
def test_impossible_sizes_are_refused(sides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parser = new_parser(None)
    add_image_size(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--image-size", *sides])
    assert "--image-size" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["a", "--out", "x", "b"], ["--out", "x", "a", "b"], ["a", "b", "--out", "x"]])
def test_options_may_stand_between_arguments(words: list[str]) -> None:
    parser = new_parser(None)
    parser.add_argument("first")
    parser.add_argument("others", nargs="*")
    add_output(parser, "the file")
    options = parser.parse_args(words)
    assert (options.first, options.others, options.output) == ("a", ["b"], Path("x"))


@pytest.mark.parametrize("words", [["--out", ""], ["--out="], ["--out", "x", ""]])
def test_words_that_an_unset_variable_leaves_empty_are_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    parser = new_parser(None)
    parser.add_argument("data", type=Path, nargs="?")
    add_output(parser, "the file")
    with pytest.raises(SystemExit):
        parser.parse_args(words)
    assert "empty" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--workers", "--retries", "--gpus-per-worker", "--cpus-per-worker"])
def test_numbers_of_workers_are_not_negative(option: str) -> None:
    parser = new_parser(None)
    add_worker_options(parser)
    parser.parse_args([option, "0"])
    with pytest.raises(SystemExit):
        parser.parse_args([option, "-1"])
