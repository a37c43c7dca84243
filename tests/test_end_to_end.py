"""A micro study through every stage, from text to figures."""

import json
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from browser import browsing, needs_browser
from longrope.report.contents import CONTENTS
from micro import CONFIG, ROOT, make_place, snakemake
from warm import warm

FIGURES = ("figure1", "figure2", "figure4", "depths", "figure5", "figure6")
TABLES = (
    *("table01", "table02", "table03", "table05", "table06", "table07", "table09", "table10"),
    *("table11", "table12", "passkey", "searches", "fitness", "tunings"),
)


def run(place: Path, *arguments: str, env=None) -> subprocess.CompletedProcess:
    command = snakemake(place, CONFIG, *arguments)
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The working directory of a finished micro study."""
    place = tmp_path_factory.mktemp("micro")
    make_place(place)
    with warm(tmp_path_factory.mktemp("warm") / "bin") as environment:
        result = run(place, "--cores", "2", "study", env=environment)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-8000:]
    return place


def test_every_stage_leaves_its_result(study):
    results = study / "results"
    extended = json.loads((results / "micro/longrope-256/extended/extended.json").read_text())
    assert [tier["max_length"] for tier in extended["tiers"]] == [128, 256, 512, 1024]
    for name in (*FIGURES, "figure3", "figure5c"):
        assert (results / f"figures/{name}.png").stat().st_size > 5_000
        assert len(pd.read_csv(results / f"figures/{name}.csv")) > 0
    for name in TABLES:
        assert (results / f"tables/{name}.md").read_text().strip()
    assert json.loads((results / "tables/summary.json").read_text())


def test_a_second_run_has_nothing_to_do(study):
    result = run(study, "--cores", "1", "study")
    assert "Nothing to be done" in result.stdout + result.stderr


def test_every_stage_is_a_run_in_mlflow(study, monkeypatch):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{study / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("longrope")
    runs = client.search_runs([experiment.experiment_id], max_results=500)
    stages = {each.data.tags["stage"] for each in runs}
    assert {"pretrain", "tokenize", "search", "finetune", "evaluate-perplexity"} <= stages
    search = next(each for each in runs if each.data.tags["stage"] == "search")
    assert len(client.get_metric_history(search.info.run_id, "best_perplexity")) > 1
    files = [each.path for each in client.list_artifacts(search.info.run_id)]
    assert any("search.png" in each for each in files), files


@pytest.fixture(scope="module")
def report(study):
    """What Snakemake makes of it for a browser."""
    result = run(study, "study", "--report", str(study / "report.html"))
    assert result.returncode == 0, result.stderr
    return study / "report.html"


def test_the_report_is_one_file_with_the_figures(report):
    text = report.read_text()
    assert "figure1.html" in text and "over the length of the sequence" in text


@needs_browser
def test_a_browser_shows_every_result_of_the_report_and_fetches_nothing(report, tmp_path):
    with browsing(tmp_path) as page:
        page.open(report.as_uri())
        results = dict(opened_results(page))
        made = ("summary", *FIGURES, "figure3", "figure5c", *TABLES)
        assert {*results} == {f"{each}.html" for each in made}
        for name, address in results.items():
            page.open(address)
            assert not page.broken_pictures()
            assert page.evaluate("document.querySelectorAll('td, img').length"), name
    assert not page.errors and not page.fetched


def opened_results(page):
    """Click on every result of a report; the name and the address of what it shows."""
    link = "[...document.querySelectorAll('nav a')].find(a => a.innerText.startsWith({!r})).click()"
    count = "document.querySelectorAll('a[iconname=eye]').length"
    name = "document.querySelector('iframe')?.src.match(/filename=([^;]+)/)?.[1]"
    for part in dict.fromkeys(entry.part for entry in CONTENTS.values()):
        page.wait(f"document.body.innerText.includes({part!r})")
        page.evaluate(link.format(part))
        for number in range(page.wait(count)):
            before = page.evaluate(name)
            page.evaluate(f"document.querySelectorAll('a[iconname=eye]')[{number}].click()")
            shown = page.wait(f"[{name}].find(each => each != {json.dumps(before)})")
            yield shown, page.evaluate("document.querySelector('iframe').src")
        page.evaluate(link.format("Results"))
