"""
Tasks as lm-evaluation-harness has them: its prompts, its metrics.

Nothing of the harness is written again here. Offline, `write_tasks` makes task files that include
the harness's own and only say where the questions are, so prompts and scores stay its own; its
command line reads the same files (`lm_eval --include_path FOLDER`). `ruler` does the same. The
package lm_eval is optional: only functions that run it import it.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from longrope.errors import UserError, one_line
from longrope.evaluate.questions import Questions
from longrope.files import fingerprint, replacing

SEED = 1234  # of the draw of examples: the harness's default


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What Table 8 of the paper reports of one of the harness's tasks."""

    metric: str  # which of the harness's
    label: str  # what people call it, and the table's column


BENCHMARKS = {
    "arc_challenge": Benchmark("acc_norm", "ARC-Challenge"),
    "hellaswag": Benchmark("acc_norm", "HellaSwag"),
    "mmlu": Benchmark("acc", "MMLU"),
    "truthfulqa_mc2": Benchmark("acc", "TruthfulQA MC2"),
}


def require_harness() -> str:
    """The version of lm_eval; UserError that says how to install it where it is missing."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "benchmarks are run by lm-evaluation-harness, which is not installed:"
            ' pip install -c envs/constraints.txt -e ".[benchmarks]"'
        )
    return importlib.metadata.version("lm_eval")


def write_tasks(folder: Path, name: str, questions: Questions) -> Path:
    """Task files of one benchmark over local questions; returns their folder."""
    place = Path(folder).resolve() / name
    with replacing(place) as draft:
        draft.mkdir(parents=True)
        if name == "mmlu":
            subjects = list(dict.fromkeys(row["subject"] for row in questions.asked))
            for subject in subjects:
                part = Questions(
                    *(
                        [row for row in rows if row["subject"] == subject]
                        for rows in (questions.asked, questions.shots)
                    ),
                    questions.about,
                )
                write_task(draft, place, f"mmlu_{subject}", part.asked, part.shots)
            group = {
                "group": "mmlu",
                "task": [f"mmlu_{subject}" for subject in subjects],
                "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
            }
            _write_yaml(draft / "mmlu.yaml", group)
        else:
            write_task(draft, place, name, questions.asked, questions.shots)
    return place


def write_task(
    draft: Path, place: Path, name: str, asked: list[dict], shots: list[dict], **more
) -> None:
    """Write the harness's own task over other data; `more` is what else differs from it.

    The files are written in `draft`, a folder that will stand at `place`.
    """
    files = {}
    for part, rows in (("test", asked), ("shots", shots)):
        if rows:
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (draft / f"{name}.{part}.jsonl").write_text(lines)
            files[part] = str(place / f"{name}.{part}.jsonl")
    settings = {
        "include": str(own_task(name)),
        "task": name,
        "tag": [],  # of the harness's groups
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files, "cache_dir": str(place / "arrow")},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        "fewshot_split": "shots" if "shots" in files else None,
    }
    settings |= more
    _write_yaml(draft / f"{name}.yaml", settings)


def own_task(name: str) -> Path:
    """The harness's own file of a task."""
    require_harness()
    root = Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks"
    place = root / "mmlu/default" if name.startswith("mmlu_") else root
    found = sorted(place.glob(f"**/{name}.yaml"))
    if len(found) != 1:
        version = importlib.metadata.version("lm_eval")
        raise UserError(f"lm_eval {version} has {len(found)} files {name}.yaml, expected one")
    return found[0]


def _write_yaml(path: Path, settings: dict) -> None:
    path.write_text(json.dumps(settings, indent=1) + "\n")  # JSON is YAML


@dataclass(frozen=True, slots=True)
class Answered:
    """What the harness found of one task."""

    results: dict[str, float]  # of the task or group, as the harness names them
    samples: list[dict]  # one a question: document, arguments, metrics
    tasks: dict  # the harness's task objects by name


def ask(lm, name: str, tasks: Path | None, *, shots: int = 0, limit: int | None = None) -> Answered:
    """Run one of the harness's tasks, from task files or from its own data on the hub.

    `limit` asks only the first so many questions of each of its parts.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    with quiet():
        manager = TaskManager(include_path=tasks and str(tasks), include_defaults=tasks is None)
        try:
            loaded = manager.load([name])
        except (OSError, ConnectionError) as error:
            raise UserError(
                f"{name}: its questions cannot be fetched ({one_line(error, 200)}). Without a"
                " network, name a folder of questions (`files`); `longrope fetch-benchmarks` makes"
                " one"
            ) from error
        for task in loaded["tasks"].values():
            if task.get_config("num_fewshot") != 0:  # 0 in its own file: it takes none
                task.set_config(key="num_fewshot", value=shots)
            task.set_fewshot_seed(seed=SEED)
        found = evaluate(lm, loaded, limit=limit, bootstrap_iters=0, log_samples=True)
    samples = [sample for part in found["samples"].values() for sample in part]
    results = found["results"].get(name) or found["groups"][name]
    return Answered(results, samples, loaded["tasks"])


def chance(samples: list[dict]) -> float:
    """What guessing comes to: one of the choices, or the share of true ones."""
    shares = []
    for sample in samples:
        labels = sample["doc"].get("mc2_targets", {}).get("labels")
        shares.append(sum(labels) / len(labels) if labels else 1 / len(sample["resps"]))
    return sum(shares) / len(shares)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep from the log what the harness says of every task, and its several bars for each, but
    for errors; `Progress` says how far it is. Everything is put back at the end."""
    from tqdm.std import tqdm

    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    original = tqdm.__init__

    def hidden(self, *arguments, **options) -> None:
        original(self, *arguments, **options | {"disable": True})

    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with mock.patch.object(tqdm, "__init__", hidden):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def values(samples: list[dict], metric: str) -> list[float]:
    """A metric of every question, in the order of the questions."""
    return [float(sample[metric]) for sample in samples]


def asked_fingerprint(samples: list[dict]) -> str:
    """A hash of the very prompts and answers, so that two records can be seen to be of the same."""
    return fingerprint([list(map(list, sample["arguments"])) for sample in samples])
