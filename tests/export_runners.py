"""
One engine, run on its own: the log-probabilities of the next token after each of some prompts.

    python -I tests/export_runners.py ENGINE MODEL PROMPTS.json OUT.npz
    python -I tests/export_runners.py serve    # the same for every line of arguments, as JSON

longrope cannot be imported here: it runs with the Python of an environment that holds the engine
and numpy. PROMPTS.json holds lists of tokens. Each runner returns one row over the whole vocabulary
for each, from weights and a cache in float32.
"""

import ast
import contextlib
import functools
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import traceback
import types
import typing
import zipfile
from pathlib import Path

import numpy as np

NEW = 8  # tokens that `generated` adds
PIECE = 200  # tokens of a call, where a text is read in pieces
ROWS = 3  # of a batch
SPREAD = 512  # tokens of a text whose positions are spread over a longer one


def _load(model: str, trust: bool = False):
    import torch
    from transformers import AutoModelForCausalLM

    for turn in (torch.cos, torch.sin):  # as longrope/first_calls.py says, which cannot be imported
        turn(torch.zeros(1)), turn(torch.zeros(1, dtype=torch.float64))
    own = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, trust_remote_code=trust)
    return own.eval().requires_grad_(False)


def _last_rows(own, prompts: list) -> list[np.ndarray]:
    """The logits after every prompt, each in one call."""
    import torch

    return [
        own(input_ids=torch.tensor([prompt]), use_cache=False, logits_to_keep=1)
        .logits[0, -1]
        .numpy()
        for prompt in prompts
    ]


def transformers(model: str, prompts: list) -> list[np.ndarray]:
    """Every prompt in one call."""
    return _last_rows(_load(model), prompts)


def trusted(model: str, prompts: list) -> list[np.ndarray]:
    """The same with the modelling file of the folder."""
    return _last_rows(_load(model, trust=True), prompts)


