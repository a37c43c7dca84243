"""
A GGUF file for llama.cpp: weights, tokenizer and the factors, written through the `gguf` package.

One table goes in as `rope_freqs.weight`, which llama.cpp divides every angle by at every length.
Two go in as `rope_factors_short.weight` and `rope_factors_long.weight`, of which it takes one by
the context that it allocates. Only its architecture `llama` reads them among those supported here:
Llama and Mistral are that, and so is Qwen2, a Llama with biases. Its rotation pairs neighbouring
dimensions, so queries and keys are reordered; that changes nothing that a model computes.
"""

from collections.abc import Iterator
from pathlib import Path

from longrope.audit.gguf_file import FREQS, LONG, SHORT
from longrope.errors import UserError
from longrope.export.gguf_tokenizer import write_tokenizer
from longrope.export.request import Written
from longrope.export.serve import GGUF
from longrope.export.tables import Tables, as_list, left_out
from longrope.files import read_json
from longrope.models.checkpoint import ModelRecord, check_files, check_weights, stored_dtype
from longrope.windows import window_label

ARCHITECTURE = "llama"
FAMILIES = ("llama", "mistral", "qwen2")


def write_gguf(
    draft: Path, model: Path, record: ModelRecord, tables: Tables, dtype: str | None
) -> Written:
    """Write `model.gguf` into a folder, read it again and compare every tensor and key."""
    import gguf

    check_files(model)
    check_weights(model, record)
    config = read_json(model / "config.json")
    _check(config)
    dtype, path = dtype or stored_dtype(model), draft / GGUF
    writer = gguf.GGUFWriter(path, ARCHITECTURE, use_temp_file=True)
    keys = _write_keys(writer, config, record, tables, dtype)
    said = [*left_out(tables), *write_tokenizer(writer, model, record, config["vocab_size"])]
    for name, tensor, kind in _tensors(model, config, tables, dtype):
        writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _reread(path, model, config, tables, dtype, keys)
    if not tables.one:
        said.append(
            f"The factors for {window_label(tables.short.window)} serve only where the context that"
            f" llama.cpp allocates (-c) is at most {tables.original}; with more of it every text,"
            f" however short, runs with those for {window_label(tables.window)}."
        )
    return Written(tables, False, None, said)


def _check(config: dict) -> None:
    kind = config.get("model_type", "unknown")
    if kind not in FAMILIES:
        raise UserError(
            f"GGUF: llama.cpp reads tables of factors for its architecture llama and a few others;"
            f" of {kind} models it would ignore or refuse them. Supported here:"
            f" {', '.join(FAMILIES)}"
        )
    if config.get("hidden_act", "silu") != "silu":
        raise UserError(f"GGUF: hidden_act = {config['hidden_act']!r}, llama.cpp's llama has silu")


def _write_keys(writer, config: dict, record: ModelRecord, tables: Tables, dtype: str) -> dict:
    """Write what describes the model; returns what a reader must find, by key."""
    import gguf

    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    types = {"float32": "ALL_F32", "float16": "MOSTLY_F16", "bfloat16": "MOSTLY_BF16"}
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(f"{record.rope.model} extended")
    writer.add_file_type(gguf.LlamaFileType[types[dtype]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(tables.window)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(record.rope.rotary_dim)
    writer.add_rope_freq_base(record.rope.theta)
    writer.add_rope_scaling_attn_factors(tables.long.attention_factor)
    expected = {
        "context_length": tables.window,
        "rope.freq_base": record.rope.theta,
        "rope.dimension_count": record.rope.rotary_dim,
        "rope.scaling.attn_factor": tables.long.attention_factor,
    }
    if not tables.one:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)  # else it loads neither
        writer.add_rope_scaling_orig_ctx_len(tables.original)
        expected["rope.scaling.original_context_length"] = tables.original
    return expected


def _tensors(model: Path, config: dict, tables: Tables, dtype: str) -> Iterator[tuple]:
    """Name, float32 array and stored type of every tensor of the file."""
    import gguf
    import numpy as np
    import torch
    from safetensors import safe_open

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    full = gguf.GGMLQuantizationType.F32
    short = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
    tied = config.get("tie_word_embeddings", False)
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                if name == "lm_head.weight" and tied:
                    continue
                own = names.get_name(name, try_suffixes=(".weight", ".bias"))
                if own is None:
                    raise UserError(f"GGUF: llama.cpp's llama has no tensor for {name!r}")
                array = opened.get_tensor(name).to(torch.float32).numpy()
                array = _reorder(name, array, config)
                yield own, array, full if array.ndim == 1 else gguf.GGMLQuantizationType[short]
    lists = {FREQS: tables.long} if tables.one else {SHORT: tables.short, LONG: tables.long}
    for name, factors in lists.items():
        yield name, np.array(as_list(factors), np.float32), full


def _reorder(name: str, array, config: dict):
    """Rows of queries and keys in the order in which neighbours turn together."""
    heads = {
        "q_proj": config["num_attention_heads"],
        "k_proj": config.get("num_key_value_heads") or config["num_attention_heads"],
    }
    for part, count in heads.items():
        if f"self_attn.{part}." in name:
            halves = array.reshape(count, 2, -1, *array.shape[1:])
            return halves.swapaxes(1, 2).reshape(array.shape)
    return array


def _reread(path: Path, model: Path, config, tables: Tables, dtype: str, keys: dict) -> None:
    """Raise UserError unless the package's reader finds every tensor and key as it was meant."""
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(path)
    for key, value in keys.items():
        field = reader.fields.get(f"{ARCHITECTURE}.{key}")
        found = field.contents() if field else None
        if found is None or not np.isclose(found, value, rtol=1e-6):
            raise UserError(
                f"reread: {ARCHITECTURE}.{key} of the GGUF file is {found}, not {value}"
            )
    found = {tensor.name: tensor for tensor in reader.tensors}
    count = 0
    for name, array, kind in _tensors(model, config, tables, dtype):
        count += 1
        own = found[name]
        values = gguf.quants.dequantize(own.data, own.tensor_type).reshape(array.shape)
        meant = gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind)
        if not np.array_equal(values, meant.reshape(array.shape)):
            raise UserError(f"reread: the tensor {name} of the GGUF file is not what was written")
    if count != len(found):
        raise UserError(f"reread: the GGUF file has {len(found)} tensors, {count} were written")
