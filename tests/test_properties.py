"""What holds for any factors, windows and configurations, not for chosen examples alone."""

import copy
import itertools
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import micro
from longrope.checks import load_config
from longrope.config import Config
from longrope.errors import UserError
from longrope.extended import Tiers, make_tiers
from longrope.factors import (
    RescaleFactors,
    Rope,
    factors_of_record,
    read_factors,
    record_of_factors,
    write_factors,
)
from longrope.windows import LONGEST, parse_window, window_label

FILES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
LAMBDA = st.floats(1, 1e30) | st.integers(1, 10**6) | st.just(math.inf)
WINDOWS = st.integers(1, LONGEST)
RAW = micro.configuration()
# Of any type that YAML has, and numbers that are none or too large.
VALUES = st.sampled_from(
    [
        *(None, True, -1, 0, 1.5, 10**400, math.nan, math.inf, -math.inf),
        *("", "x", "\0", "9" * 5000, [], {}, [None], {"x": 1}, [[]], b"\xff"),
    ]
)


@st.composite
def factors(draw, window=WINDOWS):
    pairs = draw(st.integers(1, 12))
    rope = Rope("m", draw(st.floats(1.5, 1e9)), 2 * pairs, draw(WINDOWS), "0123456789abcdef")
    return RescaleFactors(
        rope,
        draw(window),
        draw(st.text(max_size=8)),
        tuple(draw(st.lists(LAMBDA, min_size=pairs, max_size=pairs))),
        draw(st.integers(0, 4096)),
        draw(st.floats(0.01, 100)),
        {"seed": draw(st.integers())},
    )


# --- factors ----------------------------------------------------------------------------------


@FILES
@given(factors())
def test_factors_read_back_to_the_last_bit(tmp_path, made):
    write_factors(tmp_path / "factors.json", made)
    found = read_factors(tmp_path / "factors.json", made.rope)
    assert found == made and found.provenance == made.provenance


@given(factors(), st.data())
def test_a_factor_below_one_or_of_another_type_is_refused_by_its_place(made, data):
    record = record_of_factors(made)
    pair = data.draw(st.integers(0, len(made.lambda_) - 1))
    record["lambda"][pair] = data.draw(
        st.floats(max_value=1, exclude_max=True) | st.sampled_from([math.nan, None, "2", True, []])
    )
    with pytest.raises(UserError, match=rf"lambda\[{pair}\]"):
        factors_of_record(record)


@given(factors(), st.data())
def test_any_key_of_a_factors_file_may_hold_anything_without_another_error(made, data):
    record = record_of_factors(made)
    key = data.draw(st.sampled_from(sorted(record)))
    record[key] = data.draw(VALUES)
    try:
        found = factors_of_record(record)
    except UserError:
        return
    assert record_of_factors(found)  # what is taken can be written again


# --- windows and tiers ------------------------------------------------------------------------


@given(WINDOWS)
def test_a_window_and_its_label_are_the_same(tokens):
    assert parse_window(window_label(tokens)) == parse_window(tokens) == tokens


@given(st.text(max_size=12) | st.floats() | st.integers(max_value=0) | st.just("9" * 5000))
def test_what_is_no_window_is_an_error_of_one_line(text):
    try:
        assert 0 < parse_window(text) <= LONGEST
    except UserError as error:
        assert "\n" not in str(error) or "\n" in str(text)


@given(st.sets(st.integers(1, 1 << 20), min_size=1, max_size=6), st.integers(1, 1 << 20))
def test_the_tier_is_the_smallest_window_that_holds_the_sequence(windows, tokens):
    rope = Rope("m", 10000.0, 4, 64, "0")
    tiers = make_tiers([RescaleFactors(rope, each, "pi", (1.0, 2.0)) for each in windows])
    holding = [each for each in windows if each >= tokens]
    if holding:
        assert tiers.for_length(tokens).window == min(holding)
    else:
        with pytest.raises(UserError, match="longer than the longest window"):
            tiers.for_length(tokens)


@given(st.lists(st.integers(1, 100), min_size=2, max_size=6))
def test_tiers_rise_or_are_refused(windows):
    rope = Rope("m", 10000.0, 4, 64, "0")
    made = tuple(RescaleFactors(rope, each, "pi", (1.0, 2.0)) for each in windows)
    if all(a < b for a, b in itertools.pairwise(windows)):
        assert Tiers(made).longest.window == windows[-1]
    else:
        with pytest.raises(UserError, match="windows that rise"):
            Tiers(made)


# --- configurations ---------------------------------------------------------------------------


def places(part: object, path: tuple = ()) -> list[tuple]:
    """The path of every key and entry of a configuration."""
    if not isinstance(part, dict | list):
        return []
    found = []
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        found += [(*path, key), *places(value, (*path, key))]
    return found


PLACES = places(RAW)


@settings(deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 10**6), st.floats(1e-9, 1), st.integers(1, 50))
def test_a_valid_configuration_reads_back_from_its_own_json(seed, steps, rate, amount):
    raw = copy.deepcopy(RAW)
    raw["seed"] = seed
    model = raw["models"]["micro"]
    model["tunings"]["longrope-256"] |= {"steps": steps, "learning_rate": rate}
    model["evaluation"]["tales"]["windows"][128] = amount
    config = load_config(raw)
    assert Config.model_validate(json.loads(config.model_dump_json())) == config
    assert load_config(json.loads(config.model_dump_json())) == config


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(PLACES), VALUES)
def test_any_value_at_any_key_is_taken_or_told_in_one_message(place, value):
    raw = copy.deepcopy(RAW)
    *path, last = place
    part = raw
    for key in path:
        part = part[key]
    part[last] = value
    try:
        load_config(raw)
    except UserError as error:
        assert str(error).startswith("configuration:")
        assert len(str(error)) < 20_000


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(PLACES), st.text("abcdefgh_", min_size=1, max_size=9))
def test_a_misspelt_key_is_named(place, letters):
    raw = copy.deepcopy(RAW)
    *path, last = place
    part = raw
    for key in path:
        part = part[key]
    if not isinstance(part, dict) or not isinstance(last, str):
        return
    part[f"zz{letters}"] = part.pop(last)
    try:
        load_config(raw)
    except UserError as error:
        # Of a part that is named elsewhere, the name that is looked for.
        assert f"zz{letters}" in str(error) or repr(last) in str(error)
