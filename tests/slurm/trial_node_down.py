"""
A node that dies during a job: Slurm puts the job on the other node, where it goes on; and where
Slurm may not do that, Snakemake's retry does. Either way the result is that of an undisturbed run.
"""

from harness import (
    TELLING,
    TUNED,
    OnSlurm,
    copy_of,
    gone_on_from,
    local,
    micro_study,
    result,
    steps_kept,
    trial,
)

STEPS, EVERY, BOUND = 400, 50, 1800  # the last: seconds, on a busy machine


def lose_the_node(this, place, *flags):
    """Run the tuning, take its node away on the way, and see where it ends."""
    config = place / "micro.yaml"
    with OnSlurm(place, config, TUNED, *flags) as run:
        this.wait_for("a checkpoint was written", lambda: steps_kept(place) > EVERY, BOUND)
        job = run.jobs("finetune_model")[-1]
        this.cluster.lose_node(job.node)
        this.note(f"node {job.node} is gone with all its processes, at step {steps_kept(place)}")

        def elsewhere():
            last = run.jobs("finetune_model")[-1]
            return last.state == "RUNNING" and last.node not in ("", job.node)

        this.wait_for("a job runs on the other node", elsewhere, BOUND)
        this.check("Snakemake ended with 0", run.wait(BOUND) == 0)
        this.keep(f"Snakemake {' '.join(flags)}", run.said(), TELLING)
    this.keep_log(place)
    this.check(f"it went on from step {gone_on_from(place)}", gone_on_from(place) >= EVERY)
    this.cluster.start_node(job.node)
    this.cluster.wait_until_idle()
    this.note(f"node {job.node} is back")
    return run


with trial("node_down", __doc__) as this:
    first, second, whole = (this.folder / name for name in ("requeued", "retried", "undisturbed"))
    config = micro_study(first, {"steps": STEPS, "batch": 8, "checkpoint_every": EVERY})
    copy_of(first, second)
    other = copy_of(first, whole)
    this.note(f"a tuning of {STEPS} steps; Slurm may queue a job again (its default)")
    lose_the_node(this, first)
    this.note("once more; Slurm may not queue a job again")
    run = lose_the_node(this, second, "--slurm-no-requeue")
    this.check("Snakemake says NODE_FAIL", "NODE_FAIL" in run.said())
    assert local(whole, other, TUNED).returncode == 0
    this.check("losses and weights are equal, 1", result(first) == result(whole))
    this.check("losses and weights are equal, 2", result(second) == result(whole))
