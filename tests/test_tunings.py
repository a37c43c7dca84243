"""Cheaper fine-tunings: skipped positions, short sequences, LoRA, activations computed again."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader

from helpers import WINDOW, Killed, dying, make_checkpoint, make_tokens, save_llama, tune
from longrope.baselines import closed_form
from longrope.config import FolderModel
from longrope.config.training import Lora, TuningSettings
from longrope.corpus.tokens import TokenSplit
from longrope.errors import UserError
from longrope.losses import token_losses
from longrope.models.architectures import attention_projections
from longrope.models.checkpoint import load_model, load_tokenizer, read_record
from longrope.models.import_model import import_model
from longrope.rope import install
from longrope.training.finetune import recompute
from longrope.training.mixture import SequenceMaker
from longrope.training.steps import batches_of, skipped_positions

TUNING = {"method": "yarn", "window": 128, "steps": 4, "batch": 4, "learning_rate": 0.01}
SKIPPED = {"length": 64, "batch": 4, "positions": "skipped", "pieces": 3}
MIXED = {"batch": 2, "short": {"share": 0.5}}
LORA = {"lora": {"rank": 4}}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("tunings"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return make_tokens(tmp_path_factory.mktemp("tunings") / "data") / "train"


@pytest.fixture(scope="module")
def factors(base):
    return closed_form("yarn", read_record(base).rope, 128)


@pytest.fixture(scope="module")
def maker(base, tokens):
    return SequenceMaker(load_tokenizer(base), TokenSplit(tokens))


def lines_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights_of(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def step_of(maker, step: int = 0, **changes):
    return batches_of(maker, TuningSettings(**TUNING | changes), WINDOW, 1, step)


# --- skipped positions ------------------------------------------------------------------------


@given(
    length=st.integers(4, 60),
    beyond=st.integers(0, 200),
    pieces=st.integers(2, 4),
    seed=st.integers(0, 2**32),
)
def test_skipped_positions_rise_inside_the_window_with_few_jumps(length, beyond, pieces, seed):
    rng = np.random.default_rng(seed)
    positions = skipped_positions(3, length, length + beyond, pieces, rng)
    steps = np.diff(positions)
    assert positions.shape == (3, length) and positions.dtype == np.int64
    assert (positions[:, 0] == 0).all() and positions.max() < length + beyond
    assert (steps >= 1).all() and ((steps > 1).sum(1) < pieces).all()


def test_positions_of_a_sequence_as_long_as_the_window_are_those_of_any():
    positions = skipped_positions(5, 64, 64, 4, np.random.default_rng(0))
    assert (positions == np.arange(64)).all()


def test_skips_and_cuts_of_two_pieces_are_uniform():
    positions = skipped_positions(4000, 16, 116, 2, np.random.default_rng(0))
    skips = positions[:, -1] - 15
    assert (skips.min(), skips.max()) == (0, 100)
    assert skips.mean() == pytest.approx(50, abs=2)
    cuts = (np.diff(positions) > 1).argmax(1)[skips > 0]
    assert np.bincount(cuts, minlength=15) / len(cuts) == pytest.approx([1 / 15] * 15, abs=0.02)


def test_only_the_long_sequences_of_a_step_have_their_positions_skipped(maker):
    (skipped,) = step_of(maker, **SKIPPED)
    (plain,) = step_of(maker, length=64)
    assert (skipped.tokens == plain.tokens).all() and plain.positions is None
    long, short = step_of(maker, **SKIPPED | {"short": {"share": 0.5, "length": 32}})
    assert long.positions.shape == (2, 64) and short.positions is None


def test_skipped_positions_see_all_before_them_as_with_an_explicit_mask(base, factors):
    model, rope = load_model(base), read_record(base).rope
    tokens = torch.arange(7, 47)[None].repeat(2, 1)
    positions = torch.from_numpy(skipped_positions(2, 40, 128, 3, np.random.default_rng(1)))
    rotary = install(model, rope)
    mask = torch.full((40, 40), -torch.inf).triu(1)[None, None].expand(2, 1, -1, -1)
    with torch.no_grad():
        rotary.use([factors])
        expected = model(input_ids=tokens, attention_mask=mask, position_ids=positions).logits
        plain = model(input_ids=tokens).logits
        rotary.use([factors], positions)
        found = model(input_ids=tokens).logits
    assert torch.allclose(found, expected, atol=1e-4)
    assert (found - plain).abs().max() > 0.1


def test_skipped_positions_build_no_mask(base, factors, monkeypatch):
    model, masks = load_model(base), []
    attention = torch.nn.functional.scaled_dot_product_attention

    def watched(*arguments, attn_mask=None, **options):
        masks.append(attn_mask)
        return attention(*arguments, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    positions = torch.arange(20)[None] * 3
    install(model, read_record(base).rope).use([factors], positions)
    token_losses(model, torch.arange(7, 27)[None])
    assert masks == [None, None]


# --- short sequences with the original RoPE ---------------------------------------------------


def test_short_sequences_take_the_place_of_as_many_tokens(maker):
    long, short = step_of(maker, short={"share": 0.25, "length": 32})
    assert long.tokens.shape == (3, 128) and short.tokens.shape == (4, 32)
    assert short.original and not long.original
    long, short = step_of(maker, **MIXED)
    assert short.tokens.shape == (2, WINDOW)


def test_a_step_without_short_sequences_is_that_of_earlier_versions(maker):
    (found,) = step_of(maker, step=3)
    expected = maker.batch({"text": 1.0}, 4, 128, 1, 3)
    assert (found.tokens == expected.tokens).all()
    rng = np.random.default_rng([1, 3])
    rng.choice(["text"], size=4, p=[1.0])
    assert (found.tokens[0] == maker.sequence("text", 128, rng)[0]).all()


def test_a_mixed_step_weighs_the_long_with_their_factors_and_the_short_as_in_the_original_model(
    base, tokens, factors, maker, tmp_path
):
    tune(base, tokens, tmp_path, factors, steps=1, mixture={"text": 1.0}, **MIXED)
    (line,) = lines_of(tmp_path)
    long, short = step_of(maker, **MIXED)
    losses = {}
    for name, batch, used in (("long", long, factors), ("short", short, None)):
        model, ids = load_model(base), torch.from_numpy(batch.tokens)
        if used:
            install(model, read_record(base).rope).use([used])
        with torch.no_grad():
            losses[name] = model(input_ids=ids, labels=ids).loss.item()
    assert line["loss_text"] == pytest.approx(losses["long"], abs=1e-4)
    assert line["loss_short_text"] == pytest.approx(losses["short"], abs=1e-4)
    both = (127 * losses["long"] + 2 * 63 * losses["short"]) / (127 + 2 * 63)
    assert line["loss"] == pytest.approx(both, abs=1e-4)
    assert line["tokens"] == 256


# --- LoRA -------------------------------------------------------------------------------------


def test_lora_without_its_package_is_refused_before_anything_is_read(tokens, factors, tmp_path):
    import importlib.util

    found = importlib.util.find_spec
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "peft" else found(name)
        )
        with pytest.raises(UserError, match=r'pip install "longrope\[lora\]"'):
            tune(tmp_path / "nowhere", tokens, tmp_path, factors, **LORA)


def test_a_change_of_low_rank_is_merged_into_the_attention_alone(base, tokens, factors, tmp_path):
    pytest.importorskip("peft")
    final = tune(base, tokens, tmp_path, factors, lora={"rank": 2, "train": []})
    before, after = weights_of(base), weights_of(tmp_path / "model")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "self_attn" in name} and len(changed) == 8
    for name in changed:
        assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) == 2
    assert final["trained_parameters"] == 8 * 2 * (32 + 32)
    assert lines_of(tmp_path)[0]["trained_parameters"] == final["trained_parameters"]


@pytest.mark.parametrize("train", [["norms"], ["embeddings"], ["norms", "embeddings"]])
def test_norms_and_embeddings_train_whole_where_wanted(base, tokens, factors, tmp_path, train):
    pytest.importorskip("peft")
    (base / "LICENSE").write_text("as you like")
    tune(base, tokens, tmp_path, factors, lora={"rank": 2, "train": train})
    assert (tmp_path / "model/LICENSE").read_text() == "as you like"  # it goes with the weights
    before, after = weights_of(base), weights_of(tmp_path / "model")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    wanted = {name for name in before if "norm" in name} if "norms" in train else set()
    wanted |= {"model.embed_tokens.weight"} if "embeddings" in train else set()
    assert {name for name in changed if "self_attn" not in name} == wanted


def test_merging_leaves_the_logits_as_they_were(base):
    pytest.importorskip("peft")
    from longrope.training.lora import add_lora

    model, tokens = load_model(base), torch.arange(7, 47)[None]
    with torch.no_grad():
        before = model(input_ids=tokens).logits
        merge = add_lora(model, Lora(rank=4), seed=1)
        assert torch.equal(model(input_ids=tokens).logits, before)  # a change begins as nothing
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.05)
        changed = model(input_ids=tokens).logits
        merge()
        assert not any("lora" in name for name, _ in model.named_parameters())
        assert torch.allclose(model(input_ids=tokens).logits, changed, atol=1e-4)
    assert (changed - before).abs().max() > 0.1


def test_frozen_matrices_held_in_bfloat16_change_nothing(tokens, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    from transformers import LlamaForCausalLM

    from longrope.training import finetune

    model = LlamaForCausalLM.from_pretrained(save_llama(tmp_path / "source"))
    model.to(torch.bfloat16).save_pretrained(tmp_path / "source")
    base, held = tmp_path / "base", []
    import_model(FolderModel(kind="folder", path=str(tmp_path / "source")), "tiny", WINDOW, base)
    own = closed_form("yarn", read_record(base).rope, 128)
    hold = finetune.hold_in_bfloat16
    for name, used in (("plain", lambda model: None), ("held", lambda m: held.append(hold(m)))):
        monkeypatch.setattr(finetune, "hold_in_bfloat16", used)
        tune(base, tokens, tmp_path / name, own, precision="bfloat16", **LORA)
    assert (
        held and lines_of(tmp_path / "plain")[-1]["loss"] == lines_of(tmp_path / "held")[-1]["loss"]
    )
    plain, lean = (weights_of(tmp_path / name / "model") for name in ("plain", "held"))
    assert all(torch.equal(plain[name], lean[name]) for name in plain)


def test_tied_embeddings_stay_one_matrix_that_trains_once(tokens, factors, tmp_path):
    pytest.importorskip("peft")
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(save_llama(tmp_path / "source"))
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path / "source")
    source = FolderModel(kind="folder", path=str(tmp_path / "source"))
    import_model(source, "tiny", WINDOW, tmp_path / "base")
    own = closed_form("yarn", read_record(tmp_path / "base").rope, 128)
    final = tune(
        tmp_path / "base", tokens, tmp_path, own, lora={"rank": 2, "train": ["embeddings"]}
    )
    after, tuned = weights_of(tmp_path / "model"), load_model(tmp_path / "model")
    assert "lm_head.weight" not in after
    assert tuned.lm_head.weight is tuned.model.embed_tokens.weight
    embedding = after["model.embed_tokens.weight"]
    assert final["trained_parameters"] == embedding.numel() + 8 * 2 * (32 + 32)
    assert not torch.equal(embedding, weights_of(tmp_path / "base")["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("family", "options", "expected"),
    [
        ("Qwen3", {"head_dim": 16}, {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("Phi3", {}, {"qkv_proj", "o_proj"}),
        ("GPTNeoX", {}, {"query_key_value", "dense"}),
    ],
)
def test_the_attention_of_every_family_is_found(family, options, expected):
    import transformers

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 50}
    config = getattr(transformers, f"{family}Config")(**sizes, **heads, pad_token_id=0, **options)
    names = attention_projections(transformers.AutoModelForCausalLM.from_config(config))
    assert {name.split(".")[-1] for name in names} == expected
    assert len(names) == 2 * len(expected)


# --- activations computed again, and all of them resumed --------------------------------------


def test_activations_computed_again_give_the_same_weights(base, tokens, factors, tmp_path):
    for name in ("kept", "again"):
        tune(base, tokens, tmp_path / name, factors, checkpointing=name == "again")
    kept, again = (weights_of(tmp_path / name / "model") for name in ("kept", "again"))
    assert all(torch.allclose(kept[name], again[name], atol=1e-5) for name in kept)
    norms = [
        [line["gradient_norm"] for line in lines_of(tmp_path / name)] for name in ("kept", "again")
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_a_layer_whose_activations_are_not_kept_runs_twice_a_step(base):
    calls = {}
    for again in (False, True):
        model, seen = load_model(base).train(), []
        norm = model.model.layers[0].input_layernorm
        norm.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        if again:
            recompute(model)
        token_losses(model, torch.arange(7, 27)[None]).sum().backward()
        calls[again] = len(seen)
    assert calls == {False: 1, True: 2}


@pytest.mark.parametrize("way", [SKIPPED, MIXED, LORA, LORA | {"checkpointing": True}])
def test_each_way_killed_between_ends_with_the_very_same_weights(
    way, base, tokens, factors, tmp_path, monkeypatch
):
    if "lora" in way:
        pytest.importorskip("peft")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("longrope.training.finetune.batches_of", dying(3, batches_of))
        tune(base, tokens, tmp_path, factors, checkpoint_every=2, **way)
    tune(base, tokens, tmp_path, factors, checkpoint_every=2, **way)
    tune(base, tokens, tmp_path / "whole", factors, checkpoint_every=2, **way)
    assert (
        read_record(tmp_path / "model").fingerprint
        == read_record(tmp_path / "whole/model").fingerprint
    )
    losses = [[line["loss"] for line in lines_of(each)] for each in (tmp_path, tmp_path / "whole")]
    assert losses[0] == losses[1]


def test_a_checkpoint_of_a_lora_tuning_holds_what_trains_alone(base, tokens, factors, tmp_path):
    pytest.importorskip("peft")
    tune(base, tokens, tmp_path, factors, lora={"rank": 2, "train": ["norms"]})
    (last,) = (tmp_path / "state").glob("step-*")
    saved = FileSystemReader(last).read_metadata().state_dict_metadata
    names = [name for name in saved if name.startswith("model.")]
    assert names and all("lora_" in name or "norm" in name for name in names)


def test_a_tuning_says_what_it_took(base, tokens, factors, tmp_path):
    final = tune(base, tokens, tmp_path, factors)
    lines = lines_of(tmp_path)
    assert final["peak_memory"] == lines[-1]["peak_memory"] > 100 << 20  # Python with torch
    assert final["training_seconds"] == pytest.approx(
        sum(line["seconds"] for line in lines), abs=1e-3
    )
    assert final["tokens"] == 4 * 2 * 128
    assert final["trained_parameters"] == sum(
        tensor.numel() for tensor in weights_of(tmp_path / "model").values()
    )


# --- what does not fit together ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": "skipped"}, "skipped needs a length from pieces"),
        ({"positions": "skipped", "length": 2, "pieces": 3}, "skipped needs a length from pieces"),
        ({"positions": "skipped", "length": 64, "pieces": 1}, "greater than or equal to 2"),
        ({"short": {"share": 0.3}}, "is no whole number of sequences"),
        ({"short": {"share": 0.1}}, "leaves no long sequence, or none that is replaced"),
        ({"short": {"share": 0.9}}, "leaves no long sequence, or none that is replaced"),
        ({"lora": {"rank": 0}}, "greater than or equal to 1"),
        ({"lora": {"rank": 8, "train": ["heads"]}}, "norms"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        TuningSettings(**TUNING | changes)
