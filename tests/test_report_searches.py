"""What the tables of searches say of traces and records whose numbers are known by hand."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import yaml
from scipy.stats import binomtest

from evaluations import PROTOCOL, amounts_of, fitted
from longrope.checks import load_config
from longrope.config import Config
from longrope.errors import UserError
from longrope.evaluate.passkey import summarise as of_passkeys
from longrope.evaluate.perplexity import summarise as of_perplexity
from longrope.report.searches import describe
from longrope.report.tables import make_table
from longrope.statistics import flip_test
from longrope.study import search_settings
from longrope.targets import trace_files

STUDY = """
seed: 1
corpora: {books: {source: {kind: text, files: ["*.txt"]}, splits: {}}}
models:
  toy:
    source: {kind: folder, path: model}
    original_window: 256
    corpus: books
    search: {1k: {evaluations: 8, documents: 3}}
    evaluation:
      perplexity: {task: perplexity, windows: {1k: 2, 2k: 2}, methods: {}}
      passkey: {task: passkey, prompts: {1k: 10}, methods: {}}
"""
PAPER = {"seeds": [1, 2, 3], "optimiser": {"name": "evolution"}}
FAST = {"seeds": [1, 2, 3], "fitness": {"needle": 0.1}}
LOOSE = {"kind": "paper", "monotone": False, "vary": ["lambda"]}
PAPER_METHODS = [f"search-paper-seed{seed}" for seed in (1, 2, 3)]
FAST_METHODS = [f"search-fast-seed{seed}" for seed in (1, 2, 3)]


def config_of(methods: list[str], **more) -> Config:
    """The study with methods evaluated on the pre-trained weights, and more settings."""
    raw = yaml.safe_load(STUDY)
    settings = raw["models"]["toy"]
    for task in ("perplexity", "passkey"):
        settings["evaluation"][task]["methods"]["base"] = methods
    settings |= more
    return load_config(raw)


def score(number: int, best: float | None, tokens: int) -> dict:
    """A line of a trace, of one loss."""
    line = {"step": number, "generation": 0, "start": None if number else "yarn", "n_hat": number}
    line |= {"mu": [1.0], "attention": None, "critical": 0, "sample": 0, "fitness": best}
    line |= {"losses": {"text": best}, "best_fitness": best, "best_perplexity": best}
    return line | {"tokens": tokens, "seconds": 1.0}


def trace(folder: Path, method: str, *best: float | None, tokens: int = 1_000_000) -> Path:
    """A search whose best perplexity went so, every score `tokens` more."""
    path = folder / f"results/toy/base/factors/{method}/1k/trace.jsonl"
    path.parent.mkdir(parents=True)
    lines = [score(number, each, tokens * (number + 1)) for number, each in enumerate(best)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def evaluation(
    folder: Path, method: str, records: list[dict], weights: str = "base", **factors
) -> Path:
    task = "passkey" if "prompts" in records[0] else "perplexity"
    used = {"window": 1024, "attention_factor": 1.0, "n_hat": 0, "fingerprint": method} | factors
    path = folder / f"results/toy/{weights}/evaluation/{task}/{method}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results = {"perplexity": of_perplexity, "passkey": of_passkeys}
    given = {
        "schema": 2,
        "task": task,
        "evaluation": task,
        "model": "toy",
        "weights": weights,
        "weights_fingerprint": weights,
        "method": method,
        "protocol": PROTOCOL,
        "amounts": {"1k": amounts_of(records)[1024]},
        "factors": {"1k": used},
        "results": {"1k": results[task](records)},
        "records": records,
    }
    path.write_text(json.dumps(given))
    return path


def losses(*values: float, text: str = "a") -> list[dict]:
    """Perplexity records at 1k: one document a value, of one window."""
    return [
        {
            "length": 1024,
            "document": f"book {number}",
            "joined": False,
            "tokens": 100,
            "loss": value,
            "windows": [[0, 100, value]],
            "scored_sha256": text,
        }
        for number, value in enumerate(values)
    ]


def keys(found: str, first: int = 10000) -> list[dict]:
    """A passkey record at 1k: one prompt a letter, x where the key was found."""
    trials = [
        {"key": str(first + number), "depth": number / 100, "found": letter == "x"}
        for number, letter in enumerate(found)
    ]
    count = found.count("x")
    return [{"length": 1024, "prompts": len(found), "found": count, "trials": trials}]


def written(folder: Path, config: Config, traces=(), perplexity=(), passkey=()) -> dict:
    """Both tables, with their rows by label."""
    paper = folder / "paper.csv"
    paper.write_text("table,base\n")
    for name in ("searches", "fitness"):
        records = [*perplexity, *passkey]
        asked = fitted(config, records)
        make_table(name, asked, records, list(traces), paper, folder / "out" / name)
    return {
        name: pd.read_csv(folder / f"out/{name}.csv", dtype=str).set_index("weights, method")
        for name in ("searches", "fitness")
    }


# --- cost -------------------------------------------------------------------------------------


@pytest.fixture
def raced(tmp_path):
    """Three seeds of the paper's search, which end at 20, and of one that is faster twice."""
    paths = [
        trace(tmp_path, method, None, 30.0, 25.0, 20.0, 20.0, 20.0, 20.0, 20.0)
        for method in PAPER_METHODS
    ]
    paths.append(trace(tmp_path, FAST_METHODS[0], 20.0, 19.0))  # 1M: a quarter of the paper's 4M
    paths.append(trace(tmp_path, FAST_METHODS[1], 21.0, 20.5, 20.2, 20.1, 20.01))  # never
    paths.append(trace(tmp_path, FAST_METHODS[2], None, 20.0, 18.0, tokens=2_000_000))  # 4M
    variants = {"search-paper": PAPER, "search-fast": FAST}
    return written(tmp_path, config_of(["none"], variants=variants), paths)["searches"]


