"""
Benchmarks of short questions (Table 8 of the paper), by lm-evaluation-harness.

What extending costs at short lengths: ARC-Challenge 25-shot, HellaSwag 10-shot, MMLU 5-shot and
TruthfulQA (MC2) 0-shot, with the harness's prompts and metrics. Every sequence, a question with
its examples and one answer, runs with the factors of its whole length; one that is longer than
the window stops the evaluation. A benchmark that is done is kept in the state directory.
"""

import math
from pathlib import Path

import numpy as np

from longrope import portions
from longrope.config.evaluation import BenchmarksStage
from longrope.errors import UserError
from longrope.evaluate import harness
from longrope.evaluate.harness import BENCHMARKS
from longrope.evaluate.questions import MANIFEST, Questions, read_questions, spread
from longrope.evaluate.records import (
    Task,
    conditions,
    evaluate_lengths,
    factors_at,
    tiers_of,
    what_they_do,
)
from longrope.extended import Tiers
from longrope.files import append_line, fingerprint, resume_lines, sha256_of
from longrope.models.checkpoint import load_model, load_tokenizer, read_record
from longrope.rope import install
from longrope.statistics import Z
from longrope.versions import VERSIONS
from longrope.windows import window_label

MMLU_SUBJECTS = 57


def evaluate_benchmarks(
    stage: BenchmarksStage, model_folder: Path, factors: list[Path], out: Path, state: Path
) -> dict[str, float]:
    """Ask a checkpoint with a method's factors; returns the value of each benchmark."""
    version = harness.require_harness()
    record = read_record(model_folder)
    tiers = tiers_of(factors, record)
    questions = {name: _local(stage, name) for name in stage.shots} if stage.files else {}
    asker = _Asker(stage, model_folder, tiers, questions, state)

    def measure(length: int, *_) -> list[dict]:
        return [asker.ask(name) | {"length": length} for name in stage.shots]

    protocol = {
        "harness": version,
        "shots": stage.shots,
        "questions": _source(stage),
        "window": stage.window,
        "seed": harness.SEED,
        "tiers": _used(tiers, stage.window),
    }
    task = Task(
        "benchmarks",
        stage.evaluation,
        stage.method,
        model_folder,
        tiers,
        {stage.window: stage.questions or 0},
        protocol,
        VERSIONS["evaluate-benchmarks"],
    )
    results = evaluate_lengths(task, measure, summarise, out, state)
    return {name: found["value"] for each in results.values() for name, found in each.items()}


def summarise(records: list[dict]) -> dict:
    """Benchmark -> its value, what guessing comes to, and whether the two can be told apart."""
    keys = ("metric", "value", "stderr", "chance", "questions", "shots")
    return {
        record["benchmark"]: {key: record[key] for key in keys}
        | {"at_chance": abs(record["value"] - record["chance"]) <= Z * record["stderr"]}
        for record in records
    }


class _Asker:
    """Asks benchmark after benchmark; the model is loaded for the first that is not done yet."""

    def __init__(self, stage, model_folder, tiers, questions, state) -> None:
        self._stage, self._folder, self._tiers = stage, model_folder, tiers
        self._questions: dict[str, Questions] = questions
        self._state = state
        self._runs_in = conditions(model_folder)
        self._model = None

    def ask(self, name: str) -> dict:
        """The record of one benchmark, from the state where it is there."""
        done = self._state / "benchmarks.jsonl"
        key = fingerprint([name, self._runs_in, self._stage.questions])
        known = {line["key"]: line["record"] for line in resume_lines(done)}
        if key not in known:
            known[key] = self._run(name)
            append_line(done, {"key": key, "record": known[key]})
        return known[key]

    def _run(self, name: str) -> dict:
        stage, benchmark = self._stage, BENCHMARKS[name]
        questions, shots = self._questions.get(name), stage.shots[name]
        tasks = questions and harness.write_tasks(self._state / "tasks", name, questions)
        lm = self._pinned()
        lm.begin(f"{name}, {shots}-shot", stage.window, portions.BATCH_TOKENS["benchmarks"])
        limit = None if questions or not stage.questions else _limit(name, stage.questions)
        found = harness.ask(lm, name, tasks, shots=shots, limit=limit)
        values = harness.values(found.samples, benchmark.metric)
        return {
            "benchmark": name,
            "metric": "mc2" if name == "truthfulqa_mc2" else benchmark.metric,
            "value": float(found.results[f"{benchmark.metric},none"]),
            "stderr": float(np.std(values, ddof=1) / math.sqrt(len(values))),
            "chance": harness.chance(found.samples),
            "questions": len(values),
            "of": questions.about["whole"] if questions else _available(found.tasks),
            "asked": questions.about["asked"] if questions else "as on the hub",
            "shots": shots,
            "shots_from": _shots_from(questions, found.tasks) if shots else "none",
            "longest": lm.longest,  # tokens of a sequence
            "bos": lm.puts_bos,
            "prompts_sha256": harness.asked_fingerprint(found.samples),
            "values": [round(value, 6) for value in values],
        }

    def _pinned(self):
        if self._model is None:
            from longrope.evaluate.pinned import PinnedModel

            model = load_model(self._folder)
            rotary = install(model, self._tiers.rope)
            model.config.max_position_embeddings = self._stage.window
            tokenizer = load_tokenizer(self._folder)
            with harness.quiet():
                self._model = PinnedModel(model, tokenizer, rotary, self._tiers)
        return self._model


def _local(stage: BenchmarksStage, name: str) -> Questions:
    found = read_questions(Path(stage.files), name)
    if stage.shots[name] and not found.shots:
        raise UserError(f"{stage.files}: has no examples of {name}; set shots: 0")
    asked = spread(found.asked, stage.questions)
    if len(asked) < 2:
        raise UserError(
            f"{stage.files}: has {len(asked)} question of {name}, a standard error takes two;"
            " fetch more"
        )
    return Questions(asked, found.shots, found.about)


def _used(tiers: Tiers, window: int) -> dict[str, dict]:
    """The factors that sequences of at most `window` tokens may have, shortest first."""
    last = factors_at(tiers, window)
    return {
        window_label(each.window): what_they_do(each)
        for each in tiers.factors
        if each.window <= last.window
    }


def _source(stage: BenchmarksStage) -> dict:
    if stage.files:
        return {"from": "files", "sha256": sha256_of(Path(stage.files) / MANIFEST)}
    return {"from": "hub"}


def _limit(name: str, questions: int) -> int:
    """The harness limits every subject of MMLU, so that of each a 57th is asked, rounded up."""
    return math.ceil(questions / MMLU_SUBJECTS) if name == "mmlu" else questions


def _available(tasks: dict) -> int:
    return sum(len(task.eval_docs) for task in tasks.values())


def _shots_from(questions: Questions | None, tasks: dict) -> str:
    if questions:
        return questions.about["shots"]
    task = next(iter(tasks.values()))
    return str(task.fewshot_cfg.split)
