"""Write the best cells that a search found as genotype files.

    nasnet-det export-cell runs/s1 --top 1 --out my_cell.json
    nasnet-det export-cell runs/s1 --top 3 --out cells.json        # cells-1.json, cells-2.json, cells-3.json

Such a file is what timm.create_model('nasnet', genotype='my_cell.json') and the detectors' configs take. Cells are
ranked by the second phase (nasnet-det retrain) where there was one, else by the search.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nasnet_det.cli.errors import command, needs

with needs():
    from nasnet_det.search.command import existing_folder, searching


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=existing_folder, metavar="FOLDER", help="a search's --out")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="how many (default: 1)")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="with more than one: FILE-1, FILE-2 ..."
    )
    parser.add_argument(
        "--phase", choices=("search", "retrained"), help="whose ranking (default: the second phase's if it was run)"
    )
    parser.add_argument("--storage", metavar="URL", help="the search's, where it needs a password")
    options = parser.parse_args(argv)
    if options.top < 1:
        parser.error("--top is at least 1")
    return options


def export(options: argparse.Namespace) -> int:
    """Write the files."""
    from nasnet_det.search.report import read_findings
    from nasnet_det.search.run_folder import RunFolder
    from nasnet_det.search.study import StudyError, best

    phase, findings = read_findings(RunFolder(options.folder), options.phase, options.storage)
    found = best(findings, options.top)
    if not found:
        raise StudyError(f"no child of {options.folder} has an accuracy yet")
    if len(found) < options.top:
        print(f"there are only {len(found)}", file=sys.stderr)
    for place, finding in enumerate(found, start=1):
        path = options.out if options.top == 1 else options.out.with_stem(f"{options.out.stem}-{place}")
        source = f"{phase} {options.folder.resolve().name}, trial {finding.number}, accuracy {finding.reward:.4f}"
        replace(finding.genotype, name=path.stem, source=source).save(path)
        print(f"{path}  {source}")
    return 0


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 2 if what it was given is at fault."""
    options = parse(argv)
    with searching():
        return export(options)


if __name__ == "__main__":
    sys.exit(main())
