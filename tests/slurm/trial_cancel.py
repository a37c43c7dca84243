"""
A job that somebody cancels is reported by Snakemake within four minutes; what it did is kept.
"""

import time

from cluster import run as command
from harness import (
    TELLING,
    TUNED,
    OnSlurm,
    gone_on_from,
    micro_study,
    steps_kept,
    trial,
)

STEPS, EVERY, BOUND = 1200, 50, 240  # the last: seconds

with trial("cancel", __doc__) as this:
    place = this.folder / "study"
    config = micro_study(place, {"steps": STEPS, "batch": 8, "checkpoint_every": EVERY})
    this.note(f"a tuning of {STEPS} steps, without retries")
    with OnSlurm(place, config, TUNED, "--retries", "0") as run:
        this.wait_for("a checkpoint was written", lambda: steps_kept(place) > EVERY, 240)
        (job,) = run.jobs("finetune_model")
        command("scancel", job.number)
        this.note(f"scancel {job.number}, at step {steps_kept(place)}")
        began = time.monotonic()
        code = run.wait(BOUND)
        this.note(f"Snakemake ended with {code}, {time.monotonic() - began:.0f} s after scancel")
        this.keep("Snakemake", run.said(), TELLING)
        this.check("it ended with an error", code == 1)
        reported = f"SLURM-job '{job.number}' failed, SLURM status is: 'CANCELLED'"
        this.check("it says which job, and CANCELLED", reported in run.said())
    this.note("the same command once more")
    with OnSlurm(place, config, TUNED) as run:
        this.check("Snakemake ended with 0", run.wait(600) == 0)
        this.keep("Snakemake, once more", run.said(), TELLING)
    this.keep_log(place)
    this.check(f"it went on from step {gone_on_from(place)}", gone_on_from(place) >= EVERY)
