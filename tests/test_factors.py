"""Factors that cannot be invalid: every rule gives one clear error, whoever breaks it."""

import dataclasses
import json
import math
from dataclasses import replace

import pytest

from longrope.errors import UserError
from longrope.factors import (
    RescaleFactors,
    Rope,
    check_same_model,
    describe,
    read_factors,
    write_factors,
)
from longrope.files import read_json

ROPE = Rope("small", 10_000.0, 8, 256, "abc")
LAMBDA = (1.0, 1.25, 8.01, math.inf)
FACTORS = RescaleFactors(ROPE, 2048, "search", LAMBDA, 12, 1.125, {"seed": 3})


def written(tmp_path, **changes):
    """A factors.json with some keys changed; None leaves a key out."""
    path = tmp_path / "factors.json"
    write_factors(path, FACTORS)
    record = read_json(path) | changes
    path.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))
    return path


# --- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"lambda_": (1.0, 0.999, 2.0, 2.0)},
            r"lambda\[1\] = 0.999: every factor is a number >= 1",
        ),
        ({"lambda_": (1.0, 1.0, 2.0, math.nan)}, r"lambda\[3\] = nan"),
        ({"lambda_": (-math.inf, 1.0, 2.0, 2.0)}, r"lambda\[0\] = -inf"),
        ({"lambda_": (1.0, "2", 2.0, 2.0)}, r"lambda\[1\] = '2'"),
        ({"lambda_": (1.0, None, 2.0, 2.0)}, r"lambda\[1\] = None"),
        ({"lambda_": (1.0, True, 2.0, 2.0)}, r"lambda\[1\] = True"),
        ({"lambda_": (1.0, 1.0, 2.0)}, "lambda has 3 factors, the model 'small' needs 4"),
        ({"lambda_": ()}, "lambda has 0 factors"),
        ({"window": 0}, "window = 0"),
        ({"window": 2048.0}, "window = 2048.0"),
        ({"window": True}, "window = True"),
        ({"n_hat": -1}, "n_hat = -1"),
        ({"n_hat": 1.5}, "n_hat = 1.5"),
        ({"n_hat": None}, "n_hat = None"),
        ({"attention_factor": 0}, "attention_factor = 0"),
        ({"attention_factor": math.nan}, "attention_factor = nan"),
        ({"attention_factor": math.inf}, "attention_factor = inf"),
        ({"attention_factor": "su"}, "attention_factor = 'su'"),
    ],
)
def test_factors_that_break_a_rule_cannot_be_made(changes, message):
    with pytest.raises(UserError, match=message) as error:
        replace(FACTORS, **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"theta": 1.0}, "rope_theta = 1.0"),
        ({"theta": math.nan}, "rope_theta = nan"),
        ({"theta": math.inf}, "rope_theta = inf"),
        ({"theta": "10000"}, "rope_theta = '10000'"),
        ({"rotary_dim": 7}, "rotary_dim = 7"),
        ({"rotary_dim": 0}, "rotary_dim = 0"),
        ({"rotary_dim": 8.0}, "rotary_dim = 8.0"),
        ({"original_window": 0}, "original_window = 0"),
        ({"original_window": "4k"}, "original_window = '4k'"),
    ],
)
def test_an_embedding_that_breaks_a_rule_cannot_be_made(changes, message):
    with pytest.raises(UserError, match=message):
        replace(ROPE, **changes)


def test_lambda_may_fall_and_may_be_infinite():
    assert replace(FACTORS, lambda_=(math.inf, 3.0, 2.0, 1)).lambda_[0] == math.inf


def test_only_factors_that_change_nothing_are_the_identity():
    ones = replace(FACTORS, lambda_=(1.0,) * 4, attention_factor=1.0)
    assert ones.is_identity
    assert not replace(ones, attention_factor=1.1).is_identity
    assert not replace(ones, lambda_=(1.0, 1.0, 1.0, 1.01)).is_identity


def test_the_ratio_is_target_over_original_window():
    assert FACTORS.ratio == 8
    assert dataclasses.replace(FACTORS, window=512).ratio == 2


