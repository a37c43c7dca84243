"""Factors of others: the authors' tables, and checkpoints as transformers itself reads them."""

import csv
import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from longrope.baselines import closed_form
from longrope.errors import UserError
from longrope.factors import Rope
from longrope.import_factors import import_checkpoint, import_csv
from longrope.windows import parse_window

PUBLISHED = Path(__file__).parents[1] / "../shared/published_factors/factors.csv"
MODELS = {
    "llama2-7b": Rope("llama2-7b", 10_000.0, 128, 4096, "?"),
    "mistral-7b-v0.1": Rope("mistral-7b-v0.1", 10_000.0, 128, 8192, "?"),
    "llama3-8b": Rope("llama3-8b", 500_000.0, 128, 8192, "?"),
}
SMALL = Rope("small", 10_000.0, 8, 256, "?")
LONG, SHORT = [1.0, 1.5, 4.0, 8.5], [1.0, 1.0, 1.25, 1.5]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def published_tables() -> dict[tuple[str, ...], list[float]]:
    """(model, tuned window, window, role) -> lambda."""
    if not PUBLISHED.exists():
        pytest.skip("the authors' factors are not at hand")
    tables = defaultdict(list)
    with PUBLISHED.open() as file:
        for row in csv.DictReader(file):
            key = tuple(row[name] for name in ("model", "tuned_window", "window", "role"))
            tables[key].append(float(row["lambda"]))
    return tables


@pytest.mark.parametrize(
    "text",
    [
        "1.0,1.5,4,8.5\n" * 32,
        "1.0 1.5 4 8.5\n" * 32,
        "    1.00000000,     1.50000000,     4.00000000,     8.50000000\n" * 32,
        "1.0\n1.5\n4\n8.5",
        "1.000000000000000000e+00\n1.500000000000000000e+00\n4e0\n8.5\n\n",
        "1.0, 1.5, 4, 8.5",
    ],
    ids=["commas", "spaces", "padded", "column", "exponents", "one row"],
)
def test_every_form_that_the_authors_write_is_read_alike(tmp_path, text):
    factors = import_csv(write(tmp_path / "t.csv", text), SMALL, 1024)
    assert factors.lambda_ == (1.0, 1.5, 4.0, 8.5)
    assert (factors.method, factors.window, factors.n_hat) == ("published", 1024, 0)
    assert factors.provenance["imported_from"] == "t.csv"


def test_what_a_table_does_not_tell_comes_from_the_caller(tmp_path):
    path = write(tmp_path / "t.csv", "1,2,3,4")
    factors = import_csv(path, SMALL, 512, method="theirs", n_hat=4, attention_factor=1.2)
    assert (factors.method, factors.n_hat, factors.attention_factor) == ("theirs", 4, 1.2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3,4\n1,2,3,5\n", "row 2 differs from row 1"),
        ("1,2,3\n", "row 1 holds 3 values, the model 'small' needs 4"),
        ("1\n2\n3\n4\n5\n", "row 1 holds 5 values"),
        ("a,b,c,d\n1,2,3,4\n", "line 1: .*'a'.*lambda values only"),
        ("1,2,,4\n", "line 1"),
        ("1,2,0.5,4\n", r"lambda\[2\] = 0.5"),
        ("\n \n", "holds no values"),
    ],
)
def test_a_table_that_cannot_be_used_is_an_error_that_names_the_file(tmp_path, text, message):
    with pytest.raises(UserError, match=rf"t\.csv: {message}"):
        import_csv(write(tmp_path / "t.csv", text), SMALL, 512)


def test_a_missing_table_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: not a readable text file"):
        import_csv(tmp_path / "none.csv", SMALL, 512)


def test_all_published_tables_survive_the_authors_form(tmp_path):
    tables = published_tables()
    assert len(tables) == 31
    for (model, _, window, _), lambda_ in tables.items():
        line = ",".join(f"{np.float32(value):.15f}" for value in lambda_)
        path = write(tmp_path / "table.csv", (line + "\n") * 32)
        factors = import_csv(path, MODELS[model], parse_window(window))
        assert factors.lambda_ == pytest.approx(lambda_, rel=1e-7)


