"""Published long-context checkpoints, measured with the RoPE that they come with."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config

from evaluations import documents, fitted, write_evaluation
from helpers import ROOT, WINDOW, make_tokenizer, make_tokens
from longrope.checks import load_config
from longrope.cli import main
from longrope.config import FolderModel
from longrope.config.evaluation import OF_EXTENDING
from longrope.corpus.tokens import TokenSplit
from longrope.errors import UserError
from longrope.models.checkpoint import load_model, read_record
from longrope.models.import_model import import_model
from longrope.report.tables import make_table
from longrope.rope import install

CLAIMED = 256  # the window that the checkpoints are said to have
LENGTHS = (32, WINDOW, 65, 128, CLAIMED)
PAIRS = 8
TABLES = {"short_factor": [1.0] * 4 + [1.1] * 4, "long_factor": [1.0, 1.5] + [4.0] * 6}
FROM = {"original_max_position_embeddings": WINDOW}
CODE = {"auto_map": {"AutoModelForCausalLM": "modeling_yarn.LlamaForCausalLM"}}  # not carried
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALINGS = {  # as config.json has them -> keys beside max_position_embeddings
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}, "max_position_embeddings": 64},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 4.0}, "max_position_embeddings": 64},
    "yarn": {"rope_scaling": {"type": "yarn", "factor": 4.0, "finetuned": True} | FROM} | CODE,
    "llama3": {"rope_parameters": LLAMA3 | FROM | {"rope_theta": 1e4}},
    "longrope": {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4} | TABLES | FROM},
    "Phi-3": {"rope_scaling": {"type": "longrope"} | TABLES} | FROM,
    "raised base": {"rope_theta": 1e6, "rope_scaling": None, "sliding_window": 100},
}


def publish(name: str, folder: Path) -> Path:
    """A random checkpoint whose config.json rescales the RoPE."""
    kind = Phi3Config if name == "Phi-3" else LlamaConfig
    config = kind(
        vocab_size=len(make_tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.2,
        pad_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    for key in ("rope_parameters", "original_max_position_embeddings"):
        written.pop(key, None)
    scaling = {"rope_theta": 1e4, "max_position_embeddings": CLAIMED} | SCALINGS[name]
    if name == "raised base":
        scaling["model_type"] = "mistral"
    (folder / "config.json").write_text(json.dumps(written | scaling))
    return folder


def bring_in(source: Path, out: Path, rope: str = "own", window: int = CLAIMED):
    return import_model(FolderModel(kind="folder", path=str(source)), "m", window, out, rope)


def run(*arguments) -> None:
    assert main([str(each) for each in arguments]) == 0


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return make_tokens(tmp_path_factory.mktemp("own") / "data") / "test"


@torch.no_grad()
def loss_of(source: Path, ids: list[int]) -> float:
    """transformers' own, of a model that has seen no other sequence."""
    model = AutoModelForCausalLM.from_pretrained(source).eval()
    ids_BT = torch.tensor([ids])
    return model(ids_BT, labels=ids_BT, use_cache=False).loss.item()


@pytest.mark.parametrize("name", SCALINGS)
def test_its_perplexity_is_that_of_transformers(name, tokens, tmp_path):
    source, model = publish(name, tmp_path / "source"), tmp_path / "model"
    stage = {"source": {"kind": "folder", "path": str(source)}, "original_window": CLAIMED}
    imported = ["--name", "m", "--out", model, "--settings", json.dumps(stage | {"rope": "own"})]
    run("import-model", *imported)
    factors, out = tmp_path / "factors.json", tmp_path / "out.json"
    run("derive", "none", "--window", CLAIMED, "--model", model, "--out", factors)
    asked = {"evaluation": "books", "method": "none", "windows": {each: 1 for each in LENGTHS}}
    places = ["--model", model, "--tokens", tokens, "--factors", factors, "--out", out]
    run("evaluate-perplexity", *places, "--state", tmp_path / "s", "--settings", json.dumps(asked))
    texts = {each.id: each.tokens for each in TokenSplit(tokens)}
    records = json.loads(out.read_text())["records"]
    assert [each["length"] for each in records] == sorted(LENGTHS)
    for record in records:
        ((start, _, loss),) = record["windows"]
        window = texts[record["document"]][start : start + record["length"]]
        assert loss == pytest.approx(loss_of(source, window.tolist()), abs=1e-5)


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_a_short_sequence_after_a_long_one_is_measured_as_if_it_came_first(name, tmp_path):
    bring_in(publish(name, tmp_path / "source"), tmp_path / "model")
    rope, model = read_record(tmp_path / "model").rope, load_model(tmp_path / "model")
    rotary = install(model, rope, one_call=True)
    ids, found = torch.randint(1, 384, (1, CLAIMED)), []
    for length in (100, CLAIMED, 100, 20):
        rotary.use([])
        with torch.no_grad():
            found.append(model(ids[:, :length], use_cache=False).logits)
    assert torch.equal(found[0], found[2])
    torch.testing.assert_close(found[3], logits_of(tmp_path / "source", ids[:, :20]))


@torch.no_grad()
def logits_of(source, ids):
    return AutoModelForCausalLM.from_pretrained(source).eval()(ids, use_cache=False).logits


# --- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dynamic", "longrope", "Phi-3"])
def test_where_a_forward_call_chooses_the_table_nothing_but_perplexity_is_measured(name, tmp_path):
    bring_in(publish(name, tmp_path / "source"), tmp_path / "model")
    model, rope = load_model(tmp_path / "model"), read_record(tmp_path / "model").rope
    with pytest.raises(UserError, match=r"depends on the length .* only its perplexity"):
        install(model, rope)


