"""Benchmarks and RULER's needles against the harness's own command line."""

import importlib.util
import json
import logging
import lzma
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch

from helpers import make_checkpoint
from longrope import portions
from longrope.baselines import closed_form
from longrope.config import FolderModel
from longrope.config.evaluation import (
    SHOTS,
    Benchmark,
    BenchmarksSettings,
    BenchmarksStage,
    Needle,
    RulerSettings,
    RulerStage,
)
from longrope.errors import UserError
from longrope.evaluate import benchmarks, harness, ruler
from longrope.evaluate import needles as needles_module
from longrope.evaluate import questions as questions_module
from longrope.evaluate.benchmarks import evaluate_benchmarks
from longrope.evaluate.questions import read_questions, spread
from longrope.evaluate.ruler import _pinned, _write_task, evaluate_ruler
from longrope.extended import make_tiers, write_extended
from longrope.factors import RescaleFactors, write_factors
from longrope.models.checkpoint import load_tokenizer, read_record
from longrope.models.import_model import import_model
from longrope.reading import parse

ROOT = Path(__file__).parents[1]
CARRIED = ROOT / "resources/benchmarks"
BOOK = ROOT / "resources/books/persuasion.txt.xz"
needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="needs the extra benchmarks"
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Two threads on two busy cores take several times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """The carried model, brought in, with the factors of its original window beside it."""
    place = tmp_path_factory.mktemp("tiny")
    source = FolderModel(kind="folder", path=str(ROOT / "resources/models/tiny"))
    record = import_model(source, "tiny", 256, place / "model")
    write_factors(place / "none.json", closed_form("none", record.rope, 256))
    return place


def asked(place: Path, out: Path, factors: Path | None = None, **settings) -> dict:
    """The record of an evaluation of a checkpoint, at most 0-shot unless asked otherwise."""
    settings = {"window": "1k", "files": str(CARRIED), "shots": {"hellaswag": 0}} | settings
    stage = BenchmarksStage(evaluation="benchmarks", method="none", **settings)
    factors = [factors or place / "none.json"]
    evaluate_benchmarks(stage, place / "model", factors, out / "out.json", out / "state")
    return json.loads((out / "out.json").read_text())


# --- the questions ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHOTS)
def test_a_hundred_questions_of_each_benchmark_are_carried_with_their_true_counts(name):
    found = read_questions(CARRIED, name)
    assert len(found.asked) == found.about["questions"] == 100
    assert found.about["available"] <= found.about["whole"]
    if SHOTS[name]:
        asked, shots = ({json.dumps(row) for row in rows} for rows in (found.asked, found.shots))
        assert len(shots) >= SHOTS[name] and not asked & shots


def test_the_carried_questions_of_mmlu_have_five_examples_of_their_subject_each():
    found = read_questions(CARRIED, "mmlu")
    examples = [row["subject"] for row in found.shots]
    subjects = {row["subject"] for row in found.asked}
    assert len(subjects) > 40
    assert {examples.count(subject) for subject in subjects} == {5}


def test_questions_are_taken_evenly_from_all():
    rows = [{"n": number} for number in range(10)]
    assert [row["n"] for row in spread(rows, 3)] == [1, 5, 8]
    assert spread(rows, 20) == spread(rows, None) == rows


def test_a_file_of_questions_that_was_changed_is_refused(tmp_path):
    for file in CARRIED.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "hellaswag.jsonl.xz").write_bytes(b"")
    with pytest.raises(UserError, match=r"not the file that manifest\.json names"):
        read_questions(tmp_path, "hellaswag")


# --- the configuration ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"benchmarks": ["arc"]}, "'arc_challenge', 'hellaswag', 'mmlu' or 'truthfulqa_mc2'"),
        ({"window": 256}, "a window of 256 cannot hold the 25 examples of arc_challenge"),
        ({"shots": -1}, "greater than or equal to 0"),
        ({"questions": 1}, "greater than or equal to 2"),  # else no standard error
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_runs(settings, message):
    with pytest.raises(UserError, match=message):
        parse(BenchmarksSettings, {"task": "benchmarks", "window": "4k"} | settings, "here")


def test_an_unknown_needle_lists_the_known_ones():
    with pytest.raises(UserError, match=r"niah_single_1.*niah_multikey_3"):
        parse(RulerSettings, {"task": "ruler", "needles": ["x"], "prompts": {512: 1}}, "here")