def test_seeds_are_one_row_that_says_what_it_searched(raced):
    assert raced.index.tolist() == ["untuned, search: paper", "untuned, search: fast"]
    row = raced.loc["untuned, search: fast"]
    assert row["what is searched"] == "bayesian, paper space, perplexity + 0.1 needle"
    assert (row.seeds, row["M tokens"]) == ("3", "4.33 (2 to 6)")
    mean, error = (19 + 20.01 + 18) / 3, math.sqrt(((19 - 19.00333) ** 2 + 1.00667**2 * 2) / 2 / 3)
    assert row["validation perplexity"] == f"{mean:.2f} ± {error:.2g}"


def test_a_seed_that_never_gets_to_the_paper_s_perplexity_is_counted_and_not_averaged(raced):
    row = raced.loc["untuned, search: fast"]
    assert row["M tokens to the paper's"] == "2.5 (1 to 4) (2 of 3)"
    assert row["times fewer"] == "2 (2 of 3)"  # the geometric mean of 4 / 1 and 4 / 4


def test_the_paper_s_own_clock_stops_when_it_has_what_it_ends_with(raced):
    row = raced.loc["untuned, search: paper"]
    assert row["M tokens"] == "8"
    assert (row["M tokens to the paper's"], row["times fewer"]) == ("4", "1")


def test_a_search_on_other_documents_or_of_another_seed_is_not_timed_against_the_paper(tmp_path):
    other = {"seeds": [1], "budget": {"evaluations": 8, "documents": 5}}
    variants = {"search-paper": PAPER | {"seeds": [1]}, "search-five": other}
    variants["search-late"] = {"seeds": [7]}
    names = ["search-paper-seed1", "search-five-seed1", "search-late-seed7"]
    paths = [trace(tmp_path, name, 20.0) for name in names]
    table = written(tmp_path, config_of(["none"], variants=variants), paths)["searches"]
    assert table["times fewer"].tolist() == ["1", "–", "–"]


