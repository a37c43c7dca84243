"""
What an extended model is worth: perplexity of held-out documents, retrieval of a passkey.

Both tasks take one checkpoint, one method's factors and some lengths, and write one JSON file of
records (`records.py`) that carries everything needed to read it alone.
"""
