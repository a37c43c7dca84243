"""
The default study, all its jobs on Slurm: to its end, with the numbers of a run without Slurm.

    python tests/slurm/trial_default.py RESULTS     # of an undisturbed `snakemake --cores all`
"""

import json
import re
import sys
from pathlib import Path

from harness import ROOT, OnSlurm, trial

HOURS = 2  # at the most
# What says how, and how fast, and no result.
CIRCUMSTANCES = {
    "seconds",
    "version",
    "versions",
    "longrope",
    "ran_in",
    "threads",
    "peak_memory",
    "arithmetic",
}


def without(value, keys: set[str]):
    """A value of JSON without some keys, however deep."""
    if isinstance(value, dict):
        return {key: without(each, keys) for key, each in value.items() if key not in keys}
    return [without(each, keys) for each in value] if isinstance(value, list) else value


def numbers(results: Path, pattern: str) -> dict[str, object]:
    """The files of a kind, by path: all that they say but the circumstances."""
    return {
        str(path.relative_to(results)): without(json.loads(path.read_text()), CIRCUMSTANCES)
        for path in sorted(results.glob(pattern))
    }


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
    for pattern in (
        "tiny/**/factors.json",
        "tiny/**/evaluation/**/*.json",
        "tiny/**/extended.json",
    ):
        ours = numbers(place / "results", pattern)
        theirs = numbers(undisturbed, pattern)
        different = [path for path in ours if ours[path] != theirs.get(path)]
        this.keep(f"different: {pattern}", "\n".join(different))
        this.check(f"{len(ours)} files {pattern} are equal", ours and not different)
    for path in sorted((place / "results/tables").glob("table0[56].md")):
        this.keep(path.name, path.read_text())
