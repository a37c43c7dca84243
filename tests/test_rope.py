"""Rescaled rotary embeddings against transformers' own, against mpmath and against hand work."""

import json
import math
from dataclasses import replace

import mpmath
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    DynamicCache,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PhiConfig,
    Qwen3Config,
    StableLmConfig,
)

from longrope.errors import UserError
from longrope.extended import Tiers
from longrope.extended_model import ExtendedModel
from longrope.factors import RescaleFactors, Rope
from longrope.models.architectures import complete_config, rope_of_config
from longrope.rope import attention_factor, install, rescaled_cos_sin

INF = math.inf
WINDOW = 64
LAMBDA = (1.0, 1.7, 4.25, 8.0)  # for the 4 pairs of a head of 8
SMALL = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": WINDOW,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def build(config_class, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config_class(**SMALL | changes)).eval()


def rope_of(model) -> Rope:
    return rope_of_config(model.config.to_dict(), "small", "abc")


def stretched(rope: Rope, lambda_=LAMBDA, window: int = 4 * WINDOW, **more) -> RescaleFactors:
    return RescaleFactors(rope, window, "search", tuple(lambda_), **more)


def cos_sin(rotary, positions) -> torch.Tensor:
    """cos and sin of one row, stacked, as float32."""
    return torch.stack(rotary(torch.zeros(1, 1), torch.as_tensor(positions)[None]))[:, 0]


def some_tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(3, 101, (rows, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model, tokens: torch.Tensor, step: int = 1) -> torch.Tensor:
    """Logits of whole sequences whose positions are 0, step, 2 step, ..."""
    return model(
        tokens,
        position_ids=step * torch.arange(tokens.shape[1])[None],
        attention_mask=torch.ones_like(tokens),  # else gaps are taken for packed sequences
        use_cache=False,
    ).logits


# --- what changes nothing -------------------------------------------------------------------


@pytest.mark.parametrize("config", [LlamaConfig, MistralConfig])
def test_factors_of_one_leave_the_logits_bit_identical(config):
    model, tokens = build(config), some_tokens(2, 150)
    before = logits(model, tokens)
    rotary = install(model, rope_of(model))
    assert torch.equal(logits(model, tokens), before)  # before any factors are given
    rotary.use([stretched(rope_of(model), [1.0] * 4, n_hat=5)])
    assert torch.equal(logits(model, tokens), before)


def test_an_installed_model_saves_the_same_weights(tmp_path):
    model = build(LlamaConfig)
    names = set(model.state_dict())
    install(model, rope_of(model)).use([stretched(rope_of(model))])
    assert set(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[name], model.state_dict()[name]) for name in names)


# --- against transformers' own longrope -----------------------------------------------------


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize("length", [WINDOW, WINDOW + 1, 256])  # the short table, and the long
def test_without_n_hat_it_agrees_with_transformers_longrope(theta, length):
    short = (1.0, 1.0, 1.1, 1.3)
    theirs = build(
        LlamaConfig,
        max_position_embeddings=256,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": theta,
            "long_factor": LAMBDA,
            "short_factor": short,
            "original_max_position_embeddings": WINDOW,
            "factor": 4.0,
        },
    )
    ours = build(LlamaConfig, rope_parameters={"rope_type": "default", "rope_theta": theta})
    factors = stretched(
        rope_of(ours),
        LAMBDA if length > WINDOW else short,
        attention_factor=attention_factor("su", rope_of(ours), 4 * WINDOW),
    )
    install(ours, rope_of(ours)).use([factors])
    positions = torch.arange(length)
    mine, reference = (cos_sin(each.model.rotary_emb, positions) for each in (ours, theirs))
    torch.testing.assert_close(mine, reference, rtol=0, atol=5e-5)
    tokens = some_tokens(1, length)
    torch.testing.assert_close(logits(ours, tokens), logits(theirs, tokens), rtol=0, atol=1e-2)


def test_attention_factors_are_those_of_the_papers():
    rope = Rope("m", 10_000.0, 8, 4096, "abc")
    assert attention_factor("none", rope, 65_536) == 1
    assert attention_factor("su", rope, 65_536) == pytest.approx(math.sqrt(1 + 4 / 12))
    assert attention_factor("yarn", rope, 65_536) == pytest.approx(1 + 0.1 * math.log(16))
    assert attention_factor(1.25, rope, 65_536) == 1.25
    assert attention_factor("su", rope, 2048) == attention_factor("yarn", rope, 2048) == 1


def test_on_tuned_weights_the_attention_factor_multiplies_the_tuned_one():
    rope = Rope("m", 10_000.0, 8, 1024, "abc")
    tuned = stretched(rope, window=4096, attention_factor=1.1)
    assert attention_factor("yarn", rope, 8192, tuned) == pytest.approx(
        1.1 * (1 + 0.1 * math.log(2))
    )
    assert attention_factor("none", rope, 8192, tuned) == 1.1
    assert attention_factor("yarn", rope, 1024, tuned) == 1.1