@pytest.mark.parametrize("name", ["linear", "yarn", "llama3"])
def test_where_the_table_is_one_passkeys_are_measured_too(name, tmp_path):
    model, factors = tmp_path / "model", tmp_path / "factors.json"
    bring_in(publish(name, tmp_path / "source"), model)
    run("derive", "none", "--window", CLAIMED, "--model", model, "--out", factors)
    asked = {"evaluation": "keys", "method": "none", "prompts": {128: 1}, "seed": 1}
    places = ["--model", model, "--factors", factors, "--out", tmp_path / "out.json"]
    settings = ["--settings", json.dumps(asked | {"key": "digits-1"})]
    run("evaluate-passkey", *places, "--state", tmp_path / "state", *settings)
    (record,) = json.loads((tmp_path / "out.json").read_text())["records"]
    assert record["prompts"] == 1


def test_other_factors_are_not_put_on_it(tmp_path, capsys):
    model, factors = tmp_path / "model", tmp_path / "factors.json"
    bring_in(publish("yarn", tmp_path / "source"), model)
    run("derive", "pi", "--window", 2 * CLAIMED, "--model", model, "--out", factors)
    asked = {"evaluation": "keys", "method": "pi", "prompts": {128: 1}, "key": "word", "seed": 1}
    places = ["--model", model, "--factors", factors, "--out", tmp_path / "out.json"]
    stage = ["evaluate-passkey", *places, "--state", tmp_path / "s"]
    assert main([*map(str, stage), "--settings", json.dumps(asked)]) == 1
    assert "comes with a RoPE of its own (rope_type 'yarn')" in capsys.readouterr().err


@pytest.mark.parametrize("name", [each for each in SCALINGS if each != "raised base"])
def test_a_rescaled_checkpoint_is_not_taken_for_a_plain_one(name, tmp_path):
    with pytest.raises(UserError, match=r"already rescaled .*`rope: own`"):
        bring_in(publish(name, tmp_path / "source"), tmp_path / "model", "plain")


@pytest.mark.parametrize("name", ["yarn", "llama3", "longrope", "Phi-3"])
def test_a_window_that_transformers_would_guess_is_asked_for(name, tmp_path):
    source = publish(name, tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    for block in (config, config.get("rope_scaling"), config.get("rope_parameters")):
        (block or {}).pop("original_max_position_embeddings", None)
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="needs original_max_position_embeddings"):
        bring_in(source, tmp_path / "model")


def test_a_checkpoint_published_without_its_rope_scaling_is_not_taken_for_what_it_claims(tmp_path):
    source = publish("linear", tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"rope_scaling": None}))
    with pytest.raises(UserError, match=r"is 256 .* max_position_embeddings 64: add the rope_scal"):
        bring_in(source, tmp_path / "model")


# --- the configuration and the tables -------------------------------------------------------

STUDY = """
seed: 1
corpora: {books: {source: {kind: text, files: ["*.txt"]}, splits: {test: [emma]}}}
models:
  yarn-128k:
    source: {kind: hub, name: NousResearch/Yarn-Llama-2-7b-128k}
    original_window: 128k
    rope: own
    corpus: books
    evaluation:
      books: {task: perplexity, windows: {1k: 1, 128k: 1}, methods: {base: METHODS}}
"""


def study(methods: str = "[none]", **more):
    raw = yaml.safe_load(STUDY.replace("METHODS", methods))
    raw["models"]["yarn-128k"] |= more
    return load_config(raw)


def test_the_configuration_of_a_published_checkpoint_is_accepted():
    assert study().models["yarn-128k"].rope == "own"


def test_all_that_a_published_checkpoint_cannot_be_asked_is_told_in_one_line():
    tuning = {"method": "yarn", "window": "256k", "steps": 1, "batch": 1, "learning_rate": 0.1}
    more = {"search": {"256k": {"evaluations": 9}}, "tunings": {"t": tuning}}
    more["extension"] = {"weights": "t", "search": {"512k": {"evaluations": 9}}}
    with pytest.raises(UserError) as caught:
        study("[none, yarn]", **more)
    _, line = str(caught.value).splitlines()
    assert line.strip() == (
        "models.yarn-128k.rope: a model with its own RoPE is only evaluated, as base with the"
        " method none; leave out search, tunings, extension, evaluation.books.methods.base.yarn"
    )


def test_its_row_says_whose_rope_it_is(tmp_path):
    path = write_evaluation(
        tmp_path, "base", "none", documents(1024, 1.0, 2.0), "yarn-128k", name="books"
    )
    paper = ROOT / "resources/paper/tables.csv"
    make_table("table06", fitted(study(), [path]), [path], [], paper, tmp_path / "table")
    ours = (tmp_path / "table.csv").read_text().splitlines()[1]
    assert "YaRN-128k as published, own RoPE" in ours and ",its own," in ours


def test_by_default_it_is_shown_only_where_such_a_model_has_a_place():
    asked = study().models["yarn-128k"].evaluation["books"]
    assert asked.shown_in == ["table06", "summary", "figure1"]
    assert load_config(study().model_dump()) == study()  # as stages are handed it


@pytest.mark.parametrize("place", OF_EXTENDING)
def test_a_table_of_searches_and_tunings_is_refused_for_it(place):
    task = {"task": "perplexity", "windows": {"1k": 1}, "shown_in": ["table06", place]}
    with pytest.raises(UserError, match=f"books.shown_in: .* no place in {place}; leave them out"):
        study(evaluation={"books": task | {"methods": {"base": ["none"]}}})
