"""Inference beside timm, Keras, ONNX Runtime and OpenVINO, in one run: a table of ratios.

    python benchmarks/inference.py --json OUT
    python benchmarks/inference.py --model nasnet_a_mobile --threads 1 --turns 15 --json OUT
    python benchmarks/inference.py --dtype bfloat16 --variants timm_channels_last_float32 fused packaged --json OUT
    python benchmarks/inference.py --device cuda --dtype bfloat16 --batch-size 64 --json OUT

The variants take turns, so that other work on the machine affects all of them alike; each turn of a variant is
``--calls`` calls after one that is not counted. ``ms`` is the median over the turns of a call's time, ``spread`` the
distance of its quartiles, ``shortest`` the shortest turn, which a busy machine affects least. ``of matrix rate`` is the
network's arithmetic at the shortest time, relative to the rate of a large float32 matrix product on the same threads,
whose turns are among the others'. Compilation is reported apart, as ``prepared s``. Weights are random, which does not
change times; this project's variants share theirs, and ``difference`` is how far their outputs are from ``eager``.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from nasnet_det.export import PackageError, classifier_program, load_package, save_package
from nasnet_det.export.inductor import DTYPES
from nasnet_det.fusion import optimize_for_inference
from nasnet_det.models.family import FAMILY
from nasnet_det.safe_io.files import write_text
from nasnet_det.weights.arrays import import_tensorflow

TIMM = {"nasnet_a_large": "nasnetalarge", "pnasnet_5_large": "pnasnet5large"}
KERAS = {"nasnet_a_large": "NASNetLarge", "nasnet_a_mobile": "NASNetMobile"}
VARIANTS = {
    "timm_eager": "timm's own network",
    "timm_channels_last": "the same in the channels_last memory format",
    "timm_channels_last_float32": "the same in float32 whatever --dtype says",
    "timm_compiled": "the same under torch.compile with freezing",
    "keras": "keras.applications as a TensorFlow function",
    "eager": "this project's network, channels_last",
    "fused": "optimize_for_inference of it, not compiled",
    "fused_compiled": "fused under torch.compile with freezing",
    "openvino": "the plain network in OpenVINO",
    "openvino_bfloat16": "the same in bfloat16 whatever --dtype says",
    "openvino_int8": "the same in INT8, calibrated on the images that are measured",
    "onnxruntime": "the plain network in ONNX Runtime",
    "onnxruntime_int8": "the same in INT8",
    "packaged": "the runtime that nasnet-det package --runtime auto picks",
    "packaged_inductor": "fused, as TorchInductor's ahead-of-time package",
}
#: The side of the matrices whose product gives the machine's rate, and the product's name in the results.
SIDE, MATRIX = 1536, "matrix_product"
#: Variants with this project's weights.
OWN = tuple(name for name in VARIANTS if not name.startswith(("timm", "keras")))


class NoVariant(Exception):
    """A variant that this model, device or type has not: says why."""


@dataclass
class Setting:
    """The model, device, dtype and sizes of all variants."""

    model: str
    device: torch.device
    dtype: torch.dtype
    batch_size: int
    image_size: int
    package: Path | None
    folder: Path

    def images(self, channels_last: bool = True, dtype: torch.dtype | None = None) -> Tensor:
        """The images, equal for all variants."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch_size, 3, self.image_size, self.image_size, generator=generator)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return images.to(self.device, dtype or self.dtype).contiguous(memory_format=layout)

    def timm(self, channels_last: bool = True, dtype: torch.dtype | None = None) -> nn.Module:
        """timm's network."""
        if self.model not in TIMM:
            raise NoVariant(f"timm has no {self.model}")
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return timm.create_model(TIMM[self.model]).eval().to(self.device, dtype or self.dtype, memory_format=layout)

    def own(self) -> nn.Module:
        """This project's network, with the same random weights every time."""
        torch.manual_seed(0)
        return timm.create_model(self.model).eval()

    def fused(self) -> nn.Module:
        """Folded in float32, then in the type asked for."""
        return optimize_for_inference(self.own()).to(self.device, self.dtype)


def prepare(name: str, setting: Setting) -> Callable[[], Any]:
    """Return one call of a variant as a function.

    Raises:
        NoVariant: if it cannot run here.
    """
    if name == "keras":
        return prepare_keras(setting)
    if name == "timm_eager":
        model, images = setting.timm(channels_last=False), setting.images(channels_last=False)
    elif name == "timm_channels_last_float32":
        model, images = setting.timm(dtype=torch.float32), setting.images(dtype=torch.float32)
    elif name.startswith(("openvino", "onnxruntime")):
        runtime, _, precision = name.partition("_")
        model, images = packaged(setting, runtime, precision), setting.images()
    else:
        makers: dict[str, Callable[[], nn.Module]] = {
            "timm_channels_last": setting.timm,
            "timm_compiled": lambda: compiled(setting.timm()),
            "eager": lambda: setting.own().to(setting.device, setting.dtype, memory_format=torch.channels_last),
            "fused": setting.fused,
            "fused_compiled": lambda: compiled(setting.fused()),
            "packaged": lambda: packaged(setting, "auto"),
            "packaged_inductor": lambda: packaged(setting, "inductor"),
        }
        model, images = makers[name](), setting.images()
    return lambda: model(images)


