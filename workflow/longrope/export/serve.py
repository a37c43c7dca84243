"""
The serving bundle beside an export: what to type for each engine, with the right window.

Engines serve another window than the model's if they are not told: Ollama 2k to 4k whatever the
file says, vLLM the original window of a longrope block. The commands are made from what was
exported; docs/results/export-engines.md says which of them were run.
"""

from pathlib import Path

from longrope.export.request import Export, Written
from longrope.files import write_text
from longrope.models.checkpoint import ModelRecord

GGUF = "model.gguf"
HOST = "127.0.0.1"  # vLLM would take requests from everywhere, and asks for no password


def write_serving(draft: Path, asked: Export, record: ModelRecord, written: Written) -> None:
    """Write `serve.md`, and for a GGUF file an Ollama `Modelfile` beside it."""
    window = written.tables.window
    if asked.form == "gguf":
        write_text(draft / "Modelfile", f"FROM ./{GGUF}\nPARAMETER num_ctx {window}\n")
        parts = _gguf(window, one=written.tables.one, original=written.tables.original)
    else:
        parts = _folder(asked, record, written)
    head = [
        f"# Serving {record.rope.model} to {window:,} tokens",
        "",
        "FOLDER is this folder. Prompt and new tokens together must fit the window. The memory of"
        " a cache of that length is needed, too: lower the length where it is not there. Servers"
        f" answer this machine alone ({HOST}): none of them asks who it is.",
        "",
    ]
    write_text(draft / "serve.md", "\n".join(head + parts))


def _folder(asked: Export, record: ModelRecord, written: Written) -> list[str]:
    window, trust = written.tables.window, ""
    if asked.form == "full":
        trust = ", trust_remote_code=True"
    parts = [
        "## transformers",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        f'model = AutoModelForCausalLM.from_pretrained("FOLDER"{trust})',
        'inputs = tokenizer("Once upon a time", return_tensors="pt")',
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100)[0]))",
        "```",
        "",
    ]
    if asked.form == "full":
        parts += [
            "`generate` takes the factors of prompt and new tokens together. In a loop of your own,"
            " say the whole length before: `model.pin(5000)`. Without `trust_remote_code` the"
            " folder runs with one table for every length, and so do the engines below.",
            "",
        ]
    elif not written.tables.one:
        parts += [
            "**Two tables.** transformers takes the long one for every row of a call whose largest"
            f" position is {written.tables.original} or more; a sequence that grows past it keeps"
            " a cache of the short one, and is wrong from there (only Phi-3 drops its cache). Give"
            " every text that will grow past it to the model at once.",
            "",
        ]
    served = {
        "vLLM": f"vllm serve FOLDER --host {HOST} --max-model-len {window}",
        "SGLang": f"python -m sglang.launch_server --model-path FOLDER --host {HOST}"
        f" --context-length {window}",
    }
    if not written.tables.one and asked.form != "full":
        served = {}  # `engines` says why two tables are wrong in each
    for name, command in served.items():
        parts += [f"## {name}", "", "```bash", command, "```", ""]
    if written.in_weights or (written.tables.long.attention_factor == 1 and written.tables.one):
        parts += [
            "## MLX",
            "",
            "```bash",
            "mlx_lm.generate --model FOLDER --prompt 'Once upon a time' --max-tokens 100",
            "```",
            "",
        ]
    else:
        parts += [
            "## Not MLX",
            "",
            "mlx-lm reads no attention factor: export with `--engine mlx` for it.",
            "",
        ]
    return parts


def _gguf(window: int, *, one: bool, original: int) -> list[str]:
    parts = [
        "## llama.cpp",
        "",
        "```bash",
        f"llama-server -m FOLDER/{GGUF} --host {HOST} -c {window}",
        "```",
        "",
        "Leave `--rope-scaling`, `--rope-freq-base`, `--rope-freq-scale` and the `--yarn-` options"
        " alone: they would replace or multiply what the file says.",
        "",
        "## Ollama",
        "",
        "```bash",
        "cd FOLDER && ollama create my-model -f Modelfile && ollama run my-model",
        "```",
        "",
        f"The Modelfile sets `num_ctx {window}`; without it Ollama serves a few thousand tokens.",
        "",
    ]
    if not one:
        parts += [
            f"**Two tables.** The short one is used only where `-c` is at most {original}, whatever"
            " the length of the text.",
            "",
        ]
    return parts
