"""The simulated schedule of a study, against schedules by hand and bounds that hold for any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope.errors import UserError
from longrope.plan.schedule import Task, chains, simulate, spread


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


def test_a_job_that_does_not_fit_is_named():
    with pytest.raises(UserError, match="big needs 3 GPUs by the plan, there are 2"):
        simulate([task("big", 1, gpus=3)], 2)
