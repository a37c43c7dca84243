"""
How the workflow exports an extended model.
"""

from typing import Literal

from longrope.config.base import Settings, Window


class ExportSettings(Settings):
    """What `longrope export` is told of one model; the form is in the name of the target."""

    # Whom the forms native and full are for: transformers' folder is also right in vLLM and
    # SGLang, that for mlx and any has the attention factor in the weights. gguf is for llama.cpp.
    engine: Literal["transformers", "vllm", "sglang", "mlx", "any"] = "transformers"
    two_tables: bool = False  # also the factors of the original window, where an engine may choose
    tier: Window | None = None  # whose factors serve every length; null: the longest window
    # In which weights are stored; null: as they are.
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    licence: str | None = None  # of the base model, where nothing tells it

    def flags(self, form: str) -> list[str]:
        """The options of `longrope export` for one form."""
        flags = [] if form == "gguf" else ["--engine", self.engine]
        flags += ["--two-tables"] if self.two_tables else []
        given = {"--tier": self.tier, "--dtype": self.dtype, "--licence": self.licence}
        for flag, value in given.items():
            flags += [] if value is None else [flag, str(value)]
        return flags