def compiled(model: nn.Module) -> Any:
    """Under TorchInductor with its weights as constants."""
    import torch._inductor.config

    torch._inductor.config.freezing = True
    return torch.compile(model)


def packaged(setting: Setting, runtime: str, precision: str = "") -> nn.Module:
    """Make a package for a runtime, or take the one given for ``packaged``; print how long it took to load."""
    path = setting.package if runtime == "auto" else None
    if path is None:
        if setting.device.type != "cpu":
            raise NoVariant("packages run on CPUs")
        if runtime in ("openvino", "onnxruntime") and importlib.util.find_spec(runtime) is None:
            raise NoVariant(f"{runtime} is not installed")
        precision = precision or next(name for name, value in DTYPES.items() if value == setting.dtype)
        pictures = [setting.images(dtype=torch.float32)] if precision == "int8" else []
        size = (setting.image_size, setting.image_size)
        program = classifier_program(setting.own(), size, batch_size=setting.batch_size)
        try:
            target = setting.folder / f"{runtime}_{precision}"
            saved = save_package(program, target, runtime, precision, pictures, log=print)
        except PackageError as error:
            raise NoVariant(str(error)) from None
        path = saved.path
    start = time.perf_counter()
    model = load_package(path)
    megabytes, seconds = path.stat().st_size / 2**20, time.perf_counter() - start
    print(f"{runtime}: {model.info.runtime}, loaded {megabytes:.0f} MB in {seconds:.2f} s", flush=True)
    return model


def matrix_product(setting: Setting) -> Callable[[], Any]:
    """Return a product of two float32 matrices of :data:`SIDE`, to measure the machine's rate."""
    a, b = torch.randn(2, SIDE, SIDE, device=setting.device).unbind()
    return lambda: a @ b


def prepare_keras(setting: Setting) -> Callable[[], Any]:
    """``keras.applications``, traced into a TensorFlow function."""
    if setting.model not in KERAS or setting.device.type != "cpu" or setting.dtype != torch.float32:
        raise NoVariant("it is measured for nasnet_a_large and nasnet_a_mobile, in float32 on a CPU")
    if importlib.util.find_spec("tensorflow") is None:
        raise NoVariant("TensorFlow is not installed")
    tf = import_tensorflow()
    tf.config.threading.set_intra_op_parallelism_threads(torch.get_num_threads())
    tf.config.threading.set_inter_op_parallelism_threads(1)
    shape = (setting.image_size, setting.image_size, 3)
    model = getattr(tf.keras.applications, KERAS[setting.model])(weights=None, input_shape=shape)
    function = tf.function(lambda images: model(images, training=False))
    images = tf.constant(setting.images().permute(0, 2, 3, 1).numpy())
    return lambda: function(images).numpy()


@dataclass
class Measured:
    """The times of one variant, in seconds a call."""

    prepared: float
    turns: list[float] = field(default_factory=list)
    output: Tensor | None = None

    @property
    def seconds(self) -> float:
        """The median."""
        return statistics.median(self.turns)

    @property
    def spread(self) -> float:
        """The distance of the quartiles."""
        if len(self.turns) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.turns, n=4, method="inclusive")
        return high - low


def measure(names: list[str], setting: Setting, turns: int, calls: int) -> dict[str, Measured]:
    """Prepare every variant, then let them take turns."""
    runs: dict[str, Callable[[], Any]] = {}
    found: dict[str, Measured] = {}
    for name in names:
        start = time.perf_counter()
        try:
            runs[name] = prepare(name, setting)
            output = runs[name]()
        except NoVariant as reason:
            print(f"{name}: left out, {reason}", flush=True)
            runs.pop(name, None)
            continue
        wait(setting.device)
        found[name] = Measured(time.perf_counter() - start)
        if name in OWN:
            found[name].output = output.float()
    runs[MATRIX], found[MATRIX] = matrix_product(setting), Measured(0.0)
    for _ in range(turns):
        for name, run in runs.items():
            run()
            wait(setting.device)
            start = time.perf_counter()
            for _ in range(calls):
                run()
            wait(setting.device)
            found[name].turns.append((time.perf_counter() - start) / calls)
    return found


