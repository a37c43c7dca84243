"""
RULER's needles (Hsieh et al. 2024, arXiv 2404.06654), by lm-evaluation-harness.

A needle says that a key has a value; it is hidden in a haystack, alone (niah_single) or among
others with other keys (niah_multikey), and asked for at the end. `needles` has the prompts; the
harness's own task asks for and scores the answers, and nothing is cut. The prompt ends in the
beginning of the answer, as for models that only continue text.
"""

import functools
from pathlib import Path

from longrope import portions
from longrope.config.evaluation import RulerStage
from longrope.evaluate import harness
from longrope.evaluate.needles import ANSWER, SampleWriter, import_ruler
from longrope.evaluate.records import Task, Units, evaluate_lengths, tiers_of
from longrope.factors import RescaleFactors
from longrope.files import replacing
from longrope.models.checkpoint import load_model, load_tokenizer, read_record
from longrope.rope import install
from longrope.statistics import found_share
from longrope.versions import VERSIONS
from longrope.windows import window_label


def evaluate_ruler(
    stage: RulerStage,
    model_folder: Path,
    factors: list[Path],
    out: Path,
    state: Path,
    samples: Path,
) -> dict[str, float]:
    """Test a checkpoint with a method's factors; returns the accuracy of each needle and length.

    `samples` keeps the prompts for every method and checkpoint with the same tokenizer.
    """
    version = harness.require_harness()
    import_ruler()  # its task files do so, too
    record = read_record(model_folder)
    tiers = tiers_of(factors, record)
    tokenizer = load_tokenizer(model_folder)
    writer = SampleWriter(tokenizer, stage.haystack, samples, stage.seed)
    prompts = {
        length: {name: writer.samples(name, length, count) for name in stage.needles}
        for length, count in stage.prompts.items()
    }

    @functools.cache  # loaded for the first length that is not done yet
    def lm():
        return _pinned(model_folder, tiers, tokenizer, max(stage.prompts))

    def measure(length: int, _: RescaleFactors, units: Units) -> list[dict]:
        return [
            _measure(lm(), name, length, prompts[length][name], state / "tasks", units)
            for name in stage.needles
        ]

    protocol = {
        "harness": version,
        "needles": stage.needles,
        "haystack": writer.haystack_name,
        "haystack_sha256": writer.haystack_sha256,  # a text may change and keep its name
        "seed": stage.seed,
        "decoding": "greedy",
        "answer_tokens": ANSWER,
    }
    task = Task(
        "ruler",
        stage.evaluation,
        stage.method,
        model_folder,
        tiers,
        stage.prompts,
        protocol,
        VERSIONS["evaluate-ruler"],
    )
    results = evaluate_lengths(task, measure, summarise, out, state)
    return {
        f"{name}_{length}": found["accuracy"]
        for length, needles in results.items()
        for name, found in needles.items()
    }


def summarise(records: list[dict]) -> dict:
    """Needle -> share found at one length; `low` and `high` are the 95% Wilson interval."""
    return {record["needle"]: found_share(record["found"], record["prompts"]) for record in records}


def _measure(lm, name: str, length: int, samples: list[dict], folder: Path, units: Units) -> dict:
    tasks = _write_task(folder / window_label(length), name, length, samples)
    together = portions.BATCH_TOKENS["ruler"]
    lm.begin(f"{name} at {window_label(length)}", length, together, units.once)
    answered = harness.ask(lm, name, tasks)
    trials = [
        {
            "value": each["doc"]["outputs"][0],
            "answer": each["filtered_resps"][0],
            "found": each[str(length)] == 1,
        }
        for each in answered.samples
    ]
    return {
        "length": length,
        "needle": name,
        "prompts": len(trials),
        "found": sum(trial["found"] for trial in trials),
        "longest": lm.longest,  # tokens, answer included
        "bos": lm.puts_bos,
        "prompts_sha256": harness.asked_fingerprint(answered.samples),
        "trials": trials,
    }


def _write_task(folder: Path, name: str, length: int, samples: list[dict]) -> Path:
    """The harness's own task, over prompts that are written, at a length that it may not have."""
    place = folder.resolve() / name
    # Its metrics are named after lengths. Its aggregation is the mean of the samples of a length;
    # all of these are of one.
    metric = {"metric": str(length), "aggregation": "mean", "higher_is_better": True}
    with replacing(place) as draft:
        draft.mkdir(parents=True)
        harness.write_task(
            draft, place, name, samples, [], custom_dataset=None, metric_list=[metric]
        )
    return place


def _pinned(model_folder: Path, tiers, tokenizer, window: int):
    from longrope.evaluate.greedy import greedy
    from longrope.evaluate.pinned import PinnedModel

    model = load_model(model_folder)
    model.config.max_position_embeddings = window  # else `generate` warns
    model.generation_config = greedy(tokenizer)
    rotary = install(model, tiers.rope)
    with harness.quiet():
        return PinnedModel(model, tokenizer, rotary, tiers)
