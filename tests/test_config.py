"""The configuration: what is accepted, what each mistake is told, and settings as JSON."""

import copy
import json
import re
from itertools import pairwise

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from helpers import ROOT
from longrope.checks import load_config
from longrope.config import Config, PretrainStage, json_schema
from longrope.config.corpus import TokenizeSettings
from longrope.config.evaluation import PerplexityStage
from longrope.config.reference import markdown
from longrope.config.search import SearchSettings
from longrope.config.training import TuningStage
from longrope.errors import UserError
from longrope.models.window import check_folders
from longrope.needs import needs
from longrope.reading import read_settings
from longrope.study import corpus_of, factor_files, lengths_of
from longrope.windows import window_label

STUDY = """
seed: 1
corpora:
  books:
    source: {kind: text, files: ["books/*.txt"]}
    splits: {validation: [emma], test: [hamlet]}
models:
  small:
    source: {kind: folder, path: somewhere}
    original_window: 256
    corpus: books
    optimiser: {name: evolution}
    search: {512: {evaluations: 9}, 1k: {evaluations: 9, documents: 3}}
    tunings:
      first: {method: search, window: 512, steps: 4, batch: 4, micro_batch: 2, learning_rate: 0.1}
      second:
        {start: first, method: yarn, window: 1k, steps: 4, batch: 1, learning_rate: 0.1,
         mixture: {text: 0.5, word: 0.5}}
    extension:
      weights: second
      search: {2k: {evaluations: 9}}
      recovery: {256: {evaluations: 9}, 512: {evaluations: 9, documents: 2}}
    evaluation:
      perplexity:
        {task: perplexity, windows: {256: 2, 1k: 2, 2k: 1},
         methods: {base: [none], second: [extended]}}
      passkey: {task: passkey, prompts: {512: 2}, methods: {base: [yarn]}}
  made:
    source:
      kind: pretrain
      architecture:
        {hidden_size: 8, layers: 1, heads: 1, intermediate_size: 8, vocabulary: 300, theta: 10000}
      phases: [{steps: 3, length: 64, mixture: {text: 1.0}}]
      tokens_per_step: 64
    original_window: 64
    corpus: books
    evaluation:
      perplexity: {task: perplexity, windows: {64: 1}}
      passkey: {task: passkey, prompts: {64: 1}}
"""
REMOVE = object()


def study(changes: dict | None = None) -> dict:
    """The study above with other values at some places, written like models/small/corpus."""
    raw = yaml.safe_load(STUDY)
    for place, value in (changes or {}).items():
        *path, last = (int(key) if key.isdigit() else key for key in place.split("/"))
        inner = raw
        for key in path:
            inner = inner[key]
        if value is REMOVE:
            del inner[last]
        else:
            inner[last] = copy.deepcopy(value)
    return raw


def error_of(changes: dict) -> str:
    with pytest.raises(UserError) as caught:
        load_config(study(changes))
    return str(caught.value)


# --- what is accepted -----------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(ROOT.glob("config/*.yaml")), ids=lambda path: path.name)
def test_every_configuration_that_the_project_ships_is_valid(path):
    raw = yaml.safe_load(path.read_text())
    assert set(load_config(raw).models) == set(raw["models"])


UNPINNED = {  # whose commit hash could not be verified; the configuration says so
    "NousResearch/Yarn-Llama-2-7b-64k",
    "NousResearch/Yarn-Llama-2-7b-128k",
    "NousResearch/Yarn-Mistral-7b-64k",
    "NousResearch/Yarn-Mistral-7b-128k",
    "amazon/MistralLite",
    "emozilla/proofpile-test-tokenized",
    "incredible45/Gutenberg-BookCorpus-Cleaned-Data-English",
}


def test_what_is_fetched_from_the_hub_is_pinned_to_a_commit_but_for_a_few():
    sources = []
    for path in sorted((ROOT / "config").glob("*.yaml")):
        config = load_config(yaml.safe_load(path.read_text()))
        sources += [each.source for each in (*config.models.values(), *config.corpora.values())]
    hub = [each for each in sources if each.kind == "hub"]
    assert len(hub) > len(UNPINNED)
    for each in hub:
        if each.name in UNPINNED:
            assert each.revision is None, f"{each.name} is pinned: take it off the list"
        else:
            assert re.fullmatch("[0-9a-f]{40}", each.revision or ""), each.name


