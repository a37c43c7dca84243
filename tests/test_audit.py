"""
The audit of checkpoints: known faults are named, and sound public configurations pass.

tests/data/checkpoints/sound.json holds what public checkpoints say of their RoPE. A fault is one of
them with something changed, as reported in the public thread that it is named after.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longrope.audit import check
from longrope.audit.values import OF_BLOCK, OF_CONFIG, THETAS
from longrope.cli import main
from longrope.errors import UserError
from longrope.export.engines import ENGINES as EXPORTED
from longrope.export.engines import find_engine
from longrope.export.native import goes_to_weights, native_config
from longrope.export.tables import choose
from longrope.extended import Tiers
from longrope.factors import RescaleFactors, Rope
from longrope.own_model.checkpoint import find

SOUND = json.loads((Path(__file__).parent / "data/checkpoints/sound.json").read_text())
LLAMA2, LLAMA3, SMOL = (SOUND[name] for name in ("Llama-2-7b-hf", "Llama-3.1-8B", "SmolLM2-135M"))
QWEN, PHI = SOUND["Qwen2.5-7B-Instruct"], SOUND["Phi-3.5-mini-instruct"]
MISTRAL = SOUND["Mistral-7B-v0.1"]
ORIGINAL = "original_max_position_embeddings"
TABLE = [1.0 + pair / 32 for pair in range(64)]  # of LLaMA-2's 64 pairs
TOP = {"rope_theta": 10000.0, ORIGINAL: 4096, "max_position_embeddings": 131072}
OWN = (1 + np.log(32) / np.log(4096)) ** 0.5  # of 32x on 4096


def llama(longrope=None, legacy=True, modern=True, **top):
    """LLaMA-2 extended to 128k by longrope, in both schemas; `longrope` changes the block."""
    block = {"rope_type": "longrope", "type": "longrope", "factor": 32.0, ORIGINAL: 4096,
             "short_factor": TABLE, "long_factor": TABLE} | (longrope or {})  # fmt: skip
    block = {key: value for key, value in block.items() if value is not None}
    found = LLAMA2 | TOP | top
    found |= {"rope_scaling": block} if legacy else {}
    found |= {"rope_parameters": block | {"rope_theta": 10000.0}} if modern else {}
    return {key: value for key, value in found.items() if value is not None}


def yarn(**changes):
    """Qwen2.5 with YaRN to 128k."""
    block = {"rope_type": "yarn", "factor": 4.0, ORIGINAL: 32768} | changes
    block = {key: value for key, value in block.items() if value is not None}
    return QWEN | {"max_position_embeddings": 131072, "rope_scaling": block}


FAULTS = {  # name -> config.json, codes of what is wrong
    # transformers 5 saves neither top-level theta nor rope_scaling
    "unslothai/unsloth#7028": (
        {key: value for key, value in QWEN.items() if key != "rope_theta"}
        | {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
        {"theta-only-in-block"},
    ),
    "marin-community/MarinFold#184": (
        {key: value for key, value in LLAMA3.items() if key not in ("rope_scaling", "rope_theta")}
        | {"rope_parameters": LLAMA3["rope_scaling"] | {"rope_theta": 500000.0}},
        {"theta-only-in-block", "scaling-only-in-rope_parameters"},
    ),
    "huggingface/transformers#42513": (
        QWEN | {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
        {"theta-differs"},
    ),
    "vllm-project/vllm#44158": (
        llama() | {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
        {"schemas-differ"},
    ),
    # the scaling was not saved, or was lost
    "JIA-Lab-research/LongLoRA#181": (
        LLAMA2 | {"max_position_embeddings": 100000}, {"scaling-lost"},
    ),
    "JIA-Lab-research/LongLoRA#42": (LLAMA2 | {"max_position_embeddings": 32768}, {"scaling-lost"}),
    "OpenBMB/MiniCPM#295": (
        llama({"short_factor": None, "long_factor": None}), {"table-missing"},
    ),
    # windows
    "JIA-Lab-research/LongLoRA#113": (
        llama({"short_factor": [1.0] * 64}, max_position_embeddings=4096), {"window-not-raised"},
    ),
    "JIA-Lab-research/LongLoRA#81": (
        LLAMA2
        | {"max_position_embeddings": 32768, "rope_scaling": {"type": "linear", "factor": 8.0}},
        {"window-counted-twice"},
    ),
    "jquesnelle/yarn#40": (yarn(**{ORIGINAL: None}), {"original-window-missing"}),
    "huggingface/transformers#38224": (yarn(factor=8.0), {"factor-differs"}),
    "transformers: longrope without an original window": (
        llama({ORIGINAL: None}, **{ORIGINAL: None}), {"original-window-missing"},
    ),
    "transformers 4: the original window only in the block": (
        llama({"short_factor": [1.0] * 64}, **{ORIGINAL: None}), {"original-window-only-in-block"},
    ),
    "two original windows": (
        llama(**{ORIGINAL: 8192}), {"original-windows-differ", "factor-differs"},
    ),
    "yarn with the original window at the top": (
        yarn(**{ORIGINAL: None}) | {ORIGINAL: 32768}, {"original-window-only-at-top"},
    ),
    # attention scaling
    "vllm-project/vllm#48621": (llama({"attention_factor": 1.0}), {"attention-factor-ignored"}),
    "microsoft/LongRoPE#21": (llama({"factor": 4.0}), {"factor-differs"}),
    "sgl-project/sglang#22711": (yarn(attention_factor=1.0), {"attention-factor-ignored"}),
    "pytorch/executorch#19235": (
        llama({"attention_factor": 1.0, "short_mscale": 1.1, "long_mscale": 1.1}),
        {"attention-factors-differ"},
    ),
    "one mscale": (llama({"attention_factor": 1.0, "long_mscale": 1.0}), {"mscale-incomplete"}),
    "mscale without its pair": (yarn(mscale=0.7), {"mscale-ignored"}),
    "mscale outside DeepSeek": (yarn(mscale=0.7, mscale_all_dim=0.7), {"mscale-ignored"}),
    # tables
    "a table for the whole head (Phi-4-mini)": (
        PHI | {"partial_rotary_factor": 0.75}, {"table-length"},
    ),
    "reciprocals": (
        llama({"long_factor": [1 / value for value in TABLE]}),
        {"table-below-one", "table-reversed"},
    ),
    "short and long table swapped": (
        llama({"short_factor": TABLE, "long_factor": [1.0] * 64}), {"tables-swapped"},
    ),
    "a long table of ones": (
        llama({"short_factor": [1.0] * 64, "long_factor": [1.0] * 64}), {"factor-one"},
    ),
    "slowest pair first": (llama({"long_factor": TABLE[::-1]}), {"table-reversed"}),
    "a factor of zero": (llama({"long_factor": [0.0, *TABLE[1:]]}), {"table-values"}),
    # types and keys
    "huggingface/transformers#33129": (
        llama({"rope_type": "su", "type": "su"}), {"type-su"},
    ),
    "unslothai/unsloth#406": (
        LLAMA2 | {"rope_scaling": {"factor": 4.0}}, {"type-missing"},
    ),
    "a scaling of type default": (
        LLAMA2 | {"rope_scaling": {"rope_type": "default", "factor": 4.0}}, {"type-default"},
    ),
    "two types": (
        LLAMA2 | {"rope_scaling": {"rope_type": "linear", "type": "dynamic", "factor": 2.0}},
        {"types-differ"},
    ),
    "a misspelt type": (
        LLAMA2 | {"rope_scaling": {"rope_type": "longrop", "factor": 2.0}}, {"type-unknown"},
    ),
    "a misspelt key": (
        yarn(**{ORIGINAL: None, "original_max_postion_embeddings": 32768}),
        {"key-misspelt", "original-window-missing"},
    ),
    "theta misspelt": (
        {key: value for key, value in LLAMA2.items() if key != "rope_theta"} | {"rope_theeta": 1e4},
        {"key-misspelt"},
    ),
    "a theta of its own misspelt in a block that rescales nothing": (
        LLAMA2 | {"rope_parameters": {"rope_type": "default", "rope_tetha": 1e6}},
        {"key-misspelt"},
    ),
    "a window misspelt": (
        {key: value for key, value in LLAMA2.items() if key != "max_position_embeddings"}
        | {"max_position_embedings": 4096},
        {"key-misspelt", "window-missing"},
    ),
    "a scaling misspelt": (
        LLAMA2 | {"rope_scaling": None, "rope_scalling": {"type": "linear", "factor": 2.0}},
        {"key-misspelt"},
    ),
    "a scaling that is a number": (LLAMA2 | {"rope_scaling": 8.0}, {"block-not-an-object"}),
    # formulas
    "linear without a factor": (LLAMA2 | {"rope_scaling": {"type": "linear"}}, {"factor-missing"}),
    "vllm 'factor' as text": (
        yarn(factor="4.0"), {"factor-missing"},
    ),
    "a factor below 1": (
        LLAMA2 | {"rope_scaling": {"type": "linear", "factor": 0.125}}, {"factor-below-one"},
    ),
    "dynamic beyond a raised window": (
        LLAMA2 | {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, {"dynamic-by-call"},
    ),
    "betas swapped": (yarn(beta_fast=1, beta_slow=32), {"betas-swapped"}),
    "llama3 without its frequencies": (
        LLAMA3 | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, ORIGINAL: 8192}},
        {"llama3-incomplete"},
    ),
    "llama3 whose theta is lost": (
        {key: value for key, value in LLAMA3.items() if key != "rope_theta"}, {"theta-missing"},
    ),
    "llama3 with its frequencies swapped": (
        LLAMA3 | {"rope_scaling": LLAMA3["rope_scaling"]
                  | {"low_freq_factor": 4.0, "high_freq_factor": 1.0}},
        {"frequency-factors-swapped"},
    ),
    # values that nothing can be computed with
    "theta 0": (LLAMA2 | {"rope_theta": 0}, {"theta-not-a-base"}),
    "theta -1 in a block": (
        LLAMA2 | {"rope_parameters": {"rope_type": "default", "rope_theta": -1}},
        {"theta-not-a-base"},
    ),
    "a window of 0": (LLAMA2 | {"max_position_embeddings": 0}, {"value-out-of-range"}),
    "a window of -5": (LLAMA2 | {"max_position_embeddings": -5}, {"value-out-of-range"}),
    "a sliding window as text": (MISTRAL | {"sliding_window": "4096"}, {"value-of-wrong-type"}),
    "layer_types that are no list": (MISTRAL | {"layer_types": 5}, {"value-of-wrong-type"}),
    "yarn with the original window as text": (
        yarn(**{ORIGINAL: "4096"}), {"value-of-wrong-type"},
    ),
    "linear with the original window as text": (
        LLAMA2 | {"rope_scaling": {"type": "linear", "factor": 2.0, ORIGINAL: "4096"}},
        {"value-of-wrong-type"},
    ),
    "yarn by infinity": (yarn(factor=float("inf")), {"value-out-of-range"}),
    "beta_fast as text": (yarn(beta_fast="32"), {"value-of-wrong-type"}),
    "llama3 with a low_freq_factor of 0": (
        LLAMA3 | {"rope_scaling": LLAMA3["rope_scaling"] | {"low_freq_factor": 0}},
        {"value-out-of-range"},
    ),
    "longrope with its factor as text": (llama({"factor": "32"}), {"value-of-wrong-type"}),
    "a block within a block": (
        yarn(full_attention={"rope_type": "yarn", "factor": 4.0}), {"block-in-block"},
    ),
    "a type that is no name": (LLAMA2 | {"rope_scaling": {"type": ["su"]}}, {"type-unknown"}),
    "linear by 1": (LLAMA2 | {"rope_scaling": {"type": "linear", "factor": 1.0}}, {"factor-one"}),
    "llama3 from a longer window than its own": (
        LLAMA3 | {"max_position_embeddings": 4096},
        {"window-not-raised", "original-window-too-long"},
    ),
    "yarn with a table": (yarn(long_factor=TABLE), {"table-not-read"}),
    # what surrounds it
    "microsoft/LongRoPE#8": (
        MISTRAL | {"max_position_embeddings": 131072, ORIGINAL: 32768,
                   "rope_scaling": {"rope_type": "yarn", "factor": 4.0, ORIGINAL: 32768}},
        {"sliding-window"},
    ),
}  # fmt: skip


def write(folder: Path, config: dict, **others: dict) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in {"config": config, **others}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def codes(report) -> set[str]:
    return {each.code for each in report.findings}


@pytest.mark.parametrize("name", FAULTS)
def test_a_known_fault_is_named_and_nothing_else(tmp_path, name):
    config, expected = FAULTS[name]
    report = check(write(tmp_path, config))
    assert codes(report) == expected
    for finding in report.findings:
        assert finding.engines and finding.key and finding.instead


KEYS = st.sampled_from(sorted({*OF_CONFIG, *THETAS, "rope_scaling", "rope_parameters", "x",
                               "model_type", "use_sliding_window"}))  # fmt: skip
INNER = st.sampled_from(sorted({*OF_BLOCK, "rope_type", "type", "rope_theta", "long_factor"}))
NAMES = st.sampled_from(["longrope", "yarn", "linear", "llama3", "dynamic", "default", "jamba"])
ODD = st.sampled_from([0, 1, -5, 0.5, 10**400, float("inf"), float("nan"), "4096", True, [], {}])
VALUES = st.recursive(
    st.none() | ODD | NAMES | st.integers(-9, 1 << 20) | st.floats(),
    lambda each: st.lists(each, max_size=2) | st.dictionaries(INNER | NAMES, each, max_size=2),
    max_leaves=3,
)


@settings(max_examples=300, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.sampled_from([*SOUND.values(), llama(), yarn()]), st.dictionaries(KEYS, VALUES),
       st.dictionaries(INNER, VALUES))  # fmt: skip
def test_any_configuration_gives_findings_and_no_other_exception(tmp_path, sound, top, inner):
    config = sound | top
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(config.get(key), dict):
            config[key] = config[key] | inner
    report = check(write(tmp_path, config))
    assert report.as_text() and json.dumps(report.as_json())


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_public_configuration_passes(tmp_path, name):
    assert check(write(tmp_path, SOUND[name])).findings == ()


def test_phi_3_small_whose_own_code_reads_su_passes_with_any_tables(tmp_path):
    block = {"type": "su", "short_factor": [1.0] * 64, "long_factor": TABLE, ORIGINAL: 8192,
             "short_mscale": 1.0, "long_mscale": 1.1902380714238083}  # fmt: skip
    config = {"model_type": "phi3small", "hidden_size": 4096, "num_attention_heads": 32,
              "max_position_embeddings": 131072, "rope_embedding_base": 1000000,
              "rope_scaling": block}  # fmt: skip
    report = check(write(tmp_path, config))
    assert report.findings == () and report.facts["theta"] == "1e+06"


def test_an_architecture_without_a_rope_has_nothing_of_it_to_find(tmp_path):
    report = check(write(tmp_path, SOUND["gpt2"] | {"rope_theta": 0, "n_positions": 10**6}))
    assert report.findings == () and report.facts["RoPE"] == "none"
    assert "has no RoPE" in report.remarks[0]


def test_a_factor_by_the_formula_of_the_windows_passes_in_both_schemas(tmp_path):
    assert check(write(tmp_path, llama({"attention_factor": float(OWN)}))).findings == ()


def exported(engine: str, attention: float) -> dict:
    """The config.json of an export in one table, for an engine."""
    rope = Rope("llama", 10000.0, 128, 4096, "unknown")
    tier = RescaleFactors(rope, 131072, "search", tuple(TABLE), attention_factor=attention)
    tables = choose(Tiers((tier,)), None, two=False)
    within = goes_to_weights(LLAMA2, find_engine(engine), tables)
    return native_config(LLAMA2, tables, in_weights=within, dtype="bfloat16")


@pytest.mark.parametrize("engine", [name for name in EXPORTED if name != "llama.cpp"])
def test_what_is_exported_passes_but_in_mlx_where_keys_carry_the_attention_factor(tmp_path, engine):
    assert check(write(tmp_path, exported(engine, 1.0))).findings == ()
    findings = check(write(tmp_path, exported(engine, 1.21))).findings
    if find_engine(engine).attention == "weights":
        assert findings == ()
    else:
        (found,) = findings
        assert (found.code, found.severity) == ("attention-factor-ignored", "error")
        assert [*found.engines] == ["MLX"] and "applies 1.0000" in found.engines["MLX"]
        assert "--engine mlx" in found.instead
        (tmp_path / "longrope_export.json").write_text(json.dumps({"engine": engine}))
        (found,) = check(tmp_path).findings
        assert found.severity == "warning" and "not made for MLX" in found.problem
        assert main(["check", str(tmp_path)]) == 0


def test_an_export_that_is_wrong_where_it_was_made_for_has_an_error(tmp_path):
    config = exported("vllm", 1.21)
    del config["rope_scaling"]["short_mscale"], config["rope_scaling"]["long_mscale"]
    write(tmp_path, config)
    (tmp_path / "longrope_export.json").write_text(json.dumps({"engine": "vllm"}))
    assert "error" in {each.severity for each in check(tmp_path).findings}


def test_an_export_that_lost_the_keys_of_other_engines_errs_in_them(tmp_path):
    config = exported("vllm", 1.21)
    for block in (config["rope_scaling"], config["rope_parameters"]):
        del block["short_mscale"], block["long_mscale"]
    (found,) = check(write(tmp_path, config)).findings
    assert {*found.engines} == {"vLLM", "SGLang", "MLX"} and "1.21" in found.instead


@pytest.mark.parametrize("key", ["short_factor", "long_factor"])
def test_a_table_of_an_export_that_is_cut_short_is_named_by_that_alone(tmp_path, key):
    config = exported("vllm", 1.0)
    assert check(write(tmp_path, config)).facts["original window"].startswith("131072 (one table")
    for block in (config["rope_scaling"], config["rope_parameters"]):
        block[key] = block[key][:-1]
        block.pop(ORIGINAL)
    assert codes(check(write(tmp_path, config))) == {"table-length"}
    config.pop(ORIGINAL)  # what does not depend on it is told beside it
    assert codes(check(write(tmp_path, config))) == {"table-length", "original-window-missing"}


def test_no_window_is_advised_that_is_there(tmp_path):
    block = {"short_factor": [1.0] * 64, "factor": 1.0}
    (found,) = check(write(tmp_path, llama(block, max_position_embeddings=4096))).findings
    assert found.code == "window-not-raised" and "4096" not in found.instead


def test_mlx_reads_no_mscale_of_two_tables_either(tmp_path):
    scaled = {"attention_factor": 1.3, "short_mscale": 1.3, "long_mscale": 1.3}
    (found,) = check(write(tmp_path, llama(scaled))).findings
    assert found.engines == {"MLX": f"applies {OWN:.4f}, silently: it reads no key of it"}


def test_what_costs_no_more_than_length_is_a_warning(tmp_path):
    """Qwen3 with YaRN as its card says: every engine stretches alike, some serve 40960 tokens."""
    block = {"rope_type": "yarn", "factor": 4.0, ORIGINAL: 32768}
    qwen3 = QWEN | {"model_type": "qwen3", "max_position_embeddings": 40960, "rope_scaling": block}
    (found,) = check(write(tmp_path, qwen3)).findings
    assert (found.code, found.severity) == ("factor-differs", "warning")
    beyond = qwen3 | {"max_position_embeddings": 262144}
    (found,) = check(write(tmp_path, beyond)).findings
    assert (found.code, found.severity) == ("factor-differs", "error")


def test_a_long_window_of_heads_that_turn_in_part_is_a_warning(tmp_path):
    whole = LLAMA2 | {"max_position_embeddings": 32768}
    part = whole | {"model_type": "glm4", "partial_rotary_factor": 0.5}
    for config, severity in ((whole, "error"), (part, "warning")):
        (found,) = check(write(tmp_path, config)).findings
        assert (found.code, found.severity) == ("scaling-lost", severity)
    (found,) = check(write(tmp_path, part | {"max_position_embeddings": 131072})).findings
    assert found.severity == "error"


def test_a_decreasing_table_is_a_note_as_published_ones_decrease_too(tmp_path):
    table = [*TABLE[:10], TABLE[10] - 0.1, *TABLE[11:]]
    report = check(write(tmp_path, llama({"long_factor": table})))
    assert [(each.code, each.severity) for each in report.findings] == [("table-decreases", "note")]
    assert not report.failed


def test_each_kind_of_layer_is_checked_by_its_own_block(tmp_path):
    config = {"model_type": "gemma3_text", "hidden_size": 1152, "num_attention_heads": 4,
              "head_dim": 256, "max_position_embeddings": 32768, "sliding_window": 512,
              "layer_types": ["sliding_attention", "full_attention"],
              "rope_parameters": {
                  "full_attention": {"rope_type": "linear", "factor": 0.5, "rope_theta": 1e6},
                  "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}  # fmt: skip
    (found,) = check(write(tmp_path, config)).findings
    assert found.code == "factor-below-one"
    assert found.key == "rope_parameters.full_attention.factor"


def test_the_language_model_within_a_larger_one_is_checked(tmp_path):
    config = {"model_type": "llava", "text_config": FAULTS["vllm-project/vllm#48621"][0]}
    assert codes(check(write(tmp_path, config))) == {"attention-factor-ignored"}


def test_limits_of_tokenizer_and_generation_below_the_window_are_found(tmp_path):
    others = {
        "tokenizer_config": {"model_max_length": 4096},
        "generation_config": {"max_length": 4096},
    }
    report = check(write(tmp_path, llama(), **others))
    assert codes(report) == {"tokenizer-shorter", "generation-shorter"}
    assert {each.file for each in report.findings} == {
        "tokenizer_config.json",
        "generation_config.json",
    }
    assert check(write(tmp_path, LLAMA2, **others)).findings == ()


# --- weights --------------------------------------------------------------------------------


def safetensors(path: Path, rows: int) -> None:
    from safetensors.numpy import save_file

    save_file({"model.layers.0.self_attn.q_proj.weight": np.zeros((rows, 2), np.float32)}, path)


def test_heads_of_another_size_than_configured_are_found_in_the_weights(tmp_path):
    folder = write(tmp_path, SMOL)
    safetensors(folder / "model.safetensors", 9 * 64)
    assert check(folder).findings == ()
    safetensors(folder / "model.safetensors", 9 * 128)
    (found,) = check(folder).findings
    assert (found.code, found.key) == ("head-size", "head_dim")
    assert '"head_dim": 128' in found.instead


def test_a_weight_file_that_the_index_names_and_is_not_there_is_found(tmp_path):
    folder = write(tmp_path, SMOL)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert codes(check(folder)) == {"weights-missing"}
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"<html>")
    assert codes(check(folder)) == {"weights-unreadable"}


# --- GGUF -----------------------------------------------------------------------------------


def gguf_file(path: Path, tables: dict | None = None, **changes) -> Path:
    """A Llama of 4 pairs, rescaled from 256 to 1024 tokens, as metadata and tables alone."""
    import gguf

    values = {"context_length": 1024, "embedding_length": 16, "rope.dimension_count": 8,
              "rope.freq_base": 10000.0, "rope.scaling.type": "longrope",
              "rope.scaling.original_context_length": 256,
              "rope.scaling.attn_factor": 1.1} | changes  # fmt: skip
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in values.items():
        if isinstance(value, str):
            writer.add_string(f"llama.{key}", value)
        elif isinstance(value, float):
            writer.add_float32(f"llama.{key}", value)
        elif isinstance(value, list):
            writer.add_array(f"llama.{key}", value)
        elif value is not None:
            writer.add_uint32(f"llama.{key}", value)
    full = {"rope_factors_long": [1, 2, 3, 4], "rope_factors_short": [1, 1, 1, 1]}
    for name, numbers in (full if tables is None else tables).items():
        writer.add_tensor(f"{name}.weight", np.array(numbers, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


LONG, SHORT = {"rope_factors_long": [1, 2, 3, 4]}, {"rope_factors_short": [1, 1, 1, 1]}


@pytest.mark.parametrize(
    ("tables", "changes", "expected"),
    [
        (None, {}, set()),
        ({"rope_freqs": [1, 2, 3, 4]}, {"rope.scaling.type": None}, set()),
        ({}, {}, {"factors-lost"}),  # ggml-org/llama.cpp#24820
        (LONG, {}, {"table-missing"}),
        (LONG | {"rope_factors_short": [1, 1, 1]}, {}, {"table-length"}),
        (LONG | SHORT | {"rope_freqs": [1, 2, 3, 4]}, {}, {"tables-both"}),
        ({"rope_factors_long": [1, 0.5, 0.25, 0.1]} | SHORT, {}, {"table-below-one"}),
        (None, {"rope.scaling.original_context_length": None}, {"original-window-missing"}),
        (None, {"context_length": 256}, {"window-not-raised"}),
        (None, {"rope.scaling.attn_factor": None}, {"attention-factor-missing"}),
        ({}, {"rope.scaling.type": "yarn"}, {"factor-missing"}),
        ({}, {"rope.scaling.type": "none", "context_length": 131072}, {"scaling-lost"}),
        ({}, {"rope.scaling.type": "none", "rope.freq_base": None}, {"theta-missing"}),
        (None, {"rope.dimension_count": [8, 8, 8]}, set()),
        (None, {"rope.dimension_count": [8, 16]}, set()),
        (None, {"rope.dimension_count": "8"}, {"value-of-wrong-type"}),
        (None, {"rope.freq_base": 0.0}, {"value-out-of-range"}),
        (None, {"context_length": 0}, {"value-out-of-range"}),
    ],
)
def test_faults_of_a_gguf_file_are_named(tmp_path, tables, changes, expected):
    pytest.importorskip("gguf")
    assert codes(check(gguf_file(tmp_path / "model.gguf", tables, **changes))) == expected


def test_a_table_of_a_gguf_file_is_told_as_its_scaling(tmp_path):
    pytest.importorskip("gguf")
    changes = {"rope.scaling.type": None, "rope.scaling.attn_factor": 1.5}
    path = gguf_file(tmp_path / "model.gguf", {"rope_freqs": [1, 2, 3, 4]}, **changes)
    said = "scaling by a table (rope_freqs.weight), attention factor 1.5,"
    assert said in check(path).as_text()
    with pytest.raises(UserError, match=r"rescaled already \(by a table"):
        find(path)


# --- the command ----------------------------------------------------------------------------


def test_the_command_fails_on_an_error_and_prints_where_it_is(tmp_path, capsys):
    folder = write(tmp_path / "lost", FAULTS["JIA-Lab-research/LongLoRA#181"][0])
    assert main(["check", str(folder)]) == 1
    shown = capsys.readouterr()
    assert "ERROR scaling-lost: config.json, rope_scaling" in shown.out
    assert "1 error" in shown.err
    assert main(["check", str(write(tmp_path / "sound", LLAMA3))]) == 0
    assert "nothing found" in capsys.readouterr().out


def test_the_command_speaks_json_and_of_the_engines_that_are_asked_for(tmp_path, capsys):
    folder = write(tmp_path, FAULTS["vllm-project/vllm#48621"][0])
    assert main(["check", str(folder), "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)["findings"]
    assert found["code"] == "attention-factor-ignored" and set(found["engines"]) >= {"vLLM", "MLX"}
    assert main(["check", str(folder), "--engine", "transformers-4", "llama.cpp"]) == 0
    assert main(["check", str(folder), "--engine", "vllm"]) == 1


def test_a_misspelt_key_is_named_with_the_one_that_is_meant(tmp_path):
    config = {key: value for key, value in LLAMA2.items() if key != "rope_theta"}
    (found,) = check(write(tmp_path, config | {"rope_theeta": 1e4})).findings
    assert (found.key, found.instead, found.severity) == ("rope_theeta", "rope_theta", "error")
    custom = config | {"rope_theeta": 1e4, "auto_map": {"AutoModel": "modeling.Own"}}
    assert not check(write(tmp_path, custom)).failed  # its own code may read it


def test_a_folder_without_weights_is_told_from_a_whole_checkpoint(tmp_path):
    alone = "no weights in this folder"
    folder = write(tmp_path, SMOL)
    assert alone in check(folder).as_text()
    assert alone not in check(folder / "config.json").as_text()
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert "pytorch_model.bin is not looked into" in check(folder).as_text()
    safetensors(folder / "model.safetensors", 9 * 64)
    assert not [each for each in check(folder).remarks if "weights" in each or "looked" in each]


def test_what_is_no_checkpoint_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        check(tmp_path / "gone")
    (tmp_path / "x.gguf").write_text("nothing")
    with pytest.raises(UserError, match="not a readable GGUF file"):
        check(tmp_path / "x.gguf")


def test_the_audit_imports_neither_torch_nor_transformers(tmp_path):
    folder = write(tmp_path, LLAMA3)
    code = (
        "import sys; from longrope.audit import check; check(sys.argv[1]);"
        "assert not {'torch', 'transformers', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


def test_the_page_counts_and_the_table_holds_every_configuration():
    docs = Path(__file__).parents[1] / "docs"
    page = (docs / "check.md").read_text()
    assert f"{len(FAULTS)} faulty configurations" in page
    assert f"{len(SOUND)} configurations after published ones" in page
    table = (docs / "results/audit-in-transformers.md").read_text()
    for name in FAULTS:
        assert table.count(f"| {name} |") == 2, name  # one version of transformers each