def test_none_that_gets_there_says_never(tmp_path):
    variants = {"search-paper": PAPER | {"seeds": [1]}, "search-fast": FAST | {"seeds": [1]}}
    paths = [trace(tmp_path, "search-paper-seed1", 20.0), trace(tmp_path, FAST_METHODS[0], 21.0)]
    table = written(tmp_path, config_of(["none"], variants=variants), paths)["searches"]
    row = table.loc["untuned, search: fast"]
    assert (row["M tokens to the paper's"], row["times fewer"]) == ("never (0 of 1)", "–")


def test_a_trace_that_is_not_configured_or_lacks_a_number_is_refused(tmp_path):
    config = config_of(["none"])
    with pytest.raises(UserError, match="no search that is configured"):
        written(tmp_path, config, [trace(tmp_path, "search-x", 20.0)])
    path = trace(tmp_path, "search", 20.0)
    path.write_text('{"tokens": 3}\n')
    with pytest.raises(UserError, match="line 1 is no score of a search"):
        written(tmp_path, config, [path])


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ({}, "bayesian, paper space, perplexity"),
        (
            {"optimiser": {"name": "evolution", "racing": True}, "attention_factor": "search"},
            "evolution with racing, paper space, perplexity, attention factor searched",
        ),
        (
            {"space": {"kind": "critical", "pair": "theoretical"}, "attention_factor": 1.25},
            "bayesian, critical space, pair by theory, perplexity, attention factor 1.25",
        ),
        (
            {"space": LOOSE, "fitness": {"long_tokens": 0.5}},
            "bayesian, paper space without n_hat, not monotone, perplexity + 0.5 long tokens",
        ),
        ({"space": {"kind": "paper", "vary": ["n_hat"]}}, "every n_hat, of the starts, perplexity"),
    ],
)
def test_a_search_is_said_in_few_words(variant, words):
    config = config_of(["none"], variants={"search-x": variant})
    assert describe(search_settings(config, "toy", "base", "search-x", 1024)) == words


@pytest.mark.parametrize(
    ("best", "said"), [((20.004,), "20.00"), ((345.67,), "345.7"), ((4e4, 6e4), ">10^4")]
)
def test_a_perplexity_looks_as_in_every_other_table(best, said, tmp_path):
    variants = {"search-fast": FAST | {"seeds": [1, 2][: len(best)]}}
    paths = [trace(tmp_path, name, each) for name, each in zip(FAST_METHODS, best, strict=False)]
    table = written(tmp_path, config_of(["none"], variants=variants), paths)["searches"]
    assert table["validation perplexity"].tolist() == [said]


# --- worth ------------------------------------------------------------------------------------


def fitness_of(folder: Path, methods: dict[str, tuple], **more) -> pd.DataFrame:
    """The table `fitness` of methods with their losses, and keys found where there are any."""
    perplexity = [evaluation(folder, name, losses(*each[0])) for name, each in methods.items()]
    passkey = [evaluation(folder, name, keys(each[1])) for name, each in methods.items() if each[1]]
    config = config_of(list(methods), **more)
    return written(folder, config, perplexity=perplexity, passkey=passkey)["fitness"]


HALF, FULL = "x" * 10 + "." * 10, "x" * 20
BEST, GOOD, SAME = (0.9, 1.9, 2.9), (1, 2, 3), (1, 2, 3)
MIXED, BAD = (1.1, 1.9, 3.05), (1.2, 2.2, 3.2)