@pytest.mark.parametrize("path", sorted(ROOT.glob("config/*.yaml")), ids=lambda path: path.name)
def test_the_schema_for_editors_accepts_what_the_package_accepts(path):
    raw = json.loads(json.dumps(yaml.safe_load(path.read_text())))
    jsonschema.validate(raw, json_schema())


def test_the_schema_in_the_repository_is_that_of_the_package():
    text = (ROOT / "workflow/schemas/config.schema.json").read_text()
    assert json.loads(text) == json_schema()


def test_the_reference_in_the_repository_is_that_of_the_package():
    committed = (ROOT / "docs/configuration.md").read_text()
    assert committed == markdown(json_schema()), "make it again: longrope schema --markdown"


def test_every_key_of_a_configuration_is_explained():
    types = {"Config": json_schema(), **json_schema()["$defs"]}
    told = {"kind", "name", "task"}  # tell types apart; headings name them
    unexplained = {
        f"{name}.{key}"
        for name, each in types.items()
        for key, value in each["properties"].items()
        if "description" not in value and not (key in told and {"const", "enum"} & value.keys())
    }
    assert not unexplained


def test_windows_may_be_written_as_labels_or_tokens():
    labels = load_config(study()).models["small"]
    assert list(labels.search) == [512, 1024] and labels.tunings["second"].window == 1024
    changes = {"models/small/tunings/second/window": 1024, "models/small/original_window": "256"}
    assert load_config(study(changes)).models["small"] == labels


def test_nothing_that_was_read_can_be_changed():
    model = load_config(study()).models["small"]
    with pytest.raises(ValueError, match="frozen"):
        model.corpus = "other"


# --- mistakes -------------------------------------------------------------------------------

