"""
What a study will cost before anything is spent: `longrope plan`. docs/plan.md has the formulas.

`jobs` says which jobs there are, `architecture` how large the models, `machine` how fast and large
a GPU, `cost` what one forward pass or training step takes of it, `work` what a job does, `estimate`
that of each job, `schedule` and `simulation` when all would run; `report` puts it into a table, and
`paper` beside what the paper states. Nothing is loaded or run.
"""
