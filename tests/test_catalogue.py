"""Published factors: every carried entry is whole, and one is made from results or not at all."""

import json
import math
from pathlib import Path

import pytest

import longrope
from longrope import catalogue
from longrope.cli import main
from longrope.config.evaluation import PerplexityStage
from longrope.errors import UserError
from longrope.evaluate.perplexity import evaluate_perplexity
from longrope.evaluate.records import factors_at, identity_of
from longrope.extended import read_tiers
from longrope.factors import RescaleFactors, read_factors, write_factors
from longrope.files import read_json
from longrope.models.checkpoint import fingerprint_of
from longrope.publish import publish
from longrope.windows import parse_window

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", catalogue.names())
def test_a_carried_entry_was_measured_with_its_own_factors(name):
    entry = catalogue.entry(name)
    assert entry.measured and entry.about and entry.made_with["command"]
    assert entry.perplexities(), "an entry without a measured perplexity"
    for record in entry.measured:
        assert record["commit"], "a record whose code is not known"
        assert record["weights_fingerprint"] == entry.weights_fingerprint
        assert record.get("ran_in", {}).get("weights") in (None, entry.weights_fingerprint)
        assert record["factors"].keys() == record["results"].keys()
        for label, result in record["results"].items():
            factors = factors_at(entry.tiers, parse_window(label))
            assert record["factors"][label]["fingerprint"] == identity_of(factors)
            assert record["factors"][label]["window"] == factors.window
            if "perplexity" in result:
                assert result["tokens"] > 0 and math.isfinite(result["perplexity"])


@pytest.mark.parametrize("name", catalogue.names())
def test_a_carried_entry_has_perplexity_interval_and_data_of_every_window(name):
    entry = catalogue.entry(name)
    records = [each for each in entry.measured if each["task"] == "perplexity"]
    for factors in entry.tiers.factors:
        found = [
            (record, result)
            for record in records
            for label, result in record["results"].items()
            if parse_window(label) == factors.window and result.get("interval")
        ]
        assert found, factors.window
        for record, result in found:
            low, high = result["interval"]
            assert low < result["perplexity"] < high
            assert len(record["protocol"]["corpus_sha256"]) == 16


def test_entries_of_the_default_model_are_for_the_weights_that_are_carried():
    carried = fingerprint_of(ROOT / "resources/models/tiny")
    for name in ("tiny-base", "tiny-longrope-2k"):
        assert catalogue.entry(name).tiers.rope.fingerprint == carried
    assert catalogue.entry("tiny-base").weights_fingerprint == carried


def test_the_list_names_windows_and_perplexities(capsys):
    assert main(["factors"]) == 0
    shown = capsys.readouterr().out
    for name in catalogue.names():
        entry = catalogue.entry(name)
        assert f"{name}: {entry.about}" in shown
        assert f"{next(iter(entry.perplexities().values()))['perplexity']:.2f}" in shown


def test_an_entry_whose_weights_are_not_to_be_had_says_so(capsys):
    shown = {name: catalogue.summary(catalogue.entry(name)) for name in catalogue.names()}
    unpublished = {name for name, text in shown.items() if "are not published" in text}
    assert unpublished == {"smollm2-135m-q4-lora-32k", "tiny-longrope-2k"}
    assert "weights are not published" in catalogue.entry("smollm2-135m-q4-lora-32k").about


