"""
One task with two GPUs on one node is started once, and sees both.
"""

from cluster import environment
from cluster import run as command
from harness import TELLING, TUNED, OnSlurm, asking, micro_study, trial, tuning_processes

STEPS = 500

with trial("two_gpus", __doc__) as this:
    place = this.folder / "study"
    config = micro_study(place, {"steps": STEPS, "batch": 8, "checkpoint_every": 50})
    with OnSlurm(place, config, TUNED, *asking(place, gres="gpu:2")) as run:
        this.wait_for("the tuning runs", lambda: tuning_processes(place), 240)
        (job,) = run.jobs("finetune_model")
        shown = command("scontrol", "--details", "show", "job", job.number)
        gpus = [line for line in shown.splitlines() if "GRES" in line or "NumNodes" in line]
        this.keep("scontrol show job", "\n".join(gpus))
        running = tuning_processes(place)
        this.check("one process runs", len(running) == 1)
        devices = environment(running[0]).get("CUDA_VISIBLE_DEVICES")
        this.check(f"CUDA_VISIBLE_DEVICES={devices}", devices == "0,1")
        this.check("it is on the node that has two", job.node == "n2")
        this.check("Snakemake ended with 0", run.wait(600) == 0)
        this.keep("Snakemake", run.said(), TELLING)
    said = (place / "logs/micro/yarn-256/finetune.log").read_text()
    this.keep_log(place)
    this.check("the stage said once that it begins", said.count("tuning micro/base as") == 1)
