"""Reports of searches: tables, the paper's figure 6, Pareto fronts, drawings of the best cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from nasnet_det.draw import draw_genotype, draw_search_curves
from nasnet_det.draw.pareto import draw_front
from nasnet_det.draw.search_curves import RANKS
from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.safe_io.files import write_csv, write_text
from nasnet_det.search.limits import ACCURACY, format_measure
from nasnet_det.search.records import MEASURED, Finding, best, by_architecture, front
from nasnet_det.search.run_folder import RETRAINED, SEARCH, SearchFolder
from nasnet_det.search.rungs import pareto_front
from nasnet_det.search.storage import StudyError

_COSTS = {"params": "parameters", "macs": "multiply-adds", "latency": "latency in ms"}


@dataclass(frozen=True)
class Run:
    """A search with what its report shows.

    Args:
        name: the name of its folder, with those above it where several searches are of one name.
        strategy: the strategy's name.
        trials: the number of trials with a result.
        failures: the number of those without an accuracy, by status.
        findings: those with one.
        retrained: those of the second phase, with the numbers of the search's trials.
        identity: the study's.
        objectives: the study's.
    """

    name: str
    strategy: str
    trials: int
    failures: Mapping[str, int]
    findings: Sequence[Finding]
    retrained: Sequence[Finding]
    identity: Mapping[str, Any]
    objectives: tuple[str, ...] = (ACCURACY,)

    @property
    def rewards(self) -> list[float]:
        """The reward of every model, in the order sampled. A failure, or an architecture sampled before, counts as the
        worst of all, so that figure 6 shows unique models."""
        worst = min((finding.reward for finding in self.findings), default=0.0)
        rewards = [worst] * self.trials
        seen = set()
        for finding in self.findings:
            if finding.decisions not in seen and finding.number < self.trials:
                rewards[finding.number] = finding.reward
            seen.add(finding.decisions)
        return rewards

    @property
    def phase(self) -> str:
        """The phase that ranks the cells: ``retrained`` if a child of the second phase has an accuracy, else
        ``search``."""
        return RETRAINED if self.retrained else SEARCH

    def children(self, phase: str) -> Sequence[Finding]:
        """Return the children of a phase, ``search`` or ``retrained``."""
        return self.retrained if phase == RETRAINED else self.findings

    @property
    def hours(self) -> list[float]:
        """The hours of child training up to every model, failures not counted."""
        seconds = {finding.number: float(finding.measures.get("seconds", 0.0)) for finding in self.findings}
        return list(accumulate(seconds.get(number, 0.0) / 3600 for number in range(self.trials)))


def describe_values(finding: Finding, objectives: Sequence[str]) -> str:
    """Return a child's objectives in words: ``accuracy 0.4123, params 1.53M``."""
    values = finding.values or (finding.reward,)
    words = [f"{name} {format_measure(name, value)}" for name, value in zip(objectives, values, strict=False)]
    return ", ".join(words) + ("" if finding.complete else f" at epoch {finding.epochs}")


def named_genotype(run: Run, phase: str, finding: Finding, name: str) -> Genotype:
    """Return a child's genotype with a name, and a source that gives the phase that chose it and the search's trial."""
    values = describe_values(finding, run.objectives)
    return replace(finding.genotype, name=name, source=f"{phase} {run.name}, trial {finding.number}, {values}")


def describe_front(found: Sequence[Finding], objectives: Sequence[str]) -> str:
    """Return a Pareto front as lines."""
    lines = [f"trial {finding.number:5}  {describe_values(finding, objectives)}" for finding in found]
    return "\n".join([f"Pareto front of {', '.join(objectives)}:", *lines])


