"""LongRoPE (arXiv 2402.13753): longer context windows by searched RoPE rescale factors."""

__version__ = "0.1.0"
