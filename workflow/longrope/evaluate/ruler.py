"""
RULER's needles (Hsieh et al. 2024, arXiv 2404.06654), by lm-evaluation-harness.

A needle says that a key has a value; it is hidden in a haystack, alone (niah_single) or among
others with other keys (niah_multikey), and asked for at the end. The harness writes the text and
scores the answers; here every prompt is filled up to its length, answer included, with as much
haystack as fits, and none is cut. The prompt ends in the beginning of the answer, as for models
that only continue text. Where RULER has essays, which are not to be had offline, there are other
texts: their name is in the record.
"""

import contextlib
import hashlib
import importlib.util
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from longrope.config import CorpusSettings, RulerStage
from longrope.corpus import read_documents, tokenizer_fingerprint
from longrope.errors import UserError
from longrope.evaluate import harness
from longrope.evaluate.records import evaluate_lengths, tiers_of
from longrope.factors import RescaleFactors
from longrope.files import fingerprint, read_lines, replacing, write_lines
from longrope.models import load_model, load_tokenizer, read_record
from longrope.rope import install
from longrope.statistics import wilson
from longrope.versions import VERSIONS
from longrope.windows import window_label

ANSWER = 128  # tokens that are generated, as in RULER
BATCH_TOKENS = 1 << 14  # tokens of sequences that run together
ESSAY = "essay"  # RULER's word for running text


@dataclass(frozen=True, slots=True)
class Kind:
    """One of RULER's needle tasks."""

    haystack: str  # repeat (a few sentences), needle (needles of other keys), essay
    key: str  # words or uuids
    value: str  # numbers or uuids
    keys: int = 1  # needles; one of them is asked for


KINDS = {
    "niah_single_1": Kind("repeat", "words", "numbers"),
    "niah_single_2": Kind(ESSAY, "words", "numbers"),
    "niah_single_3": Kind(ESSAY, "words", "uuids"),
    "niah_multikey_1": Kind(ESSAY, "words", "numbers", keys=4),
    "niah_multikey_2": Kind("needle", "words", "numbers"),
    "niah_multikey_3": Kind("needle", "uuids", "uuids"),
}


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
    record = read_record(model_folder)
    tiers = tiers_of(factors, record)
    tokenizer = load_tokenizer(model_folder)
    writer = SampleWriter(tokenizer, stage.haystack, samples, stage.seed)
    prompts = {
        length: {name: writer.samples(name, length, count) for name in stage.needles}
        for length, count in stage.prompts.items()
    }
    lm = _pinned(model_folder, tiers, tokenizer, max(stage.prompts))

    def measure(length: int, _: RescaleFactors) -> list[dict]:
        return [
            _measure(lm, name, length, prompts[length][name], state / "tasks")
            for name in stage.needles
        ]

    protocol = {
        "harness": version,
        "needles": stage.needles,
        "haystack": writer.haystack_name,
        "seed": stage.seed,
        "decoding": "greedy",
        "answer_tokens": ANSWER,
    }
    results = evaluate_lengths(
        "ruler",
        stage.evaluation,
        stage.method,
        model_folder,
        tiers,
        stage.prompts,
        protocol,
        measure,
        summarise,
        out,
        state,
        VERSIONS["evaluate-ruler"],
    )
    return {
        f"{name}_{length}": found["accuracy"]
        for length, needles in results.items()
        for name, found in needles.items()
    }


def summarise(records: list[dict]) -> dict:
    """Needle -> share found at one length; `low` and `high` are the 95% Wilson interval."""
    results = {}
    for record in records:
        found, prompts = record["found"], record["prompts"]
        low, high = wilson(found, prompts)
        results[record["needle"]] = {
            "accuracy": found / prompts,
            "low": low,
            "high": high,
            "found": found,
            "prompts": prompts,
        }
    return results


def _measure(lm, name: str, length: int, samples: list[dict], folder: Path) -> dict:
    tasks = _write_task(folder / window_label(length), name, length, samples)
    lm.begin(f"{name} at {window_label(length)}", length, BATCH_TOKENS)
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
    """A task file that has the harness's own prompt and score, for samples that are written."""
    place = folder.resolve() / name
    with replacing(place) as draft:
        draft.mkdir(parents=True)
        write_lines(draft / "samples.jsonl", samples)
        # The harness knows six lengths; this one is added to them.
        (draft / "ruler_score.py").write_text(
            "from lm_eval.tasks.ruler.common_utils import aggregate_metrics, process_results\n"
            "__all__ = ['aggregate_metrics', 'process_results']\n"
        )
        settings = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {"test": str(place / "samples.jsonl")},
                "cache_dir": str(place / "arrow"),
            },
            "output_type": "generate_until",
            "test_split": "test",
            "doc_to_text": "{{input}}",
            "doc_to_target": "{{outputs}}",
            "gen_prefix": "{{gen_prefix}}",
            "target_delimiter": " ",
            "generation_kwargs": {"do_sample": False, "max_gen_toks": ANSWER, "until": []},
            "num_fewshot": 0,
        }
        text = json.dumps(settings, indent=1).removesuffix("\n}")
        score = f"""{text},
 "process_results": !function ruler_score.process_results,
 "metric_list": [{{
  "metric": "{length}",
  "aggregation": !function ruler_score.aggregate_metrics,
  "higher_is_better": true
 }}]
}}
"""
        (draft / f"{name}.yaml").write_text(score)
    return place


