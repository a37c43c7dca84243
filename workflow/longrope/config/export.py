"""
How the workflow exports an extended model.
"""

from typing import Literal

from longrope.config.base import Settings, Window


class ExportSettings(Settings):
    """What `longrope export` is told of one model; the form is in the name of the target."""

    engine: Literal["transformers", "vllm", "sglang", "mlx", "any"] = "transformers"
    """Whom the forms `native` and `full` are for. The folder for `transformers` is also right in
    vLLM and SGLang; that for `mlx` and `any` has the attention factor in the weights. `gguf` is
    always for llama.cpp."""
    two_tables: bool = False
    """Also the factors of the original window; refused for an engine that does not choose by the
    text."""
    tier: Window | None = None
    """The window whose factors serve every length. `null`: the longest."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """In which type weights are stored. `null`: as they are."""
    licence: str | None = None
    """Of the base model, for the card, where nothing tells it."""

    def flags(self, form: str) -> list[str]:
        """The options of `longrope export` for one form."""
        flags = [] if form == "gguf" else ["--engine", self.engine]
        flags += ["--two-tables"] if self.two_tables else []
        given = {"--tier": self.tier, "--dtype": self.dtype, "--licence": self.licence}
        for flag, value in given.items():
            flags += [] if value is None else [flag, str(value)]
        return flags
