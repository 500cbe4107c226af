"""Seconds and memory of the paper's detectors, by proposals and chunk size, beside detectron2's Faster R-CNN R50-C4.

    python benchmarks/detector.py [--size 400] [--proposals 50 300] [--chunks 16 64] [--json OUT]

Every variant runs in a process of its own, on the same random image of SIZE x SIZE pixels and with random weights and
random proposals. Memory is the process's peak resident set on a CPU, what PyTorch allocated on a GPU; both hold
the weights. R50-C4 is detectron2's own config; it has no chunks.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from nasnet_det.files import write_text

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {"nasnet_mobile": "nasnet_frcnn_mobile_600.yaml", "nasnet_large": "nasnet_frcnn.yaml"}
PEER = "r50_c4"


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


def build(detector: str, size: int, proposals: int, chunk: int, device: str) -> torch.nn.Module:
    """A detector in evaluation that classifies exactly ``proposals`` proposals."""
    from detectron2 import model_zoo
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    from nasnet_det.detection import add_nasnet_config

    cfg = get_cfg()
    add_nasnet_config(cfg)
    if detector == PEER:
        cfg.merge_from_file(model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml"))
        cfg.MODEL.WEIGHTS = ""
    else:
        cfg.merge_from_file(str(ROOT / "configs" / CONFIGS[detector]))
        cfg.MODEL.NASNET.PRETRAINED = ""
        cfg.MODEL.NASNET.IMAGE_SIZE = [size, size]
        cfg.MODEL.NASNET.CHUNK_SIZE = chunk
    cfg.MODEL.DEVICE = device
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = proposals
    model = build_model(cfg).eval()
    fix_proposals(model, proposals, size)
    return model


def measure(variant: dict[str, Any], size: int, repeats: int, device: str) -> dict[str, Any]:
    """Build one variant and time it: the median of ``repeats`` images after one that warms up."""
    torch.manual_seed(0)
    model = build(variant["detector"], size, variant["proposals"], variant["chunk"], device)
    image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
    inputs = [{"image": image, "height": size, "width": size}]
    total, first = [], []
    with torch.inference_mode():
        for repeat in range(repeats + 1):
            start = _now(device)
            model.backbone(model.preprocess_image(inputs).tensor)
            middle = _now(device)
            model(inputs)
            end = _now(device)
            if repeat:
                first.append(middle - start)
                total.append(end - middle)
    if device.startswith("cuda"):
        memory = torch.cuda.max_memory_allocated()
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        **variant,
        "size": size,
        "seconds": statistics.median(total),
        "first_stage_seconds": statistics.median(first),
        "spread": max(total) - min(total),
        "peak_bytes": memory,
    }


def _now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", nargs="+", choices=[*CONFIGS, PEER], default=[*CONFIGS, PEER])
    parser.add_argument("--size", type=int, default=400, help="height and width of the image in pixels")
    parser.add_argument("--proposals", type=int, nargs="+", default=[50, 300])
    parser.add_argument("--chunks", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    print(f"{args.size} x {args.size} pixels, {args.device}; {platform.machine()}, {os.cpu_count()} cores, ", end="")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    rows = []
    for proposals in args.proposals:
        variants = [
            {"detector": detector, "proposals": proposals, "chunk": chunk}
            for detector in args.detectors
            for chunk in ([0] if detector == PEER else args.chunks)
        ]
        for variant in variants:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows.append(pool.apply(measure, (variant, args.size, args.repeats, args.device)))
    peers = {row["proposals"]: row["seconds"] for row in rows if row["detector"] == PEER}
    heads = ("proposals", "chunk", "s / image", "stage 1", "x R50-C4", "MiB")
    print("detector       {:>9s} {:>6s} {:>10s} {:>8s} {:>9s} {:>7s}".format(*heads))
    for row in rows:
        row["ratio_to_r50_c4"] = row["seconds"] / peers[row["proposals"]] if row["proposals"] in peers else None
        ratio = f"{row['ratio_to_r50_c4']:.2f}" if peers else ""
        print(
            f"{row['detector']:14s} {row['proposals']:9d} {row['chunk'] or '':>6} {row['seconds']:10.2f} "
            f"{row['first_stage_seconds']:8.2f} {ratio:>9s} {row['peak_bytes'] / 2**20:7.0f}"
        )
    if args.json:
        write_text(args.json, json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
