"""``nasnet-det``: its verbs, and what every tool does about a mistake, Ctrl-C, a lost reader, a missing extra."""

from __future__ import annotations

import errno
import io
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from nasnet_det.cli.main import ALIASES, TOOLS, VERBS, main, overview, summary
from nasnet_det.cli.shared.errors import TRACEBACK, command, explain
from nasnet_det.genotypes.genotype import GenotypeError
from nasnet_det.training.run import Stopped

FOLDER = Path(__file__).parents[2] / "nasnet_det" / "cli"
NEEDS_DETECTRON2 = ("convert-detector", "demo", "finetune", "predict", "train-net")
NEEDS_OPTUNA = ("search", "retrain-cells", "search-report", "export-cell")
EVERY_VERB = [verb for group in VERBS.values() for verb in group]


@pytest.fixture(autouse=True)
def own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder to be in, and a command line of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["nasnet-det"])
    monkeypatch.delenv(TRACEBACK, raising=False)


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run a program with the verbs in reach."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def status_of(words: list[str]) -> int:
    """The exit status of a command line, wherever it is found out."""
    try:
        return main(words)
    except SystemExit as end:
        return int(end.code or 0)


def test_every_module_is_a_verb_with_a_launcher_and_a_line_in_the_help(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "main"}
    launchers = {path.stem: path.read_text() for path in (FOLDER.parents[1] / "tools").glob("*.py")}
    assert modules == set(TOOLS.values()) == launchers.keys()
    assert all(f"from nasnet_det.cli.{name} import main\n" in text for name, text in launchers.items())
    assert all(TOOLS[alias] == TOOLS[verb] for alias, verb in ALIASES.items())
    monkeypatch.setenv("COLUMNS", "200")
    lines = overview().splitlines()
    for verb in EVERY_VERB:
        text = summary(FOLDER / f"{TOOLS[verb]}.py")
        assert len(text) > 20 and any(line.startswith(f"  {verb} ") and line.endswith(text) for line in lines)


