"""A checkpoint as a GGUF file, for the tests that read one."""

import json
from pathlib import Path

import gguf
from safetensors.torch import load_file

from helpers import PAIRS, WINDOW
from longrope.config import GgufModel

NAMES = {  # of tensors: transformers -> llama.cpp
    "model.embed_tokens": "token_embd",
    "model.layers": "blk",
    "model.norm": "output_norm",
    "lm_head": "output",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm",
    "self_attn.o_proj": "attn_output",
    "self_attn.": "attn_",
    "mlp.": "ffn_",
    "_proj": "",
}


def write_gguf(source: Path, path: Path, extra=lambda writer: None) -> GgufModel:
    """A checkpoint as llama.cpp's converter writes it, in float32."""
    config = json.loads((source / "config.json").read_text())
    bpe = json.loads((source / "tokenizer.json").read_text())["model"]
    vocabulary = sorted(bpe["vocab"], key=bpe["vocab"].get)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(WINDOW)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(2 * PAIRS)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * 383])
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, tensor in load_file(source / "model.safetensors").items():
        weights = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:  # llama.cpp turns neighbours, not halves
            heads = config["num_attention_heads"]
            halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, -1)
            weights = halves.swapaxes(1, 2).reshape(weights.shape)
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, weights)
    extra(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufModel(kind="gguf", path=str(path))
