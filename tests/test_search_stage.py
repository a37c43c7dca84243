"""The stage `longrope search` on a tiny checkpoint: spaces, starts, files, and `kill -9`."""

import json
import math
import os
import random
import shutil
import signal
import time

import numpy as np
import pytest

from forks import Forks
from helpers import (
    PAIRS,
    WINDOW,
    Killed,
    lines_of,
    make_checkpoint,
    make_tokens,
    make_tuned,
)
from longrope.baselines import closed_form
from longrope.config.search import Bayesian, Cma, CriticalSpace, Evolution, SearchSettings
from longrope.errors import UserError
from longrope.factors import RescaleFactors, Rope, read_factors, write_factors
from longrope.files import read_json
from longrope.models.checkpoint import read_record
from longrope.search import bayesian
from longrope.search.scoring import LossScorer
from longrope.search.stage import search_factors

NUMBERS = {"name": "evolution", "population": 16, "mutations": 8, "crossovers": 8, "parents": 8}
SMALL = Evolution(**NUMBERS)
CMA = Cma(name="cma")
KINDS = {
    "evolution": SMALL,
    "evolution, racing": Evolution(**NUMBERS, racing=True),
    "cma": CMA,
    "bayesian": Bayesian(name="bayesian", ramps=6, check_every=4),
}
EVERY = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True, scope="module")
def _small_pool():
    """The Bayesian search chooses from fewer steps: faster, the same otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bayesian, "POOL", 200)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("search"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return make_tokens(tmp_path_factory.mktemp("search") / "data") / "validation"


@pytest.fixture(scope="module")
def tuned(model, tmp_path_factory):
    """The checkpoint as if tuned at 2x."""
    lambda_ = (1.0, 1.0, 1.1, 1.37, 1.5, 1.9, 2.2, 2.2)
    factors = RescaleFactors(read_record(model).rope, 2 * WINDOW, "search", lambda_, 4, 1.2)
    return make_tuned(tmp_path_factory.mktemp("search") / "tuned", model, factors)


def settings_of(window=4 * WINDOW, evaluations=20, documents=2, **changes) -> SearchSettings:
    budget = {"evaluations": evaluations, "documents": documents}
    fixed = {
        "optimiser": CMA,
        "space": {"kind": "paper"},
        "fitness": {},
        "attention_factor": "none",
        "seed": 1,
    }
    return SearchSettings(window=window, budget=budget, **(fixed | changes))


def run_stage(model, tokens, folder, *, recovery=False, warm=None, **changes):
    """Search in `folder`, with CMA-ES unless told otherwise; returns the factors."""
    paths = folder / "factors.json", folder / "trace.jsonl", folder / "state"
    search_factors(
        settings_of(**changes),
        model,
        tokens,
        *paths,
        recovery=recovery,
        warm=warm,
        say=lambda _: None,
    )
    return read_factors(folder / "factors.json")


def test_a_first_search_writes_the_best_of_its_trace_with_its_provenance(model, tokens, tmp_path):
    factors, record = run_stage(model, tokens, tmp_path), read_record(model)
    lines, whole = lines_of(tmp_path / "trace.jsonl"), {}
    for line in lines:
        whole.setdefault((line["n_hat"], *line["mu"]), []).append(line)
    means = {each: np.mean([line["fitness"] for line in of]) for each, of in whole.items()}
    best = min(means, key=means.get)
    assert (factors.n_hat, *factors.lambda_) == best
    assert list(factors.lambda_) == sorted(factors.lambda_) and max(factors.lambda_) <= 5
    assert (factors.method, factors.window, factors.rope) == ("search", 256, record.rope)
    settings = settings_of()
    assert factors.provenance == {
        "weights": "base",
        "weights_fingerprint": record.fingerprint,
        "multiplies": None,
        "optimiser": CMA.model_dump(),
        "space": settings.space.model_dump(),
        "fitness": settings.fitness.model_dump(),
        "candidates": 20,
        "scores": 40,
        "best_is_start": whole[best][0]["start"],
        "critical_pair": None,
        "tokens_forwarded": 40 * 256,
        "seconds": factors.provenance["seconds"],
        "validation_fitness": pytest.approx(means[best]),
        "validation_losses": {"perplexity": pytest.approx(means[best])},
        "starts": ["pi", "ntk", "yarn", "mrrope-pro", "llama3"],
        "arithmetic": "torch.float32 on cpu",
        "documents": ["macbeth", "the-tempest"],
        "corpus_sha256": factors.provenance["corpus_sha256"],
        "seed": 1,
        "version": factors.provenance["version"],
    }
    assert lines[-1]["tokens"] == 40 * 256
    assert [line["start"] for line in lines[::2]][:5] == [
        "pi",
        "ntk",
        "yarn",
        "mrrope-pro",
        "llama3",
    ]


@EVERY
def test_a_search_killed_between_finds_the_same(kind, model, tokens, tmp_path, monkeypatch):
    changes = {"optimiser": KINDS[kind], "evaluations": 15}
    whole = run_stage(model, tokens, tmp_path / "whole", **changes)
    left, score = iter(range(17)), LossScorer.score

    def dying(self, factors, sample):
        if next(left, None) is None:
            raise Killed
        return score(self, factors, sample)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(LossScorer, "score", dying)
        run_stage(model, tokens, tmp_path / "killed", **changes)
    assert not (tmp_path / "killed/factors.json").exists()
    resumed = run_stage(model, tokens, tmp_path / "killed", **changes)
    assert resumed == whole
    same = {"seconds": 0}
    assert resumed.provenance | same == whole.provenance | same
    assert lines_of(tmp_path / "killed/trace.jsonl") == lines_of(tmp_path / "whole/trace.jsonl")


def test_commands_killed_with_signal_9_end_in_the_same_files(model, tokens, tmp_path):
    """Five kills of a whole `longrope search`, the last leaves half a line; then it ends."""
    changes = {"evaluations": 100, "fitness": {"needle": 0.1}, "seed": 5}
    run_stage(model, tokens, tmp_path / "whole", **changes)
    out, trace = tmp_path / "out/factors.json", tmp_path / "out/trace.jsonl"
    state = tmp_path / "out/state/trace.jsonl"
    command = ["search", "--model", model, "--tokens", tokens, "--out", out, "--trace", trace]
    command += ["--state", state.parent, "--settings", settings_of(**changes).model_dump_json()]
    rng = random.Random(9)

    def lines() -> int:
        return state.read_bytes().count(b"\n") if state.exists() else 0

    with Forks() as forks:
        for _ in range(5):
            wanted, before = lines() + rng.randint(1, 30), lines()
            child = forks.start(tmp_path, command)
            deadline = time.monotonic() + 60
            while lines() < wanted and time.monotonic() < deadline:
                time.sleep(rng.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
            assert forks.wait()[0] == -signal.SIGKILL
            assert before < lines() < 200 and not out.exists()
        known = lines()
        with state.open("ab") as file:
            file.write(state.read_bytes().splitlines()[-1][:100])
        (tmp_path / "said.txt").unlink()
        assert forks.run(tmp_path, command)[0] == 0
    said = (tmp_path / "said.txt").read_text()
    assert "search for 256" in said and f"from {known}/200" in said
    assert lines_of(trace) == lines_of(tmp_path / "whole/trace.jsonl")
    ours, theirs = (read_json(path) for path in (out, tmp_path / "whole/factors.json"))
    for each in (ours, theirs):
        each["provenance"]["seconds"] = 0
    assert ours == theirs


@pytest.mark.parametrize(
    "changes",
    [{"documents": 2}, {"seed": 2}, {"fitness": {"needle": 0.5}}, {"optimiser": SMALL}],
    ids=lambda each: next(iter(each)),
)
def test_progress_of_other_settings_is_not_taken_up(changes, model, tokens, tmp_path):
    before = {"documents": 1, "evaluations": 6}
    run_stage(model, tokens, tmp_path, **before)
    other = run_stage(model, tokens, tmp_path, **(before | changes))
    fresh = run_stage(model, tokens, tmp_path / "fresh", **(before | changes))
    assert other == fresh
    assert other.provenance["validation_losses"] == fresh.provenance["validation_losses"]
    assert lines_of(tmp_path / "trace.jsonl") == lines_of(tmp_path / "fresh/trace.jsonl")


def test_without_lambda_every_n_hat_is_tried_on_every_start(model, tokens, tmp_path):
    """The paper's Table 2: PI and its like, from different numbers of untouched tokens on."""
    optimiser = Evolution(name="evolution", starts=["pi", "ntk"])
    changes = {
        "space": {"kind": "paper", "vary": ["n_hat"]},
        "optimiser": optimiser,
        "evaluations": 40,
    }
    factors = run_stage(model, tokens, tmp_path, documents=1, **changes)
    lines, rope = lines_of(tmp_path / "trace.jsonl"), read_record(model).rope
    n_hats = [0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256]
    assert [line["n_hat"] for line in lines] == n_hats * 2
    for line, form in zip(lines, ["pi"] * 14 + ["ntk"] * 14, strict=True):
        assert np.allclose(line["mu"], closed_form(form, rope, 256).lambda_, atol=0.005 + 1e-9)
        assert line["start"] == f"{form}, n_hat {line['n_hat']}"
    assert factors.n_hat == min(lines, key=lambda line: line["fitness"])["n_hat"]
    assert factors.provenance["optimiser"] == "every n_hat"
    assert factors.provenance["scores"] == 28


