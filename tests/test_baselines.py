"""The closed forms against numbers by hand and against transformers' own rotary functions."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from longrope.baselines import CLOSED_FORMS, closed_form, is_closed_form, theoretical_critical_pair
from longrope.errors import UserError
from longrope.factors import RescaleFactors, Rope

INF = math.inf
MODELS = [  # theta, dimensions, window
    (10_000.0, 128, 4096),
    (500_000.0, 128, 8192),
    (10_000.0, 96, 2048),
    (100_000.0, 64, 8192),
    (10_000.0, 32, 256),
    (1_000.0, 16, 2**15),  # every pair completes several turns
]
WHATEVER_THE_WINDOW = {"cope", "drope"}  # they change the embedding even where nothing is stretched


def rope_of(theta: float = 10_000.0, dim: int = 32, window: int = 256) -> Rope:
    return Rope("model", theta, dim, window, "abc")


def tuned(rope: Rope, lambda_, window: int, **more) -> RescaleFactors:
    return RescaleFactors(rope, window, "search", tuple(lambda_), **more)


def frequencies(factors: RescaleFactors) -> np.ndarray:
    base = factors.rope.theta ** (
        -np.arange(0, factors.rope.rotary_dim, 2) / factors.rope.rotary_dim
    )
    return base / np.array(factors.lambda_)


def transformers_rope(rope: Rope, seq_len: int | None = None, **parameters):
    """Inverse frequencies and attention factor of transformers, which computes in float32."""
    parameters = {"rope_theta": rope.theta, **parameters}
    config = LlamaConfig(
        hidden_size=rope.rotary_dim,
        num_attention_heads=1,
        max_position_embeddings=rope.original_window,
        rope_parameters=parameters,
    )
    inv_freq, attention = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, seq_len=seq_len)
    return inv_freq.double().numpy(), attention


def agrees(factors: RescaleFactors, reference) -> bool:
    inv_freq, attention = reference
    return factors.attention_factor == pytest.approx(attention) and np.allclose(
        frequencies(factors), inv_freq, rtol=1e-5, atol=0
    )


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("none", (1, 1, 1, 1)),
        ("pi", (8, 8, 8, 8)),
        ("ntk", (1, 2, 4, 8)),
        ("drope", (INF, INF, INF, INF)),
    ],
)
def test_the_simplest_forms_give_the_numbers_that_a_hand_gives(method, expected):
    factors = closed_form(method, rope_of(dim=8), 8 * 256)
    assert factors.lambda_ == pytest.approx(expected)
    assert factors.attention_factor == 1


def test_a_base_raised_sixteen_times_stretches_the_pairs_by_its_powers():
    factors = closed_form("theta", rope_of(dim=8), 1024, theta_new=160_000)
    assert factors.lambda_ == pytest.approx((1, 2, 4, 8))


@pytest.mark.parametrize(("theta", "dim", "window"), MODELS)
@pytest.mark.parametrize("ratio", [1.5, 4, 32])
def test_a_base_by_itself_keeps_the_turns_of_the_critical_dimension(theta, dim, window, ratio):
    turn, target = 2 * math.pi, int(ratio * window)
    base = theta ** (math.log(target / turn) / math.log(window / turn))  # Liu et al., theorem 2
    rope = rope_of(theta, dim, window)
    expected = closed_form("theta", rope, target, theta_new=base)
    assert closed_form("theta", rope, target).lambda_ == pytest.approx(expected.lambda_)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("ratio", [1.5, 4, 32])
class TestAgainstTransformers:
    def test_position_interpolation_is_its_linear(self, model, ratio):
        rope = rope_of(*model)
        reference = transformers_rope(rope, rope_type="linear", factor=ratio)
        assert agrees(closed_form("pi", rope, int(ratio * rope.original_window)), reference)

    def test_ntk_is_its_dynamic_at_that_length(self, model, ratio):
        rope = rope_of(*model)
        window = int(ratio * rope.original_window)
        reference = transformers_rope(rope, window, rope_type="dynamic", factor=1.0)
        assert agrees(closed_form("ntk", rope, window), reference)

    @pytest.mark.parametrize("options", [{}, {"beta_fast": 16, "beta_slow": 2}])
    def test_yarn_is_its_yarn(self, model, ratio, options):
        rope = rope_of(*model)
        reference = transformers_rope(
            rope,
            rope_type="yarn",
            factor=ratio,
            original_max_position_embeddings=rope.original_window,
            **options,
        )
        window = int(ratio * rope.original_window)
        assert agrees(closed_form("yarn", rope, window, **options), reference)

    @pytest.mark.parametrize("options", [{"low": 1, "high": 4}, {"low": 2, "high": 16}])
    def test_llama3_is_its_llama3(self, model, ratio, options):
        rope = rope_of(*model)
        reference = transformers_rope(
            rope,
            rope_type="llama3",
            factor=ratio,
            low_freq_factor=options["low"],
            high_freq_factor=options["high"],
            original_max_position_embeddings=rope.original_window,
        )
        window = int(ratio * rope.original_window)
        assert agrees(closed_form("llama3", rope, window, **options), reference)

    def test_yarn_on_factors_that_raised_the_base_is_its_yarn_with_that_base(self, model, ratio):
        rope = rope_of(*model)
        raised = rope_of(8 * model[0], model[1], 4 * model[2])
        base = closed_form("theta", rope, raised.original_window, theta_new=raised.theta)
        reference = transformers_rope(
            raised,
            rope_type="yarn",
            factor=ratio,
            original_max_position_embeddings=raised.original_window,
        )
        window = int(ratio * raised.original_window)
        assert agrees(closed_form("yarn", rope, window, on=base), reference)


@pytest.mark.parametrize(
    ("model", "pair"),
    [
        ((500_000.0, 128, 8192), 35),
        ((10_000.0, 96, 2048), 31),
        ((10_000.0, 128, 4096), 46),
        ((100_000.0, 64, 8192), 20),
    ],
    ids=["LLaMA3-8B", "Phi3-mini", "LLaMA2-7B", "SmolLM2-135M"],
)
def test_the_theoretical_critical_pairs_are_those_of_longrope2(model, pair):
    assert theoretical_critical_pair(rope_of(*model)) == pair


def test_the_critical_pair_is_the_first_even_if_later_ones_are_faster_again():
    rope = rope_of(4.0**16, 32, 2**16)  # pair i turns 4^-i as often as pair 0
    lambda_ = [1] * 5 + [256] + [1] * 10
    assert theoretical_critical_pair(rope, tuned(rope, [1] * 16, 2**18)) == 8  # after 2.5 turns
    assert theoretical_critical_pair(rope, tuned(rope, lambda_, 2**18)) == 5  # after 163, now 0.2


def test_ntk_at_the_critical_pair_reaches_the_ratio_there_and_holds_it():
    rope = rope_of(dim=16)
    assert closed_form("ntk-critical", rope, 16 * 256, critical_pair=4).lambda_ == pytest.approx(
        (1, 2, 4, 8, 16, 16, 16, 16)
    )
    assert closed_form("ntk-critical", rope, 16 * 256, critical_pair=4, capped=False).lambda_[
        4:
    ] == pytest.approx((16, 32, 64, 128))


def test_yarn_at_the_critical_pair_reaches_the_ratio_there_and_not_before():
    rope = rope_of(500_000.0, 128, 8192)
    lambda_ = closed_form("yarn-critical", rope, 16 * 8192, critical_pair=30).lambda_
    assert lambda_[30:] == (16,) * 34 and lambda_[29] < 16
    assert closed_form("yarn-critical", rope, 16 * 8192, critical_pair=1).lambda_[:3] == (1, 16, 16)


@pytest.mark.parametrize("model", MODELS)
def test_yarn_at_the_theoretical_critical_pair_is_yarn(model):
    rope = rope_of(*model)
    critical, plain = (closed_form(name, rope, 2**17) for name in ("yarn-critical", "yarn"))
    assert (critical.lambda_, critical.attention_factor) == (plain.lambda_, plain.attention_factor)


def test_yarn_stretches_nothing_where_every_pair_makes_more_than_32_turns():
    assert set(closed_form("yarn", rope_of(2.0, 16, 2**17), 2**18).lambda_) == {1}


@pytest.mark.parametrize(  # with theta 4^8 pair i turns 4^-i as often as pair 0
    ("window", "ratio", "pro", "uniform"),
    [
        (1024, 64, (1, 1, 2, 8, 64), (1, 1, 4, 16, 64)),  # 163, 40.7, 10.2, 2.5, 0.6 turns
        (128, 1024, (2, 8, 64, 1024), (2**2.5, 2**5, 2**7.5, 1024)),  # 20, 5.1, 1.3, 0.3
    ],
)
def test_mrrope_steps_from_32_turns_to_1_by_its_two_laws(window, ratio, pro, uniform):
    rope = rope_of(4.0**8, 16, window)
    for method, expected in (("mrrope-pro", pro), ("mrrope-uni", uniform)):
        factors = closed_form(method, rope, ratio * window)
        assert factors.lambda_[: len(expected)] == pytest.approx(expected)
        assert set(factors.lambda_[len(expected) :]) == {ratio}
        assert factors.attention_factor == pytest.approx(0.1 * math.log(ratio) + 1)


def test_mrrope_never_reaches_the_ratio_if_every_pair_completes_a_turn():
    factors = closed_form("mrrope-uni", rope_of(4.0**8, 16, 2**20), 2**21)  # last: 10.2 turns
    assert max(factors.lambda_) < 2


def test_cope_fades_the_last_pairs_along_a_cosine_until_one_stands_still():
    assert closed_form("cope", rope_of(dim=8), 512, tapered=3).lambda_ == pytest.approx(
        (1, 1, 2, INF)
    )
    released = closed_form("cope", rope_of(dim=128), 512).lambda_
    assert released[44] == 1 < released[45] and released[63] == INF


@pytest.mark.parametrize("method", sorted(CLOSED_FORMS))
def test_factors_tuned_by_interpolation_shift_every_form_to_their_window(method):
    rope = rope_of()
    base = tuned(rope, (4,) * 16, 1024, n_hat=8, attention_factor=1.5)
    plain, shifted = closed_form(method, rope, 2048), closed_form(method, rope, 8192, on=base)
    assert shifted.lambda_ == pytest.approx(tuple(4 * value for value in plain.lambda_))
    assert shifted.attention_factor == pytest.approx(1.5 * plain.attention_factor)
    assert (shifted.method, shifted.n_hat, shifted.window) == (f"{method}-on-tuned", 8, 8192)


@pytest.mark.parametrize("method", sorted(CLOSED_FORMS))
def test_a_pair_that_the_tuning_stopped_stays_still(method):
    rope = rope_of()
    for still in (1, 16):
        base = tuned(rope, (1.0,) * (16 - still) + (INF,) * still, 512)
        factors = closed_form(method, rope, 4096, on=base)
        assert factors.lambda_[16 - still :] == (INF,) * still


@pytest.mark.parametrize("method", sorted(set(CLOSED_FORMS) - WHATEVER_THE_WINDOW))
def test_nothing_to_stretch_leaves_the_model_untouched(method):
    assert closed_form(method, rope_of(), 256).is_identity


@given(
    method=st.sampled_from(sorted(CLOSED_FORMS)),
    theta=st.floats(1.5, 1e8),
    pairs=st.integers(2, 128),
    window=st.integers(1, 2**17),
    ratio=st.floats(1, 512),
    slope=st.none() | st.floats(1, 1.3),
)
def test_every_form_gives_one_factor_of_at_least_1_per_pair(
    method, theta, pairs, window, ratio, slope
):
    rope = rope_of(theta, 2 * pairs, window)
    on = None if slope is None else tuned(rope, (slope**i for i in range(pairs)), 2 * window)
    factors = closed_form(method, rope, math.ceil(ratio * 2 * window), on=on)
    assert len(factors.lambda_) == pairs
    assert all(value >= 1 for value in factors.lambda_)
    assert math.isfinite(factors.attention_factor) and factors.attention_factor >= 1
    assert json.loads(json.dumps(factors.provenance)) == factors.provenance


def test_only_the_noise_of_rounding_is_lifted_to_1(monkeypatch):
    monkeypatch.setitem(CLOSED_FORMS, "pi", lambda stretch: (np.full(16, 1 - 1e-13), 1.0))
    assert closed_form("pi", rope_of(), 512).lambda_ == (1,) * 16
    monkeypatch.setitem(CLOSED_FORMS, "pi", lambda stretch: (np.full(16, 1 - 1e-9), 1.0))
    with pytest.raises(UserError, match=r"lambda\[0\]"):
        closed_form("pi", rope_of(), 512)


def test_every_form_never_falls_from_a_pair_to_the_next():
    for method in CLOSED_FORMS:
        lambda_ = closed_form(method, rope_of(500_000.0, 128, 8192), 2**17).lambda_
        assert list(lambda_) == sorted(lambda_)


def test_the_provenance_tells_formula_options_and_source():
    on = closed_form("pi", rope_of(), 512)
    provenance = closed_form("yarn", rope_of(), 1024, on=on, beta_fast=16).provenance
    assert provenance["formula"] == "yarn" and "2309.00071" in provenance["source"]
    assert provenance["options"] == {"beta_fast": 16, "beta_slow": 1}
    assert provenance["on"] == {"method": "pi", "window": 512}


@pytest.mark.parametrize(
    ("method", "window", "options", "message"),
    [
        ("yam", 512, {}, "unknown method 'yam': known are cope, drope, llama3"),
        ("yarn", 512, {"beta": 3}, "yarn has no option 'beta': known are beta_fast, beta_slow"),
        ("pi", 512, {"beta": 3}, "pi has no option 'beta': known are none"),
        ("pi", 255, {}, "window 255: pi stretches from 256 and cannot shrink"),
        ("theta", 512, {"theta_new": 5000}, "theta_new = 5000: must not be below"),
        ("theta", 512, {"theta_new": "big"}, "theta_new = 'big': must be a number above 0"),
        ("yarn", 512, {"beta_fast": 1}, "beta_fast = 1: must be a number above beta_slow = 1"),
        ("llama3", 512, {"low": -1}, "low = -1: must be a number above 0"),
        ("ntk-critical", 512, {"critical_pair": 16}, "critical_pair = 16: .* from 1 to 15"),
        ("yarn-critical", 512, {"critical_pair": 2.5}, "critical_pair = 2.5"),
        ("cope", 512, {"tapered": 1}, "tapered = 1: must be a whole number from 2 to 16"),
    ],
)
def test_what_cannot_be_computed_is_an_error_that_says_why(method, window, options, message):
    with pytest.raises(UserError, match=message):
        closed_form(method, rope_of(), window, **options)


def test_only_the_untouched_embedding_may_be_asked_for_at_a_shorter_window():
    assert closed_form("none", rope_of(), 64).is_identity


@pytest.mark.parametrize(
    ("method", "known"),
    [
        ("yarn-critical-c6", True),
        ("ntk-critical-c6-n8", True),
        ("pi-n16", True),
        ("yarn-critical-c0", False),
        ("yarn-critical-c05", False),
        ("yarn-c6", False),
        ("search", False),
    ],
)
def test_a_name_may_say_the_critical_pair_and_n_hat(method, known):
    assert is_closed_form(method) is known


def test_a_named_critical_pair_is_that_option():
    rope = Rope("toy", 10000.0, 64, 2048, "0")
    named = closed_form("yarn-critical-c20-n8", rope, 8192)
    assert named.n_hat == 8
    assert named.lambda_ == closed_form("yarn-critical", rope, 8192, critical_pair=20).lambda_


def test_ntk_needs_two_pairs():
    with pytest.raises(UserError, match="at least 2 pairs"):
        closed_form("ntk", rope_of(dim=2), 512)


def test_factors_of_another_model_are_refused_as_a_start():
    on = closed_form("pi", rope_of(theta=500_000.0), 512)
    with pytest.raises(UserError, match="rope_theta"):
        closed_form("yarn", rope_of(), 1024, on=on)
