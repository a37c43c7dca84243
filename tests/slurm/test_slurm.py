"""A job of the workflow on a real Slurm; `cluster.py` says what that needs. Mostly waiting."""

import os
import signal

import pytest
from cluster import missing, wait
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
EVERY = 20  # steps between checkpoints
LIMIT = {"runtime": 1}  # minutes, the least that Slurm knows


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
    config = micro_study(place, {"steps": 400, "batch": 8, "checkpoint_every": EVERY})
    other = copy_of(place, whole)
    with OnSlurm(place, config, TUNED, *asking(place, **LIMIT)) as run:
        assert wait(lambda: steps_kept(place) > EVERY, 120), run.said()
        for pid in tuning_processes(place):
            os.kill(pid, signal.SIGSTOP)  # so slow that no machine ends before the limit
        assert local(whole, other, TUNED).returncode == 0
        assert wait(any_is("TIMEOUT", run), 150), run.said()
        assert run.wait(240) == 0, run.said()
        assert [each.memory for each in run.jobs("finetune_model")] == [128_000, 256_000]
    assert gone_on_from(place) >= EVERY
    assert result(place) == result(whole)