def test_without_n_hat_it_is_0(model, tokens, tmp_path):
    factors = run_stage(model, tokens, tmp_path, space={"kind": "paper", "vary": ["lambda"]})
    assert factors.n_hat == 0
    assert {line["n_hat"] for line in lines_of(tmp_path / "trace.jsonl")} == {0}


def test_a_searched_attention_factor_ends_in_the_file(model, tokens, tmp_path):
    factors = run_stage(model, tokens, tmp_path, attention_factor="search", documents=1)
    lines = lines_of(tmp_path / "trace.jsonl")
    best = min(lines, key=lambda line: line["fitness"])
    assert factors.attention_factor == best["attention"]
    assert len({line["attention"] for line in lines}) > 5
    starts = {line["start"]: line["attention"] for line in lines if line["start"]}
    assert starts["pi"] == 1 and starts["pi, tempered"] == starts["yarn"] == 1.14  # 0.1 ln 4 + 1
    fixed = run_stage(model, tokens, tmp_path / "fixed", attention_factor="yarn")
    assert fixed.attention_factor == pytest.approx(1 + 0.1 * math.log(4))


def test_a_critical_search_starts_from_every_pair_and_names_the_one_it_found(
    model, tokens, tmp_path
):
    space = CriticalSpace(kind="critical")
    factors = run_stage(model, tokens, tmp_path, space=space, documents=1)
    lines = lines_of(tmp_path / "trace.jsonl")
    starts = [line for line in lines if (line["start"] or "").startswith("critical pair")]
    # Window 64, d = 16: 64 / (2 pi 10000^(i/8)) turns are 10.2 at i = 0, 3.2, 1.02, 0.3 at i = 3.
    assert [line["critical"] for line in starts] == [1, 1, 2, 2, 3, 3]
    for line in starts:  # LongRoPE2's initial population: one value from the pair on, in [s, 2 s]
        (value,) = set(line["mu"][line["critical"] :])
        assert value == 4 if line in starts[::2] else 4 < value <= 8
    best = min(lines, key=lambda line: line["fitness"])
    assert factors.provenance["critical_pair"] == best["critical"]
    assert factors.lambda_ == tuple(best["mu"])