def draw_front_of(
    findings: Sequence[Finding], objectives: Sequence[str], folder: Path, stem: str = "front"
) -> list[Path]:
    """Draw accuracy against each other objective; return the pictures' paths.

    Raises:
        OSError: if one cannot be written.
    """
    ended, paths = [finding for finding in findings if finding.complete], list[Path]()
    for i, name in enumerate(objectives[1:], start=1):
        points = [(finding.values[i], finding.reward, str(finding.number)) for finding in ended]
        # Of three objectives, points of the front can be dominated in the plane of two.
        chosen = pareto_front([(-cost, accuracy) for cost, accuracy, _ in points])
        paths.append(folder / f"{stem}-{name}.png")
        draw_front(points, [points[j] for j in chosen], paths[-1], xlabel=_COSTS[name])
    return paths


def read_run(folder: SearchFolder, storage: str | None = None) -> Run:
    """Return a search and its second phase.

    Args:
        folder: the search's.
        storage: the database URL, where it needs a password.

    Raises:
        StudyError: if the folder is not a search's.
    """
    with closing(folder.open_study(SEARCH, storage)) as study:
        statuses, findings, identity, objectives = study.statuses(), study.findings(), study.identity, study.objectives
    try:
        second = folder.open_study(RETRAINED, storage)
    except StudyError:
        retrained = []
    else:
        with closing(second):
            retrained = _numbered_as_in(findings, second.findings())
    failures = Counter(status for status in statuses if status not in (*MEASURED, "stopped", "kept"))
    name = folder.path.resolve().name
    return Run(name, identity["strategy"]["name"], len(statuses), failures, findings, retrained, identity, objectives)


def read_runs(folders: Sequence[Path], storage: str | None = None) -> list[Run]:
    """Return several searches, each once, under names that differ.

    Args:
        folders: the searches'.
        storage: the database URL, where it needs a password.

    Raises:
        StudyError: if a folder is not a search's.
    """
    paths = list(dict.fromkeys(path.resolve() for path in folders))
    deepest = max(len(path.parts) for path in paths)
    depth = next(n for n in range(1, deepest + 1) if len({path.parts[-n:] for path in paths}) == len(paths))
    return [replace(read_run(SearchFolder(path), storage), name="-".join(path.parts[-depth:])) for path in paths]


def _numbered_as_in(search: Sequence[Finding], retrained: Sequence[Finding]) -> list[Finding]:
    """Return a second phase's children with the numbers of the search's trials of their architectures."""
    trials = by_architecture(search)
    return [replace(finding, number=trials.get(finding.decisions, finding).number) for finding in retrained]


def write_report(runs: Sequence[Run], out: Path, draw: int = 3) -> Path:
    """Write ``report.md`` with its pictures, tables and genotypes into a folder; return its path.

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
    hours: dict[str, list[list[float]]] = {}
    for run in runs:
        curves.setdefault(run.strategy, []).append(run.rewards)
        hours.setdefault(run.strategy, []).append(run.hours)
    draw_search_curves(curves, out / "search_curves.png")
    draw_search_curves(curves, out / "search_hours.png", hours=hours)
    pictures = "![by models](search_curves.png) ![by hours](search_hours.png)"
    parts = ["# Search report", "", pictures, "", _summary(runs)]
    for run in runs:
        parts += ["", f"## {run.name}: {run.strategy}", "", _describe(run), "", _best_cells(run, out, draw)]
        if len(run.objectives) > 1:
            parts += ["", _pareto_front(run, out)]
        if run.retrained:
            parts += ["", _second_phase(run, out)]
    path = out / "report.md"
    write_text(path, "\n".join(parts) + "\n")
    return path


def _summary(runs: Sequence[Run]) -> str:
    lines = ["| search | strategy | models | different, with accuracy | best | top 5 mean | top 25 mean |"]
    lines.append("|---|---|---|---|---|---|---|")
    for run in runs:
        most = max(finding.epochs for finding in run.findings)
        ranked = [finding.reward for finding in best(run.findings, len(run.findings)) if finding.epochs == most]
        means = [f"{sum(ranked[:k]) / k:.4f}" if len(ranked) >= k else "-" for k in RANKS]
        lines.append(f"| {run.name} | {run.strategy} | {run.trials} | {len(ranked)} | {' | '.join(means)} |")
    return "\n".join(lines)


def _describe(run: Run) -> str:
    recipe = run.identity["recipe"]
    known = ("epochs", "num_cells", "num_filters", "train_images", "validation_images", "batch_size", "learning_rate")
    text = f"Seed {run.identity['seed']}, {run.identity['pending']} pending. Children: "
    text += ", ".join(f"{key} {recipe[key]}" for key in known if key in recipe) + "."
    if rungs := run.identity.get("rungs"):
        text += f" Judged by {rungs['pruner']} after {', '.join(map(str, rungs['epochs']))} epochs."
    if run.failures:
        text += " Without accuracy: " + ", ".join(f"{n} {status}" for status, n in sorted(run.failures.items())) + "."
    return text


def _best_cells(run: Run, out: Path, count: int) -> str:
    """Draw and export the best, and write all children's measures as CSV; return the table of the best."""
    _write_children(out / f"{run.name}-search.csv", run.findings)
    ranked = best(run.children(run.phase), count)
    lines = ["| rank | trial | accuracy | parameters | genotype | picture |", "|---|---|---|---|---|---|"]
    for rank, finding in enumerate(ranked, start=1):
        stem = f"{run.name}-{rank}"
        genotype = named_genotype(run, run.phase, finding, stem)
        genotype.save(out / f"{stem}.json")
        draw_genotype(genotype, out / f"{stem}.svg")
        lines.append(
            f"| {rank} | {finding.number} | {finding.reward:.4f} | {_parameters(finding)} "
            f"| [{stem}.json]({stem}.json) | [{stem}.svg]({stem}.svg) |"
        )
    return "\n".join(lines)


