"""
Exports: an extended model in forms that other tools load as they are.

`native` is transformers' own longrope with one table of factors (or two), `full` carries all tiers
in a modelling file of its own, `gguf` is for llama.cpp. `stage` writes them, rereads what it wrote
and compares before it says that it is done; docs/export.md says how to choose.
"""

FORMS = {  # for whom they are
    "native": "transformers, vLLM and SGLang",
    "full": "transformers, with all tiers",
    "gguf": "llama.cpp and Ollama",
}