def test_a_second_search_stays_on_multiples_of_the_tuned_factors(tuned, tokens, tmp_path):
    factors = run_stage(tuned, tokens, tmp_path)
    before = read_factors(tuned / "tuned_factors.json")
    hundredths = 100 * np.array(factors.lambda_) / before.lambda_
    assert np.allclose(hundredths, np.rint(hundredths), atol=1e-6)
    assert np.all(np.diff(hundredths) >= -1e-6)
    assert hundredths.min() >= 100 - 1e-6 and hundredths.max() <= 250 + 1e-6  # 1.25 x 2
    assert factors.provenance["multiplies"] == 128 and factors.provenance["weights"] == "tuned"
    assert factors.attention_factor == 1.2  # `none` adds nothing to the tuned one


def test_a_recovery_searches_absolute_factors_for_a_short_window(tuned, tokens, tmp_path):
    factors = run_stage(tuned, tokens, tmp_path, window=WINDOW, recovery=True)
    assert (factors.method, factors.window) == ("recovery", WINDOW)
    assert max(factors.lambda_) <= 2.2 and factors.provenance["multiplies"] is None
    hundredths = 100 * np.array(factors.lambda_)
    assert np.allclose(hundredths, np.rint(hundredths), atol=1e-9)
    starts = [line for line in lines_of(tmp_path / "trace.jsonl")[::2] if line["start"]]
    assert [line["start"] for line in starts] == [
        f"tuned^{power}" for power in ("0", "0.25", "0.5", "0.75", "1")
    ]
    assert starts[0]["mu"] == [1] * PAIRS and {line["n_hat"] for line in starts} == {4}
    assert starts[-1]["mu"] == [1.0, 1.0, 1.1, 1.37, 1.5, 1.9, 2.2, 2.2]
    assert starts[2]["mu"][-1] == round(math.sqrt(2.2), 2)


