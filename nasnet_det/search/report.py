"""What searches found, for people: tables, the paper's figure 6, drawings of the best cells."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nasnet_det.draw import draw_genotype, draw_search_curves
from nasnet_det.safe_io.files import write_text
from nasnet_det.search.run_folder import RETRAINED, SEARCH, RunFolder
from nasnet_det.search.study import Finding, Study, StudyError, best

#: The groups whose mean the paper's figure 6 shows.
RANKS = (1, 5, 25)


@dataclass(frozen=True)
class Run:
    """A search as its report needs it.

    Args:
        name: its folder's.
        strategy: what sampled.
        trials: how many trials are finished.
        failures: how many of them have no accuracy, by their status.
        findings: those that have one.
        retrained: those of the second phase.
        identity: the study's.
    """

    name: str
    strategy: str
    trials: int
    failures: Mapping[str, int]
    findings: Sequence[Finding]
    retrained: Sequence[Finding]
    identity: Mapping[str, Any]

    @property
    def rewards(self) -> list[float]:
        """The reward of every model in the order sampled. A failure, or an architecture sampled before, counts as the
        worst of all, so that figure 6 shows unique models."""
        worst = min((finding.reward for finding in self.findings), default=0.0)
        rewards = [worst] * self.trials
        seen = set()
        for finding in self.findings:
            if finding.decisions not in seen and finding.number < self.trials:
                rewards[finding.number] = finding.reward
            seen.add(finding.decisions)
        return rewards


def read_findings(folder: RunFolder, phase: str | None = None, storage: str | None = None) -> tuple[str, list[Finding]]:
    """The children of a phase, or of the second if it has any, else of the search; and which it is.

    Raises:
        StudyError: if there is no such study.
    """
    for candidate in (phase,) if phase else (RETRAINED, SEARCH):
        try:
            study = folder.open_study(candidate, storage)
        except StudyError:
            if candidate == SEARCH or phase:
                raise
            continue
        try:
            findings = study.findings()
        finally:
            study.close()
        if findings or candidate == SEARCH:
            return candidate, findings
    return SEARCH, []


def read_run(folder: RunFolder, storage: str | None = None) -> Run:
    """A search and its second phase.

    Raises:
        StudyError: if the folder is not a search's.
    """
    study = folder.open_study(SEARCH, storage)
    try:
        statuses, findings, identity = study.statuses(), study.findings(), study.identity
    finally:
        study.close()
    try:
        second: Study | None = folder.open_study(RETRAINED, storage)
    except StudyError:
        second = None
    retrained: list[Finding] = []
    if second is not None:
        try:
            retrained = second.findings()
        finally:
            second.close()
    failures = Counter(status for status in statuses if status not in ("ok", "stopped_early"))
    name = folder.path.resolve().name
    return Run(name, identity["strategy"]["name"], len(statuses), failures, findings, retrained, identity)


def write_report(runs: Sequence[Run], out: Path, draw: int = 3) -> Path:
    """Write ``report.md`` with its pictures, tables and genotypes into a folder; gives its path.

    Args:
        runs: the searches to compare; those of one strategy are averaged in the figure.
        out: the folder.
        draw: how many of each search's best cells to draw and export.

    Raises:
        StudyError: if a search has no child with an accuracy.
        OSError: if something cannot be written.
    """
    empty = [run.name for run in runs if not run.findings]
    if empty:
        raise StudyError(f"{', '.join(empty)}: no child has an accuracy yet")
    out.mkdir(parents=True, exist_ok=True)
    curves: dict[str, list[list[float]]] = {}
    for run in runs:
        curves.setdefault(run.strategy, []).append(run.rewards)
    draw_search_curves(curves, out / "search_curves.png")
    parts = ["# Search report", "", "![search curves](search_curves.png)", "", _summary(runs)]
    for run in runs:
        parts += ["", f"## {run.name}: {run.strategy}", "", _describe(run), "", _best_cells(run, out, draw)]
        if run.retrained:
            parts += ["", _second_phase(run, out)]
    path = out / "report.md"
    write_text(path, "\n".join(parts) + "\n")
    return path


def _summary(runs: Sequence[Run]) -> str:
    lines = ["| search | strategy | models | different, with accuracy | best | top 5 mean | top 25 mean |"]
    lines.append("|---|---|---|---|---|---|---|")
    for run in runs:
        ranked = [finding.reward for finding in best(run.findings, len(run.findings))]
        means = [f"{sum(ranked[:k]) / k:.4f}" if len(ranked) >= k else "-" for k in RANKS]
        lines.append(f"| {run.name} | {run.strategy} | {run.trials} | {len(ranked)} | {' | '.join(means)} |")
    return "\n".join(lines)


def _describe(run: Run) -> str:
    recipe = run.identity["recipe"]
    known = ("epochs", "num_cells", "num_filters", "train_images", "validation_images", "batch_size", "learning_rate")
    text = f"Seed {run.identity['seed']}, {run.identity['pending']} pending. Children: "
    text += ", ".join(f"{key} {recipe[key]}" for key in known if key in recipe) + "."
    if run.failures:
        text += " Without accuracy: " + ", ".join(f"{n} {status}" for status, n in sorted(run.failures.items())) + "."
    return text


def _best_cells(run: Run, out: Path, count: int) -> str:
    """Draw and export the best, and write all children's figures as CSV; gives the table of the best."""
    _write_csv(out / f"{run.name}-search.csv", run.findings)
    ranked = best(run.retrained or run.findings, count)
    lines = ["| rank | trial | accuracy | parameters | genotype | picture |", "|---|---|---|---|---|---|"]
    for place, finding in enumerate(ranked, start=1):
        stem = f"{run.name}-{place}"
        source = f"{'retrained' if run.retrained else 'search'} {run.name}, trial {finding.number}"
        genotype = replace(finding.genotype, name=stem, source=source)
        genotype.save(out / f"{stem}.json")
        draw_genotype(genotype, out / f"{stem}.svg")
        lines.append(
            f"| {place} | {finding.number} | {finding.reward:.4f} | {_parameters(finding)} "
            f"| [{stem}.json]({stem}.json) | [{stem}.svg]({stem}.svg) |"
        )
    return "\n".join(lines)