def _second_phase(run: Run, out: Path) -> str:
    """Return the ranking of the second phase against the search's."""
    _write_children(out / f"{run.name}-retrained.csv", run.retrained)
    before = by_architecture(run.findings)
    earlier_rank = {decisions: place for place, decisions in enumerate(before, start=1)}
    lines = [
        f"Second phase: {len(run.retrained)} retrained.",
        "",
        "| rank | in the search | retrained | accuracy in the search | parameters |",
        "|---|---|---|---|---|",
    ]
    for rank, finding in enumerate(best(run.retrained, 25), start=1):
        first = before.get(finding.decisions)
        earlier = ("-", "-") if first is None else (str(earlier_rank[finding.decisions]), f"{first.reward:.4f}")
        lines.append(f"| {rank} | {earlier[0]} | {finding.reward:.4f} | {earlier[1]} | {_parameters(finding)} |")
    return "\n".join(lines)


def _pareto_front(run: Run, out: Path) -> str:
    """Draw the Pareto front; return its table."""
    pictures = draw_front_of(run.findings, run.objectives, out, f"{run.name}-front")
    lines = [f"Pareto front: {' '.join(f'![{path.stem}]({path.name})' for path in pictures)}", ""]
    lines += ["| trial | " + " | ".join(run.objectives) + " |", "|" + "---|" * (1 + len(run.objectives))]
    for finding in front(run.findings, run.objectives):
        values = [format_measure(name, value) for name, value in zip(run.objectives, finding.values, strict=True)]
        lines.append(f"| {finding.number} | {' | '.join(values)} |")
    return "\n".join(lines)


def _parameters(finding: Finding) -> str:
    count = finding.measures.get("num_params", 0)
    return format_measure("params", count) if count else "-"


def _write_children(path: Path, findings: Sequence[Finding]) -> None:
    measures = ("status", "num_params", "macs", "latency", "seconds", "attempts", "device")
    rows: list[tuple[Any, ...]] = [("trial", "reward", "epochs", "seed", *measures, "decisions")]
    for finding in findings:
        values = [finding.measures.get(key, "") for key in measures]
        decisions = " ".join(map(str, finding.decisions))
        rows.append((finding.number, finding.reward, finding.epochs, finding.seed, *values, decisions))
    write_csv(path, rows)