@pytest.mark.parametrize(
    ("closed", "words"),
    [
        ({"ntk": (BAD, HALF), "yarn": (BAD, HALF)}, "both: perplexity, passkeys"),
        ({"ntk": (BAD, HALF), "yarn": (BAD, FULL)}, "perplexity; passkeys tie with yarn"),
        ({"ntk": (MIXED, HALF), "yarn": (BAD, HALF)}, "passkeys; perplexity ties with ntk"),
        ({"yarn": (SAME, "x" * 15 + "." * 5)}, "neither; perplexity ties with yarn; passkeys tie"),
        ({"yarn": (BAD, "x" * 14 + "." * 6)}, "both"),
        ({"ntk": (BAD, HALF), "yarn": (BAD, "")}, "both"),
        ({"yarn": (BAD, "")}, "perplexity; passkeys not compared"),
        ({"yarn": (MIXED, "")}, "perplexity ties with yarn; passkeys not compared"),
        (
            {"ntk": ((0.9, 1.9, 2.9), HALF), "yarn": (SAME, HALF)},
            "passkeys; perplexity loses to ntk",
        ),
        (
            dict.fromkeys(["pi", "ntk", "yarn", "cope"], (SAME, HALF)),
            "passkeys; perplexity ties wi",
        ),
    ],
)
def test_a_difference_that_chance_explains_is_no_win(tmp_path, closed, words):
    table = fitness_of(tmp_path, closed | {"search": (GOOD, FULL)})
    verdicts = table["beats every closed form"]
    assert verdicts.iloc[-1].startswith(words) and set(verdicts[:-1]) == {"–"}
    assert len(closed) < 4 or verdicts.iloc[-1].endswith("ties with 4 closed forms")


def test_a_search_that_loses_is_said_to_lose(tmp_path):
    table = fitness_of(tmp_path, {"yarn": (GOOD, FULL), "search": (BAD, HALF)})
    verdict = table["beats every closed form"].iloc[-1]
    assert verdict == "neither; perplexity loses to yarn; passkeys lose to yarn"


def test_one_document_decides_nothing(tmp_path):
    table = fitness_of(tmp_path, {"yarn": ((2,), ""), "search": ((1,), "")})
    verdict = table["beats every closed form"].iloc[-1]
    assert verdict == "perplexity undecided against yarn; passkeys not compared"


def test_without_passkeys_there_is_a_dash_and_without_a_paper_no_column(tmp_path):
    table = fitness_of(tmp_path, {"yarn": (BAD, FULL), "search": (GOOD, "")})
    assert table.passkeys.tolist() == ["100 [84, 100]", "–"]
    assert table.columns.tolist() == [
        "model",
        "text",
        "window",
        "attention factor",
        "perplexity",
        "passkeys",
        "beats every closed form",
    ]


def test_seeds_are_averaged_by_document_before_they_are_compared_with_the_paper(tmp_path):
    """Seeds that differ by 0.2 each way: none of them alone is the answer."""
    shifts = {0: -0.2, 1: 0.0, 2: 0.2}
    methods = {name: ((1.1, 2.3), "x.") for name in PAPER_METHODS}
    for number, name in enumerate(FAST_METHODS):
        methods[name] = ((1 + shifts[number], 2 + shifts[number]), "x." if number else "..")
    variants = {"search-paper": PAPER, "search-fast": FAST}
    row = fitness_of(tmp_path, methods, variants=variants).loc["untuned, search: fast"]
    assert row["nats below the paper's"] == "+0.2000 [-1.0706, +1.4706]"  # 12.706 x 0.1
    own = [math.exp(1.5 + shift) for shift in shifts.values()]
    mean = sum(own) / 3
    error = math.sqrt(sum((each - mean) ** 2 for each in own) / 2 / 3)
    assert row.perplexity == f"{mean:.2f} ± {error:.2g}"
    assert row.passkeys.startswith("33 [")


def test_seeds_that_all_found_a_closed_form_tie_with_it(tmp_path):
    methods = {"yarn": ((0.1, 0.7, 2.3), HALF)} | dict.fromkeys(
        FAST_METHODS, ((0.1, 0.7, 2.3), HALF)
    )
    table = fitness_of(tmp_path, methods, variants={"search-fast": FAST})
    verdict = table["beats every closed form"].iloc[-1]
    assert verdict == "neither; perplexity ties with yarn; passkeys tie with yarn"


def test_the_seeds_that_win_by_themselves_are_counted(tmp_path):
    """Two seeds are better on every book, the third on the mean of them only."""
    losses = dict(zip(FAST_METHODS, [BEST, BEST, (0.9, 1.9, 3.05)], strict=True))
    methods = {"yarn": (SAME, HALF)} | {name: (loss, HALF) for name, loss in losses.items()}
    table = fitness_of(tmp_path, methods, variants={"search-fast": FAST})
    verdict = table["beats every closed form"].iloc[-1]
    assert verdict == "perplexity (2 of 3 seeds alone); passkeys tie with yarn"


