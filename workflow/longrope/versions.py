"""
The version of what every stage of the workflow gives; `summarise` has that of `tabulate`, and what
is run by hand alone has none.

Raise a number when the stage gives another result for the same inputs and settings: Snakemake then
runs it again, and progress of the older one is not taken up. It does not see edits in a package;
hashing the sources would run weeks of GPU time again for a comment. A test holds small results
against golden numbers, so that a change cannot go unnoticed.
"""

VERSIONS = {
    "import-model": 1,
    "pretrain": 1,
    "tokenize": 1,
    "derive": 2,
    "search": 3,
    "finetune": 3,
    "assemble": 1,
    "export": 4,
    "evaluate-perplexity": 1,
    "evaluate-passkey": 1,
    "evaluate-benchmarks": 1,
    "evaluate-ruler": 2,
    "card": 1,
    "tabulate": 7,
    "plot": 5,
    "plan": 4,
}
