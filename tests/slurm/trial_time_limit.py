"""
A tuning that its time limit stops goes on in the next job, and ends as if nothing had been.
"""

from harness import (
    TELLING,
    TUNED,
    OnSlurm,
    any_is,
    asking,
    copy_of,
    gone_on_from,
    local,
    micro_study,
    result,
    steps_kept,
    trial,
)

STEPS, EVERY = 1200, 50
LIMIT = {"runtime": 1}  # minutes

with trial("time_limit", __doc__) as this:
    place, whole = this.folder / "study", this.folder / "undisturbed"
    config = micro_study(place, {"steps": STEPS, "batch": 8, "checkpoint_every": EVERY})
    other = copy_of(place, whole)
    this.note(f"a tuning of {STEPS} steps, a checkpoint every {EVERY}, in jobs of a minute")
    with OnSlurm(place, config, TUNED, *asking(place, **LIMIT)) as run:
        this.wait_for("Slurm ended the job: TIMEOUT", any_is("TIMEOUT", run), 240)
        kept = steps_kept(place)
        this.note(f"step {kept} was the last one written")
        this.check("the job was stopped on its way", 0 < kept < STEPS)
        this.check("Snakemake ended with 0", run.wait(900) == 0)
        this.keep("Snakemake", run.said(), TELLING)
    this.keep_log(place)
    went_on = gone_on_from(place)
    kept = went_on % EVERY == 0 < went_on
    this.check(f"the last job went on from step {went_on}, a checkpoint", kept)
    assert local(whole, other, TUNED).returncode == 0
    this.note("the same tuning ran without Slurm, undisturbed")
    this.check(f"the {STEPS} losses and the weights are equal", result(place) == result(whole))