SMALL, FIRST = "models/small", "models/small/tunings/first"
TWO = {"text": 0.5, "copy": 0.4}
HUGE = {"4k": {"evaluations": 1}}
MISTAKES = {  # what is changed, then what the message must hold: place, rule, remedy
    "misspelt": ({f"{FIRST}/lerning_rate": 1}, "first.lerning_rate: unknown", "'learning_rate'"),
    "misspelt at the top": ({"sed": 2}, "sed: unknown key", "'seed'"),
    "British": ({f"{SMALL}/optimizer": {}}, "models.small.optimizer: unknown", "'optimiser'"),
    "nonsense": ({"xyzzy": 1}, "xyzzy: unknown key", "docs/configuration.md"),
    "missing": ({f"{SMALL}/corpus": REMOVE}, "models.small.corpus: missing", ""),
    "text for number": ({f"{FIRST}/steps": "many"}, "tunings.first.steps: ", "integer"),
    "number for text": ({f"{SMALL}/corpus": 7}, "models.small.corpus: ", "string"),
    "list for mapping": ({f"{SMALL}/tunings": []}, "models.small.tunings: ", "dict"),
    "zero": (
        {f"{FIRST}/steps": 0},
        "tunings.first.steps: ",
        r"equal to 1 \(found 0\)",
    ),
    "fraction": ({f"{FIRST}/batch": 1.5}, "tunings.first.batch: ", "valid integer"),
    "negative": ({f"{FIRST}/learning_rate": -1}, "first.learning_rate: ", "greater than 0"),
    "no number": (
        {f"{FIRST}/learning_rate": float("nan")},
        "first.learning_rate: ",
        "finite number",
    ),
    "window": ({f"{SMALL}/original_window": "1m"}, "original_window: ", "such as 256, 4k or 2048k"),
    "name": ({"corpora/a b": {}}, "corpora.a b", "pattern"),
    "choice": ({f"{FIRST}/schedule": "cosine"}, "first.schedule: ", "'linear' or 'constant'"),
    "kind": ({"corpora/books/source/kind": "txt"}, "corpora.books.source: ", "'parquet'"),
    "search below": (
        {f"{SMALL}/search": {128: {"evaluations": 1}}},
        "search.128: ",
        "above .* 256",
    ),
    "search equal": (
        {f"{SMALL}/search": {256: {"evaluations": 1}}},
        "search.256: ",
        "above .* 256",
    ),
    "tuning below": ({f"{FIRST}/window": 256}, "first.window: 256 is not above", "window, 256"),
    "corpus": ({f"{SMALL}/corpus": "boks"}, "small.corpus: unknown corpus 'boks'", "are books"),
    "method": (
        {f"{FIRST}/method": "yran"},
        "first.method: unknown method 'yran'",
        "search, ",
    ),
    "not searched": ({f"{FIRST}/window": "4k"}, "first.method: factors for 4k", "add that window"),
    "start": ({f"{FIRST}/start": "x"}, "first.start: unknown weights 'x'", "base, first, second"),
    "circle": ({f"{FIRST}/start": "second"}, "first.start: ", "circle"),
    "own start": ({f"{FIRST}/start": "first"}, "first.start: ", "circle"),
    "called base": ({f"{SMALL}/tunings/base": {}}, "tunings.base", ""),
    "shares": ({f"{FIRST}/mixture": TWO}, "tunings.first: ", "add up to 0.9, not to 1"),
    "mixture": ({f"{FIRST}/mixture": {"txt": 1}}, "tunings.first.mixture.txt", "text"),
    "micro batch": ({f"{FIRST}/micro_batch": 3}, "tunings.first: batch 4", "micro_batch 3"),
    "skipped": ({f"{FIRST}/positions": "skipped"}, "tunings.first: ", "set length"),
    "short": (
        {f"{FIRST}/short": {"share": 0.5, "length": 96}},
        "first.short.length: 96 must be at most the original window, 256",
        "divide the length of a sequence, 512",
    ),
    "short too long": ({f"{FIRST}/short": {"share": 0.5, "length": 512}}, "short.length: 512", ""),
    "short share": ({f"{FIRST}/short": {"share": 0.3}}, "first: short.share 0.3 of batch 4", "no"),
    "rank": ({f"{FIRST}/lora": {"rnk": 8}}, "first.lora.rnk: unknown", "'rank'"),
    "extended": ({f"{SMALL}/extension/weights": "base"}, "extension.weights: ", "first, second"),
    "too long": ({f"{SMALL}/extension/recovery": HUGE}, "recovery.4k: ", "below .* second, 1k"),
    "too short": (
        {f"{SMALL}/extension/search/1k": {"evaluations": 1}},
        "search.1k: ",
        "above .*1k",
    ),
    "overlap": ({"corpora/books/splits/test": ["emma"]}, "books.splits: ", "validation .* emma"),
    "all held out": (
        {"corpora/books/splits": {"validation": 0.5, "test": 0.5}},
        "books.splits: ",
        "nothing to train on",
    ),
    "two ways": (
        {"corpora/books/splits": {"validation": 0.5, "test": ["emma"]}},
        "books.splits: ",
        "ids, shares or names",
    ),
    "shown elsewhere": (
        {f"{SMALL}/evaluation/passkey/shown_in": ["passkey", "figure1"]},
        "evaluation.passkey.shown_in.1: ",
        r"'passkey', 'retrieval', .*found 'figure1'",
    ),
    "weights": (
        {f"{SMALL}/evaluation/passkey/methods": {"bse": ["none"]}},
        "evaluation.passkey.methods.bse: unknown weights 'bse'",
        "base, first, second",
    ),
    "unknown method": (
        {f"{SMALL}/evaluation/perplexity/methods": {"base": ["nnoe"]}},
        "evaluation.perplexity.methods.base: unknown method 'nnoe'",
        "none, .*search",
    ),
    "method of other weights": (
        {f"{SMALL}/evaluation/perplexity/methods": {"first": ["extended"]}},
        "evaluation.perplexity.methods.first: unknown method 'extended'",
        "tuned",
    ),
    "parents": (
        {f"{SMALL}/optimiser": {"name": "evolution", "parents": 99}},
        "models.small.optimiser",
        "parents 99 must not exceed population 64",
    ),
}


@pytest.mark.parametrize("name", ["bayesian", "cma"])
def test_an_optimiser_that_needs_starts_says_so_wherever_it_is_given(name):
    optimiser, says = {"name": name, "starts": []}, "optimiser.starts: only the paper's evolution"
    assert f"models.small.{says}" in error_of({f"{SMALL}/optimiser": optimiser})
    stage = {"window": 512, "budget": {"evaluations": 1}, "optimiser": optimiser, "seed": 1}
    with pytest.raises(UserError, match=says):
        read_settings(SearchSettings, json.dumps(stage))


