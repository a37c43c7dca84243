"""
The prompts of RULER's needles: written once for a tokenizer, a length and a seed, then read.

lm-evaluation-harness writes the text, with words, numbers and a template of its own; here each
prompt is filled up to its length, answer included, with as much haystack as fits. Where RULER has
essays, which are not to be had offline, there are other texts, and sentences end where a regular
expression says so. `KINDS`, and the beginning of the answer, are the harness's written again,
as it has no function that gives them; a test holds both against it.
"""

import contextlib
import hashlib
import importlib.util
import random
import re
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from longrope.config.corpus import CorpusSettings
from longrope.corpus.documents import read_documents
from longrope.corpus.tokens import tokenizer_fingerprint
from longrope.errors import UserError
from longrope.evaluate import harness
from longrope.files import fingerprint, read_lines, write_lines
from longrope.portions import ANSWER_TOKENS
from longrope.versions import VERSIONS
from longrope.windows import window_label

ANSWER = ANSWER_TOKENS["ruler"]
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


class SampleWriter:
    """Writes the prompts of a tokenizer, or reads those that were written before."""

    def __init__(self, tokenizer, haystack: list[str], folder: Path, seed: int) -> None:
        self._tokenizer, self._folder, self._seed = tokenizer, folder, seed
        source = {"kind": "text", "files": haystack}
        documents = list(read_documents(CorpusSettings(source=source, splits={})))
        self._words = " ".join(document.text for document in documents).split()
        first, more = documents[0].id, len(documents) - 1
        self.haystack_name = first + (f" and {more} more" if more else "")
        self.haystack_sha256 = hashlib.sha256(" ".join(self._words).encode()).hexdigest()
        self._identity = [
            tokenizer_fingerprint(tokenizer),
            self.haystack_sha256,
            harness.require_harness(),
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


def import_ruler():
    """The harness's modules of these tasks, niah_utils and prepare_niah, imported offline."""
    for package in ("nltk", "wonderwords"):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"RULER's needles need the package {package}:"
                ' pip install -c envs/constraints.txt -e ".[benchmarks]"'
            )
    import nltk

    with mock.patch.object(nltk.data, "find"):  # else the next import asks the network
        from lm_eval.tasks.ruler import niah_utils, prepare_niah
    return niah_utils, prepare_niah


@contextlib.contextmanager
def _harness_writer():
    """The harness's function that hides needles; sentences are split offline."""
    niah_utils, prepare_niah = import_ruler()
    state = random.getstate()

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
