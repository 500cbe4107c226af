"""The paper's detectors stage by stage, by proposals and chunk size, beside detectron2's Faster R-CNN R50-C4.

    python benchmarks/detector.py [--size 400] [--proposals 50 300] [--chunks 0 64] [--forms plain fused] [--json OUT]

Every variant runs in a process of its own, on the same random image of SIZE x SIZE pixels and with random weights and
random proposals. ``plain`` is the unchanged detector, ``fused`` what ``MODEL.NASNET.FUSED`` makes of it; R50-C4 is
detectron2's own config, and has neither that nor chunks. Chunks of 0 are sized to the device. The whole detector is
timed in some calls and its stages in others, so that looking at the stages costs the whole nothing: the first stage
(or backbone), the proposals, their crops, the second stage (or res5), and the rest. Figures are medians, ``spread`` is
the largest minus the smallest. Memory is the process's peak resident set on a CPU, what PyTorch allocated on a GPU;
both hold the weights.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from save_results import keep

import nasnet_det

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {"nasnet_mobile": "nasnet_frcnn_mobile_600.yaml", "nasnet_large": "nasnet_frcnn.yaml"}
PEER = "r50_c4"
_CLOCK = "NASNET_DET_PROCESSOR_TIME"
#: What makes up each stage: methods of the model's parts, for the paper's detector and for R50-C4.
STAGES = {
    "first_stage": ("backbone.forward",),
    "proposals": ("proposal_generator.forward",),
    "crops": ("roi_heads.crop", "roi_heads.pooler.forward"),
    "second_stage": ("roi_heads.second_stage.forward", "roi_heads.res5.forward"),
}


def fix_proposals(model: Any, proposals: int, size: int) -> None:
    """Let the proposal generator do its work, then pass on random boxes, for random weights propose next to nothing."""
    from detectron2.structures import Boxes, Instances

    corners = torch.rand(proposals, 2, 2, generator=torch.Generator().manual_seed(0)) * size
    low, high = corners.amin(1), corners.amax(1)
    fixed = Instances((size, size))
    fixed.proposal_boxes = Boxes(torch.cat((low, torch.maximum(high, low + 8)), dim=1).clamp(max=size).to(model.device))
    fixed.objectness_logits = torch.zeros(proposals, device=model.device)
    generate = model.proposal_generator.forward

    def forward(*args: Any) -> Any:
        found, losses = generate(*args)
        return [fixed for _ in found], losses

    model.proposal_generator.forward = forward


def build(variant: dict[str, Any], size: int, device: str) -> torch.nn.Module:
    """A detector in evaluation that classifies exactly as many proposals as the variant says."""
    from detectron2 import model_zoo
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    from nasnet_det.detection import add_nasnet_config
    from nasnet_det.detection.modeling.fused import for_inference

    cfg = get_cfg()
    add_nasnet_config(cfg)
    if variant["detector"] == PEER:
        cfg.merge_from_file(model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml"))
        cfg.MODEL.WEIGHTS = ""
    else:
        cfg.merge_from_file(str(ROOT / "configs" / CONFIGS[variant["detector"]]))
        cfg.MODEL.NASNET.PRETRAINED = ""
        cfg.MODEL.NASNET.IMAGE_SIZE = [size, size]
        cfg.MODEL.NASNET.CHUNK_SIZE = variant["chunk"]
        cfg.MODEL.NASNET.FUSED = variant["form"] != "plain"
    cfg.MODEL.DEVICE = device
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = variant["proposals"]
    cfg.merge_from_list(variant.get("options", []))
    model = for_inference(build_model(cfg).eval(), cfg)
    fix_proposals(model, variant["proposals"], size)
    return model


class StageClock:
    """Adds up what a model's stages take; put on and taken off around a call."""

    def __init__(self, model: Any, device: str) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.methods: list[tuple[Any, str, Callable[..., Any], str]] = []
        for stage, names in STAGES.items():
            for name in names:
                *path, method = name.split(".")
                owner = model
                for part in path:
                    owner = getattr(owner, part, None)
                if hasattr(owner, method):
                    self.methods.append((owner, method, getattr(owner, method), stage))

    def __enter__(self) -> StageClock:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        for owner, method, run, stage in self.methods:
            setattr(owner, method, self._timed(run, stage))
        return self

    def __exit__(self, *error: object) -> None:
        for owner, method, run, _ in self.methods:
            setattr(owner, method, run)

    def _timed(self, run: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = _now(self.device)
            result = run(*args, **kwargs)
            self.seconds[stage] += _now(self.device) - start
            return result

        return call


def measure(variant: dict[str, Any], size: int, repeats: int, device: str) -> dict[str, Any]:
    """Build one variant and time it: whole and by stages in turn, after one call that warms up."""
    torch.manual_seed(0)
    model = build(variant, size, device)
    image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
    inputs = [{"image": image, "height": size, "width": size}]
    clock, whole = StageClock(model, device), []
    stages: dict[str, list[float]] = {name: [] for name in (*STAGES, "rest")}
    with torch.inference_mode():
        model(inputs)
        for _ in range(repeats):
            start = _now(device)
            model(inputs)
            whole.append(_now(device) - start)
            with clock:
                start = _now(device)
                model(inputs)
                total = _now(device) - start
            for name, seconds in {**clock.seconds, "rest": total - sum(clock.seconds.values())}.items():
                stages[name].append(seconds)
    if device.startswith("cuda"):
        memory = torch.cuda.max_memory_allocated()
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        **variant,
        "size": size,
        "seconds": statistics.median(whole),
        "stage_seconds": {name: statistics.median(values) for name, values in stages.items()},
        "spread": max(whole) - min(whole),
        "peak_bytes": memory,
    }