def test_the_published_factors_stretch_middle_pairs_far_more_than_closed_forms_do():
    found = published_tables()["llama2-7b", "256k", "256k", "fine-tune"]
    yarn, ntk = (closed_form(name, MODELS["llama2-7b"], 2**18).lambda_ for name in ("yarn", "ntk"))
    assert (found[16], found[20]) == (4.81, 12.59)
    assert (yarn[16], yarn[20]) == (1, 1)
    assert (ntk[16], ntk[20]) == pytest.approx((2.9, 3.7), abs=0.05)
    assert found[-1] == pytest.approx(yarn[-1], rel=0.02)


def test_longrope2_published_ntk_up_to_its_critical_pair():
    found = published_tables()["llama3-8b", "128k", "128k", "LongRoPE2"]
    window = round(found[33] * 8192)
    ntk = closed_form("ntk-critical", MODELS["llama3-8b"], window, critical_pair=33).lambda_
    assert ntk[:34] == pytest.approx(found[:34], rel=1e-4)
    assert all(ours < theirs for ours, theirs in zip(ntk[34:], found[34:], strict=True))


def test_a_second_search_outdoes_closed_forms_on_the_tuned_factors(tmp_path):
    tables = published_tables()
    values = "\n".join(map(str, tables["llama2-7b", "256k", "256k", "fine-tune"]))
    on = import_csv(write(tmp_path / "t.csv", values), MODELS["llama2-7b"], 2**18)
    found = np.array(tables["llama2-7b", "256k", "2048k", "second search"])
    pi, yarn = (closed_form(name, on.rope, 2**21, on=on).lambda_ for name in ("pi", "yarn"))
    assert yarn[-1] == pytest.approx(8 * 64.77)
    assert (found <= 1.25 * np.array(pi)).all() and found[-1] > pi[-1]


def checkpoint(folder: Path, block: dict, schema: str = "rope_parameters", **more) -> Path:
    """A folder with the config of a Llama of 2 heads of 8; its windows are 256 and 2048."""
    config = {
        "model_type": "llama",
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        schema: {"long_factor": LONG, "short_factor": SHORT, **block},
    } | more
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v}))
    return folder