# --- against hand work ----------------------------------------------------------------------


def test_the_first_n_hat_positions_keep_their_angles_and_the_rest_are_scaled():
    model = build(LlamaConfig)
    positions = [0, 1, 2, 3, 4, 5, 63, 64, 300]
    plain = cos_sin(model.model.rotary_emb, positions)
    install(model, rope_of(model)).use([stretched(rope_of(model), n_hat=4)])
    found = cos_sin(model.model.rotary_emb, positions)
    torch.testing.assert_close(found[:, :4], plain[:, :4], rtol=0, atol=1e-6)
    for row, n in enumerate(positions[4:], start=4):
        angles = [n / (LAMBDA[pair] * 10_000 ** (2 * pair / 8)) for pair in range(4)] * 2
        by_hand = torch.tensor([[math.cos(a) for a in angles], [math.sin(a) for a in angles]])
        torch.testing.assert_close(found[:, row], by_hand, rtol=0, atol=1e-6)


def test_a_pair_whose_factor_is_infinite_does_not_turn():
    rope = Rope("small", 10_000.0, 8, WINDOW, "abc")
    factors = stretched(rope, (1.0, 2.0, INF, INF), n_hat=2, attention_factor=1.5)
    cos, sin = rescaled_cos_sin([factors], torch.tensor([[1, 2, 10**6]]), "cpu")
    still = [2, 3, 6, 7]  # both halves of the two still pairs
    assert (cos[0, 1:, still] == 1.5).all() and (sin[0, 1:, still] == 0).all()
    assert sin[0, 0, 2] == pytest.approx(1.5 * math.sin(10_000 ** (-4 / 8)))  # below n_hat


def test_angles_at_two_million_tokens_are_exact_where_float32_is_not():
    mpmath.mp.dps = 40
    rope = Rope("long", 10_000.0, 128, 4096, "abc")
    factors = stretched(rope, [1 + pair / 10 for pair in range(64)], 2**21)
    position = 2**21 - 1
    cos, sin = rescaled_cos_sin([factors], torch.tensor([[position]]), "cpu")
    angles = [
        position / (mpmath.mpf(each) * mpmath.mpf(10_000) ** (mpmath.mpf(2 * pair) / 128))
        for pair, each in enumerate(factors.lambda_)
    ]
    exact = torch.tensor([[float(f(a)) for a in angles] for f in (mpmath.cos, mpmath.sin)]).double()
    found = torch.stack([cos, sin])[:, 0, 0, :64]
    single = torch.tensor([10_000.0]).pow(-torch.arange(64) / 64.0) / torch.tensor(factors.lambda_)
    in_float32 = torch.stack([(position * single).cos(), (position * single).sin()])
    assert (found - exact).abs().max() < 1e-6
    assert (in_float32 - exact).abs().max() > 0.05


def test_bfloat16_only_rounds_the_exact_angles():
    model = build(LlamaConfig)
    rotary = install(model, rope_of(model))
    rotary.use([stretched(rope_of(model))])
    positions = torch.arange(5000)[None]
    exact = rescaled_cos_sin(rotary.factors, positions, "cpu")
    for low, high in zip(rotary(torch.zeros(1, 1).bfloat16(), positions), exact, strict=True):
        assert torch.equal(low, high.bfloat16())


# --- rows of a batch ------------------------------------------------------------------------


def test_factors_by_row_equal_as_many_single_runs():
    model, tokens = build(LlamaConfig), some_tokens(4, 100)
    rope, positions = rope_of(model), torch.arange(100)
    rows = [
        stretched(rope),
        stretched(rope, [1.0] * 4),  # untouched, beside others that are not
        stretched(rope, (2.0, 2.0, 2.0, INF), n_hat=16),
        stretched(rope, LAMBDA, n_hat=64, attention_factor=1.2),
    ]
    rotary = install(model, rope)
    single, alone = [], []
    for number, row in enumerate(rows):
        rotary.use([row])
        single.append(cos_sin(rotary, positions))
        alone.append(logits(model, tokens[number : number + 1]))
    rotary.use(rows)
    together = torch.stack(rotary(torch.zeros(4, 1), positions[None]), dim=1)
    assert torch.equal(together, torch.stack(single))
    torch.testing.assert_close(logits(model, tokens), torch.cat(alone), rtol=0, atol=1e-4)


def test_factors_for_another_number_of_rows_are_a_bug_that_shows():
    model = build(LlamaConfig)
    rope = rope_of(model)
    install(model, rope).use([stretched(rope)] * 3)
    with pytest.raises(ValueError, match="3 sets of factors for a batch of 2"):
        logits(model, some_tokens(2, 8))