def test_an_entry_is_written_as_the_files_that_everything_reads(tmp_path, capsys):
    assert main(["factors", "tiny-longrope-2k", "--out", str(tmp_path / "all")]) == 0
    tiers = read_tiers(tmp_path / "all/extended.json")
    assert tiers == catalogue.entry("tiny-longrope-2k").tiers
    one = tmp_path / "one.json"
    assert main(["factors", "tiny-longrope-2k", "--window", "16k", "--out", str(one)]) == 0
    assert read_factors(one) == tiers.longest
    capsys.readouterr()
    assert main(["factors", "tiny-longrope-2k", "--window", "16k"]) == 0
    assert json.loads(capsys.readouterr().out) == read_json(one)
    assert main(["factors", "tiny-longrope-2k", "--window", "3k"]) == 1
    assert "no factors for 3k, but for 256, 512, 2k" in capsys.readouterr().err
    assert main(["factors", "nothing"]) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "F"], "--out is of one entry: longrope factors NAME --out; known are"),
        (["--json"], "--json is of one entry"),
        (["tiny-base", "--json", "--out", "F"], "one of the two"),
        (["tiny-longrope-2k", "--json"], "2k, 4k, 8k, 16k; say which with --window"),
    ],
)
def test_what_would_be_ignored_of_a_request_for_factors_is_refused(
    words, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["factors", *words]) == 1
    shown = capsys.readouterr()
    assert said in shown.err and not shown.out and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def measured(model_folder, tokens, rope, tmp_path_factory):
    """Factors for 128 tokens and what was measured with them."""
    folder = tmp_path_factory.mktemp("measured") / "results" / "tiny" / "base"
    factors = RescaleFactors(rope, 128, "search", (1.0, 1.5, 2.0, 2.0))
    write_factors(folder / "factors.json", factors)
    stage = PerplexityStage(evaluation="books", method="search", windows={"128": 2})
    record = folder / "evaluation" / "books" / "search.json"
    evaluate_perplexity(stage, model_folder, tokens["test"], [folder / "factors.json"], record,
                        folder / "state")  # fmt: skip
    log = folder.parents[2] / "logs/tiny/base/evaluation/books-search.run.json"
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps({"tags": {"commit": "abc123"}}))
    return folder / "factors.json", record


def make(measured, model_folder, out, **changes):
    factors, record = measured
    arguments = {"factors": [factors], "records": [record]} | changes
    return publish("mine", "a test", model_folder, command="pytest", out=out, **arguments)


def test_an_entry_holds_what_the_records_say(measured, model_folder, tmp_path):
    path = make(measured, model_folder, tmp_path / "mine.json")
    entry = catalogue.entry(str(path))
    record = json.loads(measured[1].read_text())
    assert entry.perplexities()[128] == record["results"]["128"]
    assert entry.measured[0]["protocol"] == record["protocol"]
    assert entry.measured[0]["commit"] == "abc123"
    for key in ("weights_fingerprint", "factors"):
        assert entry.measured[0][key] == record[key]
    assert "records" not in entry.measured[0] and "/" not in str(entry.source)
    assert identity_of(entry.tiers.longest) == record["factors"]["128"]["fingerprint"]


def test_an_entry_in_a_file_is_taken_wherever_factors_are_named(measured, model_folder, tmp_path):
    path = make(measured, model_folder, tmp_path / "mine.json")
    model, _ = longrope.load(model_folder, path)
    assert model.tiers.longest == catalogue.entry(str(path)).tiers.longest
    assert catalogue.file_or_entry(measured[0]) == measured[0]  # a file of factors
    assert main(["factors", str(path)]) == 0
    record = json.loads(path.read_text())
    for key in ("factors", "measured", "source"):
        path.write_text(json.dumps({name: record[name] for name in record if name != key}))
        with pytest.raises(UserError, match=r"mine.json: no entry as"):
            catalogue.entry(str(path))


def test_an_entry_that_is_carried_is_not_replaced(measured, model_folder):
    before = catalogue.entry("tiny-base")
    factors, record = measured
    with pytest.raises(UserError, match="tiny-base: is published already"):
        publish("tiny-base", "a test", model_folder, [factors], [record], command="pytest")
    assert catalogue.entry("tiny-base") == before


def test_records_of_other_factors_or_weights_make_no_entry(measured, model_folder, rope, tmp_path):
    other = tmp_path / "other.json"
    write_factors(other, RescaleFactors(rope, 128, "search", (1.0, 1.0, 2.0, 2.0)))
    with pytest.raises(UserError, match="at 128 it was measured with other factors"):
        make(measured, model_folder, tmp_path / "mine.json", factors=[other])
    record = read_json(measured[1]) | {"weights_fingerprint": "other"}
    (tmp_path / "record.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="measured on weights other"):
        make(measured, model_folder, tmp_path / "m.json", records=[tmp_path / "record.json"])
    with pytest.raises(UserError, match="perplexity at every window, there is none at 128;"):
        make(measured, model_folder, tmp_path / "m.json", records=[])
    longer = tmp_path / "longer.json"
    write_factors(longer, RescaleFactors(rope, 256, "search", (1.0, 1.5, 2.0, 4.0)))
    with pytest.raises(UserError, match="there is none at 256;"):
        make(measured, model_folder, tmp_path / "m.json", factors=[measured[0], longer])
    assert not (tmp_path / "mine.json").exists()
