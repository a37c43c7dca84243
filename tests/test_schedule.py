"""The simulated schedule of a study, against schedules by hand and bounds that hold for any."""

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from helpers import ROOT
from longrope.checks import load_config
from longrope.cli import main
from longrope.errors import UserError
from longrope.plan.estimate import estimate_study
from longrope.plan.jobs import job_that_makes
from longrope.plan.machine import find_machine
from longrope.plan.schedule import Task, chains, longest, simulate, spread
from longrope.plan.simulation import best_spread, first_spread, simulation, study_tasks


def task(name: str, hours: float, *after: str, gpus: int = 1, rule: str = "work") -> Task:
    return Task(name, rule, hours, gpus, after)


# A diamond, and a long job beside it.
DIAMOND = [
    task("a", 1),
    task("b", 2, "a"),
    task("c", 3, "a"),
    task("d", 1, "b", "c"),
    task("beside", 4),
]


@st.composite
def studies(draw) -> list[Task]:
    """Tasks that wait for some of those before them."""
    made = []
    for number in range(draw(st.integers(1, 12))):
        names = [each.name for each in made]
        after = draw(st.lists(st.sampled_from(names), unique=True, max_size=3)) if names else []
        hours, gpus = draw(st.integers(1, 9)), draw(st.integers(1, 4))
        made.append(task(str(number), float(hours), *after, gpus=gpus))
    return made


@pytest.mark.parametrize(("gpus", "makespan"), [(1, 11), (2, 7), (3, 5), (9, 5)])
def test_a_study_ends_when_it_does_by_hand(gpus, makespan):
    # On two, a and beside begin; c goes before b, as more is behind it, and b waits until 4.
    schedule = simulate(DIAMOND, gpus)
    assert schedule.makespan == makespan
    assert schedule.gpu_hours == 11
    assert schedule.idle == pytest.approx(1 - 11 / (gpus * schedule.makespan))


def test_a_job_of_several_gpus_waits_until_they_are_free():
    runs = {
        run.task.name: run.start for run in simulate([task("a", 2), task("b", 1, gpus=2)], 2).runs
    }
    assert runs == {"a": 0, "b": 2}


@given(studies(), st.integers(4, 8))
def test_no_schedule_beats_its_chain_or_its_work_and_no_gpu_is_used_twice(tasks, gpus):
    schedule = simulate(tasks, gpus)
    assert sorted(run.task.name for run in schedule.runs) == sorted(each.name for each in tasks)
    assert schedule.makespan >= max(chains(tasks).values())
    assert schedule.makespan * gpus >= schedule.gpu_hours - 1e-9
    ends = {run.task.name: run.end for run in schedule.runs}
    for run in schedule.runs:
        assert all(ends[name] <= run.start for name in run.task.after)
        beside = [each for each in schedule.runs if each.start <= run.start < each.end]
        assert sum(each.task.gpus for each in beside) <= gpus


@given(studies())
def test_on_as_many_gpus_as_all_jobs_have_only_the_chain_counts(tasks):
    gpus = sum(each.gpus for each in tasks)
    assert simulate(tasks, gpus).makespan == pytest.approx(max(chains(tasks).values()))


def test_spreading_a_rule_divides_its_hours_as_far_as_there_are_gpus():
    tasks = [task("a", 8, rule="search"), task("b", 1, "a")]
    wide = spread(tasks, {"search": 8}, efficiency=0.5, gpus=4)
    assert [(each.hours, each.gpus) for each in wide] == [(4, 4), (1, 1)]
    assert simulate(wide, 4).makespan == 5
    assert simulate(wide, 4).gpu_hours == 4 * 4 + 1  # twice the work, as half the speed-up is lost


def test_a_job_that_does_not_fit_is_named():
    with pytest.raises(UserError, match="big needs 3 GPUs by the plan, there are 2"):
        simulate([task("big", 1, gpus=3)], 2)


def test_the_longest_chain_is_the_jobs_that_say_when_all_is_done():
    assert [each.name for each in longest(DIAMOND)] == ["a", "c", "d"]
    assert longest([]) == []


def test_what_is_spread_first_is_what_shortens_the_whole_the_most():
    tasks = [
        task("long", 8, rule="finetune_model"),
        task("end", 1, "long"),
        task("beside", 4, rule="search_factors"),
    ]
    found = first_spread(tasks, simulate(tasks, 5))  # 8 at 4 times: 2.5 hours, and 1 after it
    assert (found.rules, found.times) == (("finetune_model",), 4)
    assert found.schedule.makespan == pytest.approx(4)  # now of the job beside


def test_where_half_the_speed_up_is_best_no_more_gpus_are_taken():
    # On 4: eight-fold becomes four-fold, and the two would wait for each other.
    tasks = [task(name, 8, rule="finetune_model") for name in ("a", "b")]
    found = best_spread(tasks, simulate(tasks, 4), ["finetune_model"])
    assert (found.times, found.schedule.makespan) == (2, 5)


def test_where_all_gpus_are_busy_nothing_is_to_be_spread():
    tasks = [task(str(number), 3, rule="finetune_model") for number in range(8)]
    found = first_spread(tasks, simulate(tasks, 4))
    assert (found.times, found.text) == (1, "no gain")


@pytest.fixture(scope="module")
def paper():
    config = load_config(yaml.safe_load((ROOT / "config/paper.yaml").read_text()))
    return config, estimate_study(config, find_machine("a100-80gb"), "study")


def test_the_paper_s_study_takes_its_gpu_hours_on_one_gpu_and_its_chain_on_many(paper):
    config, estimates = paper
    hours, ends = {each.job.output: each.hours for each in estimates}, {}
    for job in (each.job for each in estimates):
        before = [ends[job_that_makes(config, path).output] for path in job.inputs]
        ends[job.output] = hours[job.output] + max(before, default=0.0)
    whole = sum(each.hours * each.gpus for each in estimates)
    assert simulate(study_tasks(config, estimates, 1), 1).makespan == pytest.approx(whole)
    many = simulate(study_tasks(config, estimates, 256), 256)
    assert many.makespan == pytest.approx(max(ends.values()))
    assert many.gpu_hours == pytest.approx(whole)


def test_the_paper_s_longest_chain_is_the_tuning_at_256k_from_the_original_model(paper):
    rules = [each.name for each in longest(study_tasks(*paper, 256)) if each.hours > 24 * 5]
    assert rules == [
        "results/llama2-7b/base/factors/search/256k/factors.json",
        "results/llama2-7b/longrope-256k-direct/model",
    ]


def test_the_command_prints_a_schedule_for_each_number_of_gpus(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    main(["plan", "--config", "config/paper.yaml", "--gpu", "a100-80gb", "--simulate", "1", "8"])
    said = capsys.readouterr().out
    table = said.split("GPUs  too large")[1].splitlines()
    (hours,) = re.findall(r"^In all .* ([\d,]+) GPU-hours", said, re.MULTILINE)
    assert f"days  {hours:>9}" in table[1] and f"days  {hours:>9}" in table[2]
    assert table[1].split()[:2] == ["1", "21"] and "no gain" in table[1]
    assert table[2].split()[:2] == ["8", "0"] and "tunings x2" in table[2]


def test_an_efficiency_that_cannot_be_is_refused_and_a_low_one_leaves_nothing_to_gain(paper):
    config, estimates = paper
    with pytest.raises(UserError, match=r"efficiency 1\.4: it is a share"):
        simulation(config, estimates, [8], efficiency=1.4)
    tasks = [task("a", 8, rule="finetune_model")]
    assert best_spread(tasks, simulate(tasks, 2), ["finetune_model"], efficiency=0.5).times == 1