def _pinned(model_folder: Path, tiers, tokenizer, window: int):
    from transformers import GenerationConfig

    from longrope.evaluate.pinned import PinnedModel

    model = load_model(model_folder)
    model.config.max_position_embeddings = window  # else `generate` warns
    model.generation_config = GenerationConfig(  # in place of the checkpoint's own
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id or 0
    )
    return PinnedModel(model, tokenizer, install(model, tiers.rope), tiers)


# --- prompts ----------------------------------------------------------------------------------


class SampleWriter:
    """Writes the prompts of a tokenizer, or reads those that were written before."""

    def __init__(self, tokenizer, haystack: list[str], folder: Path, seed: int) -> None:
        self._tokenizer, self._folder, self._seed = tokenizer, folder, seed
        source = {"kind": "text", "files": haystack}
        documents = list(read_documents(CorpusSettings(source=source, splits={})))
        self._words = " ".join(document.text for document in documents).split()
        first, more = documents[0].id, len(documents) - 1
        self.haystack_name = first + (f" and {more} more" if more else "")
        self._identity = [
            tokenizer_fingerprint(tokenizer),
            hashlib.sha256(" ".join(self._words).encode()).hexdigest(),
            seed,
            VERSIONS["evaluate-ruler"],
        ]

    def samples(self, name: str, length: int, count: int) -> list[dict]:
        """`count` prompts of one kind, at most `length` tokens each with the answer."""
        key = fingerprint([*self._identity, name, length, count])
        path = self._folder / f"{name}-{window_label(length)}-{key}.jsonl"
        if not path.exists():
            with _harness_writer() as write:
                made = [self._write(write, name, length, number) for number in range(count)]
            write_lines(path, made)
        return read_lines(path)

    def _write(self, write, name: str, length: int, number: int) -> dict:
        """One prompt with as much haystack as fits."""
        kind = KINDS[name]

        def attempt(units: int) -> tuple[dict, int]:
            random.seed(f"{self._seed} {name} {length} {number}")
            sample = write(kind, units, self._words, random.getrandbits(32))
            sample |= {"index": number, "max_length": length}
            prompt = f"{sample['input']} {sample['gen_prefix']}"
            return sample, len(self._tokenizer(prompt).input_ids) + ANSWER

        least = kind.keys
        sample, tokens = attempt(least)
        if tokens > length:
            raise UserError(
                f"{name} at {window_label(length)}: prompt and answer take {tokens} tokens at"
                " least; test it at longer lengths"
            )
        # Double, then halve between what fits and what does not.
        low, high = least, 2 * least
        while (longer := attempt(high))[1] <= length:
            if kind.haystack == ESSAY and high >= len(self._words):
                raise UserError(
                    f"{name} at {window_label(length)}: the haystack has {len(self._words):,}"
                    " words only; name more text files in `haystack`"
                )
            sample, tokens, low, high = *longer, high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            found, size = attempt(middle)
            if size <= length:
                sample, tokens, low = found, size, middle
            else:
                high = middle
        return sample | {"length": tokens}


@contextlib.contextmanager
def _harness_writer():
    """The harness's function that hides needles; sentences are split, and words drawn, offline."""
    for package in ("nltk", "wonderwords"):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"RULER's needles need the package {package}:"
                ' pip install -c envs/constraints.txt -e ".[benchmarks]"'
            )
    import nltk

    state = random.getstate()
    with mock.patch.object(nltk.data, "find"):  # else the next import asks the network
        from lm_eval.tasks.ruler import niah_utils, prepare_niah

    def write(kind: Kind, units: int, words: list[str], seed: int) -> dict:
        # With a haystack of needles, each has a key and a value of its own.
        haystack = words if kind.haystack == ESSAY else prepare_niah.get_haystack(kind.haystack)
        text, values, key = prepare_niah.generate_input_output(
            units,
            haystack,
            type_haystack=kind.haystack,
            num_needle_k=kind.keys,
            type_needle_k=kind.key,
            num_needle_v=1,
            type_needle_v=kind.value,
            template=niah_utils.TEMPLATE,
            random_seed=seed,
        )
        kind_of_value = kind.value.removesuffix("s")
        prefix = f"The special magic {kind_of_value} for {key} mentioned in the provided text is"
        return {"input": text, "outputs": values, "gen_prefix": prefix}

    try:
        with mock.patch.object(prepare_niah, "cached_sent_tokenize", _sentences):
            yield write
    finally:
        random.setstate(state)


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", text)
