"""
Weights that change: the pre-training of a small model, and fine-tuning with rescaled RoPE.

`loop` is what both have in common, `gradients` one step of it, `steps` and `mixture` what a step
reads, `lora` the adapters.
"""