# --- other architectures --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "dimensions"),
    [
        (LlamaConfig, 8),
        (MistralConfig, 8),
        (Phi3Config, 8),
        (Olmo2Config, 8),
        (PhiConfig, 4),  # half of a head turns
        (StableLmConfig, 2),  # a quarter
        (GPTNeoXConfig, 2),
        (Qwen3Config, 16),  # heads wider than hidden_size / heads
    ],
)
def test_twice_the_position_stretched_by_two_is_the_original_angle(config, dimensions):
    model = build(config, **{"head_dim": 16} if config is Qwen3Config else {})
    rope, tokens = rope_of(model), some_tokens(1, 40)
    assert rope.rotary_dim == dimensions
    before = logits(model, tokens)
    install(model, rope).use([stretched(rope, [2.0] * rope.pairs)])
    assert not torch.allclose(logits(model, tokens), before, atol=1e-2)
    torch.testing.assert_close(logits(model, tokens, step=2), before, rtol=0, atol=2e-3)


def test_an_interleaved_rotary_is_refused_or_stretched_rightly():
    """Cohere pairs neighbouring dimensions: cos and sin in Llama's order are wrong for it."""
    model, tokens = build(CohereConfig, logit_scale=1.0), some_tokens(1, 40)
    rope, before = rope_of(model), logits(model, tokens)
    try:
        install(model, rope).use([stretched(rope, [2.0] * rope.pairs)])
    except UserError:
        return
    torch.testing.assert_close(logits(model, tokens, step=2), before, rtol=0, atol=2e-3)


def test_a_llama_config_that_leaves_theta_out_means_ten_thousand(tmp_path):
    """The config.json that meta-llama/Llama-2-7b-hf publishes; transformers reads it so."""
    published = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "rope_scaling": None,
        "vocab_size": 32000,
    }
    assert LlamaConfig(**published).rope_parameters["rope_theta"] == 10_000
    (tmp_path / "config.json").write_text(json.dumps(published))
    rope = rope_of_config(complete_config(tmp_path), "llama2-7b")
    assert (rope.theta, rope.rotary_dim, rope.original_window) == (10_000, 128, 4096)


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [GPT2Config, GPTJConfig])
def test_a_model_without_a_rotary_embedding_where_it_belongs_is_refused(config):
    with pytest.raises(UserError, match="keeps no rotary embedding"):
        install(build(config), Rope("small", 10_000.0, 8, WINDOW, "abc"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"rotary_dim": 16}, "turns 4 pairs"), ({"theta": 500_000.0}, "theta 500000")],
)
def test_a_model_that_does_not_turn_as_its_record_says_is_refused(changes, message):
    model = build(LlamaConfig)
    with pytest.raises(UserError, match=message):
        install(model, replace(rope_of(model), **changes))


def test_a_second_installation_checks_the_model_as_the_first_does():
    model = build(LlamaConfig)
    rope = rope_of(model)
    assert install(model, rope) is install(model, rope)
    with pytest.raises(UserError):
        install(model, replace(rope, theta=500_000.0))


@pytest.mark.parametrize(
    "change",
    [{"fingerprint": "other"}, {"theta": 500_000.0}, {"original_window": 128}, {"rotary_dim": 16}],
)
def test_factors_made_for_another_model_are_refused(change):
    model = build(LlamaConfig)
    other = replace(rope_of(model), **change)
    with pytest.raises(UserError, match="use factors made for it"):
        install(model, rope_of(model)).use([stretched(other, [2.0] * other.pairs)])


# --- generating -----------------------------------------------------------------------------


def extended(model) -> ExtendedModel:
    rope = rope_of(model)
    short = stretched(rope, (1.0, 1.0, 1.2, 1.5), WINDOW)
    return ExtendedModel(model, Tiers((short, stretched(rope, n_hat=8, attention_factor=1.1))))


@pytest.mark.parametrize(
    ("prompt", "new", "window"),
    [(20, 30, WINDOW), (20, 44, WINDOW), (20, 45, 256), (50, 60, 256), (100, 30, 256)],
)
def test_greedy_tokens_of_a_cache_are_those_of_whole_sequences_at_the_pinned_tier(
    prompt, new, window
):
    model = build(MistralConfig)
    model.generation_config.eos_token_id = None
    able = extended(model)
    ids = some_tokens(2, prompt)
    out = able.generate(ids, new, do_sample=False, attention_mask=torch.ones_like(ids))
    assert out.shape == (2, prompt + new)
    assert able.pin(prompt + new).window == window
    whole = logits(model, out[:, :-1]).argmax(-1)
    assert torch.equal(out[:, prompt:], whole[:, prompt - 1 :])


def test_a_prefill_in_chunks_across_the_original_window_equals_one_pass():
    model, tokens = build(LlamaConfig), some_tokens(1, 120)
    extended(model).pin(120)
    whole, cache = logits(model, tokens), DynamicCache()
    with torch.no_grad():
        parts = [
            model(piece, past_key_values=cache, use_cache=True).logits
            for piece in tokens.split([30, 50, 1, 39], dim=1)
        ]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-3)
