"""The training loop, fine-tuning and pre-training: killed runs, micro batches, rates, results."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers import (
    END,
    SPLIT,
    WINDOW,
    Killed,
    dying,
    flip_a_bit,
    make_checkpoint,
    make_tokens,
    tune,
    write_excerpts,
)
from longrope.baselines import closed_form
from longrope.config import PretrainedHere
from longrope.config.corpus import CorpusSettings
from longrope.config.training import LoopSettings
from longrope.errors import UserError
from longrope.factors import Rope, read_factors
from longrope.files import read_json, read_lines
from longrope.losses import token_losses
from longrope.models.checkpoint import load_model, load_tokenizer, read_record
from longrope.parallel.sharding import last_step
from longrope.training.loop import Rate, train
from longrope.training.mixture import Batch, SequenceMaker
from longrope.training.pretrain import pretrain
from longrope.training.steps import batches_of

STEPS, VOCABULARY = 11, 20
UNSTEADY = {"seconds": 0, "peak_memory": 0}  # what no two runs share


def tiny_model():
    """A Llama of one layer, the same each time."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


KINDS = ("text", "word", "text", "digits-5")


def batch_at(step: int) -> Batch:
    """Four sequences of 12 tokens whose targets weigh from 0 to 4."""
    rng = np.random.default_rng(step)
    weights = rng.choice([0.0, 0.2, 1.0, 4.0], size=(4, 12)).astype(np.float32)
    return Batch(rng.integers(0, VOCABULARY, (4, 12)), weights, KINDS)


def run(state, batches=batch_at, rate=None, precision="float32", every=4, **options):
    """Train the tiny model with AdamW; returns its weights and the metrics but for seconds."""
    model = tiny_model()
    settings = LoopSettings(checkpoint_every=every, precision=precision)
    rate = rate or Rate(STEPS, warmup=3, hold=0.4, final=0.1)

    def optimisers() -> list:
        return [torch.optim.AdamW(model.parameters(), lr=0.01)]

    made = train(model, optimisers, lambda step: [batches(step)], rate, settings, state, **options)
    return model.state_dict(), [record | UNSTEADY for record in made]


def same(first: dict, second: dict) -> bool:
    """Whether two sets of weights are bit-identical."""
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"))


# --- the loop -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_is_asked_to_stop_keeps_every_step(number, whole, tmp_path):
    def stopping(step):
        if step == 6:
            os.kill(os.getpid(), number)
        return batch_at(step)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stopping)
    assert last_step(tmp_path) == 7 and signal.getsignal(number) == before
    asked = []
    weights, metrics = run(tmp_path, lambda step: asked.append(step) or batch_at(step))
    assert asked[0] == 7
    assert same(weights, whole[0]) and metrics == whole[1]


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "sha256.json"])
def test_a_damaged_checkpoint_is_named_and_not_taken_up(name, whole, tmp_path, capsys):
    with pytest.raises(Killed):
        run(tmp_path, dying(7, batch_at))
    (checkpoint,) = tmp_path.glob("step-*")
    if name == "sha256.json":
        (checkpoint / name).unlink()
    else:
        flip_a_bit(checkpoint / name)
    weights, metrics = run(tmp_path)
    assert f"is damaged ({name}), starting from the beginning" in capsys.readouterr().err
    assert same(weights, whole[0]) and metrics == whole[1]


def test_where_the_last_checkpoint_is_damaged_the_one_before_it_is_taken_up(
    whole, tmp_path, capsys
):
    for step in (5, 9):  # the second one as if killed before the older checkpoint was removed
        with pytest.raises(Killed):
            run(tmp_path, dying(step, batch_at))
        if step == 5:
            shutil.copytree(tmp_path / "step-4", tmp_path / "kept")
    (tmp_path / "kept").rename(tmp_path / "step-4")
    flip_a_bit(tmp_path / "step-8/__0_0.distcp")
    asked = []
    weights, metrics = run(tmp_path, lambda step: asked.append(step) or batch_at(step))
    assert "step 8 is damaged (__0_0.distcp), starting from that of step 4" in (
        capsys.readouterr().err
    )
    assert asked[0] == 4
    assert same(weights, whole[0]) and metrics == whole[1]