def test_more_seeds_of_the_same_prompts_do_not_narrow_the_interval(tmp_path):
    variants = {"search-fast": FAST}
    methods = {"search": (GOOD, HALF)} | dict.fromkeys(FAST_METHODS, (GOOD, HALF))
    table = fitness_of(tmp_path, methods, variants=variants)
    assert table.passkeys.iloc[0] == table.passkeys.iloc[1] == "50 [30, 70]"


def test_a_mean_over_some_of_the_seeds_says_so(tmp_path):
    methods = {FAST_METHODS[0]: (GOOD, HALF), FAST_METHODS[2]: (GOOD, "")}
    row = fitness_of(tmp_path, methods, variants={"search-fast": FAST}).iloc[-1]
    assert row.perplexity == "7.39 ± 0 (2 of 3)" and row.passkeys == "50 [30, 70] (1 of 3)"


def test_other_prompts_and_other_tokens_are_not_compared(tmp_path):
    config = config_of(["yarn", "search"])
    ours = evaluation(tmp_path, "search", keys("xx", first=20000))
    theirs = evaluation(tmp_path, "yarn", keys("xx"))
    with pytest.raises(UserError, match="other prompts"):
        written(tmp_path, config, passkey=[ours, theirs])
    ours = evaluation(tmp_path, "search", losses(1, 2, text="b"))
    theirs = evaluation(tmp_path, "yarn", losses(1, 2))
    with pytest.raises(UserError, match="other tokens"):
        written(tmp_path, config, perplexity=[ours, theirs])


def test_records_without_their_prompts_are_not_called_a_tie(tmp_path):
    record = keys(FULL)[0] | {"trials": []}
    paths = [evaluation(tmp_path, method, [record]) for method in ("search", "yarn")]
    with pytest.raises(UserError, match="other prompts"):
        written(tmp_path, config_of(["yarn", "search"]), passkey=paths)


def test_seeds_that_scored_other_tokens_are_not_averaged(tmp_path):
    texts = dict(zip(["yarn", *FAST_METHODS], "aaab", strict=True))
    paths = [evaluation(tmp_path, name, losses(1, 2, text=text)) for name, text in texts.items()]
    config = config_of(list(texts), variants={"search-fast": FAST})
    with pytest.raises(UserError, match="other tokens"):
        written(tmp_path, config, perplexity=paths)


@pytest.mark.parametrize(("better", "worse"), [(5, 0), (6, 0), (9, 1), (9, 2), (14, 3), (4, 4)])
def test_with_one_seed_the_flip_test_is_mcnemar_s(better, worse):
    differences = [1] * better + [-1] * worse + [0] * 30
    exact = binomtest(better, better + worse).pvalue
    assert flip_test(differences) == pytest.approx(exact)
    assert flip_test([3 * each for each in differences]) == pytest.approx(exact)


def test_the_flip_test_weighs_what_seeds_agree_on():
    """By hand: of the 8 sums of ±3 ±1 ±1, those as far from 0 as 5 are 2, as 3 are 6, as 1 all."""
    assert [flip_test(each) for each in ([3, 1, 1], [3, 1, -1], [3, -1, -1])] == [0.25, 0.75, 1]


# --- after tuning -----------------------------------------------------------------------------


def tuning(method: str, **more) -> dict:
    return {"method": method, "window": "1k", "steps": 4, "batch": 2, "learning_rate": 0.1} | more


