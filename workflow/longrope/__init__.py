"""
LongRoPE: longer context windows for rotary language models, by searched rescale factors.

    import longrope
    model, tokenizer = longrope.load("results/tiny/longrope-2k")  # any length, the right tier
    model = longrope.apply(model, "factors.json")                 # factors in a transformers model
    model = longrope.remove(model)                                # the transformers model as it was
    report = longrope.check("path/to/checkpoint")                 # what is wrong with its RoPE

What they need is imported when they are called.
"""

__version__ = "0.1.0"
__all__ = ["apply", "check", "load", "remove"]


def load(path, factors=None, **options):
    """A model and its tokenizer, ready for any length; see `longrope.use.load`."""
    from longrope.use import load

    return load(path, factors, **options)


def apply(model, factors, **options):
    """Put factors into a transformers model; see `longrope.use.apply`."""
    from longrope.use import apply

    return apply(model, factors, **options)


def remove(model):
    """Take the factors out of a model again; see `longrope.use.remove`."""
    from longrope.use import remove

    return remove(model)


def check(path):
    """What is wrong with the RoPE of a checkpoint; see `longrope.audit`."""
    from longrope.audit import check

    return check(path)