@pytest.mark.parametrize("step", [0, 1, 3, 5, 7, 10])
def test_a_training_killed_at_any_step_ends_with_the_very_same_weights(step, whole, tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, dying(step, batch_at))
    weights, metrics = run(tmp_path)
    assert same(weights, whole[0])
    assert metrics == whole[1]
    logged = read_lines(tmp_path / "metrics.jsonl")
    assert [record | UNSTEADY for record in logged] == whole[1]


def test_a_training_killed_twice_and_one_that_was_done_change_nothing(whole, tmp_path):
    for step in (6, 9):
        with pytest.raises(Killed):
            run(tmp_path, dying(step, batch_at))
    assert same(run(tmp_path)[0], whole[0])
    weights, metrics = run(tmp_path, dying(0, batch_at))
    assert same(weights, whole[0]) and metrics == whole[1]


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_micro_batches_change_memory_and_not_the_result(micro_batch, whole, tmp_path):
    weights, metrics = run(tmp_path, micro_batch=micro_batch)
    for name in ("loss", "gradient_norm"):
        found, expected = ([record[name] for record in each] for each in (metrics, whole[1]))
        assert np.allclose(found, expected, rtol=0, atol=1e-6 if name == "loss" else 1e-4)
    for name, tensor in weights.items():
        assert torch.allclose(tensor, whole[0][name], atol=1e-4)


def test_a_step_is_that_of_the_weighted_mean_of_transformers_own_losses(tmp_path):
    model, batch = tiny_model(), batch_at(0)
    tokens, weights = torch.tensor(batch.tokens), torch.tensor(batch.weights)[:, 1:]
    logits = model(tokens).logits[:, :-1].transpose(1, 2)
    losses = torch.nn.functional.cross_entropy(logits, tokens[:, 1:], reduction="none")
    loss = (losses * weights).sum() / weights.sum()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    torch.optim.AdamW(model.parameters(), lr=0.01).step()
    after, metrics = run(tmp_path, rate=Rate(1, 0, 1.0, 1.0), micro_batch=2)
    assert metrics[0]["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert metrics[0]["gradient_norm"] == pytest.approx(norm.item(), rel=1e-5)
    assert all(torch.allclose(after[k], v, atol=1e-4) for k, v in model.state_dict().items())


def test_metrics_say_what_each_kind_of_sequence_cost(tmp_path):
    _, metrics = run(tmp_path, micro_batch=2)
    batch, model = batch_at(0), tiny_model()
    logits = model(torch.from_numpy(batch.tokens)).logits[:, :-1].double()
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.from_numpy(batch.tokens[:, 1:]).flatten(), reduction="none"
    ).view(4, -1)
    weights = torch.from_numpy(batch.weights[:, 1:])
    for kind in set(KINDS):
        rows = [row for row, each in enumerate(KINDS) if each == kind]
        expected = (losses * weights)[rows].sum() / weights[rows].sum()
        assert metrics[0][f"loss_{kind}"] == pytest.approx(expected.item(), rel=1e-5)


def test_a_token_of_no_weight_is_not_learnt_from(tmp_path):
    def other_targets(step: int) -> Batch:
        batch, tokens = batch_at(step), batch_at(step).tokens.copy()
        batch.weights[:, -1] = 0
        tokens[:, -1] = step % 5
        return Batch(tokens, batch.weights, batch.kinds)

    def zeroed(step: int) -> Batch:
        batch = batch_at(step)
        batch.weights[:, -1] = 0
        return batch

    assert same(run(tmp_path / "a", other_targets)[0], run(tmp_path / "b", zeroed)[0])


def test_a_loss_that_is_no_number_stops_the_training_before_it_is_saved(tmp_path):
    def poisoned(step: int) -> Batch:
        batch = batch_at(step)
        if step == 6:
            batch.weights[0, 3] = np.nan
        return batch

    with pytest.raises(FloatingPointError, match="step 7 is nan"):
        run(tmp_path, poisoned)
    assert last_step(tmp_path) == 4
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6


