"""
Tables, figures and the summary, from the records of evaluations and the traces of searches.

`load` reads them, `tables` and `figures` name what there is, `contents` puts it in order, and
`page` makes pages of it for Snakemake's report. Nothing here runs a model, or loads torch.
"""