def wait(device: torch.device) -> None:
    """Until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(found: dict[str, Measured], setting: Setting) -> list[dict[str, Any]]:
    """Print the table and return the rows of the JSON file."""
    peers = ("timm_channels_last", "timm_channels_last_float32", "timm_eager", "keras", "eager")
    base = next((name for name in (*peers, *found) if name in found), MATRIX)
    matrix_rate = 2 * SIDE**3 / min(found[MATRIX].turns)
    operations = setting.batch_size * operations_of(setting)
    rows = []
    heads = (
        "ms",
        "spread",
        "shortest",
        "images/s",
        "ratio",
        "of shortest",
        "of matrix rate",
        "prepared s",
        "difference",
    )
    print(
        f"\nmatrix rate {matrix_rate / 1e9:.1f} GFLOP/s; ratio: {base} = 1\n{'':28}"
        + "".join(f"{h:>15}" for h in heads)
    )
    for name, measured in found.items():
        best, reference = min(measured.turns), found[base]
        share = operations / best / matrix_rate
        row = {
            "variant": name,
            "seconds": measured.seconds,
            "images_per_second": setting.batch_size / measured.seconds,
            "spread": measured.spread,
            "shortest": best,
            "share_of_matrix_rate": 1.0 if name == MATRIX else share,
        }
        rows.append(row)
        if name == MATRIX:
            continue
        apart = difference(measured.output, found["eager"].output if "eager" in found else None)
        print(
            f"{name:28}{1000 * measured.seconds:15.1f}{1000 * measured.spread:15.1f}{1000 * best:15.1f}"
            f"{row['images_per_second']:15.2f}{reference.seconds / measured.seconds:15.2f}"
            f"{min(reference.turns) / best:15.2f}{share:15.0%}{measured.prepared:15.1f}{apart:>15}"
        )
    return rows


def operations_of(setting: Setting) -> int:
    """Return the floating-point operations of the plain network for one image, a multiply-add being two."""
    from torch.utils.flop_counter import FlopCounterMode

    model = setting.own()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, setting.image_size, setting.image_size))
    return int(counter.get_total_flops())


def difference(output: Tensor | None, reference: Tensor | None) -> str:
    """The largest difference relative to the largest value."""
    if output is None or reference is None:
        return ""
    return f"{((output - reference).abs().max() / reference.abs().max()).item():.0e}"


def machine(setting: Setting) -> str:
    """Return the machine and the versions."""
    if setting.device.type == "cuda":
        name = torch.cuda.get_device_name(setting.device)
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        name = f"{platform.processor() or platform.machine()} {processor()}, {capability}"
        name += f", {torch.get_num_threads()} of {os.cpu_count()} cores"
    versions = {"torch": torch.__version__, "timm": timm.__version__}
    if importlib.util.find_spec("tensorflow"):
        names = importlib.metadata.packages_distributions().get("tensorflow", ["tensorflow"])
        versions["tensorflow"] = importlib.metadata.version(names[0])
    return ", ".join([name, *(f"{key} {value}" for key, value in versions.items())])


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    variants = "\n".join(f"  {name:28}{text}" for name, text in VARIANTS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"variants:\n{variants}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--model", choices=list(FAMILY), default="nasnet_a_large", metavar="MODEL")
    parser.add_argument("--image-size", type=int, help="default: the model's")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), metavar="VARIANT", help="default: all")
    parser.add_argument("--package", type=Path, help="an existing package for the variant packaged (else one is made)")
    parser.add_argument("--turns", type=int, default=11, help="turns of each variant (11)")
    parser.add_argument("--calls", type=int, default=3, help="calls in a turn (3)")
    parser.add_argument("--threads", type=int, help="of a CPU (all)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the rows there")
    parser.add_argument("--csv", type=Path, metavar="OUT", help="write them with the machine and versions there")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("error: PyTorch sees no GPU here; --device cpu measures on the CPU", file=sys.stderr)
        return 2
    default = [name for name in VARIANTS if name != "timm_channels_last_float32" or options.dtype != "float32"]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        setting = Setting(
            options.model,
            torch.device(options.device),
            DTYPES[options.dtype],
            options.batch_size,
            options.image_size or FAMILY[options.model].img_size,
            options.package,
            Path(folder),
        )
        where = machine(setting)
        size = f"{options.batch_size} x {setting.image_size} x {setting.image_size}"
        print(f"{options.model}, {size}, {options.dtype}; {where}", flush=True)
        rows = report(measure(options.variants or default, setting, options.turns, options.calls), setting)
    if options.json:
        write_text(options.json, json.dumps(rows, indent=2) + "\n")
    if options.csv:
        described = {"model": options.model, "dtype": options.dtype, "batch_size": options.batch_size, "machine": where}
        table = io.StringIO()
        writer = csv.DictWriter(table, [*described, "variant", "seconds", "images_per_second", "spread"])
        writer.writeheader()
        writer.writerows({**described, **row} for row in rows)
        write_text(options.csv, table.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(main())