@pytest.mark.parametrize(("changes", "place", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_its_place_the_rule_and_the_way_out(changes, place, says):

    message = error_of(changes)
    assert message.startswith("configuration:")
    assert any(place in line and re.search(says, line) for line in message.splitlines()), message


def test_every_mistake_is_told_at_once():
    places = {f"{FIRST}/steps": 0, f"{SMALL}/corpuss": 1, "seed": REMOVE}
    assert len(error_of(places).splitlines()) == 1 + 3


@pytest.mark.parametrize("raw", [None, [], "text", {}, {"seed": 1, "corpora": None, "models": 3}])
def test_what_is_no_configuration_at_all_is_one_clear_error(raw):
    with pytest.raises(UserError, match="configuration:"):
        load_config(raw)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({f"{SMALL}/source/pth": "x"}, "models.small.source.pth: unknown key"),
        ({f"{SMALL}/optimiser/popluation": 9}, "models.small.optimiser.popluation: unknown key"),
        ({f"{SMALL}/search/3q": {"evaluations": 1}}, "models.small.search.3q: window '3q'"),
        ({"corpora/books/splits/validation": 1.5}, "corpora.books.splits.validation: "),
        ({f"{SMALL}/attention_factor": "suu"}, "models.small.attention_factor: "),
    ],
    ids=["source", "optimiser", "window", "splits", "attention factor"],
)
def test_a_place_is_named_as_it_is_written_and_once(changes, place):
    _, *lines = error_of(changes).splitlines()
    assert [line.strip().startswith(place) for line in lines] == [True]


MADE = "models/made/source"
PERPLEXITY = f"{SMALL}/evaluation/perplexity"


@pytest.mark.parametrize(
    "changes",
    [
        {f"{SMALL}/optimiser/starts": ["yran"]},
        {f"{SMALL}/fitness": {"perplexity": 0}},
        {f"{SMALL}/fitness": {"long_with": "yran"}},
        {f"{SMALL}/space": {"kind": "critical", "monotone": False}},
        {f"{SMALL}/space": {"vary": []}},
        {f"{SMALL}/variants": {"needle": {}}},
        {f"{SMALL}/extension/search": {}, f"{PERPLEXITY}/methods": {"second": ["longest"]}},
        {f"{PERPLEXITY}/methods": {"base": ["search"]}, f"{PERPLEXITY}/windows": {256: 1}},
        {f"{PERPLEXITY}/methods": {"base": [{"yarn": "1k"}]}},
        {f"{PERPLEXITY}/windows": {"1k": 1, 1024: 2}},
        {f"{FIRST}/learning_rate": float("inf")},
        {f"{MADE}/warmup": -1},
        {f"{SMALL}/export": {"tier": "3k"}},
        {f"{SMALL}/export": {"two_tables": True, "engine": "vllm"}},
        {f"{SMALL}/export": {"engine": "llama.cpp"}},
        {"models/made/export": {"dtype": "float32"}},
        {f"{SMALL}/corpus": {yaml.safe_load("2024-01-01"): 1}},
    ],
    ids=[
        "unknown start",
        "a fitness of nothing",
        "tokens chosen by an unknown form",
        "LongRoPE2's space may not fall",
        "nothing varied",
        "a variant that is not called search-...",
        "longest of none",
        "searched at no measured length",
        "methods as a list of mappings",
        "one window twice",
        "infinite",
        "negative warm-up",
        "an export of no tier",
        "two tables for who takes one",
        "gguf is a form",
        "an export of nothing extended",
        "date as key",
    ],
)
def test_what_could_only_fail_later_is_refused_before_anything_runs(changes):
    assert error_of(changes)


# --- what follows from a configuration ------------------------------------------------------


def needed(raw: dict) -> dict[tuple[str, int], int]:
    found = needs(load_config(raw), "small", "books")
    assert len({(need.split, need.tokens) for need in found}) == len(found)
    return {(need.split, need.tokens): need.documents for need in found}


def test_a_corpus_must_serve_the_search_that_needs_most_documents():
    assert needed(study()) == {
        ("validation", 2048): 5,  # and so the 5 and fewer of 256, 512 and 1k
        ("train", 1024): 1,
        ("test", 2048): 1,
        ("test", 1024): 1,  # more windows, which need not fit at 2k
    }
    more = study()
    more["models"]["small"]["search"]["1k"]["documents"] = 7
    assert needed(more) == needed(study()) | {("validation", 1024): 7}


def test_tunings_searches_and_evaluations_may_each_have_their_corpus():
    raw = study()
    books = raw["corpora"]["books"]
    raw["corpora"] |= {"code": books, "news": books, "long": books}
    small = raw["models"]["small"]
    small["corpus"] = {"train": "code", "validation": "news", "test": "books"}
    small["extension"]["corpus"] = "long"
    config, extended = load_config(raw), small["extension"]["weights"]
    settings = config.models["small"]
    assert [corpus_of(settings, split) for split in ("train", "validation", "test")] == [
        "code",
        "news",
        "books",
    ]
    assert corpus_of(settings, "validation", extended) == "long"
    assert corpus_of(settings, "train", extended) == "code"
    splits = {
        corpus: {each.split for each in needs(config, "small", corpus)} for corpus in raw["corpora"]
    }
    assert splits == {
        "code": {"train"},
        "news": {"validation"},
        "long": {"validation"},
        "books": {"test"},
    }
    small["corpus"]["train"] = "coed"
    with pytest.raises(UserError, match=r"corpus\.train: unknown corpus 'coed'"):
        load_config(raw)


