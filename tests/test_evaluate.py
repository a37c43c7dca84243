"""Perplexity and passkey retrieval against transformers' own loss, plain loops and the paper."""

import json
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaTokenizer

from conftest import BOOKS, WINDOW
from helpers import Killed, lines_of
from longrope import portions
from longrope.config import FolderModel
from longrope.config.evaluation import PasskeyStage, PerplexityStage
from longrope.corpus.tokens import TokenSplit, tokenizer_fingerprint
from longrope.errors import UserError
from longrope.evaluate import passkey, perplexity, records
from longrope.evaluate.passkey import evaluate_passkey
from longrope.evaluate.perplexity import evaluate_perplexity, plan, slide
from longrope.factors import RescaleFactors, write_factors
from longrope.files import read_json, sha256_of, write_json
from longrope.models.checkpoint import METADATA, load_model
from longrope.models.import_model import import_model
from longrope.passkey import PasskeyWriter, random_key
from longrope.rope import install

SETTINGS = BOOKS.parent / "paper" / "settings.yaml"
TEMPLATE = yaml.safe_load(SETTINGS.read_text())["evaluation"]["passkey_template"]
FILLER = re.search(r"\{filler: (.*)\}", TEMPLATE).group(1)


@pytest.fixture
def factors(rope, tmp_path):
    """Writes the factors of linear interpolation (PI) by s, 1 being the model as it is."""

    def write(s: int, window: int = WINDOW):
        path = tmp_path / f"pi-{s}-{window}.json"
        write_factors(path, RescaleFactors(rope, window, "pi", (float(s),) * rope.pairs))
        return path

    return write


@pytest.fixture
def measure(model_folder, tokens, factors, tmp_path):
    """Evaluates perplexity; returns the file that it writes."""

    def run(
        windows,
        stride=None,
        paths=None,
        split=None,
        state="state",
        model=model_folder,
        mode="stride",
    ):
        stage = PerplexityStage(
            evaluation="books", method="pi", windows=windows, stride=stride, mode=mode
        )
        out = tmp_path / "out.json"
        split, paths = split or tokens["test"], paths or [factors(1)]
        evaluate_perplexity(stage, model, split, paths, out, tmp_path / state)
        return json.loads(out.read_text())

    return run


def in_float64(model_folder, s: float = 1.0):
    """The tiny model by transformers alone, stretched by its own linear scaling."""
    model = AutoModelForCausalLM.from_pretrained(
        model_folder,
        dtype=torch.float64,
        rope_parameters={"rope_type": "linear", "rope_theta": 10_000.0, "factor": s},
    )
    return model.eval()


def documents_of(folder) -> dict[str, torch.Tensor]:
    return {each.id: torch.from_numpy(each.tokens.astype(np.int64)) for each in TokenSplit(folder)}