def test_what_was_tuned_with_a_row_s_factors_stands_beside_it(tmp_path):
    tunings = {"ours": tuning("search"), "theirs": tuning("yarn"), "long": tuning("yarn", steps=8)}
    raw = yaml.safe_load(STUDY)["models"]["toy"]["evaluation"]
    asked = {"base": ["yarn", "search"], "ours": ["tuned"], "theirs": ["tuned"], "long": ["yarn"]}
    raw["perplexity"]["methods"] = asked
    raw["passkey"]["methods"] = {"ours": ["tuned"]}
    study = yaml.safe_load(STUDY)
    study["models"]["toy"] |= {"tunings": tunings, "evaluation": raw}
    measured = {("base", "yarn"): 2.0, ("base", "search"): 1.9, ("ours", "tuned"): 1.0}
    measured |= {("theirs", "tuned"): 1.5, ("long", "yarn"): 1.4}
    paths = [
        evaluation(tmp_path, method, losses(loss, loss), weights)
        for (weights, method), loss in measured.items()
    ]
    passkey = [evaluation(tmp_path, "tuned", keys(FULL), "ours")]
    table = written(tmp_path, load_config(study), perplexity=paths, passkey=passkey)["fitness"]
    assert table["perplexity, tuned"].tolist() == ["4.48 (theirs); 4.06 (long)", "2.72"]
    assert table["passkeys, tuned"].tolist() == ["–", "100 [84, 100]"]


def test_the_seeds_of_a_variant_are_tuned_alike_and_averaged(tmp_path):
    tunings = {f"fast{seed}": tuning(f"search-fast-seed{seed}") for seed in (1, 2)}
    more = {f"fast{seed}-again": tuning("search", start=f"fast{seed}") for seed in (1, 2)}
    study = yaml.safe_load(STUDY)
    study["models"]["toy"] |= {"variants": {"search-fast": FAST}, "tunings": tunings | more}
    asked = {weights: ["tuned"] for weights in [*tunings, *more]}
    study["models"]["toy"]["evaluation"]["perplexity"]["methods"] = asked
    paths = [
        evaluation(tmp_path, "tuned", losses(math.log(value)), weights)
        for weights, value in zip(asked, (10, 12, 8, 9), strict=True)
    ]
    table = written(tmp_path, load_config(study), perplexity=paths)["fitness"]
    assert table["perplexity, tuned"].tolist() == ["8.50 ± 0.5", "11.00 ± 1 (2 of 3)"]


def test_a_second_search_is_measured_as_the_extended_model(tmp_path):
    study = yaml.safe_load(STUDY)
    settings = study["models"]["toy"]
    settings["search"]["512"] = {"evaluations": 8}
    settings["tunings"] = {"ours": tuning("search", window="512")}
    settings["extension"] = {"weights": "ours", "search": {"1k": {"evaluations": 8}}}
    settings["evaluation"]["perplexity"]["methods"] = {"ours": ["extended", "yarn-on-tuned"]}
    paths = [
        evaluation(tmp_path, "extended", losses(1, 2, 3), "ours"),
        evaluation(tmp_path, "yarn-on-tuned", losses(1.1, 2.1, 3.1), "ours"),
    ]
    table = written(tmp_path, load_config(study), perplexity=paths)["fitness"]
    assert table.index.tolist()[-2:] == ["ours, YaRN on tuned (from 512)", "ours, second search"]
    assert table.iloc[-1]["beats every closed form"] == "perplexity; passkeys not compared"


# --- all of it --------------------------------------------------------------------------------


def test_the_default_configuration_has_few_rows_and_both_tables_in_all_forms(tmp_path):
    raw = yaml.safe_load((Path(__file__).parents[1] / "config/config.yaml").read_text())
    config = load_config(raw)
    paths = [tmp_path / each for each in trace_files(config, "searches")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(score(0, 20.0, tokens=3)) + "\n")
    table = written(tmp_path, config, paths)["searches"]
    assert table.window.tolist() == ["1k", "2k", "4k", "8k", "16k"]
    for name in ("searches", "fitness"):
        made = [(tmp_path / f"out/{name}.{kind}") for kind in ("csv", "md", "html", "tex")]
        assert all(each.exists() for each in made)


def test_a_study_without_searches_says_so(tmp_path):
    config = config_of(["none"], search={})
    written(tmp_path, config)
    assert "evaluates nothing" in (tmp_path / "out/searches.md").read_text()
