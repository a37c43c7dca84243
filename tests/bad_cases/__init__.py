"""The bad inputs, one module a kind of file; `kit.py` has what they are made with."""