def test_the_description_holds_every_number_a_reader_needs():
    line = describe(FACTORS)
    for part in ("search", "2k", "8x", "1 to inf", "n_hat 12", "1.125"):
        assert part in line


def test_what_no_candidate_of_a_search_beat_is_not_called_found():
    started = dataclasses.replace(FACTORS, provenance={"best_is_start": "yarn from 1k"})
    assert describe(started).endswith("the search found none better than its start 'yarn from 1k'")
    assert started.origin == "search: none better than its start 'yarn from 1k'"
    every = dataclasses.replace(FACTORS, provenance={"best_is_start": "yarn, n_hat 4"})
    assert every.unbeaten_start is None  # a search of n_hat has no other candidates
    assert "none better" not in describe(FACTORS) + describe(every)


# --- files ----------------------------------------------------------------------------------


def test_a_file_gives_back_what_was_written(tmp_path):
    write_factors(tmp_path / "factors.json", FACTORS)
    again = read_factors(tmp_path / "factors.json", ROPE)
    assert again == FACTORS
    assert again.provenance == {"seed": 3}


def test_the_file_is_json_that_any_language_reads(tmp_path):
    record = json.loads(written(tmp_path).read_text(), parse_constant=pytest.fail)
    assert record["lambda"] == [1.0, 1.25, 8.01, "inf"]


def test_numbers_survive_to_the_last_bit(tmp_path):
    factors = replace(FACTORS, lambda_=(1.0, math.pi, 1 + 2**-52, 1e300), attention_factor=0.1)
    write_factors(tmp_path / "factors.json", factors)
    assert read_factors(tmp_path / "factors.json") == factors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({key: None}, f"the key '{key}' is missing")
            for key in (
                *("schema", "model", "rope_theta", "rotary_dim", "base_fingerprint", "n_hat"),
                *("original_window", "window", "method", "lambda", "attention_factor"),
            )
        ),
        ({"schema": 2}, "schema 2: this version reads schema 1"),
        ({"lambda": 3}, "must be a list of one factor"),
        ({"lambda": [1, 0.5, 1, 1]}, r"lambda\[1\] = 0.5"),
        ({"lambda": [1, "infinity", 1, 1]}, r"lambda\[1\] = 'infinity'"),
        ({"lambda": [1, [2], 1, 1]}, r"lambda\[1\]"),
        ({"lambda": "inf"}, "lambda"),
        ({"lambda": [1, 1, 1]}, "lambda has 3 factors"),
        ({"rope_theta": "10000"}, "rope_theta"),
        ({"rotary_dim": "8"}, "rotary_dim"),
        ({"window": "2k"}, "window"),
        ({"n_hat": [1]}, "n_hat"),
        ({"attention_factor": "1"}, "attention_factor"),
        ({"provenance": [1]}, "provenance"),
    ],
)
def test_a_file_that_breaks_a_rule_is_named_in_one_line(tmp_path, changes, message):
    path = written(tmp_path, **changes)
    with pytest.raises(UserError, match=message) as error:
        read_factors(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 1, ', "not a readable JSON file"),
        ("", "not a readable JSON file"),
        ("[1, 2]", "a JSON list, expected an object"),
        ("\x00\xff", "not a readable JSON file"),
    ],
)
def test_what_is_no_json_object_is_refused(tmp_path, text, message):
    path = tmp_path / "factors.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        read_factors(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_factors(tmp_path / "factors.json")
    with pytest.raises(UserError, match="not a readable JSON file"):
        read_factors(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"theta": 500_000.0}, "rope_theta 10000.0, this model 'small' has 500000.0"),
        ({"rotary_dim": 16}, "rotary_dim 8, this model 'small' has 16"),
        ({"original_window": 512}, "original window 256, this model 'small' has 512"),
        ({"fingerprint": "xyz"}, "fingerprint of the pre-trained weights abc"),
    ],
)
def test_factors_are_not_read_for_another_model(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        read_factors(written(tmp_path), replace(ROPE, **change))


def test_a_models_name_is_no_part_of_its_identity():
    check_same_model(ROPE, replace(ROPE, model="another name"))
