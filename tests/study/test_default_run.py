"""
What the default study must show, asserted on the results of a real run in results/.

    snakemake --cores all && pytest tests/study

These are the claims of the method that the project stands for. Other comparisons, ties and losses
included, are in results/tables/summary.md and are not asserted.
"""

import json
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "results"
TUNED = "longrope-2k"


@pytest.fixture(scope="module")
def tiny() -> dict:
    """The summary of the default model."""
    path = RESULTS / "tables/summary.json"
    assert path.exists(), "run the default study first: snakemake --cores all"
    return json.loads(path.read_text())["models"]["tiny"]


def claim(tiny: dict, length: str, better: tuple[str, str], than: tuple[str, str]) -> dict:
    """The one comparison of two (weights, method) at a length."""
    wanted = [dict(zip(("weights", "method"), side, strict=True)) for side in (better, than)]
    found = [
        each
        for each in tiny["claims"]
        if each["length"] == length and [each["better"], each["than"]] == wanted
    ]
    assert len(found) == 1
    return found[0]


def test_the_window_matters_to_the_unextended_model(tiny):
    assert tiny["blow_up"]["original_window"] == "256"
    assert tiny["blow_up"]["longer"]["1k"]["ratio"] > 2


@pytest.mark.parametrize("method", ["pi", "ntk", "yarn"])
@pytest.mark.parametrize("length", ["1k", "2k"])
def test_searched_factors_beat_the_papers_closed_forms_without_tuning(tiny, length, method):
    found = claim(tiny, length, ("base", "search"), ("base", method))
    assert found["windows"] >= 16
    assert found["outcome"] == "win", found


@pytest.mark.parametrize("method", ["llama3", "mrrope-pro"])
@pytest.mark.parametrize("length", ["1k", "2k"])
def test_searched_factors_are_no_worse_than_the_newer_closed_forms(tiny, length, method):
    found = claim(tiny, length, ("base", "search"), ("base", method))
    assert found["difference_nats"] > 0 and found["outcome"] in ("win", "tie"), found


@pytest.mark.parametrize("length", ["1k", "2k"])
def test_searched_factors_find_passkeys_without_tuning(tiny, length):
    found = tiny["passkey"]["passkey"]["base"]["search"][length]
    assert found["prompts"] >= 100
    assert found["accuracy"] >= 0.85  # factors searched by perplexity alone: below 0.25


@pytest.mark.parametrize("method", ["pi", "yarn", "tuned"])
def test_the_second_search_at_16k_beats_pi_yarn_and_the_unchanged_factors(tiny, method):
    found = claim(tiny, "16k", (TUNED, "extended"), (TUNED, method))
    assert found["windows"] >= 4
    assert found["outcome"] == "win", found


def test_recovery_at_256_beats_the_factors_of_16k(tiny):
    found = claim(tiny, "256", (TUNED, "extended"), (TUNED, "longest"))
    assert found["windows"] >= 16
    assert found["outcome"] == "win", found


def test_the_pre_trained_model_finds_passkeys_within_its_window(tiny):
    found = tiny["passkey"]["passkey"]["base"]["none"]["256"]
    assert found["prompts"] >= 100
    assert found["accuracy"] >= 0.9


@pytest.mark.parametrize("length", ["1k", "2k"])
def test_the_tuned_model_finds_passkeys_at_its_windows(tiny, length):
    found = tiny["passkey"]["passkey"][TUNED]["extended"][length]
    assert found["prompts"] >= 100
    assert found["accuracy"] >= 0.9
    assert tiny["passkey"]["passkey"]["yarn-2k"]["yarn"][length]["prompts"] == found["prompts"]
