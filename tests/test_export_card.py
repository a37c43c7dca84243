"""The card and the serving bundle say what records say; the command and the rule make them."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from evaluations import documents, write_evaluation
from exports import export, tiers_for, write_tiers
from helpers import make_checkpoint
from longrope.baselines import closed_form
from longrope.catalogue import entry
from longrope.cli import main
from longrope.evaluate.records import identity_of
from longrope.export.beside import trainings_beside
from longrope.export.card import _front_matter, licence_of
from longrope.export.engines import find_engine
from longrope.export.measured import Measured, losses, pairs, read_measured
from longrope.export.request import Export
from longrope.export.tables import choose
from longrope.extended import Tiers, with_original
from longrope.factors import RescaleFactors, write_factors
from longrope.files import read_json, write_json, write_lines
from longrope.models.checkpoint import ModelRecord, read_record, write_record
from longrope.own_model.configuration import LEVELS, TRIAL
from test_workflow import ROOT, snakemake


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A random Llama with tiers at 64, 128 and 256."""
    folder = tmp_path_factory.mktemp("card")
    make_checkpoint(folder)
    tiers = tiers_for(read_record(folder / "model").rope)
    write_tiers(folder / "tiers", folder / "model", tiers)
    return folder


@pytest.fixture(scope="module")
def records(place) -> list[Path]:
    """Perplexity at 64 and 256: e with the tiers, e^1.5 with the longest table at 64."""
    record = read_record(place / "model")
    tiers = tiers_for(record.rope)
    files = []
    for name, at in (("extended", {64: 1.0, 256: 1.0}), ("longest", {64: 1.5})):
        lines = [line for length, loss in at.items() for line in documents(length, loss, loss)]
        path = write_evaluation(place / "records", "base", name, lines, name="books")
        file = read_json(path) | {"weights_fingerprint": record.fingerprint}
        for label, used in file["factors"].items():
            own = tiers.longest if name == "longest" else tiers.for_length(int(label))
            file["factors"][label] = used | {"fingerprint": identity_of(own)}
        write_json(path, file)
        files.append(path)
    return files


@pytest.fixture(scope="module")
def card(place, records) -> str:
    """The card of a native export, front matter included."""
    metrics = place / "base" / "training" / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    write_lines(metrics, [{"tokens": 4096, "loss": 2.5, "seconds": 3.0}] * 2)
    files = {"records": records, "trainings": [metrics], "licence": "mit"}
    written = export(place / "model", place / "tiers/extended.json", place / "native", **files)
    assert written.lost == [
        "perplexity at 64 tokens (books): 4.48 with the exported factors, 2.72 with those of its"
        " tier"
    ]
    return (place / "native" / "README.md").read_text()


def test_front_matter_is_yaml_with_the_licence(card):
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "mit" and "longrope" in head["tags"]
    assert head["pipeline_tag"] == "text-generation" and "base_model" not in head