def test_a_second_search_can_start_from_factors_of_a_shorter_window(tuned, tokens, tmp_path):
    run_stage(tuned, tokens, tmp_path / "192", window=3 * WINDOW, evaluations=12)
    warm = tmp_path / "192/factors.json"
    run_stage(tuned, tokens, tmp_path / "warm", warm=warm, evaluations=12)
    run_stage(tuned, tokens, tmp_path / "cold", evaluations=12)
    for name, origins in (("warm", ["128", "192"]), ("cold", ["128"])):
        lines = lines_of(tmp_path / name / "trace.jsonl")
        starts = {line["start"]: line for line in lines if line["start"]}
        forms = ["pi", "ntk", "yarn", "mrrope-pro", "llama3"]
        # One that is the same as another is kept once; of 10, at least those of the tuned window.
        expected = [f"{form} from {origin}" for origin in origins for form in forms]
        assert set(starts) <= set(expected) and set(expected[:5]) & set(starts)
    lines = lines_of(tmp_path / "warm/trace.jsonl")
    warmed = next(line for line in lines if line["start"] == "pi from 192")
    tuned_lambda = np.array(read_factors(tuned / "tuned_factors.json").lambda_)
    expected = np.array(read_factors(warm).lambda_) * 256 / 192 / tuned_lambda
    assert np.allclose(warmed["mu"], np.maximum.accumulate(expected), atol=0.005 + 1e-9)


@pytest.mark.parametrize(
    ("weights", "changes", "says"),
    [
        ("base", {"window": WINDOW}, "must be above that of the weights, 64"),
        ("tuned", {"window": 2 * WINDOW}, "must be above that of the weights, 128"),
        ("tuned", {"window": 2 * WINDOW, "recovery": True}, "must be below the tuned one, 128"),
        ("base", {"window": 32, "recovery": True}, "recovery is for fine-tuned weights"),
        (
            "tuned",
            {"window": WINDOW, "recovery": True, "space": CriticalSpace(kind="critical")},
            "the paper's space only",
        ),
        (
            "tuned",
            {"window": WINDOW, "recovery": True, "fitness": {"long_tokens": 1}},
            "no longer context than the 128 of the weights",
        ),
        ("base", {"space": CriticalSpace(kind="critical", pair=99)}, "the model's last pair is"),
        (
            "base",
            {"space": {"kind": "paper", "vary": ["n_hat"]}, "optimiser": CMA},
            "evaluations = 20: .* tries 70 candidates.*; set evaluations: 70",
        ),
        ("base", {"documents": 9}, "needs 9 documents of at least 256 tokens, there are 2"),
        ("base", {"window": 8192}, "at least 8,192 tokens, there are 0"),
        ("base", {"fitness": {"long_tokens": 1, "helped_by": 99}}, "lower fitness.helped_by"),
    ],
)
def test_a_search_that_cannot_be_made_says_why(weights, changes, says, request, tokens, tmp_path):
    checkpoint = request.getfixturevalue("model" if weights == "base" else weights)
    with pytest.raises(UserError, match=says):
        run_stage(checkpoint, tokens, tmp_path, **changes)
    assert not (tmp_path / "factors.json").exists()


def test_tokens_of_another_tokenizer_are_refused(model, tokens, tmp_path):
    shutil.copytree(tokens, tmp_path / "tokens")
    manifest = read_json(tmp_path / "tokens/manifest.json")
    manifest["tokenizer"] = "0123456789abcdef"
    (tmp_path / "tokens/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="tokenizer"):
        run_stage(model, tmp_path / "tokens", tmp_path)


def test_warm_factors_of_another_model_are_refused(tuned, tokens, tmp_path):
    other = Rope("other", 10000.0, 2 * PAIRS, WINDOW, "0123456789abcdef")
    write_factors(tmp_path / "warm.json", closed_form("pi", other, 2 * WINDOW))
    with pytest.raises(UserError, match="for model 'other' with fingerprint"):
        run_stage(tuned, tokens, tmp_path, warm=tmp_path / "warm.json")