def test_every_list_of_benchmarks_and_of_needles_has_the_same_names():
    names = get_args(Benchmark)
    for known in (SHOTS, harness.BENCHMARKS, questions_module.SOURCES, questions_module.READERS):
        assert tuple(known) == names
    assert tuple(needles_module.KINDS) == get_args(Needle)


def test_truthfulqa_takes_no_examples_whatever_is_set():
    settings = BenchmarksSettings(task="benchmarks", window="4k", shots=3)
    assert [settings.shots_of(name) for name in SHOTS] == [3, 3, 3, 0]


@pytest.mark.parametrize(("questions", "each"), [(2, 1), (57, 1), (58, 2), (100, 2)])
def test_from_the_hub_every_subject_of_mmlu_is_limited_to_its_share(questions, each):
    assert benchmarks._limit("mmlu", questions) == each
    assert benchmarks._limit("hellaswag", questions) == questions


# --- without the harness ----------------------------------------------------------------------


def test_without_the_harness_the_error_names_the_extra(tiny, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "lm_eval" else find(name)
    )
    with pytest.raises(UserError, match=r"lm-evaluation-harness.*\[benchmarks\]"):
        asked(tiny, tmp_path)


def test_a_folder_with_one_question_is_refused_before_anything_runs(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "require_harness", lambda: "0.4.11")
    monkeypatch.setattr(benchmarks, "spread", lambda rows, count: rows[:1])
    with pytest.raises(UserError, match="1 question of hellaswag, a standard error takes two"):
        asked(tiny, tmp_path)


# --- benchmarks -------------------------------------------------------------------------------


@needs_harness
@pytest.mark.parametrize(
    ("shots", "questions", "names"), [(0, 40, list(SHOTS)), (2, 12, ["hellaswag", "mmlu"])]
)
def test_benchmarks_equal_the_harness_s_own_command_line_on_the_same_files(
    tiny, tmp_path, shots, questions, names
):
    settings = {"shots": dict.fromkeys(names, shots), "questions": questions, "window": "4k"}
    ours = asked(tiny, tmp_path, **settings)["results"]["4k"]
    theirs = command_line(tiny, tmp_path / "state/tasks", shots, names, tmp_path)
    for name in names:
        key = "acc_norm" if name in ("arc_challenge", "hellaswag") else "acc"
        assert ours[name]["value"] == pytest.approx(theirs[name][f"{key},none"], abs=1e-4)
        if name != "mmlu":  # pooled over subjects there
            error = theirs[name][f"{key}_stderr,none"]
            assert ours[name]["stderr"] == pytest.approx(error, abs=1e-4)
        assert ours[name]["questions"] == questions