def test_two_trainings_of_different_precision_can_follow_each_other(tmp_path):
    _, coarse = run(tmp_path / "bfloat16", precision="bfloat16")
    _, fine = run(tmp_path / "float32")
    assert coarse[-1]["loss"] == pytest.approx(fine[-1]["loss"], abs=0.05)
    assert coarse != fine


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (Rate(4, 0, 1.0, 0.0), [1, 1, 1, 1]),
        (Rate(4, 0, 0.0, 0.0), [1, 0.75, 0.5, 0.25]),
        (Rate(4, 0, 0.0, 0.5), [1, 0.875, 0.75, 0.625]),
        (Rate(6, 4, 1.0, 0.0), [0.25, 0.5, 0.75, 1, 1, 1]),
        (Rate(10, 2, 0.6, 0.2), [0.5, 1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4]),
    ],
    ids=["constant", "linear", "linear to a half", "warm-up", "warm-up, hold and fall"],
)
def test_the_rate_goes_as_computed_by_hand(rate, expected):
    assert [rate.at(step) for step in range(rate.steps)] == pytest.approx(expected)


# --- fine-tuning ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return make_tokens(tmp_path_factory.mktemp("training") / "data") / "train"


@pytest.fixture(scope="module")
def tuned(base, tokens, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    tune(base, tokens, folder, closed_form("yarn", read_record(base).rope, 128))
    return folder


def test_tuned_weights_carry_their_factors_and_remember_their_base(base, tuned):
    record, before = read_record(tuned / "model"), read_record(base)
    assert record.weights == "tuned-128"
    assert record.rope == before.rope
    assert record.rope.fingerprint == before.fingerprint != record.fingerprint
    given = read_factors(tuned / "factors.json")
    assert read_factors(tuned / "model/tuned_factors.json") == given
    lines = [json.loads(line) for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [line["rate"] for line in lines] == pytest.approx([0.01, 0.0075, 0.005, 0.0025])


def test_a_tuning_changes_every_weight_and_lowers_the_loss(base, tokens, tmp_path):
    rope = read_record(base).rope
    tune(base, tokens, tmp_path, closed_form("yarn", rope, 128), steps=25, mixture={"text": 1.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.5
    before, after = (load_file(each / "model.safetensors") for each in (base, tmp_path / "model"))
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)


def test_the_first_loss_of_a_tuning_is_that_of_the_model_with_its_factors(base, tokens, tmp_path):
    from longrope.corpus.tokens import TokenSplit
    from longrope.rope import install

    rope = read_record(base).rope
    factors = closed_form("pi", rope, 128)
    tune(base, tokens, tmp_path, factors, steps=1, mixture={"text": 1.0})
    maker = SequenceMaker(load_tokenizer(base), TokenSplit(tokens))
    batch, model = torch.tensor(maker.batch({"text": 1.0}, 2, 128, 1, 0).tokens), load_model(base)
    install(model, rope).use([factors])
    with torch.no_grad():
        expected = model(input_ids=batch, labels=batch).loss.item()
        plain = token_losses(load_model(base), batch).mean().item()
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line["loss"] == pytest.approx(expected, abs=1e-4)
    assert abs(line["loss"] - plain) > 1e-3  # the factors matter


def test_a_tuning_killed_between_ends_with_the_very_same_weights(
    base, tokens, tuned, tmp_path, monkeypatch
):
    factors = read_factors(tuned / "factors.json")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("longrope.training.finetune.batches_of", dying(3, batches_of))
        tune(base, tokens, tmp_path, factors, checkpoint_every=2)
    assert not (tmp_path / "model").exists()
    tune(base, tokens, tmp_path, factors, checkpoint_every=2)
    tune(base, tokens, tmp_path / "whole", factors, checkpoint_every=2)
    fingerprints = {read_record(each / "model").fingerprint for each in (tmp_path, tuned)}
    assert fingerprints == {read_record(tmp_path / "whole/model").fingerprint}


def test_a_second_tuning_starts_from_the_first_and_keeps_the_base(base, tokens, tuned, tmp_path):
    factors = closed_form("yarn", read_record(base).rope, 256)
    tune(tuned / "model", tokens, tmp_path, factors, "tuned-256", window=256)
    record = read_record(tmp_path / "model")
    assert (record.weights, record.rope) == ("tuned-256", read_record(base).rope)
    assert record.fingerprint != read_record(tuned / "model").fingerprint


def test_factors_for_another_window_are_refused(base, tokens, tmp_path):
    factors = closed_form("yarn", read_record(base).rope, 256)
    with pytest.raises(UserError, match="factors for 256 tokens, the tuning is at 128"):
        tune(base, tokens, tmp_path, factors)


def test_factors_of_another_model_are_refused(base, tokens, tmp_path):
    other = Rope("other", 10000.0, 16, WINDOW, "0123456789abcdef")
    with pytest.raises(UserError, match="for model 'other' with fingerprint"):
        tune(base, tokens, tmp_path, closed_form("yarn", other, 128))


def test_a_window_longer_than_any_training_document_is_refused(base, tokens, tmp_path):
    factors = closed_form("yarn", read_record(base).rope, 8192)
    with pytest.raises(UserError, match="no training document has 8192 tokens"):
        tune(base, tokens, tmp_path, factors, window=8192, mixture={"text": 1.0})


# --- pre-training ---------------------------------------------------------------------------

MICRO = {
    "kind": "pretrain",
    "architecture": {
        "hidden_size": 32,
        "layers": 1,
        "heads": 2,
        "intermediate_size": 32,
        "vocabulary": 320,
        "theta": 10000,
    },
    "phases": [
        {"steps": 3, "length": 32, "mixture": {"text": 0.5, "copy": 0.5}},
        {"steps": 3, "length": 64, "mixture": {"passage": 0.5, "word": 0.5}},
    ],
    "tokens_per_step": 128,
    "warmup": 2,
    "checkpoint_every": 2,
}


@pytest.fixture
def corpus(tmp_path):
    source = {"kind": "text", "files": [write_excerpts(tmp_path / "texts")]}
    return CorpusSettings(source=source, splits=SPLIT)


def make(corpus, folder, **changes):
    """Pre-train the micro model in `folder`; returns the record of what was made."""
    settings = PretrainedHere(**MICRO | changes)
    pretrain(settings, corpus, "micro", WINDOW, 1, folder / "model", folder / "state")
    return read_record(folder / "model")


def test_a_pretrained_model_loads_and_speaks_its_own_tokens(corpus, tmp_path):
    record = make(corpus, tmp_path)
    model, tokenizer = load_model(tmp_path / "model"), load_tokenizer(tmp_path / "model")
    assert (record.weights, record.rope.fingerprint) == ("base", record.fingerprint)
    assert (record.rope.rotary_dim, record.rope.original_window) == (16, WINDOW)
    assert "training.json" in read_json(tmp_path / "model/longrope.json")["files"]  # saved at once
    assert len(tokenizer) == model.config.vocab_size == 320
    text = "The pass key is 12345.\n\tNaïve café: §7"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text and tokenizer.bos_token == tokenizer.eos_token == END
    assert tokenizer.convert_ids_to_tokens(ids).count("3") == 1  # digits are tokens of their own
    assert torch.isfinite(model(torch.tensor([ids])).logits).all()
    stored = load_file(tmp_path / "model/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}


def test_the_phases_follow_each_other_at_their_lengths(corpus, tmp_path, monkeypatch):
    asked, batch = [], SequenceMaker.batch
    monkeypatch.setattr(
        SequenceMaker,
        "batch",
        lambda self, *arguments: asked.append(arguments) or batch(self, *arguments),
    )
    make(corpus, tmp_path)
    assert [(sequences, length) for _, sequences, length, *_ in asked] == [(4, 32)] * 3 + [
        (2, 64)
    ] * 3
    assert [sorted(mixture) for mixture, *_ in asked] == [["copy", "text"]] * 3 + [
        ["passage", "word"]
    ] * 3


def test_a_killed_pretraining_ends_with_the_very_same_model(corpus, tmp_path, monkeypatch):
    whole = make(corpus, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(SequenceMaker, "batch", dying(3, SequenceMaker.batch))
        make(corpus, tmp_path / "killed")
    assert make(corpus, tmp_path / "killed") == whole
    texts = [(tmp_path / name / "model/tokenizer.json").read_text() for name in ("whole", "killed")]
    assert texts[0] == texts[1]


def test_a_corpus_that_changed_is_trained_on_anew(corpus, tmp_path):
    before = make(corpus, tmp_path)
    (tmp_path / "texts/emma.txt").write_text((tmp_path / "texts/hamlet.txt").read_text()[::-1])
    assert make(corpus, tmp_path).source["corpus_sha256"] != before.source["corpus_sha256"]