def _second_phase(run: Run, out: Path) -> str:
    """The ranking of the second phase against the search's."""
    _write_csv(out / f"{run.name}-retrained.csv", run.retrained)
    before = {finding.decisions: finding for finding in best(run.findings, len(run.findings))}
    rank = {decisions: place for place, decisions in enumerate(before, start=1)}
    lines = [
        f"Second phase: {len(run.retrained)} retrained.",
        "",
        "| rank | in the search | retrained | accuracy in the search | parameters |",
        "|---|---|---|---|---|",
    ]
    for place, finding in enumerate(best(run.retrained, 25), start=1):
        first = before.get(finding.decisions)
        earlier = ("-", "-") if first is None else (str(rank[finding.decisions]), f"{first.reward:.4f}")
        lines.append(f"| {place} | {earlier[0]} | {finding.reward:.4f} | {earlier[1]} | {_parameters(finding)} |")
    return "\n".join(lines)


def _parameters(finding: Finding) -> str:
    count = finding.measures.get("num_params", 0)
    return f"{count / 1e6:.2f} M" if count else "-"


def _write_csv(path: Path, findings: Sequence[Finding]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measures = ("status", "num_params", "seconds", "attempts", "device")
    writer.writerow(("trial", "reward", "seed", *measures, "decisions"))
    for finding in findings:
        values = [finding.measures.get(key, "") for key in measures]
        writer.writerow((finding.number, finding.reward, finding.seed, *values, " ".join(map(str, finding.decisions))))
    write_text(path, text.getvalue())