def test_front_matter_is_yaml_whatever_the_licence_is_called(place, tmp_path):
    files = place / "model", place / "tiers/extended.json"
    export(*files, tmp_path / "export", licence="other: see LICENSE | # and NOTICE")
    text = (tmp_path / "export" / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "other: see LICENSE | # and NOTICE"
    assert r"| licence of the base | other: see LICENSE \| # and NOTICE |" in text


@pytest.mark.parametrize(("weights", "relation"), [("base", None), ("longrope-1k", "finetune")])
def test_only_tuned_weights_are_a_finetune_of_their_base(place, weights, relation):
    rope = read_record(place / "model").rope
    record = ModelRecord(rope, weights, "x", {"kind": "hub", "name": "a/b"}, {})
    asked = Export("native", find_engine("transformers"))
    head = "\n".join(_front_matter(None, "a/b", asked, record)[1:-2])
    assert yaml.safe_load(head).get("base_model_relation") == relation
    assert yaml.safe_load(head)["base_model"] == "a/b"


def test_no_folder_of_the_machine_is_in_an_export(place, tmp_path):
    assert Path(read_record(place / "model").source["path"]).is_absolute()
    for form in ("native", "full"):
        export(place / "model", place / "tiers/extended.json", tmp_path / form, form)
        for file in (tmp_path / form).iterdir():
            for folder in (tmp_path.parent, place.parent):
                assert str(folder).encode() not in file.read_bytes()


def test_the_card_has_windows_factors_training_evaluation_and_protocol(card, place):
    assert "64 to 256 tokens" in card.splitlines()[card.splitlines().index("---", 1) + 2]
    assert "| books | 64 | 2.72 | 4.48 | 200 tokens, 2 documents |" in card
    assert "| books | 256 | 2.72 | 2.72 |" in card
    assert "| base | 2 | 8,192 | 2.500 | 6 |" in card
    assert "| read again and compared | by transformers: logits within " in card
    assert "stride length" in card and read_record(place / "model").fingerprint in card
    assert "4.48 with the exported factors" in card and "n_hat" in card
    assert all(f"- *{word}*: " in card for word in ("lambda", "n_hat", "attention factor", "tier"))


def test_the_card_of_all_tiers_has_their_numbers_as_exported(place, records, tmp_path):
    files = place / "model", place / "tiers/extended.json"
    written = export(*files, tmp_path / "full", "full", records=records)
    text = (tmp_path / "full" / "README.md").read_text()
    assert "perplexity, as exported | perplexity, without `trust_remote_code` |" in text
    assert "| books | 64 | 2.72 | 4.48 |" in text
    assert "It carries the whole of the extended model." in text
    assert written.said and written.lost
    for each in (*written.said, *written.lost):
        assert each.startswith("without trust_remote_code: ") and f"- {each}" in text


def test_records_of_other_weights_are_left_out(place, records, tmp_path):
    other = tmp_path / "other.json"
    write_json(other, read_json(records[0]) | {"weights_fingerprint": "another"})
    record = read_record(place / "model")
    assert read_measured([other], record) == []
    tables = choose(tiers_for(record.rope), None, two=False)
    rows = pairs(read_measured(records, record), tables)
    assert [(row.length, bool(row.tiers), bool(row.export)) for row in rows] == [
        (64, True, True),
        (256, True, True),
    ]


def test_without_records_the_card_says_that_nothing_was_measured(place, tmp_path):
    written = export(place / "model", place / "tiers/extended.json", tmp_path / "export")
    assert "were not evaluated with the exported factors" in written.lost[0]
    text = (tmp_path / "export" / "README.md").read_text()
    assert "Nothing was measured of these weights" in text
    assert "not known: look it up" in text and "license:" not in text


def test_a_card_says_that_a_search_of_a_trial_found_nothing(place, tmp_path):
    rope = read_record(place / "model").rope
    said = {}
    for candidates in (TRIAL.evaluations, min(level.evaluations for level in LEVELS)):
        found = RescaleFactors(rope, 128, "search", (2.0,) * rope.pairs,
                               provenance={"candidates": candidates})  # fmt: skip
        file, out = tmp_path / "factors.json", tmp_path / str(candidates)
        write_factors(file, found)
        export(place / "model", file, out)
        said[candidates] = (out / "README.md").read_text()
    trial, search = said.values()
    assert "**This is a trial.** The factors for 128 come from a search of 3 candidates" in trial
    assert "trial" not in search


def test_a_second_export_finds_its_records_by_itself_or_keeps_the_card(place, records, tmp_path):
    results = tmp_path / "results/mine"
    shutil.copytree(place / "model", results / "base/model")
    shutil.copytree(records[0].parent, results / "base/evaluation/books")
    out = tmp_path / "export"
    command = ["export", "--model", results / "base/model", "--out", out]
    command = [*map(str, command), "--factors", str(place / "tiers/extended.json")]
    row = "| books | 64 | 2.72 | 4.48 |"
    for _ in range(2):
        assert main(command) == 0
        assert row in (out / "README.md").read_text()
    shutil.rmtree(results / "base/evaluation")
    assert main(command) == 1
    assert row in (out / "README.md").read_text()


def test_a_card_finds_every_tuning_from_the_base_on(place, tmp_path):
    record = read_record(place / "model")
    steps = [{"step": 1, "loss": 2.0, "tokens": 10, "seconds": 1.0}]
    for name in ("first", "second"):
        record = record.tuned_as(name)
        (folder := tmp_path / name / "model").mkdir(parents=True)
        save_file({"weight": torch.ones(1)}, folder / "model.safetensors")
        write_record(folder, record)
        (tmp_path / name / "training").mkdir()
        write_lines(tmp_path / name / "training/metrics.jsonl", steps)
    (tmp_path / "base").mkdir()
    found = trainings_beside(tmp_path / "second/model")
    assert [path.parents[1].name for path in found] == ["first", "second"]
    assert trainings_beside(tmp_path / "base/model") == []


def measured(length: int, factors, value: float) -> Measured:
    return Measured("perplexity", "books", length, identity_of(factors), value, 100, 1, {}, "")


def test_lengths_at_which_the_exported_table_was_not_measured_are_named(place):
    """A record of the longest window alone says nothing of the short ones."""
    tiers = tiers_for(read_record(place / "model").rope)
    tables = choose(tiers, None, two=False)
    longest, short = measured(256, tiers.longest, 3.0), measured(64, tiers.factors[0], 2.0)
    (said,) = losses(pairs([longest], tables), tables)
    assert "at 64 tokens (the original window) is not measured with the exported factors" in said
    (said,) = losses(pairs([longest, short], tables), tables)
    assert "with those of its tier it is 2.00 (books)" in said
    middle = measured(128, tiers.factors[1], 2.5)
    said = list(losses(pairs([longest, short, middle], tables), tables))
    assert [each.split()[2] for each in said] == ["64", "128"]
    whole = [longest, measured(64, tiers.longest, 4.0), short]
    assert list(losses(pairs(whole, tables), tables)) == [
        "perplexity at 64 tokens (books): 4.00 with the exported factors, 2.00 with those of its"
        " tier"
    ]


def test_the_loss_of_weights_that_were_never_tuned_is_to_their_own_rope(place):
    longest = tiers_for(read_record(place / "model").rope).longest
    tiers = with_original(Tiers((longest,)))
    tables = choose(tiers, None, two=False)
    plain = closed_form("none", tiers.rope, 64)
    rows = [measured(64, longest, 4.0), measured(64, plain, 2.0), measured(256, longest, 3.0)]
    assert list(losses(pairs(rows, tables), tables)) == [
        "perplexity at 64 tokens (books): 4.00 with the exported factors, 2.00 with those of its"
        " tier"
    ]


def test_the_serving_bundle_names_the_window_everywhere(place, tmp_path):
    files = place / "model", place / "tiers/extended.json"
    export(*files, tmp_path / "native")
    text = (tmp_path / "native" / "serve.md").read_text()
    assert "--max-model-len 256" in text and "--context-length 256" in text
    assert "Not MLX" in text
    export(*files, tmp_path / "mlx", engine="mlx")
    assert "mlx_lm.generate" in (tmp_path / "mlx" / "serve.md").read_text()
    export(*files, tmp_path / "gguf", "gguf")
    assert "PARAMETER num_ctx 256" in (tmp_path / "gguf" / "Modelfile").read_text()
    assert "-c 256" in (tmp_path / "gguf" / "serve.md").read_text()
    assert "| by the package gguf: every tensor" in (tmp_path / "gguf" / "README.md").read_text()
    export(*files, tmp_path / "full", "full")
    assert "trust_remote_code=True" in (tmp_path / "full" / "serve.md").read_text()
    for form in ("native", "mlx", "gguf", "full"):
        lines = (tmp_path / form / "serve.md").read_text().splitlines()
        servers = ("vllm serve ", "python -m sglang.launch_server ", "llama-server ")
        started = [line for line in lines if line.startswith(servers)]
        assert started and all("--host 127.0.0.1 " in line for line in started)


def test_two_tables_are_served_by_no_engine_that_they_are_refused_for(place, tmp_path):
    tiers = tiers_for(read_record(place / "model").rope, attention=1.2)
    path = write_tiers(tmp_path / "tiers", place / "model", tiers)
    export(place / "model", path, tmp_path / "two", two=True)
    text = (tmp_path / "two" / "serve.md").read_text()
    assert "**Two tables.**" in text and "vllm" not in text and "sglang" not in text


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# Base\n", "apache-2.0"),
        ("---\nlicense:\n- mit\n- other\n---\n", "mit, other"),
        ("---\nlicense: null\n---\n", None),
        ("---\nlicense: [\n---\n", None),
        ("---\n- license\n---\n", None),
        ("# Base\n\nlicense: mit\n", None),
    ],
)
def test_the_licence_of_a_folder_is_that_of_its_own_card(place, tmp_path, card, licence):
    record = read_record(place / "model")
    (tmp_path / "README.md").write_text(card)
    source = {"kind": "folder", "path": str(tmp_path)}
    assert licence_of(ModelRecord(record.rope, "base", "x", source, {})) == licence
    assert licence_of(record) is None