def command_line(place: Path, tasks: Path, shots: int, names: list[str], out: Path) -> dict:
    """What `lm_eval` itself finds of the untouched model."""
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--batch_size", "8"]
    command += ["--model_args", f"pretrained={place / 'model'},max_length=4096,dtype=float32"]
    command += ["--device", "cpu", "--include_path", str(tasks), "--num_fewshot", str(shots)]
    command += ["--tasks", ",".join(names), "--output_path", str(out / f"theirs-{shots}")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    (path,) = (out / f"theirs-{shots}").glob("**/results_*.json")
    found = json.loads(path.read_text())
    return found["results"] | found.get("groups", {})


@needs_harness
def test_the_record_says_what_was_asked_and_how(tiny, tmp_path):
    record = asked(tiny, tmp_path, questions=20, shots={"hellaswag": 2})
    (found,) = record["records"]
    assert (found["questions"], found["of"], found["shots"]) == (20, 10042, 2)
    assert found["shots_from"] == "the last 100 questions of validation"
    assert found["bos"] is False  # the carried tokenizer puts none
    assert found["metric"] == "acc_norm" and found["chance"] == 0.25
    assert sum(found["values"]) / 20 == found["value"]
    assert record["protocol"]["harness"] == harness.require_harness()
    assert record["results"]["1k"]["hellaswag"]["at_chance"] is True


@needs_harness
def test_the_harness_is_quiet_only_while_it_runs(tiny, tmp_path, caplog):
    importlib.import_module("datasets")  # which sets its own level
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    before = [logger.level for logger in loggers]
    asked(tiny, tmp_path, questions=2)
    assert not [line for line in caplog.records if line.name.startswith("lm_eval")]
    assert [logger.level for logger in loggers] == before
    loggers[0].warning("as before")
    assert "as before" in caplog.text


@needs_harness
def test_a_sequence_longer_than_the_window_is_refused_and_never_cut(tiny, tmp_path):
    with pytest.raises(UserError, match=r"hellaswag, 0-shot: \d+ of 400 .* up to 281"):
        asked(tiny, tmp_path, window=256)


@needs_harness
def test_benchmarks_that_are_done_are_not_asked_again(tiny, tmp_path, monkeypatch):
    both = {"hellaswag": 0, "arc_challenge": 0}
    ask, calls = harness.ask, []

    def dies_at_the_second(lm, name, *rest, **options):
        calls.append(name)
        if calls == ["hellaswag", "arc_challenge"]:
            raise KeyboardInterrupt
        return ask(lm, name, *rest, **options)

    monkeypatch.setattr(benchmarks.harness, "ask", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        asked(tiny, tmp_path, shots=both, questions=5)
    record = asked(tiny, tmp_path, shots=both, questions=5)
    assert calls == ["hellaswag", "arc_challenge", "arc_challenge"]
    assert [each["benchmark"] for each in record["records"]] == list(both)


@needs_harness
def test_each_sequence_has_the_factors_of_its_own_whole_length(tmp_path):
    from longrope.evaluate.pinned import PinnedModel
    from longrope.models.checkpoint import load_model
    from longrope.rope import install

    folder = make_checkpoint(tmp_path)
    rope = read_record(folder).rope
    stretch = {16: 1.0, 32: 2.0, 64: 8.0}
    tiers = make_tiers(
        [RescaleFactors(rope, window, "pi", (by,) * rope.pairs) for window, by in stretch.items()]
    )
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    rotary = install(model, rope)
    lm = PinnedModel(model, tokenizer, rotary, tiers)
    lm.begin("test", 64, 512)
    tokens = torch.randint(1, 384, (64,), generator=torch.Generator().manual_seed(1)).tolist()
    lengths = [30, 10, 16, 64, 17, 33, 32]
    requests = [((str(n), "x"), tokens[: n - 3], tokens[n - 3 : n]) for n in lengths]
    found = [value for value, _ in lm._loglikelihood_tokens(requests)]
    for length, value in zip(lengths, found, strict=True):
        rotary.use([tiers.for_length(length)])
        with torch.no_grad():
            logits = model(torch.tensor([tokens[:length]])).logits[0].log_softmax(-1)
        alone = sum(logits[at - 1, tokens[at]].item() for at in range(length - 3, length))
        assert value == pytest.approx(alone, abs=1e-4)


@needs_harness
def test_continuations_are_those_of_each_prompt_alone_with_its_own_factors(tmp_path):
    from lm_eval.api.instance import Instance

    folder, new = make_checkpoint(tmp_path), 8
    rope, tokenizer = read_record(folder).rope, load_tokenizer(folder)
    kinds = {32: (1.0, 0), 64: (2.0, 4), 128: (4.0, 0)}  # window: factor, n_hat
    tiers = make_tiers(
        [
            RescaleFactors(rope, window, "pi", (by,) * rope.pairs, n_hat=n_hat)
            for window, (by, n_hat) in kinds.items()
        ]
    )
    lm = _pinned(folder, tiers, tokenizer, 128)
    lm.begin("test", 128, 1024)
    text = lzma.decompress(BOOK.read_bytes()).decode()[5000:]
    prompts = [text[size : 2 * size] for size in (70, 24, 150, 40, 90, 30, 180, 60, 10)]
    settings = {"do_sample": False, "max_gen_toks": new, "until": []}
    requests = [
        Instance("generate_until", {}, (prompt, settings), number)
        for number, prompt in enumerate(prompts)
    ]
    found, used = lm.generate_until(requests), []
    for prompt, answer in zip(prompts, found, strict=True):
        tokens = lm.tok_encode(prompt)
        own = tiers.for_length(len(tokens) + new)
        lm._rotary.use([own])
        ids, used = list(tokens), [*used, own.window]
        with torch.no_grad():
            while len(ids) < len(tokens) + new and ids[-1] != tokenizer.eos_token_id:
                ids.append(int(lm.model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert answer == tokenizer.decode(ids[len(tokens) :], skip_special_tokens=True)
    assert min(used.count(window) for window in kinds) >= 2  # each tier has a batch


@needs_harness
def test_another_tier_of_an_extended_model_asks_again(tiny, tmp_path, monkeypatch):
    ask, calls = harness.ask, []

    def counted(*arguments, **options):
        calls.append(arguments)
        return ask(*arguments, **options)

    monkeypatch.setattr(benchmarks.harness, "ask", counted)
    rope = read_record(tiny / "model").rope

    def extended(by: float) -> Path:
        short = RescaleFactors(rope, 256, "recovery", (by,) * rope.pairs)
        tiers = make_tiers([short, closed_form("yarn", rope, 1024)])
        write_extended(tmp_path / "extended", tiers, tiny / "model")
        return tmp_path / "extended/extended.json"

    first = asked(tiny, tmp_path, extended(1.0), questions=10)
    assert asked(tiny, tmp_path, extended(1.0), questions=10) == first and len(calls) == 1
    second = asked(tiny, tmp_path, extended(4.0), questions=10)
    assert len(calls) == 2
    assert first["factors"] == second["factors"]  # those of 1k
    assert first["protocol"]["tiers"] != second["protocol"]["tiers"]


# --- RULER ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def needles(tiny, tmp_path_factory):
    """RULER's needles of a checkpoint; returns the record and the folder of prompts."""
    pytest.importorskip("lm_eval")
    place = tmp_path_factory.mktemp("ruler")

    def run(prompts, names=("niah_single_1", "niah_multikey_1"), seed=1, state="state", text=BOOK):
        stage = RulerStage(
            evaluation="ruler",
            method="none",
            needles=list(names),
            prompts=prompts,
            haystack=[str(text)],
            seed=seed,
        )
        paths = ([tiny / "none.json"], place / "out.json", place / state, place / "prompts")
        evaluate_ruler(stage, tiny / "model", *paths)
        return json.loads((place / "out.json").read_text()), place / "prompts"

    return run


def test_needles_fill_their_length_and_are_written_once(needles, monkeypatch):
    record, prompts = needles({512: 2})
    assert record["protocol"]["haystack"] == "persuasion"
    assert [each["needle"] for each in record["records"]] == ["niah_single_1", "niah_multikey_1"]
    for each in record["records"]:
        assert 512 - 32 < each["longest"] <= 512 and each["prompts"] == 2
    written = {path: path.read_text() for path in prompts.iterdir()}
    monkeypatch.setattr(needles_module.SampleWriter, "_write", None)
    again, _ = needles({512: 2}, state="another")
    assert again["records"] == record["records"]
    monkeypatch.setattr(ruler, "_pinned", None)  # nothing is left to do for it
    assert needles({512: 2}, state="another")[0] == again
    assert {path: path.read_text() for path in prompts.iterdir()} == written


def test_needles_killed_within_a_length_keep_every_batch(needles, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    generate, batches, dies = HFLM.generate_until, [], True

    def dying(self, requests, **options):
        if dies and len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(len(requests))
        return generate(self, requests, **options)

    monkeypatch.setattr(HFLM, "generate_until", dying)
    monkeypatch.setitem(portions.BATCH_TOKENS, "ruler", 512)  # a prompt
    with pytest.raises(KeyboardInterrupt):
        needles({512: 3}, ["niah_single_1"], state="killed")
    dies = False
    resumed, _ = needles({512: 3}, ["niah_single_1"], state="killed")
    assert batches == [1] * 3
    whole, _ = needles({512: 3}, ["niah_single_1"], state="whole")
    assert batches == [1] * 6 and resumed == whole


def test_another_text_under_the_same_name_is_asked_anew(needles, tmp_path):
    text, words = tmp_path / "text.txt", lzma.decompress(BOOK.read_bytes()).decode().split()
    records = []
    for words_now in (words, words[::-1]):
        text.write_text(" ".join(words_now))
        record, _ = needles({512: 1}, ["niah_single_2"], state="text", text=text)
        records.append(record)
    first, second = records
    assert first["protocol"]["haystack"] == second["protocol"]["haystack"] == "text"
    assert first["records"][0]["prompts_sha256"] != second["records"][0]["prompts_sha256"]


def test_another_version_of_the_harness_writes_its_own_prompts(tiny, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval")
    tokenizer, written = load_tokenizer(tiny / "model"), set()
    for version in ("0.4.11", "0.4.12"):
        monkeypatch.setattr(harness, "require_harness", lambda version=version: version)
        writer = needles_module.SampleWriter(tokenizer, [str(BOOK)], tmp_path, seed=1)
        writer.samples("niah_single_1", 512, 1)
        written |= set(tmp_path.iterdir())
    assert len(written) == 2


def test_many_keys_stand_in_the_haystack_and_one_is_asked_for(needles):
    _, prompts = needles({512: 2})
    (path,) = prompts.glob("niah_multikey_1-512-*.jsonl")
    for line in path.read_text().splitlines():
        sample = json.loads(line)
        assert sample["input"].count("One of the special magic numbers for") == 4
        key = sample["gen_prefix"].split(" for ")[1].split(" mentioned")[0]
        assert f"for {key} is: {sample['outputs'][0]}." in sample["input"]


@needs_harness
@pytest.mark.parametrize("name", needles_module.KINDS)
def test_a_prompt_is_the_one_that_the_harness_writes_of_as_much_haystack(tiny, name, monkeypatch):
    niah_utils, prepare_niah = needles_module.import_ruler()
    words = lzma.decompress(BOOK.read_bytes()).decode().split()
    original, units, asked_for = prepare_niah.generate_input_output, [], {}

    def seeded(amount, *rest, **options):
        random.seed(1)
        units.append(amount)
        return original(amount, *rest, **options)

    def one(haystack, **options):
        asked_for.update(options, haystack=haystack, num_samples=1)
        return [{"x": 1}]

    def get_haystack(type_haystack, original=prepare_niah.get_haystack):
        return words if type_haystack == "essay" else original(type_haystack)

    with monkeypatch.context() as patch:
        patch.setattr(niah_utils, "get_haystack", get_haystack)
        patch.setattr(niah_utils, "generate_samples", one)
        getattr(niah_utils, name)(pretrained=str(tiny / "model"), max_seq_lengths=[2048])
        patch.setattr(prepare_niah, "generate_input_output", seeded)
        patch.setattr(prepare_niah, "cached_sent_tokenize", needles_module._sentences)
        (theirs,) = prepare_niah.generate_samples(**asked_for)
    with needles_module._harness_writer() as write:
        random.seed(1)
        ours = write(needles_module.KINDS[name], units[-1], words, prepare_niah.RANDOM_SEED)
    assert ours == {key: theirs[key] for key in ("input", "outputs", "gen_prefix")}


@needs_harness
@pytest.mark.parametrize("name", needles_module.KINDS)
def test_a_needle_s_task_differs_from_the_harness_s_own_in_data_and_metric_only(name, tmp_path):
    from lm_eval.tasks._yaml_loader import load_yaml

    needles_module.import_ruler()  # else loading its task asks the network
    place = _write_task(tmp_path, name, 512, [{"input": "x"}])
    own, ours = (load_yaml(path) for path in (harness.own_task(name), place / f"{name}.yaml"))
    differ = {key for key in own | ours if own.get(key) != ours.get(key)}
    data = {"dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset"}
    assert differ == data | {"metric_list", "tag"}
    assert own["generation_kwargs"]["max_gen_toks"] == needles_module.ANSWER


def test_a_length_that_holds_no_needle_is_refused(needles):
    with pytest.raises(UserError, match="niah_single_1 at 256: prompt and answer take"):
        needles({256: 1})


def test_a_needle_counts_as_found_where_the_harness_finds_it(needles, monkeypatch):
    from longrope.evaluate.pinned import PinnedModel

    def knows_one(self, requests, disable_tqdm=False):
        return [
            f" {request.doc['outputs'][0]}," if request.doc_id else " no" for request in requests
        ]

    monkeypatch.setattr(PinnedModel, "generate_until", knows_one)
    record, _ = needles({512: 2}, seed=2, state="known")
    assert {found["accuracy"] for found in record["results"]["512"].values()} == {0.5}