NEW = {"rope_type": "longrope", "rope_theta": 5e5, "original_max_position_embeddings": 256}
OLD = {"type": "longrope", "original_max_position_embeddings": 256}
CHECKPOINTS = {
    "new schema": ((NEW,), {}),
    "stated attention factor": ((NEW | {"attention_factor": 1.3},), {}),
    "stated ratio": ((NEW | {"factor": 4.0},), {}),
    "stated ratio below 1": ((NEW | {"factor": 0.5},), {}),
    "window kept, stated ratio": ((NEW | {"factor": 8.0},), {"max_position_embeddings": 256}),
    "one table for every length": (
        (NEW | {"short_factor": LONG, "original_max_position_embeddings": 2048, "factor": 1.0},),
        {},
    ),
    "head_dim": ((NEW,), {"head_dim": 8, "hidden_size": 64}),
    "old schema": ((OLD, "rope_scaling"), {"rope_theta": 5e5}),
    "old schema, window beside": (
        ({"rope_type": "longrope"}, "rope_scaling"),
        {"rope_theta": 5e5, "original_max_position_embeddings": 256},
    ),
    "both schemas": (
        (NEW | {"long_factor": LONG[::-1]},),
        {"rope_scaling": OLD | {"rope_theta": 1e4, "long_factor": LONG, "short_factor": SHORT}},
    ),
    "windows that disagree": ((NEW,), {"original_max_position_embeddings": 128}),
    "phi3, su": (
        (OLD | {"type": "su"}, "rope_scaling"),
        {"model_type": "phi3", "rope_theta": 1e4, "original_max_position_embeddings": 256},
    ),
    "phi3, partial": (
        ({"type": "longrope"}, "rope_scaling"),
        {
            "model_type": "phi3",
            "rope_theta": 1e4,
            "original_max_position_embeddings": 256,
            "partial_rotary_factor": 0.5,
            "hidden_size": 32,
        },
    ),
    "new schema, partial": (
        (NEW | {"partial_rotary_factor": 0.5},),
        {"model_type": "phi3", "hidden_size": 32, "original_max_position_embeddings": 256},
    ),
    "latent attention": (
        (OLD, "rope_scaling"),
        {"model_type": "minicpm3", "rope_theta": 1e4, "qk_rope_head_dim": 8, "hidden_size": 64},
    ),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
@pytest.mark.parametrize("which", ["long", "short"])
def test_a_checkpoint_turns_as_in_transformers(tmp_path, case, which):
    arguments, more = CHECKPOINTS[case]
    folder = checkpoint(tmp_path / "model", *arguments, **more)
    factors = import_checkpoint(folder, which=which)
    inv_freq, attention = ROPE_INIT_FUNCTIONS["longrope"](
        AutoConfig.from_pretrained(folder), seq_len=factors.window
    )
    pairs = np.arange(factors.rope.pairs)
    ours = factors.rope.theta ** (-pairs / factors.rope.pairs) / np.array(factors.lambda_)
    assert ours == pytest.approx(inv_freq.numpy(), rel=1e-6)
    assert factors.attention_factor == pytest.approx(attention)


def test_an_export_of_this_project_says_which_weights_its_factors_are_for(tmp_path):
    folder = checkpoint(tmp_path / "out", NEW | {"short_factor": LONG})
    note = {"model": "tiny", "base_fingerprint": "abc", "original_window": 128}
    (folder / "longrope_export.json").write_text(json.dumps(note))
    rope = import_checkpoint(folder).rope
    assert (rope.model, rope.fingerprint, rope.original_window) == ("tiny", "abc", 128)
    note["attention_factor_in_weights"] = True
    (folder / "longrope_export.json").write_text(json.dumps(note))
    with pytest.raises(UserError, match="multiplied into the weights"):
        import_checkpoint(folder)


def test_each_table_of_a_checkpoint_is_for_its_window(tmp_path):
    folder = checkpoint(tmp_path / "tiny-8x", NEW)
    long = import_checkpoint(folder, fingerprint="abc")
    short = import_checkpoint(folder, which="short", model="tiny")
    assert (long.lambda_, long.window, long.method) == (tuple(LONG), 2048, "checkpoint-long")
    assert (short.lambda_, short.window, short.method) == (tuple(SHORT), 256, "checkpoint-short")
    assert (long.rope.model, long.rope.fingerprint) == ("tiny-8x", "abc")
    assert (short.rope.model, short.rope.fingerprint) == ("tiny", "unknown")
    assert long.attention_factor == pytest.approx(math.sqrt(1 + 3 / 8))  # ln 8 / ln 256


def test_a_checkpoint_may_state_an_attention_factor_for_each_table(tmp_path):
    folder = checkpoint(tmp_path / "moe", NEW | {"short_mscale": 1.1, "long_mscale": 1.3})
    stated = [
        import_checkpoint(folder, which=which).attention_factor for which in ("short", "long")
    ]
    assert stated == [1.1, 1.3]


@pytest.mark.parametrize(
    ("block", "more", "message"),
    [
        (NEW | {"rope_type": "yarn"}, {}, "no longrope factors: .* is 'yarn'"),
        ({"full_attention": NEW}, {}, "no longrope factors: .* is None"),
        (NEW, {"rope_scaling": "yarn"}, "no longrope factors: .* is 'yarn'"),
        (NEW | {"rope_theta": None}, {}, "rope_theta is missing"),
        (
            NEW | {"original_max_position_embeddings": None},
            {},
            "original_max_position_embeddings is missing",
        ),
        (NEW, {"max_position_embeddings": 256}, ".* no factor tells what window"),
        (NEW, {"max_position_embeddings": None}, "max_position_embeddings is missing"),
        (NEW, {"hidden_size": None}, "hidden_size is missing"),
        (NEW | {"long_factor": LONG[:3]}, {}, "long_factor has 3 values: 8 .* a list of 4"),
        (NEW | {"long_factor": None}, {}, "long_factor is None"),
        (NEW | {"long_factor": [0.99, 1, 1, 1]}, {}, r"lambda\[0\] = 0.99"),
        (NEW | {"attention_factor": "su"}, {}, "attention_factor = 'su'"),
    ],
)
def test_a_checkpoint_that_tells_too_little_is_one_clear_error(tmp_path, block, more, message):
    folder = checkpoint(tmp_path / "model", block, **more)
    with pytest.raises(UserError, match=f"config.json: {message}"):
        import_checkpoint(folder)


def test_a_folder_without_a_config_or_a_third_table_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        import_checkpoint(tmp_path)
    with pytest.raises(UserError, match="unknown table 'middle': known are long, short"):
        import_checkpoint(tmp_path, which="middle")
