"""
From a checkpoint on disk to a study of it: a configuration of some fifteen lines, or all at once.

`checkpoint` says what the checkpoint is, `texts` which of the user's files are long enough,
`configuration` writes the YAML with budgets that the plan says are affordable, `extend` runs it.
"""