def _now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.process_time() if os.environ.get(_CLOCK) else time.perf_counter()


def variants(args: argparse.Namespace, proposals: int) -> list[dict[str, Any]]:
    """Every combination asked for; the peer has one."""
    found = []
    for detector in args.detectors:
        forms, chunks = (["plain"], [0]) if detector == PEER else (args.forms, args.chunks)
        found += [
            {"detector": detector, "form": form, "proposals": proposals, "chunk": chunk}
            for form in forms
            for chunk in chunks
        ]
    return found


def report(rows: list[dict[str, Any]]) -> None:
    """The table: each stage in ms and as a share of all of them."""
    peers = {row["proposals"]: row["seconds"] for row in rows if row["detector"] == PEER}
    heads = ["proposals", "chunk", "ms", "spread", "x R50-C4", "MiB", *(f"{name}  share" for name in (*STAGES, "rest"))]
    widths = [9, 6, 9, 8, 9, 7, *[21] * (len(STAGES) + 1)]
    print(f"{'detector':22s}" + "".join(f"{head:>{width}s}" for head, width in zip(heads, widths, strict=True)))
    for row in rows:
        row["ratio_to_r50_c4"] = row["seconds"] / peers[row["proposals"]] if row["proposals"] in peers else None
        ratio = f"{row['ratio_to_r50_c4']:.2f}" if peers else ""
        total = sum(row["stage_seconds"].values())
        cells = [
            str(row["proposals"]),
            "" if row["detector"] == PEER else str(row["chunk"] or "auto"),
            f"{1000 * row['seconds']:.0f}",
            f"{1000 * row['spread']:.0f}",
            ratio,
            f"{row['peak_bytes'] / 2**20:.0f}",
            *(f"{1000 * seconds:.0f} {seconds / total:6.1%}" for seconds in row["stage_seconds"].values()),
        ]
        name = row["detector"] if row["detector"] == PEER else f"{row['detector']} {row['form']}"
        print(f"{name:22s}" + "".join(f"{cell:>{width}s}" for cell, width in zip(cells, widths, strict=True)))


def machine(device: str) -> str:
    """Return the machine and the versions."""
    import detectron2

    name = (
        torch.cuda.get_device_name() if device.startswith("cuda") else f"{platform.machine()}, {os.cpu_count()} cores"
    )
    return (
        f"{name}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, "
        f"detectron2 {detectron2.__version__}, nasnet_det {nasnet_det.__version__}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", nargs="+", choices=[*CONFIGS, PEER], default=[*CONFIGS, PEER])
    parser.add_argument("--size", type=int, default=400, help="height and width of the image in pixels (400)")
    parser.add_argument("--proposals", type=int, nargs="+", default=[50, 300])
    parser.add_argument("--chunks", type=int, nargs="+", default=[0, 64], help="0: sized to the device")
    parser.add_argument("--forms", nargs="+", choices=["plain", "fused"], default=["plain", "fused"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--processor-time", action="store_true", help="the processor's, which other work on the machine disturbs less"
    )
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args(arguments)
    if args.processor_time:
        os.environ[_CLOCK] = "1"  # the processes that measure inherit it

    where = machine(args.device)
    print(f"{args.size} x {args.size} pixels, {args.device}; {where}", flush=True)
    rows = []
    for proposals in args.proposals:
        for variant in variants(args, proposals):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row = pool.apply(measure, (variant, args.size, args.repeats, args.device))
            rows.append({**row, "clock": "processor" if args.processor_time else "wall", "machine": where})
            print(f"{row['detector']} {row['form']}, {proposals} proposals: {row['seconds']:.2f} s", file=sys.stderr)
    report(rows)
    if args.json:
        keep(args.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
