"""
The default study, all its jobs on Slurm: to its end, with the numbers of a run without Slurm.

    python tests/slurm/trial_default.py RESULTS     # of an undisturbed `snakemake --cores all`
"""

import re
import sys
from pathlib import Path

from harness import ROOT, OnSlurm, trial

from same import RECORDS, records

HOURS = 2  # at the most

with trial("default", __doc__) as this:
    undisturbed, place = Path(sys.argv[1]).resolve(), this.folder / "study"
    place.mkdir()
    for name in ("resources", "config"):
        (place / name).symlink_to(ROOT / name)
    with OnSlurm(place, place / "config/config.yaml", "all") as run:
        code = run.wait(3600 * HOURS)
        said = run.said()
        this.keep("Snakemake", said, re.compile(r"^\d+ of \d+ steps|[Ee]rror in|Trying to restart"))
        this.check("Snakemake ended with 0", code == 0)
    submitted = len(re.findall(r"has been submitted with SLURM jobid", said))
    this.note(f"{submitted} jobs were submitted")
    for pattern in RECORDS:
        ours, theirs = records(place / "results", pattern), records(undisturbed, pattern)
        different = [path for path in ours if ours[path] != theirs.get(path)]
        this.keep(f"different: {pattern}", "\n".join(different))
        this.check(f"{len(ours)} files {pattern} are equal", ours and not different)
    for path in sorted((place / "results/tables").glob("table0[56].md")):
        this.keep(path.name, path.read_text())
