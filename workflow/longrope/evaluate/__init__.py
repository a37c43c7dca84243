"""
What an extended model is worth: perplexity of held-out documents, retrieval of a passkey; with the
optional lm-evaluation-harness, benchmarks of short questions and RULER's needles.

Every task takes one checkpoint, one method's factors and some lengths, and writes one JSON file of
records (`records.py`) that carries everything needed to read it alone.
"""