def test_the_licence_of_a_hub_model_is_that_of_the_card_in_its_cache(place, tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit = "a" * 40
    card = tmp_path / "models--some--model" / "snapshots" / commit / "README.md"
    card.parent.mkdir(parents=True)
    card.write_text("---\nlicense: llama3.1\n---\n")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    source = {"kind": "hub", "name": "some/model", "revision": commit}
    rope = read_record(place / "model").rope
    assert licence_of(ModelRecord(rope, "base", "x", source, {})) == "llama3.1"
    assert licence_of(ModelRecord(rope, "base", "x", source | {"name": "a/b"}, {})) is None


def test_the_command_exports_and_says_what_was_lost(place, records, tmp_path, capsys):
    arguments = ["export", "--model", place / "model", "--factors", place / "tiers/extended.json"]
    arguments += ["--records", *records, "--tier", "256", "--out", tmp_path / "export"]
    assert main(list(map(str, arguments))) == 0
    said = capsys.readouterr().out
    assert "native for transformers, one table, 256" in said
    assert "4.48 with the exported factors" in said
    assert read_json(tmp_path / "export" / "longrope_export.json")["tables"] == 1


def test_an_unknown_engine_is_one_line(place, tmp_path, capsys):
    arguments = ["export", "--model", place / "model", "--factors", place / "tiers/extended.json"]
    arguments += ["--engine", "tgi", "--out", tmp_path / "export"]
    assert main(list(map(str, arguments))) == 1
    assert "unknown engine 'tgi': known are any, llama.cpp, mlx" in capsys.readouterr().err


def test_the_rule_exports_every_extended_model(tmp_path):
    for name in ("resources", "config"):
        (tmp_path / name).symlink_to(ROOT / name)
    result = snakemake("--dry-run", "export", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for form in ("native", "full"):
        assert f"Exporting tiny, longrope-2k, as {form}" in result.stdout
    assert "benchmarks" not in result.stdout  # the card shows perplexities and passkeys


def test_the_rule_exports_as_the_configuration_says(tmp_path):
    for name in ("resources", "config"):
        (tmp_path / name).symlink_to(ROOT / name)
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    said = {"engine": "mlx", "tier": "4k", "dtype": "float32", "licence": "other: see it's text"}
    config["models"]["tiny"]["export"] = said
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
    paths = [f"results/tiny/longrope-2k/extended/{form}" for form in ("native", "gguf")]
    more = ("--printshellcmds", *paths, "--configfile", str(tmp_path / "mine.yaml"))
    result = snakemake("--dry-run", *more, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    commands = [
        shlex.split(line) for line in result.stdout.splitlines() if " export --form" in line
    ]
    assert len(commands) == 2
    for command in commands:
        form = command[command.index("--form") + 1]
        assert ("mlx" in command) is (form == "native")
        assert command[command.index("--tier") + 1] == "4096"
        assert command[command.index("--licence") + 1] == "other: see it's text"


def test_published_factors_go_to_any_checkpoint_that_they_are_for(place, tmp_path, capsys):
    carried, out = ROOT / "resources/models/tiny", tmp_path / "exported"
    asked = ["export", "--factors", "tiny-base", "--out", str(out), "--model"]
    assert main([*asked, str(carried)]) == 0
    written = json.loads((out / "factors.json").read_text())
    assert written["lambda"] == list(entry("tiny-base").tiers.longest.lambda_)
    text = (out / "README.md").read_text()
    assert "license: mit" in text and "a checkpoint on disk (tiny)" in text
    shutil.copytree(place / "model", tmp_path / "bare")
    (tmp_path / "bare/longrope.json").unlink()
    assert main([*asked, str(tmp_path / "bare")]) == 1
    assert "model 'tiny'" in capsys.readouterr().err
    assert {each.name for each in tmp_path.iterdir()} == {"exported", "bare"}


def test_a_card_of_published_factors_says_what_was_measured_with_them(tmp_path):
    carried, out = ROOT / "resources/models/tiny", tmp_path / "exported"
    command = ["export", "--factors", "tiny-base", "--model", str(carried), "--out", str(out)]
    assert main(command) == 0
    text = (out / "README.md").read_text()
    found = entry("tiny-base").perplexities()[2048]["perplexity"]
    assert f"| books | 2k | {found:.2f} | {found:.2f} |" in text and "| passkey | 2k | 97%" in text
    assert main(command) == 0  # in place of the older one
    (out / ".git").mkdir()
    (out / ".git/HEAD").write_text("ref")
    assert main(command) == 1 and (out / ".git/HEAD").exists()


@pytest.mark.parametrize(
    ("model", "factors", "out", "said"),
    [
        ("source", "tiny-bas", "out", "did you mean 'tiny-base'?"),
        ("source", "smollm2-135m-q4-16k", "out", "use factors made for it"),
        ("none", "tiny-base", "out", "none: no such folder or file"),
        ("source", "tiny-base", "source/out", "take another"),
        ("out.gguf", "smollm2-135m-q4-16k", "out", "out.gguf"),
    ],
)
def test_what_cannot_be_exported_so_is_said_and_leaves_nothing(
    model, factors, out, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "resources/models/tiny", "source")
    Path("out.gguf").write_text("none")
    assert main(["export", "--model", model, "--factors", factors, "--out", out]) == 1
    assert said in capsys.readouterr().err
    assert {each.name for each in tmp_path.iterdir()} == {"source", "out.gguf"}