def write_split(folder, documents: list[list[int]], tokenizer: str):
    """A split of a tokenised corpus by hand."""
    folder.mkdir(parents=True)
    np.concatenate(documents).astype(np.uint16).tofile(folder / "tokens.bin")
    offsets = np.cumsum([0, *map(len, documents)]).tolist()
    manifest = {
        "schema": 1,
        "split": "test",
        "sha256": sha256_of(folder / "tokens.bin"),
        "tokens": offsets[-1],
        "dtype": "uint16",
        "tokenizer": tokenizer,
        "documents": [
            {"id": f"document-{number}", "offset": offset, "tokens": len(tokens)}
            for number, (offset, tokens) in enumerate(zip(offsets, documents, strict=False))
        ],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


# --- which tokens are scored ----------------------------------------------------------------


@given(st.integers(2, 40), st.integers(1, 6), st.integers(0, 100), st.data())
def test_windows_score_every_token_of_a_stretch_once_whatever_the_stride(length, count, more, data):
    stride = data.draw(st.integers(1, length - 1))
    tokens = length * count + more
    windows = slide(tokens, length, count, stride)
    scored = [
        position
        for window in windows
        for position in range(window.start + length - window.scored, window.start + length)
    ]
    first = scored[0] - 1
    assert scored == list(range(first + 1, first + 1 + len(scored)))  # each once, none left out
    assert first >= 0
    assert scored[-1] < tokens
    assert 0 <= count * length - 1 - len(scored) < stride  # what no whole stride fits in is left
    assert abs(first - (tokens - first - count * length)) <= 1  # the stretch is in the middle
    assert all(window.scored == stride for window in windows[1:])


@given(st.integers(2, 40), st.integers(1, 6), st.integers(0, 100))
def test_without_stride_windows_touch_and_never_overlap(length, count, more):
    windows = slide(length * count + more, length, count, length)
    assert len(windows) == count
    starts = [window.start for window in windows]
    assert starts == list(range(starts[0], starts[0] + count * length, length))
    assert starts[0] >= 0
    assert starts[-1] + length <= length * count + more
    assert {window.scored for window in windows} == {length - 1}


@pytest.mark.parametrize(("length", "wanted"), [(64, 3), (64, 10), (500, 4), (512, 13), (2000, 3)])
def test_windows_are_dealt_to_documents_in_turn_as_far_as_each_has_room(tokens, length, wanted):
    split = TokenSplit(tokens["test"])
    dealt = plan(
        split, length, PerplexityStage(evaluation="books", method="pi", windows={length: wanted})
    )
    counts = {document.id: len(windows) for document, windows in dealt}
    room = {each.id: len(each.tokens) // length for each in split}
    assert sum(counts.values()) == wanted
    assert all(counts[id_] <= room[id_] for id_ in counts)
    most = max(counts.values())
    assert all(counts.get(id_, 0) >= min(room[id_], most - 1) for id_ in room)


@pytest.mark.parametrize("mode", ["stride", "truncate"])
def test_the_same_long_documents_are_taken_at_every_length(tmp_path, mode):
    lengths = [300, 90, 700, 800]  # of the documents, in their order
    split = TokenSplit(write_split(tmp_path / "split", [[1] * n for n in lengths], "any"))
    stage = PerplexityStage(
        evaluation="books",
        method="none",
        windows={64: 2, 256: 2},
        documents=2,
        at_least=256,
        mode=mode,
    )
    for length in stage.windows:
        chosen = [document.id for document, _ in plan(split, length, stage)]
        assert chosen == ["document-0", "document-2"]
    with pytest.raises(UserError, match="at least 1,024 tokens"):
        plan(split, 64, stage.model_copy(update={"at_least": 1024}))


@pytest.mark.parametrize(
    ("windows", "stride", "message"),
    [
        (
            {8192: 1},
            None,
            r"8,192 tokens wants 1 windows .* its 0 documents of at least 8,192 tokens have 0",
        ),
        ({64: 1000}, None, "wants 1000 windows"),
        ({512: 15}, None, "its 2 documents of at least 512 tokens have 13"),
        ({1: 1}, None, "token"),
    ],
)
def test_what_the_documents_cannot_give_is_one_clear_error(measure, windows, stride, message):
    with pytest.raises(UserError, match=message):
        measure(windows, stride)


# --- perplexity -----------------------------------------------------------------------------


@torch.no_grad()
def test_the_loss_of_a_window_is_the_loss_that_transformers_computes(measure, model_folder, tokens):
    found, reference = measure({WINDOW: 3})["records"], in_float64(model_folder)
    assert [record["document"] for record in found] == list(documents_of(tokens["test"]))
    for record, document in zip(found, documents_of(tokens["test"]).values(), strict=True):
        start = (len(document) - WINDOW) // 2
        ids = document[None, start : start + WINDOW]
        loss = reference(input_ids=ids, labels=ids).loss.item()
        assert record["windows"] == [[start, WINDOW - 1, pytest.approx(loss, rel=1e-5)]]
        assert record["loss"] == pytest.approx(loss, rel=1e-5)
        assert record["tokens"] == WINDOW - 1


def test_truncated_perplexity_is_that_of_the_first_window_of_each_document(
    measure, model_folder, tokens
):
    """One window at the start of each of the first documents, all of its tokens but the first."""
    found = measure({WINDOW: 2}, mode="truncate")["records"]
    reference = in_float64(model_folder)
    texts = list(documents_of(tokens["test"]).items())[:2]
    assert [record["document"] for record in found] == [id_ for id_, _ in texts]
    for record, (_, ids) in zip(found, texts, strict=True):
        ids = ids[None, :WINDOW]
        assert record["loss"] == pytest.approx(reference(ids, labels=ids).loss.item(), rel=1e-5)
        assert record["windows"][0][:2] == [0, WINDOW - 1] and record["tokens"] == WINDOW - 1


@torch.no_grad()
@pytest.mark.parametrize(("length", "count", "stride"), [(128, 2, 32), (96, 4, 24), (128, 3, 1)])
def test_perplexity_with_a_stride_is_that_of_a_plain_loop_in_float64(
    length, count, stride, measure, model_folder, tokens, factors, tmp_path
):
    document = documents_of(tokens["test"])["hamlet"][:500].tolist()
    split = write_split(tmp_path / "split", [document], TokenSplit(tokens["test"]).tokenizer)
    found = measure({length: count}, stride, [factors(2, length)], split)["records"]
    model, losses = in_float64(model_folder, 2.0), []
    first = (500 - count * length) // 2
    for position in range(first + 1, first + count * length):
        # The earliest window on the grid of strides that reaches the position.
        start = first + -(-max(0, position - first - length + 1) // stride) * stride
        ids = torch.tensor([document[start : position + 1]])
        losses.append(-model(ids[:, :-1]).logits[0, -1].log_softmax(-1)[ids[0, -1]].item())
    assert [record["tokens"] for record in found] == [len(losses)]
    assert found[0]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_perplexity_returned_weighs_every_token_alike(model_folder, tokens, factors, tmp_path):
    stage = PerplexityStage(evaluation="books", method="pi", windows={WINDOW: 11, 128: 5})
    where = model_folder, tokens["test"], [factors(1)], tmp_path / "out.json", tmp_path / "state"
    values = evaluate_perplexity(stage, *where)
    records = json.loads((tmp_path / "out.json").read_text())["records"]
    for length, label in ((WINDOW, "64"), (128, "128")):
        windows = [each for one in records if one["length"] == length for each in one["windows"]]
        losses = np.repeat([loss for *_, loss in windows], [scored for _, scored, _ in windows])
        assert values[f"perplexity_{label}"] == pytest.approx(np.exp(losses.mean()))


def test_every_length_runs_with_its_own_tier_and_beyond_the_last_with_the_last(
    measure, model_folder, tokens, factors
):
    paths = [factors(4, 256), factors(1, WINDOW)]
    found = measure({32: 1, WINDOW: 1, WINDOW + 1: 1, 256: 1, 300: 1}, paths=paths)
    document = documents_of(tokens["test"])["emma"]
    for record, s in zip(found["records"], (1, 1, 4, 4, 4), strict=True):
        length, model = record["length"], in_float64(model_folder, s)
        start = (len(document) - length) // 2
        ids = document[None, start : start + length]
        with torch.no_grad():
            assert record["loss"] == pytest.approx(model(ids, labels=ids).loss.item(), rel=1e-5)
    assert found["factors"]["300"]["window"] == 256
    assert found["factors"]["64"]["window"] == WINDOW


@pytest.mark.parametrize(
    ("step", "near"), [(1, True), (0, False), (2, False), (-1, False)], ids="+1 0 +2 -1".split()
)
def test_a_shift_of_one_token_would_be_noticed(step, near, measure, tokenizer, tmp_path):
    """A model that is certain that 18 follows 17, and no more: of each token it sees only that."""
    size = tokenizer.vocab_size
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=4,
        head_dim=8,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.copy_(5 * torch.eye(size).roll(1, 0))
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    own = tokenizer_fingerprint(tokenizer)
    source = FolderModel(kind="folder", path=str(tmp_path / "saved"))
    record = import_model(source, "counter", WINDOW, tmp_path / "counter")
    write_factors(tmp_path / "own.json", RescaleFactors(record.rope, WINDOW, "none", (1.0,) * 4))
    split = write_split(tmp_path / "split", [[(step * n) % size for n in range(1000)]], own)
    for stride in (None, 16):
        found = measure(
            {WINDOW: 5}, stride, [tmp_path / "own.json"], split, f"{stride}", tmp_path / "counter"
        )
        loss = found["records"][0]["loss"]
        assert loss < 1e-6 if near else loss > 20


def test_the_file_tells_how_it_was_made(measure, tokens, rope):
    found = measure({WINDOW: 2}, 16)
    split = TokenSplit(tokens["test"])
    assert found["protocol"] == {
        "corpus_sha256": split.sha256,
        "split": "test",
        "window": "length",
        "mode": "stride",
        "stride": 16,
        "documents": "all",
        "at_least": "length",
    }
    assert (found["task"], found["model"], found["weights"]) == ("perplexity", "tiny", "base")
    assert found["weights_fingerprint"] == rope.fingerprint
    assert found["amounts"] == {"64": 2}
    assert found["longrope"]


def test_factors_of_another_model_are_not_evaluated(measure, rope, tmp_path):
    other = RescaleFactors(replace(rope, fingerprint="other"), WINDOW, "pi", (1.0,) * 4)
    write_factors(tmp_path / "other.json", other)
    with pytest.raises(UserError, match="fingerprint"):
        measure({WINDOW: 1}, paths=[tmp_path / "other.json"])


# --- going on where it stopped --------------------------------------------------------------


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """The length of every forward pass for a perplexity."""
    seen, real = [], perplexity.token_losses

    def watched(model, ids):
        seen.append(ids.shape[1])
        return real(model, ids)

    monkeypatch.setattr(perplexity, "token_losses", watched)
    return seen


def test_a_killed_evaluation_goes_on_to_the_same_file(measure, passes, tmp_path):
    windows = {32: 2, WINDOW: 3, 128: 1}
    whole = measure(windows, state="whole")
    assert passes == [32] * 2 + [WINDOW] * 3 + [128]
    measure({32: 2, WINDOW: 3}, state="killed")
    with (tmp_path / "killed" / "records.jsonl").open("a") as file:
        file.write('{"key": "half a li')
    passes.clear()
    assert measure(windows, state="killed") == whole
    assert passes == [128]


def dying_after(calls: int, function):
    """The function, killed at the call after so many."""
    done = []

    def until_then(*arguments):
        if len(done) == calls:
            raise Killed
        done.append(1)
        return function(*arguments)

    return until_then


@pytest.mark.parametrize("stride", [None, 20])
def test_an_evaluation_killed_within_a_length_keeps_every_window(
    measure, passes, monkeypatch, stride, capsys
):
    whole = measure({128: 3}, stride, state="whole")
    number = len(passes)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(perplexity, "token_losses", dying_after(2, perplexity.token_losses))
        measure({128: 3}, stride, state="killed")
    passes.clear()
    assert measure({128: 3}, stride, state="killed") == whole
    assert len(passes) == number - 2 > 0
    assert f"perplexity tiny/base pi 128: going on from 2/{number}" in capsys.readouterr().err


def test_a_round_of_one_unit_a_team_is_kept_before_the_next_begins(monkeypatch, tmp_path):
    rounds, path = [], tmp_path / "records.jsonl"

    def deal(items, run):
        rounds.append(len(items))
        return [run(each) for each in items]

    place = SimpleNamespace(teams=2, leads=True, once=lambda run: run(), deal=deal)
    monkeypatch.setattr(records, "here", lambda: place)

    def halves(calls: int) -> list:
        units = records.Units(records.Progressed(path), "key", "toy")
        return units.deal(range(6), dying_after(calls, lambda item: item / 2))

    with pytest.raises(Killed):
        halves(3)
    assert rounds == [2, 2] and len(lines_of(path)) == 2
    rounds.clear()
    assert halves(4) == [0, 0.5, 1, 1.5, 2, 2.5]
    assert rounds == [2, 2] and len(lines_of(path)) == 6


def test_a_length_more_or_less_leaves_the_others_as_they_are(measure, passes):
    before = measure({WINDOW: 3})
    after = measure({32: 1, WINDOW: 3})
    assert [each for each in after["records"] if each["length"] == WINDOW] == before["records"]
    assert passes == [WINDOW] * 3 + [32]
    assert measure({WINDOW: 3}) == before


@pytest.mark.parametrize("change", ["factors", "amount", "stride", "corpus"])
def test_what_would_change_a_value_is_measured_again(measure, passes, tokens, factors, change):
    measure({WINDOW: 2})
    options = {
        "factors": {"paths": [factors(2)]},
        "stride": {"stride": 32},
        "corpus": {"split": tokens["validation"]},
    }.get(change, {})
    windows = {WINDOW: 3 if change == "amount" else 2}
    passes.clear()
    again = measure(windows, **options)
    assert passes
    assert again == measure(windows, **options, state="fresh")


@pytest.mark.parametrize("change", ["config", "precision"])
def test_another_config_or_precision_of_the_same_weights_is_measured_again(
    change, measure, passes, model_folder, tmp_path
):
    model = tmp_path / "model"
    shutil.copytree(model_folder, model)
    measure({WINDOW: 2}, model=model)
    record, config = read_json(model / METADATA), read_json(model / "config.json")
    if change == "config":
        write_json(model / "config.json", config | {"rms_norm_eps": 0.5})
        record["files"]["config.json"] = sha256_of(model / "config.json")
    else:
        record["source"]["precision"] = "bfloat16"
    write_json(model / METADATA, record)
    passes.clear()
    again = measure({WINDOW: 2}, model=model)
    assert passes and again == measure({WINDOW: 2}, model=model, state="fresh")
    assert again["ran_in"]["precision"] == ("float32" if change == "config" else "bfloat16")


def test_the_same_tokens_in_other_documents_are_measured_again(measure, tokens, tmp_path):
    """As after a change of join_to: the tokens of the split stay, where documents end does not."""
    ids = documents_of(tokens["test"])["hamlet"][:900].tolist()
    own = TokenSplit(tokens["test"]).tokenizer
    apart = write_split(tmp_path / "apart", [ids[:400], ids[400:]], own)
    joined = write_split(tmp_path / "joined", [ids], own)
    measure({128: 2}, split=apart)
    assert measure({128: 2}, split=joined) == measure({128: 2}, split=joined, state="fresh")


# --- passkey documents ----------------------------------------------------------------------


def prompts_of(tokenizer, length: int, number: int = 1, kind: str = "digits-5"):
    rng, writer = np.random.default_rng(length), PasskeyWriter(tokenizer)
    return [writer.write(length, random_key(kind, rng), rng) for _ in range(number)]


def assert_papers_template(text: str, key: str) -> None:
    """Line by line to the letter; only after the key may a filler be cut, at its beginning."""
    expected = TEMPLATE.rstrip("\n").split("\n")
    intro, before, statement, after, question = text.split("\n")
    assert intro == expected[0]
    assert statement == expected[2].format(key=key)
    assert question == expected[4]
    before, after = before.removesuffix(" "), after.removesuffix(" ")
    assert before == " ".join([FILLER] * before.count("The grass"))
    assert " ".join([FILLER] * 200).endswith(after)


@pytest.mark.parametrize("length", [200, 256, 333, 512, 1000])
@pytest.mark.parametrize("kind", ["digits-5", "digits-1", "word"])
def test_a_passkey_document_is_the_papers_to_the_letter_and_the_token(tokenizer, length, kind):
    for prompt in prompts_of(tokenizer, length, 10, kind):
        assert len(prompt.prompt) + len(prompt.answer) == length
        text = tokenizer.decode(prompt.prompt, skip_special_tokens=True)
        assert_papers_template(text, prompt.key)
        if kind == "digits-5":
            assert re.findall(r"\d+", text) == [prompt.key] * 2
        whole = tokenizer.decode(np.concatenate([prompt.prompt, prompt.answer]))
        assert whole.endswith(f"\nWhat is the pass key? The pass key is {prompt.key}")
        assert prompt.prompt[0] == tokenizer.bos_token_id


def test_sentencepiece_tokenizers_get_the_papers_template_too():
    """LLaMA2 and Mistral put a blank before whatever they encode: pieces must not keep it."""
    tokenizer = sentencepiece_like()
    for prompt in prompts_of(tokenizer, 600, 5):
        assert len(prompt.prompt) + len(prompt.answer) == 600
        text = tokenizer.decode(prompt.prompt, skip_special_tokens=True)
        assert_papers_template(text, prompt.key)


def sentencepiece_like() -> LlamaTokenizer:
    """transformers' Llama tokenizer with a small vocabulary of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE(byte_fallback=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    trained.train_from_iterator([*TEMPLATE.split("\n"), "0 1 2 3 4 5 6 7 8 9"], trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return LlamaTokenizer(vocab=model["vocab"], merges=merges)


def test_keys_stand_at_every_depth(tokenizer):
    prompts = prompts_of(tokenizer, 2048, 300)
    depths = np.array([prompt.depth for prompt in prompts])
    counts, _ = np.histogram(depths, bins=5, range=(0, 1))
    assert depths.min() == 0
    assert depths.max() == 1
    assert counts.min() > 30
    for prompt in prompts[:20]:  # the depth noted is where the key stands
        text = tokenizer.decode(prompt.prompt)
        assert text.index(prompt.key) / len(text) == pytest.approx(prompt.depth, abs=0.15)


def test_five_digit_keys_are_five_digits_and_all_of_them_occur():
    rng = np.random.default_rng(0)
    keys = [random_key("digits-5", rng) for _ in range(5000)]
    assert {len(key) for key in keys} == {5}
    assert {key[0] for key in keys} == set("123456789")
    assert {random_key("digits-1", rng) for _ in range(500)} == set("123456789")


def test_a_window_too_short_for_a_document_is_one_clear_error(tokenizer):
    shortest = next(n for n in range(40, 300) if can_write(tokenizer, n))
    prompt = prompts_of(tokenizer, shortest)[0]
    assert len(prompt.prompt) + len(prompt.answer) == shortest
    with pytest.raises(UserError, match=f"takes {shortest} tokens, the window has"):
        prompts_of(tokenizer, shortest - 1)


def can_write(tokenizer, length: int) -> bool:
    try:
        return bool(prompts_of(tokenizer, length))
    except UserError:
        return False


# --- passkey retrieval ----------------------------------------------------------------------


@pytest.fixture
def retrieve(model_folder, factors, tmp_path):
    """Tests retrieval; returns the accuracies and the file."""

    def run(prompts, method="pi", paths=None, model=model_folder, state="state"):
        stage = PasskeyStage(
            evaluation="passkey", method=method, prompts=prompts, key="digits-5", seed=7
        )
        out = tmp_path / "out.json"
        state = tmp_path / state / method
        values = evaluate_passkey(stage, model, paths or [factors(1)], out, state)
        return values, json.loads(out.read_text())

    return run


@pytest.fixture
def rigged(monkeypatch, tokenizer):
    """A model whose answers are given by a function of the key; notes what it was asked."""
    asked = []

    def rig(answer):
        def load(folder):
            model = load_model(folder)

            def generate(input_ids, generation_config, **_):
                max_new_tokens = generation_config.max_new_tokens
                (used,) = model.model.rotary_emb.factors
                asked.append((input_ids.shape[1] + max_new_tokens, used.window))
                keys = [re.search(r"key is (\d+)", tokenizer.decode(ids))[1] for ids in input_ids]
                new = [tokenizer.encode(" " + answer(key))[:max_new_tokens] for key in keys]
                new = [ids + [tokenizer.eos_token_id] * (max_new_tokens - len(ids)) for ids in new]
                return torch.cat([input_ids, torch.tensor(new)], dim=1)

            model.generate = generate
            return model

        monkeypatch.setattr(passkey, "load_model", load)
        return asked

    return rig


@pytest.mark.parametrize(
    ("answer", "accuracy"),
    [
        (lambda key: key, 1.0),
        (lambda key: key[::-1] if key != key[::-1] else "0", 0.0),
        (lambda key: key[:4], 0.0),  # an end too early
        (lambda key: "0" + key, 0.0),
        (lambda key: "the " + key, 0.0),
        (lambda key: key[:4] + str((int(key[4]) + 1) % 10), 0.0),  # the last digit is wrong
    ],
    ids=["right", "reversed", "too-short", "shifted", "after-a-word", "last-digit"],
)
def test_only_the_key_itself_counts_as_found(retrieve, rigged, answer, accuracy):
    rigged(answer)
    values, found = retrieve({256: 6, 300: 4})
    assert values == {"accuracy_256": accuracy, "accuracy_300": accuracy}
    for record, prompts in zip(found["records"], (6, 4), strict=True):
        assert (record["prompts"], record["found"]) == (prompts, prompts * accuracy)


def test_accuracy_is_the_share_of_keys_found(retrieve, rigged):
    rigged(lambda key: key if int(key) % 2 else "0")
    values, found = retrieve({256: 20})
    odd = sum(int(trial["key"]) % 2 for trial in found["records"][0]["trials"])
    assert 0 < odd < 20
    assert values == {"accuracy_256": odd / 20}


def test_prompt_and_answer_have_the_length_tested_and_its_tier(retrieve, rigged, factors):
    asked = rigged(lambda key: key)
    retrieve({192: 2, 256: 2, 257: 2}, paths=[factors(4, 256), factors(8, 512)])
    assert set(asked) == {(192, 256), (256, 256), (257, 512)}


def test_every_method_is_asked_for_the_same_keys_in_the_same_places(retrieve, factors):
    _, one = retrieve({192: 5, 300: 3}, "none", [factors(1)])
    _, two = retrieve({300: 3, 192: 5}, "pi", [factors(4, 256)])
    _, three = retrieve({192: 5}, "ntk", [factors(2, 128)])

    def asked(found, length):
        trials = [each["trials"] for each in found["records"] if each["length"] == length]
        return [(trial["key"], trial["depth"]) for trial in trials[0]]

    assert asked(one, 192) == asked(two, 192) == asked(three, 192)
    assert asked(one, 300) == asked(two, 300)
    assert len(set(asked(one, 192))) == 5
    assert asked(one, 192)[:3] != asked(one, 300)


def test_answers_are_the_greedy_continuation_at_the_tier_of_the_whole(
    retrieve, model_folder, tokenizer, factors
):
    _, found = retrieve({192: 3}, paths=[factors(4, 256)])
    trials = {trial["key"]: trial["answer"] for trial in found["records"][0]["trials"]}
    writer, model = PasskeyWriter(tokenizer), in_float64(model_folder, 4.0)
    rng = np.random.default_rng([7, 192])
    for _ in range(3):
        prompt = writer.write(192, random_key("digits-5", rng), rng)
        ids = torch.from_numpy(prompt.prompt)[None]
        for _ in prompt.answer:
            with torch.no_grad():
                ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
        text = tokenizer.decode(ids[0, len(prompt.prompt) :], skip_special_tokens=True)
        assert trials[prompt.key] == text.strip()


def test_one_pass_of_prompt_and_key_gives_the_verdicts_of_generation(model, rope, tokenizer):
    """Asked for what the model itself says, for that with one token changed, and for other keys."""
    install(model, rope).use([RescaleFactors(rope, 256, "pi", (4.0,) * rope.pairs)])
    asked = prompts_of(tokenizer, 192, 4)
    for prompt in asked[:4]:
        ids, new = torch.from_numpy(prompt.prompt)[None], len(prompt.answer)
        said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new)
        for changed in (None, 0, new - 1):
            answer = said[0, ids.shape[1] :].numpy().copy()
            if changed is not None:
                answer[changed] = 50 + (answer[changed] == 50)
            text = tokenizer.decode(answer, skip_special_tokens=True).strip()
            asked.append(replace(prompt, answer=answer, key=text))
    generated, together = (
        [trial["found"] for each in asked for trial in answer(model, tokenizer, [each])]
        for answer in (passkey._answer, passkey._answer_together)
    )
    assert generated == together == [False] * 4 + [True, False, False] * 4


def test_a_long_prompt_is_read_off_one_pass_without_a_cache(retrieve, factors, monkeypatch):
    paths, seen, load = [factors(4, 256)], [], passkey.load_model

    def watched(folder):
        model = load(folder)
        model.model.register_forward_pre_hook(
            lambda module, args, given: seen.append((given["input_ids"].shape, given["use_cache"])),
            with_kwargs=True,
        )
        return model

    monkeypatch.setattr(passkey, "load_model", watched)
    prompts = {128: 2, 192: 3}
    _, generated = retrieve(prompts, state="generated", paths=paths)
    assert generated["protocol"]["decoding"] == "greedy" and {each for _, each in seen} == {True}
    monkeypatch.setattr("longrope.portions.WHOLE", 128)
    retrieve({128: 2}, state="long", paths=paths)
    seen.clear()
    _, found = retrieve(prompts, state="long", paths=paths)
    assert seen == [((1, 192), False)] * 3  # what was done of 128 stays
    assert found["protocol"]["decoding"] == "greedy, beyond 128 after the key's own tokens"
    assert found["results"] == generated["results"]


def test_a_checkpoints_own_generation_settings_do_not_change_greedy_answers(
    retrieve, checkpoint, tmp_path
):
    """Qwen's instruction models, for one, come with a repetition penalty."""
    penal = tmp_path / "penal"
    shutil.copytree(checkpoint, penal)
    path = penal / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"repetition_penalty": 2.0}))
    source = FolderModel(kind="folder", path=str(penal))
    import_model(source, "tiny", WINDOW, tmp_path / "penal-model")
    _, plain = retrieve({192: 4})
    _, found = retrieve({192: 4}, model=tmp_path / "penal-model", state="penal")
    assert found["records"] == plain["records"]


def test_a_killed_retrieval_goes_on_to_the_same_file(retrieve, rigged):
    asked = rigged(lambda key: key)
    _, whole = retrieve({192: 2, 256: 3}, state="whole")
    retrieve({192: 2}, state="killed")
    asked.clear()
    assert retrieve({192: 2, 256: 3}, state="killed")[1] == whole
    assert {length for length, _ in asked} == {256}


def test_a_retrieval_killed_within_a_length_keeps_every_batch(retrieve, rigged, monkeypatch):
    monkeypatch.setitem(portions.BATCH_TOKENS, "passkey", 400)  # two prompts
    asked = rigged(lambda key: key if int(key) % 2 else "0")
    _, whole = retrieve({192: 5}, state="whole")
    batches = len(asked)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(passkey, "_answer", dying_after(2, passkey._answer))
        retrieve({192: 5}, state="killed")
    asked.clear()
    assert retrieve({192: 5}, state="killed")[1] == whole
    assert len(asked) == batches - 2 > 0