def test_every_method_that_is_accepted_has_factors_for_its_lengths():
    config = load_config(study())
    for name, model in config.models.items():
        for task in model.evaluation.values():
            for weights, methods in task.methods.items():
                for method in methods:
                    lengths = lengths_of(model, weights, method, task)
                    assert lengths and factor_files(name, model, weights, method, lengths)


# --- settings as JSON -----------------------------------------------------------------------


def slices(config: Config) -> list:
    """The settings of every stage of the study above."""
    small, made = config.models["small"], config.models["made"]
    books = config.corpora["books"]
    return [
        config,
        SearchSettings(
            window=1024,
            budget=small.search[1024],
            optimiser=small.optimiser,
            space={"kind": "critical", "pair": 3},
            fitness={"needle": 0.5},
            attention_factor=1.5,
            seed=1,
        ),
        TuningStage(name="second", tuning=small.tunings["second"], seed=1),
        TokenizeSettings(corpus=books, needs=needs(config, "small", "books")),
        PretrainStage(model=made.source, corpus=books, original_window=64, seed=1),
        PerplexityStage(
            evaluation="books", method="none", windows={100: 1, 1024: 2, 2**21: 3}, stride="1k"
        ),
    ]


@pytest.mark.parametrize("number", range(6))
def test_settings_survive_the_way_through_a_command_line(number):
    stage = slices(load_config(study()))[number]
    assert read_settings(type(stage), stage.model_dump_json()) == stage


def test_windows_are_labels_in_json():
    text = json.loads(slices(load_config(study()))[-1].model_dump_json())
    assert text["windows"] == {"100": 1, "1k": 2, "2048k": 3} and text["stride"] == "1k"


@given(st.dictionaries(st.integers(1, 2**24), st.integers(1, 99), min_size=1))
def test_any_window_survives_the_way_through_json(windows):
    stage = PerplexityStage(evaluation="books", method="none", windows=windows)
    assert read_settings(PerplexityStage, stage.model_dump_json()).windows == windows
    labels = [window_label(window) for window in sorted(windows)]
    assert all(first != second for first, second in pairwise(labels))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{no json", "--settings: not JSON"),
        ("[]", "--settings:"),
        ('{"method": "none"}', "windows: missing"),
        ('{"method": "none", "windows": {"1k": 1}, "strid": 3}', "did you mean 'stride'"),
    ],
)
def test_settings_that_are_wrong_are_one_clear_error(text, says):
    with pytest.raises(UserError, match=says):
        read_settings(PerplexityStage, text)


def test_a_misspelt_key_is_one_mistake_not_also_a_missing_one():
    with pytest.raises(UserError) as caught:
        read_settings(PerplexityStage, '{"method": "none", "windws": {"1k": 1}}')
    said = str(caught.value)
    assert "windws: unknown key; did you mean 'windows'?" in said and "windows: missing" not in said


# --- the window that the model itself says ---------------------------------------------------


def test_the_window_is_held_against_the_folder_where_there_is_one(tmp_path):
    config = load_config(study({"models/small/source/path": str(tmp_path / "model")}))
    check_folders(config)  # not here: perhaps where the jobs run
    (tmp_path / "model").mkdir()

    def says(**stated) -> None:
        (tmp_path / "model/config.json").write_text(json.dumps({"model_type": "llama", **stated}))
        check_folders(config)

    says(max_position_embeddings=256)
    says()
    says(max_position_embeddings=4096, sliding_window=256)  # what it was trained with
    with pytest.raises(UserError, match=r"'small': original_window is 256 .* is 4096.*in a copy"):
        says(max_position_embeddings=4096)
    own = {"rope": "own", "evaluation": {}, "extension": None, "tunings": {}, "search": {}}
    changed = {f"models/small/{key}": value for key, value in own.items()}
    config = load_config(study(changed | {"models/small/source/path": str(tmp_path / "model")}))
    says(max_position_embeddings=4096)  # measured as it comes
