"""Write the best cells that a search found as genotype files.

    nasnet-det export-cell runs/s1 --top 1 --output my_cell.json
    nasnet-det export-cell runs/s1 --top 3 --output cells.json        # cells-1.json, cells-2.json, cells-3.json
    nasnet-det export-cell runs/s4 --front --output cells.json        # every point of a Pareto front
    nasnet-det export-cell runs/s4 --trial 17 --output my_cell.json   # any trial

Such a file is what timm.create_model('nasnet', genotype='my_cell.json') and the detectors' configs take. Cells are
ranked by the second phase (nasnet-det retrain-cells) where there was one, else by the search; trials are numbered as in
the search.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from nasnet_det.cli.shared.errors import command
from nasnet_det.cli.shared.options import add_output, new_parser, whole
from nasnet_det.cli.shared.search_context import search_context
from nasnet_det.cli.shared.search_options import existing_folder
from nasnet_det.safe_io.files import check_writable

#: A regular expression that is found at the beginning of a cell's file.
_OWN = b'"blocks": '


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = new_parser(__doc__)
    parser.add_argument("folder", type=existing_folder, metavar="FOLDER", help="a search's --output")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--top", type=whole(1), default=1, metavar="K", help="the K best (default: 1)")
    which.add_argument("--trial", type=int, metavar="N", help="the cell of trial N")
    which.add_argument("--front", action="store_true", help="every cell of the Pareto front")
    add_output(parser, "the file; of several cells PATH-1, PATH-2 ...", required=True)
    parser.add_argument(
        "--phase", choices=("search", "retrained"), help="whose ranking (default: the second phase's if it was run)"
    )
    parser.add_argument("--storage", metavar="URL", help="the search's, where it needs a password")
    return parser.parse_args(argv)


def export(options: argparse.Namespace) -> int:
    """Write the files."""
    from nasnet_det.search.records import best, front
    from nasnet_det.search.report import named_genotype, read_run
    from nasnet_det.search.run_folder import RETRAINED, SEARCH, SearchFolder
    from nasnet_det.search.storage import StudyError

    if options.phase == RETRAINED and (options.trial is not None or options.front):
        raise ValueError("--trial and --front are of the search: leave out --phase retrained")
    run = read_run(SearchFolder(options.folder), options.storage)
    # Trial numbers and fronts are those of the search.
    phase = SEARCH if options.trial is not None or options.front else options.phase or run.phase
    findings = run.children(phase)
    if options.trial is not None:
        found = [finding for finding in findings if finding.number == options.trial]
        if not found:
            raise StudyError(f"trial {options.trial} of {options.folder} does not exist or has no accuracy")
    else:
        found = front(findings, run.objectives) if options.front else best(findings, options.top)
    if not found:
        raise StudyError(f"no child of {options.folder} has an accuracy yet in phase {phase}")
    single = not options.front and options.top == 1
    if not options.front and options.trial is None and len(found) < options.top:
        print(f"there are only {len(found)}", file=sys.stderr)
    output, numbers = options.output, range(1, len(found) + 1)
    paths = [output] if single else [output.with_stem(f"{output.stem}-{rank}") for rank in numbers]
    for path in paths:
        check_writable(path, _OWN)
    for path, finding in zip(paths, found, strict=True):
        genotype = named_genotype(run, phase, finding, path.stem)
        genotype.save(path)
        print(f"{path}  {genotype.source}")
    return 0


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 2 for a mistake in what it was given."""
    options = parse(argv)
    with search_context():
        return export(options)
