"""
A tuning over two nodes: one job, a process on each, and the losses of one process.
"""

from cluster import environment, name_of
from harness import (
    TELLING,
    TUNED,
    OnSlurm,
    asking,
    copy_of,
    local,
    micro_study,
    result,
    trial,
    tuning_processes,
)

STEPS, EVERY = 60, 20
RESOURCES = {
    **{"nodes": 2, "gres": "gpu:1", "processes": 1},
    **{"mpi": "srun", "tasks": 2, "tasks_per_gpu": 0},
}


def on_two_nodes(this, place, per_sequence: int) -> list[float]:
    """Tune over two nodes; returns the losses."""
    asked = asking(place, per_sequence=per_sequence, **RESOURCES)
    with OnSlurm(place, place / "micro.yaml", TUNED, *asked) as run:
        this.wait_for("the tuning runs on both nodes", lambda: nodes_of(place) == {"n1", "n2"}, 300)
        (job,) = run.jobs("finetune_model")
        this.check(f"one job has both: {job.node}", job.node == "n[1-2]")
        this.check("Snakemake ended with 0", run.wait(900) == 0)
        this.keep(f"Snakemake, per_sequence={per_sequence}", run.said(), TELLING)
    this.keep_log(place)
    return result(place)[0]


def nodes_of(place) -> set[str]:
    """Where processes of the stage run."""
    found = (environment(pid) for pid in tuning_processes(place) if name_of(pid) != "srun")
    return {each["SLURMD_NODENAME"] for each in found if "RANK" in each}


with trial("two_nodes", __doc__) as this:
    data, sequence, whole = (this.folder / name for name in ("data", "sequence", "one-process"))
    config = micro_study(data, {"steps": STEPS, "batch": 8, "checkpoint_every": EVERY})
    copy_of(data, sequence)
    other = copy_of(data, whole)
    assert local(whole, other, TUNED).returncode == 0
    one = result(whole)[0]
    for name, place, per_sequence in (
        ("each process has its own sequences", data, 1),
        ("each sequence lies over both", sequence, 2),
    ):
        this.note(name)
        two = on_two_nodes(this, place, per_sequence)
        worst = max(abs(a - b) for a, b in zip(one, two, strict=True))
        claim = f"{STEPS} losses as of one process; the largest difference is {worst:.1e}"
        this.check(claim, worst < 1e-4)
