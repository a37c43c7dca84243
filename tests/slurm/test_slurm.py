"""A job of the workflow on a real Slurm; `cluster.py` says what that needs. Mostly waiting."""

import os
import signal

import pytest
from cluster import missing
from cluster import run as command
from harness import (
    TUNED,
    OnSlurm,
    any_is,
    asking,
    cluster_in,
    copy_of,
    gone_on_from,
    local,
    micro_study,
    result,
    steps_kept,
    tuning_processes,
)

pytestmark = pytest.mark.slurm
STEPS, EVERY = 200, 5  # the last: steps between checkpoints
LIMIT = 60  # minutes, that a job begins with, as it may take long to its first checkpoint
BOUND = 1800  # seconds, after which something hangs


@pytest.fixture
def cluster(tmp_path):
    if (reason := missing()) is not None:
        pytest.skip(f"no Slurm can be started: {reason}")
    pytest.importorskip("snakemake_executor_plugin_slurm")
    with cluster_in(tmp_path / "slurm") as running:
        yield running


def test_a_job_that_its_time_limit_stops_is_retried_and_ends_as_an_undisturbed_one(
    cluster, tmp_path
):
    place, whole = tmp_path / "study", tmp_path / "undisturbed"
    config = micro_study(place, {"steps": STEPS, "batch": 2, "checkpoint_every": EVERY})
    other = copy_of(place, whole)
    with OnSlurm(place, config, TUNED, *asking(place, runtime=LIMIT)) as run:
        assert run.comes_to(lambda: steps_kept(place) > EVERY, BOUND), run.said()
        for pid in tuning_processes(place):
            os.kill(pid, signal.SIGSTOP)  # so slow that no machine ends before the limit
        (job,) = run.jobs("finetune_model")
        command("scontrol", "update", f"JobId={job.number}", "TimeLimit=1")  # minute
        assert local(whole, other, TUNED).returncode == 0
        assert run.comes_to(any_is("TIMEOUT", run), BOUND), run.said()
        assert run.wait(BOUND) == 0, run.said()
        assert [each.memory for each in run.jobs("finetune_model")] == [128_000, 256_000]
    assert gone_on_from(place) >= EVERY
    assert result(place) == result(whole)
