"""
What the default study's extended model is once it is exported, asserted on a real run.

    snakemake --cores all && pytest tests/study/test_exports.py

Around the end of every tier, in processes in which longrope cannot be imported; and in transformers
4.57 and llama.cpp, where the variables that tests/environments.sh names are set. The same by number
and for more engines: docs/results/export-engines.md.
"""

import sys
from pathlib import Path

import pytest

from export_runners import NEW
from exports import (
    export,
    furthest,
    own,
    own_generated,
    prompts_around,
    python_with,
    run,
    text_of,
)
from longrope.extended import read_tiers

PLACE = Path(__file__).parents[2] / "results/tiny/longrope-2k"
MODEL, FACTORS = PLACE / "model", PLACE / "extended/extended.json"
SAME = 1e-4  # nats
BATCHED = 5000  # tokens: a padded batch holds T x T scores of every row
ANGLE = 4e-7  # nats a token of the text, where an engine's angles are float32: they err with it
VERSIONS = ["transformers 5", "transformers 4.57"]


def python_of(version: str) -> str:
    return sys.executable if version == "transformers 5" else python_with(version)


@pytest.fixture(scope="module")
def windows() -> list[int]:
    assert FACTORS.exists(), "run the default study first: snakemake --cores all"
    return [each.window for each in read_tiers(FACTORS).factors]


@pytest.fixture(scope="module")
def text(windows) -> list[int]:
    return text_of(MODEL, windows[-1] + 1)


@pytest.fixture(scope="module")
def native(tmp_path_factory, windows) -> Path:
    out = tmp_path_factory.mktemp("native") / "export"
    export(MODEL, FACTORS, out)
    return out


@pytest.fixture(scope="module")
def full(tmp_path_factory, windows) -> Path:
    out = tmp_path_factory.mktemp("full") / "export"
    export(MODEL, FACTORS, out, "full")
    return out


@pytest.fixture(scope="module")
def pinned(windows, text) -> dict[int, object]:
    """The project's own with the table of the longest window, by length."""
    prompts = prompts_around(windows, text)
    return dict(zip(map(len, prompts), own(MODEL, FACTORS, prompts, windows[-1]), strict=True))


@pytest.fixture(scope="module")
def tiered(windows, text) -> dict[int, object]:
    """The same, each length with its own tier."""
    prompts = prompts_around(windows, text[: windows[-1]])
    return dict(zip(map(len, prompts), own(MODEL, FACTORS, prompts), strict=True))


def allowed(length: int) -> float:
    """What an engine with float32 angles may differ by; with angles in float64 it is SAME."""
    return max(SAME, ANGLE * length)


def differences(runner: str, folder: Path, text: list, expected: dict, place, version=VERSIONS[0]):
    """By length."""
    prompts = [text[:length] for length in expected]
    found = run(runner, folder, prompts, place, python_of(version))
    pairs = zip(found, expected.values(), strict=True)
    return {len(prompt): furthest([a], [b]) for prompt, (a, b) in zip(prompts, pairs, strict=True)}


@pytest.mark.parametrize(
    ("runner", "version"),
    [("transformers", VERSIONS[0]), ("transformers", VERSIONS[1]), ("chunks", VERSIONS[0])],
)
def test_one_table_is_that_table_around_every_tier(
    native, text, windows, pinned, tmp_path, runner, version
):
    found = differences(runner, native, text, pinned, tmp_path, version)
    assert len(found) == 3 * len(windows)
    assert all(each < allowed(length) for length, each in found.items()), found


def test_what_one_table_differs_by_is_transformers_angles_in_float32(
    native, text, windows, pinned, tmp_path
):
    few = {window: pinned[window] for window in windows}
    angles = differences("angles64", native, text, few, tmp_path / "angles")
    exact = differences("float64", native, text, few, tmp_path / "float64")
    assert max(angles.values()) < SAME, angles
    assert max(exact.values()) < SAME, exact


@pytest.mark.parametrize("version", VERSIONS)
def test_the_form_full_has_the_tier_of_every_length(full, text, windows, tiered, tmp_path, version):
    found = differences("trusted", full, text, tiered, tmp_path, version)
    assert len(found) == 3 * len(windows) - 1 and max(found.values()) < SAME, found


@pytest.mark.parametrize("version", VERSIONS)
def test_lengths_are_mixed_in_a_batch(
    native, full, text, windows, pinned, tiered, tmp_path, version
):
    mixed = [length for length in tiered if length - 1 in windows and length < BATCHED]
    few = {length: tiered[length] for length in mixed}
    found = differences("trusted_batch", full, text, few, tmp_path / "full", version)
    assert max(found.values()) < SAME, found
    few = {length: pinned[length] for length in mixed}
    found = differences("batch", native, text, few, tmp_path / "native", version)
    assert all(each < allowed(length) for length, each in found.items()), found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("form", ["native", "full"])
def test_a_text_that_is_generated_across_a_tier_is_the_projects(
    request, text, windows, tmp_path, form, version
):
    prompts = [text[: window - NEW // 2] for window in windows[:-1]]
    window, runner = (windows[-1], "generated") if form == "native" else (None, "trusted_generated")
    folder = request.getfixturevalue(form)
    found = run(runner, folder, prompts, tmp_path, python_of(version))
    expected = own_generated(MODEL, FACTORS, prompts, window)
    assert furthest(found, expected) < (allowed(windows[-2]) if form == "native" else SAME)


def test_llama_cpp_gives_the_same_at_short_and_at_long_texts(text, pinned, tmp_path, windows):
    python = python_with("xllamacpp")
    export(MODEL, FACTORS, tmp_path / "export", "gguf", dtype="float32")
    for length in (windows[0], windows[-2]):
        found = run("llama_cpp", tmp_path / "export/model.gguf", [text[:length]], tmp_path, python)
        assert furthest(found, [pinned[length]]) < allowed(length)
