"""What happens where memory ends: shorter pieces, the same results, one message, nothing lost."""

import pytest
import torch

from helpers import SPLIT, WINDOW, make_checkpoint, make_tokens, write_excerpts
from longrope.baselines import closed_form
from longrope.cli import main
from longrope.config import PretrainedHere
from longrope.config.corpus import CorpusSettings
from longrope.errors import UserError
from longrope.losses import slice_losses, token_losses
from longrope.memory import is_out_of_memory, within_memory
from longrope.models.checkpoint import load_model, read_record
from longrope.parallel.place import Place
from longrope.pieces import HALVINGS
from longrope.training import gradients
from longrope.training.pretrain import pretrain
from test_training import MICRO, STEPS, batch_at, run, same, tiny_model, tune

CUDA = "CUDA out of memory. Tried to allocate 20.00 GiB"
TOKENS = torch.randint(1, 300, (1, 40), generator=torch.Generator().manual_seed(1))


class Failing:
    """A function that runs out of memory at some of its calls, counted from 0."""

    def __init__(self, function, fails) -> None:
        self.function, self.fails, self.calls = function, fails, 0

    def __call__(self, *arguments, **more):
        self.calls += 1
        if self.fails(self.calls - 1):
            raise torch.OutOfMemoryError(CUDA)
        return self.function(*arguments, **more)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("memory"))


def test_what_an_allocator_says_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError(CUDA)) and is_out_of_memory(MemoryError())
    for other in (RuntimeError("shapes do not match"), ValueError("out of memory")):
        assert not is_out_of_memory(other)


def test_a_score_that_runs_out_of_memory_is_made_in_shorter_pieces(base, capsys):
    model, expected = load_model(base), None
    with torch.no_grad():
        expected = token_losses(model, TOKENS)
        model.model.forward = failing = Failing(model.model.forward, lambda call: call < 2)
        torch.testing.assert_close(token_losses(model, TOKENS), expected)
    assert failing.calls == 3 and model.pieces.halved == 2
    assert capsys.readouterr().err.splitlines() == [
        f"out of memory at 1 x 40 tokens; again in pieces of 1/{part} of the usual length"
        for part in (2, 4)
    ]


@pytest.mark.parametrize(
    ("place", "ranks", "again"),
    [
        (Place(), None, True),
        (Place(world=2), None, True),  # a team of one rank waits for nobody within a score
        (Place(world=2, per_sequence=2), None, False),
        (Place(world=2), 2, False),  # a training, whose weights lie on all
    ],
)
def test_only_a_rank_that_works_alone_tries_again(place, ranks, again, monkeypatch, base):
    monkeypatch.setattr("longrope.parallel.place._here", place)
    model, run = load_model(base), Failing(lambda: 7, lambda call: call == 0)
    if again:
        assert within_memory(model, run, (1, 64), ranks=ranks) == 7
    else:
        with pytest.raises(UserError, match=r"^out of memory at 1 x 64 tokens \(CUDA.*lower"):
            within_memory(model, run, (1, 64), ranks=ranks)
    assert run.calls == 1 + again


def test_where_shorter_pieces_do_not_help_one_message_says_what_to_lower(base):
    model = load_model(base)
    model.model.forward = failing = Failing(model.model.forward, lambda call: True)
    with torch.no_grad(), pytest.raises(UserError) as caught:
        token_losses(model, TOKENS)
    said = str(caught.value)
    assert failing.calls == 1 + HALVINGS and "\n" not in said
    for part in (CUDA, "lower the window", "(now 40 tokens)", "bfloat16", "`longrope plan`"):
        assert part in said


def test_other_errors_are_not_tried_again(base):
    calls = []

    def run():
        calls.append(1)
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        within_memory(load_model(base), run, (1, 40))
    assert len(calls) == 1


@pytest.fixture
def fails(monkeypatch):
    """Lets losses of the training run out of memory at some calls."""

    def at(calls) -> None:
        monkeypatch.setattr(gradients, "slice_losses", Failing(slice_losses, calls))

    return at


def test_a_step_that_runs_out_of_memory_in_its_middle_is_made_again_whole(fails, tmp_path):
    expected = run(tmp_path / "whole", micro_batch=2)
    fails(lambda call: call in (3, 8))  # second half of the second step, first of the fourth
    weights, metrics = run(tmp_path / "failing", micro_batch=2)
    assert same(weights, expected[0]) and metrics == expected[1]


def test_a_training_without_memory_keeps_its_steps_and_goes_on_with_a_lower_micro_batch(
    fails, tmp_path
):
    whole, _metrics = run(tmp_path / "whole")
    fails(lambda call: call >= 6)
    with pytest.raises(UserError, match=r"out of memory at 4 x 12 tokens.*: lower it, or take a"):
        run(tmp_path / "failing", every=100, remedies=["lower it"])
    seen = []
    fails(lambda call: False)

    def noting(step):
        seen.append(step)
        return batch_at(step)

    weights, metrics = run(tmp_path / "failing", noting, micro_batch=1)
    assert seen == list(range(6, STEPS)) and len(metrics) == STEPS
    for name, tensor in weights.items():
        assert torch.allclose(tensor, whole[name], atol=1e-4)


def test_a_tuning_takes_up_its_state_with_another_micro_batch(base, tmp_path, fails, capsys):
    tokens = make_tokens(tmp_path / "data") / "train"
    factors = closed_form("yarn", read_record(base).rope, 128)
    fails(lambda call: call >= 3)
    with pytest.raises(UserError) as caught:
        tune(base, tokens, tmp_path, factors, micro_batch=2)
    tried, ways = str(caught.value).split("): ")
    keys = f"models.{factors.rope.model}.tunings.tuned-128"
    assert tried.startswith("out of memory at 2 x 128 tokens, in pieces of 1/16 of")
    assert ways.startswith(
        f"lower {keys}.micro_batch (now 2), or lower {keys}.length (now 128), or set"
        f" {keys}.checkpointing to true, or train by low-rank changes ({keys}.lora), or take"
    )
    fails(lambda call: False)
    tune(base, tokens, tmp_path, factors, micro_batch=1)
    assert "going on from 3/4" in capsys.readouterr().err


def test_a_pre_training_without_memory_is_told_of_its_own_keys(fails, tmp_path):
    source = {"kind": "text", "files": [write_excerpts(tmp_path / "texts")]}
    corpus = CorpusSettings(source=source, splits=SPLIT)
    settings = PretrainedHere(**MICRO)
    fails(lambda call: True)
    with pytest.raises(UserError) as caught:
        pretrain(settings, corpus, "micro", WINDOW, 1, tmp_path / "model", tmp_path / "state")
    ways = str(caught.value).split("): ")[1]
    assert ways.startswith(
        "lower models.micro.source.tokens_per_step (now 128), or lower the length of its phases (up"
        " to 64), or take a device"
    )


def test_a_training_of_a_plain_model_has_pieces_too(fails, tmp_path):
    assert not hasattr(tiny_model(), "pieces")
    fails(lambda call: call == 0)
    assert len(run(tmp_path)[1]) == STEPS


def test_anywhere_else_a_job_ends_with_one_line(base, monkeypatch, tmp_path, capsys):
    def derive(*_, **__):
        raise torch.OutOfMemoryError(CUDA)

    monkeypatch.setattr("longrope.baselines.closed_form", derive)
    paths = ["--model", str(base), "--out", str(tmp_path / "factors.json")]
    assert main(["derive", "pi", "--window", "128", *paths]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"longrope derive: out of memory ({CUDA})") and said.count("\n") == 1