def test_the_package_is_the_command_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["nasnet_det", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("nasnet_det", run_name="__main__")
    assert end.value.code == 0 and capsys.readouterr().out.startswith("nasnet-det ")


def test_help_imports_no_framework() -> None:
    """PyTorch, timm, detectron2 and TensorFlow take seconds to import."""
    code = (
        "import sys; from nasnet_det.cli.main import main\n"
        f"for verb in {EVERY_VERB}:\n"
        "    try: main([verb, '--help'])\n"
        "    except SystemExit as end: assert end.code in (0, None), verb\n"
        "print(sorted({'torch', 'timm', 'detectron2', 'tensorflow', 'optuna', 'ray'} & sys.modules.keys()))"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.search(r"^nasnet-det \d+\.\d+\.\d+", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("word", "meant"),
    [("serch", "search"), ("train_net.py", "train-net"), ("model_table", "model-table"), ("qqq", "--help")],
)
def test_an_unknown_verb_is_named_with_the_nearest(word: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    printed = capsys.readouterr()
    assert word in printed.err and meant in printed.err and printed.err.count("\n") == 1 and not printed.out


def test_no_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "--help" in capsys.readouterr().err


@pytest.mark.parametrize("verb", EVERY_VERB)
def test_a_verb_s_help_is_its_tool_s(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    for module, verbs in (("detectron2", NEEDS_DETECTRON2), ("optuna", NEEDS_OPTUNA)):
        if verb in verbs:
            pytest.importorskip(module)
    assert status_of([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: nasnet-det {verb} ")
    names = [verb, *(alias for alias, name in ALIASES.items() if name == verb)]
    examples = said.split("usage: ", 1)[1][len(verb) + 12 :]
    assert any(f"nasnet-det {name} " in examples for name in names), "no example"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("model-table no_such_model", "no_such_model"),
        ("model-table nasnet_a_mobile --write nowhere.md", "nowhere.md"),
        ("build-backbone no_cell.json", "no_cell.json"),
        ("convert-weights nothing.h5 out.safetensors", "no such file"),
        ("check-golden nowhere", "meta.json: cannot be read"),
        ("prepare-cifar10 data --source nothing.tar.gz", "nothing.tar.gz"),
        ("train-cifar nowhere --out runs", "nowhere"),
        ("train-cifar nowhere --out runs --epochs many", "invalid int value: 'many'"),
        ("train-imagenet nowhere --out runs", "nowhere"),
        *((f"{verb} data --seed -1", "--seed") for verb in ("build-backbone", "check-data", "evaluate", "finetune")),
        ("validate nowhere --model no_such_model", "no_such_model"),
        ("demo --data nowhere", "nowhere"),
        ("demo SOLVER.BASE_LRR 1", "is SOLVER.BASE_LR meant?"),
        ("prepare-coco nowhere", "5 of 5 data sets are not ready"),
        ("convert-detector nowhere out", "no such file"),
        ("train-net --config-file nowhere.yaml", "nowhere.yaml"),
        ("train-net", "no config: give one with --config-file"),
        ("predict --config-file nowhere.yaml x.jpg", "names no image"),
        ("evaluate --annotations nothing.json --results none.json", "nothing.json"),
        ("search --data nowhere --out runs --trials 1 --workers 0", "nowhere"),
        ("retrain-cells nowhere --data nowhere", "nowhere is not a folder"),
        ("search-report nowhere --out out", "nowhere is not a folder"),
        ("export-cell . --out cell.json", "not the folder of a search"),
        ("draw-cell no_cell", "no_cell"),
        ("draw-cell nasnet_a --out cell.gif", "cell.gif"),
        ("draw-accuracy --out picture.gif", "picture.gif"),
        ("export-model no_such_model --out model.onnx", "no_such_model"),
        ("export-model nasnet_a_mobile --out model.tflite", "model.tflite"),
        ("package no_such_model", "no_such_model"),
        ("package model.pt2 --show", "no such package"),
    ],
)
def test_mistakes_are_one_line_and_status_2(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    verb = words.split()[0]
    for module, verbs in (("detectron2", NEEDS_DETECTRON2), ("optuna", NEEDS_OPTUNA), ("fvcore", ("model-table",))):
        if verb in verbs:
            pytest.importorskip(module)
    assert status_of(words.split()) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: " in last and said in last


@pytest.mark.parametrize(
    ("lines", "module", "extra"),
    [
        (
            (
                *("convert-detector x out", "demo", "finetune .", "train-net --config-file fpn_mobile"),
                "predict --config-file fpn_mobile --weights w.pth picture.png",
            ),
            "detectron2",
            "detection",
        ),
        (
            (
                *("search --output o --trials 1 --data d", "retrain-cells . --data d"),
                *("search-report . --output o", "export-cell . --output c.json"),
            ),
            "optuna",
            "search",
        ),
    ],
    ids=["detectron2", "optuna"],
)
def test_a_missing_extra_is_named_with_its_command(lines: Sequence[str], module: str, extra: str) -> None:
    Path("picture.png").write_bytes(b"")
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from nasnet_det.cli.main import main\n"
        f"for line in {tuple(lines)!r}:\n"
        "    try: print(main(line.split()))\n"
        "    except SystemExit as end: print(end.code)\n"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2"] * len(lines)
    named = [line for line in done.stderr.splitlines() if f"pip install 'nasnet-det[{extra}]'" in line]
    assert len(named) == len(lines), done.stderr


@pytest.mark.skipif(os.name != "posix", reason="pipes as POSIX has them")
@pytest.mark.parametrize("words", [["--help"], ["draw-cell", "--help"]])
def test_a_reader_that_leaves_is_no_error(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    run = [sys.executable, "-m", "nasnet_det.cli.main", *words]
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(run, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, env=buffered)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_output_that_cannot_be_written_is_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        run = [sys.executable, "-m", "nasnet_det.cli.main", "--help"]
        done = subprocess.run(run, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: [Errno 28]")


def raising(error: BaseException) -> int:
    """The status of a tool that ends so."""

    @command
    def tool(argv: Sequence[str] | None = None) -> int:
        raise error

    return tool([])


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (KeyboardInterrupt("stopped; go on"), 130, "stopped; go on"),
        (Stopped("stopped after step 3"), 130, "stopped after step 3"),
        (GenotypeError("no cell"), 2, "error: no cell"),
        (ValueError("seven"), 2, "error: seven"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.json"), 2, "error: a.json: No such file"),
        (FileExistsError(errno.EEXIST, "File exists", "out"), 2, "error: out: File exists; expected a folder"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "out"), 2, "error: out: Is a directory; expected a file"),
        (OSError(errno.ENOSPC, "No space left", "a.pt"), 2, "error: a.pt: No space left"),
        (OSError(errno.ENOSPC, "No space left", "tmp/a.pt", None, "b.pt"), 2, "error: tmp/a.pt to b.pt: No space left"),
        (MemoryError(), 2, "error: out of memory"),
        (ModuleNotFoundError("No module", name="onnxscript"), 2, "error: onnxscript is not installed: pip install"),
    ],
)
def test_what_an_error_says(
    error: BaseException, status: int, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert raising(error) == status
    assert capsys.readouterr().err.startswith(words)
    monkeypatch.setenv(TRACEBACK, "1")
    if isinstance(error, Exception):
        with pytest.raises(type(error)):
            raising(error)


def test_characters_that_the_output_does_not_know_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")  # a file on Windows
    monkeypatch.setattr(sys, "stdout", output)
    assert command(lambda _: print("a 鸡") or 0)([]) == 0
    assert output.buffer.getvalue() == b"a \\u9e21" + os.linesep.encode()


def test_where_python_names_files_in_ascii_only_the_command_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with LC_ALL=C and PYTHONUTF8=0: half of the world's files would be missing."""
    started: list[list[str]] = []
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "nasnet_det", "--version"])
    monkeypatch.setattr(os, "execv", lambda program, words: started.append(words))
    monkeypatch.setenv("PYTHONUTF8", "0")
    for _ in range(2):  # but not for ever
        command(lambda argv: 0)()
    assert (started, os.environ["PYTHONUTF8"]) == ([[sys.executable, "-m", "nasnet_det", "--version"]], "1")


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        raising(RuntimeError("a bug"))
    assert explain(KeyError("a bug")) is None


def test_configs_are_found_by_name(tmp_path: Path) -> None:
    pytest.importorskip("detectron2")
    from nasnet_det.detection.config import ConfigError, find_config, read_config

    shipped = sorted((FOLDER.parents[1] / "configs").glob("*.yaml"))
    for file in shipped:
        for name in (file.stem, file.name, f"configs/{file.name}", file):
            assert find_config(name) == file
    assert read_config("fpn_mobile").MODEL.NASNET.NETWORK == "nasnet_a_mobile"
    for name in ("nasnet_frcn", "elsewhere/nasnet_frcnn.yaml", "/configs/nasnet_frcnn.yaml", "nasnet_frcnn.py", "."):
        with pytest.raises(ConfigError, match=f"config {re.escape(name)}: .*base, .*nasnet_frcnn"):
            find_config(name)
    (tmp_path / "nasnet_frcnn.yaml").write_text("VERSION: 2\n")
    assert find_config("nasnet_frcnn.yaml") == Path("nasnet_frcnn.yaml")
    assert find_config("nasnet_frcnn") in shipped