def batch(model: str, prompts: list, trust: bool = False) -> list[np.ndarray]:
    """Left-padded batches of a few prompts, short ones beside long ones."""
    import torch

    own, found = _load(model, trust), {}
    count = -(-len(prompts) // ROWS)
    for first in range(count):
        rows = prompts[first::count]
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = own(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=1,
        ).logits[:, -1]
        found |= dict(zip(range(first, len(prompts), count), logits.numpy(), strict=True))
    return [found[number] for number in range(len(prompts))]


def trusted_batch(model: str, prompts: list) -> list[np.ndarray]:
    """The same with the modelling file of the folder."""
    return batch(model, prompts, trust=True)


def chunks(model: str, prompts: list) -> list[np.ndarray]:
    """Every prompt in pieces with a cache, as engines prefill, the last tokens one by one. A prompt
    that begins with the one before goes on from its cache, as a conversation does."""
    import torch
    from transformers import DynamicCache

    own, found, before = _load(model), [], []
    for prompt in prompts:
        if not before or prompt[: len(before)] != before or prompt == before:
            before, cache = [], DynamicCache()
        most = max(len(prompt) - 3, len(before) + 1)
        cuts = [*range(len(before), most, PIECE), *range(most, len(prompt) + 1)]
        for first, last in itertools.pairwise(cuts):
            ids = torch.tensor([prompt[first:last]])
            answer = own(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        found.append(answer.logits[0, -1].numpy())
        before = prompt
    return found


def generated(model: str, prompts: list, trust: bool = False) -> list[np.ndarray]:
    """The logits of the last of NEW tokens that `generate` adds to every prompt, greedily."""
    import torch

    own = _load(model, trust)
    return [
        own.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        .logits[-1][0]
        .numpy()
        for prompt in prompts
    ]


def trusted_generated(model: str, prompts: list) -> list[np.ndarray]:
    """The same with the modelling file of the folder."""
    return generated(model, prompts, trust=True)


def spread(model: str, prompts: list, trust: bool = False) -> list[np.ndarray]:
    """A few tokens of every prompt, at the positions that they have in it: all its angles are
    there, at a small part of its cost."""
    return _spread(_load(model, trust), prompts)


def trusted_spread(model: str, prompts: list) -> list[np.ndarray]:
    """The same with the modelling file of the folder, which is told the length."""
    return spread(model, prompts, trust=True)


def spread64(model: str, prompts: list) -> list[np.ndarray]:
    """The same all in float64."""
    return _spread(_in_float64(model), prompts)


def _spread(own, prompts: list) -> list[np.ndarray]:
    import torch
    from transformers import DynamicCache

    found = []
    for prompt in prompts:
        places = spread_over(len(prompt))
        if hasattr(own, "pin"):
            own.pin(len(prompt))
        answer = own(
            input_ids=torch.tensor([[prompt[place] for place in places]]),
            position_ids=torch.tensor([places]),
            past_key_values=DynamicCache(),  # without it, jumps would begin texts of their own
            use_cache=True,
            logits_to_keep=1,
        )
        found.append(answer.logits[0, -1].numpy())
    return found


def spread_over(length: int) -> list[int]:
    """Some positions of a text, the first and the last ones among them, half of them at its end."""
    half = min(SPREAD, length) // 2
    far = np.linspace(0, length - half - 1, half).round().astype(int)
    return [*dict.fromkeys(far.tolist()), *range(length - half, length)]


def angles64(model: str, prompts: list) -> list[np.ndarray]:
    """transformers' Llama as it is, but for angles that are computed in float64."""
    return _last_rows(_with_angles64(model), prompts)


def float64(model: str, prompts: list) -> list[np.ndarray]:
    """The same with weights and every sum in float64: what the others are rounded from. Prompts are
    beginnings of the longest, so one call serves all."""
    import torch

    own = _in_float64(model)
    longest = max(prompts, key=len)
    assert all(longest[: len(prompt)] == prompt for prompt in prompts)
    last = torch.tensor([len(prompt) - 1 for prompt in prompts])
    answer = own(input_ids=torch.tensor([longest]), use_cache=False, logits_to_keep=last)
    return list(answer.logits[0].numpy())


def _in_float64(model: str):
    own = _with_angles64(model).double()
    for module in own.modules():
        if type(module).__name__ == "LlamaRMSNorm":  # it lowers what it gets to float32
            module.forward = functools.partial(_norm, module.weight, module.variance_epsilon)
    return own


def _norm(weight, epsilon: float, x):
    return weight * x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt()


def _with_angles64(model: str):
    """transformers' Llama, with nothing of its RoPE but what config.json says: one table."""
    import torch

    own, block = _load(model), json.loads((Path(model) / "config.json").read_text())
    block = block["rope_parameters"]
    assert block["long_factor"] == block["short_factor"]
    factors = torch.tensor(block["long_factor"], dtype=torch.float64)
    pairs = torch.arange(len(factors), dtype=torch.float64)
    inverse = block["rope_theta"] ** (-pairs / len(factors)) / factors

    class Rotary(torch.nn.Module):
        def forward(self, x, position_ids):
            angles = position_ids[..., None].double() * inverse
            angles, scale = torch.cat([angles, angles], dim=-1), block["attention_factor"]
            return (angles.cos() * scale).to(x.dtype), (angles.sin() * scale).to(x.dtype)

    own.model.rotary_emb = Rotary()
    return own


def llama_cpp(model: str, prompts: list) -> list[np.ndarray]:
    """llama.cpp by xllamacpp, with a context as long as the longest prompt needs."""
    import xllamacpp

    return _llama_cpp(xllamacpp, model, prompts, max(map(len, prompts)) + 8)


def llama_cpp_chunks(model: str, prompts: list) -> list[np.ndarray]:
    """The same, where a prompt that begins with the one before goes on from its cache."""
    import xllamacpp

    return _llama_cpp(xllamacpp, model, prompts, max(map(len, prompts)) + 8, keep=True)


def llama_cpp_each(model: str, prompts: list) -> list[np.ndarray]:
    """The same with a context for each prompt, which is what decides between two tables."""
    import xllamacpp

    return [_llama_cpp(xllamacpp, model, [each], len(each) + 1)[0] for each in prompts]


def _llama_cpp(
    xllamacpp, model: str, prompts: list, context: int, keep: bool = False
) -> list[np.ndarray]:
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx, params.n_parallel, params.n_predict = context, 1, 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.warmup = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.ctx_shift = params.fit_params = False
    server, found = xllamacpp.Server(params), []
    tokens = _gguf_tokens(model)
    vocabulary = len(tokens)
    for prompt in prompts:
        answer = server.handle_completions(
            {
                "prompt": prompt,
                "n_predict": 1,
                "n_probs": vocabulary,
                "temperature": 0.0,
                "cache_prompt": keep,
                # Half a character, or the end, would be answered without probabilities. These
                # are those before the bias.
                "logit_bias": [[tokens.index("a"), 1000.0]],
            }
        )
        if "choices" not in answer:
            raise RuntimeError(f"llama.cpp answered {str(answer)[:300]}")
        row = np.full(vocabulary, -np.inf, np.float64)
        for each in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            row[each["id"]] = each["logprob"]
        if not np.isfinite(row).all():
            raise RuntimeError(f"llama.cpp gave {np.isfinite(row).sum()} of {vocabulary} tokens")
        found.append(row)
    return found


def _gguf_tokens(model: str) -> list:
    import gguf

    return gguf.GGUFReader(model).fields["tokenizer.ggml.tokens"].contents()


def mlx(model: str, prompts: list) -> list[np.ndarray]:
    """mlx-lm on a CPU, weights raised to float32."""
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    own, _ = load_model(Path(model))
    own.update(tree_map(lambda each: each.astype(mx.float32), own.parameters()))
    return [np.array(own(mx.array([prompt]))[0, -1].astype(mx.float32)) for prompt in prompts]


def onnx_genai(model: str, prompts: list) -> list[np.ndarray]:
    """onnxruntime-genai on a CPU, the model built by its own builder in float32."""
    import onnxruntime_genai

    with tempfile.TemporaryDirectory() as place:
        built = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", model]
        built += ["-o", f"{place}/built", "-c", f"{place}/cache", "-p", "fp32", "-e", "cpu"]
        subprocess.run(built, check=True, stdout=subprocess.DEVNULL)
        own, found = onnxruntime_genai.Model(f"{place}/built"), []
        for prompt in prompts:
            options = onnxruntime_genai.GeneratorParams(own)
            options.set_search_options(max_length=len(prompt) + 1)
            generator = onnxruntime_genai.Generator(own, options)
            generator.append_tokens(np.array([prompt], np.int32))
            found.append(np.array(generator.get_logits()).reshape(-1, own_size(model))[-1])
    return found


def own_size(model: str) -> int:
    """How many tokens a model knows."""
    return json.loads((Path(model) / "config.json").read_text())["vocab_size"]


def ctranslate2(model: str, prompts: list) -> list[np.ndarray]:
    """CTranslate2: whether its converter takes the model."""
    from ctranslate2.converters import TransformersConverter

    with tempfile.TemporaryDirectory() as place:
        TransformersConverter(model).convert(f"{place}/converted")
    raise RuntimeError("converted; its log-probabilities were not read")


def ctransformers(model: str, prompts: list) -> list[np.ndarray]:
    """ctransformers, a llama.cpp of 2023: whether it loads the file."""
    from ctransformers import LLM

    LLM(model, model_type="llama")
    raise RuntimeError("loaded; its log-probabilities were not read")


def vllm_rope(model: str, prompts: list) -> list[np.ndarray]:
    """transformers' Llama with the rotary class of the vLLM wheel that VLLM_WHEEL names."""
    path = "vllm/model_executor/layers/rotary_embedding/phi3_long_rope_scaled_rope.py"
    return _with_class_of(os.environ["VLLM_WHEEL"], path, model, prompts)


def sglang_rope(model: str, prompts: list) -> list[np.ndarray]:
    """The same of the SGLang wheel that SGLANG_WHEEL names."""
    path = "sglang/srt/layers/rotary_embedding/rope_variant.py"
    return _with_class_of(os.environ["SGLANG_WHEEL"], path, model, prompts)


def _with_class_of(wheel: str, path: str, model: str, prompts: list) -> list[np.ndarray]:
    """Only the class is the engine's: it gets what the engine would hand to it from config.json,
    turns the queries and keys of every layer by its own `forward`, and nothing around it runs."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.llama import modeling_llama

    own = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    config = json.loads((Path(model) / "config.json").read_text())
    block, size = config["rope_parameters"], own.config.head_dim
    longest = max(map(len, prompts)) if "SHORT_CONTEXT" in os.environ else None
    rotary = _class_of(wheel, path, longest or config["max_position_embeddings"])(
        size,
        size,
        config["max_position_embeddings"],
        block["original_max_position_embeddings"],
        block["rope_theta"],
        True,
        torch.float32,
        block["short_factor"],
        block["long_factor"],
        **{key: block[key] for key in ("short_mscale", "long_mscale") if key in block},
    )

    def turn(q_BHTD, k_BHTD, *_, **__):
        count = q_BHTD.shape[2]
        flat = [each[0].transpose(0, 1).reshape(count, -1) for each in (q_BHTD, k_BHTD)]
        return [
            each.view(count, -1, size).transpose(0, 1)[None]
            for each in rotary(torch.arange(count), *flat)
        ]

    modeling_llama.apply_rotary_pos_emb = turn
    with torch.no_grad():
        return [
            own(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1].numpy()
            for prompt in prompts
        ]


def _class_of(wheel: str, path: str, longest: int):
    """The rotary class of a wheel, compiled without the package around it."""
    import torch

    name = "Phi3LongRoPEScaledRotaryEmbedding"
    source = zipfile.ZipFile(wheel).read(path).decode()
    found = [each for each in ast.parse(source).body if getattr(each, "name", "") == name]

    def rotate_neox(x):
        first, second = x.chunk(2, dim=-1)
        return torch.cat([-second, first], dim=-1)

    said = types.SimpleNamespace(model_config=types.SimpleNamespace(max_model_len=longest))
    place = {
        "math": math,
        "torch": torch,
        "nn": torch.nn,
        "rotate_neox": rotate_neox,
        "get_current_vllm_config": lambda: said,
        "logger": types.SimpleNamespace(warning_once=lambda *_: None),
    } | {
        each: getattr(typing, each)
        for each in ("Any", "Dict", "List", "Optional", "Tuple", "Union")
    }
    exec(compile(ast.Module(found, []), path, "exec"), place)
    return place[name]


RUNNERS = {
    each.__name__: each
    for each in (
        transformers,
        trusted,
        batch,
        trusted_batch,
        chunks,
        generated,
        trusted_generated,
        spread,
        trusted_spread,
        spread64,
        angles64,
        float64,
        llama_cpp,
        llama_cpp_chunks,
        llama_cpp_each,
        mlx,
        onnx_genai,
        ctranslate2,
        ctransformers,
        vllm_rope,
        sglang_rope,
    )
}


def log_softmax(row: np.ndarray) -> np.ndarray:
    """Log-probabilities of logits; those of log-probabilities are themselves."""
    row = row.astype(np.float64)
    top = row.max()
    return row - top - np.log(np.exp(row - top).sum())


def answer(name: str, model: str, prompts: str, out: str) -> None:
    """Run one engine, and write its rows."""
    rows = RUNNERS[name](model, json.loads(Path(prompts).read_text()))
    np.savez(out, *[log_softmax(row) for row in rows])


def serve() -> None:
    """Answer every line of arguments in a fork of this process, which has imported what is heavy:
    each begins as a new process would, seconds earlier. The line that comes back is its exit code;
    its last argument is the file of what it printed."""
    with contextlib.suppress(ImportError):  # an engine that needs none of it
        import torch  # noqa: F401
        from transformers import AutoModelForCausalLM, LlamaForCausalLM  # noqa: F401
    for line in sys.stdin:
        *arguments, said = json.loads(line)
        if (pid := os.fork()) == 0:
            file = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            code = 1
            try:
                answer(*arguments)
                code = 0
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    sys.modules["longrope"] = None  # importing it fails, wherever it is installed
    serve() if sys.argv[1:] == ["serve"] else answer(*sys.argv[1:])
