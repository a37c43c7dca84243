"""Loading, applying and generating: the same numbers as the parts below, and clear refusals."""

import copy
import dataclasses
import io
import json
import lzma
import shlex
import shutil
import subprocess
import sys
import warnings

import pytest
import torch

import longrope
from conftest import WINDOW
from longrope.baselines import closed_form
from longrope.cli import main
from longrope.errors import UserError
from longrope.extended import make_tiers, read_tiers, write_extended
from longrope.extended_model import ExtendedModel
from longrope.factors import RescaleFactors, Rope, write_factors
from longrope.generate import Decoding, check_room, prompt_text, prompt_tokens, stream
from longrope.models.checkpoint import (
    fingerprint_of,
    load_model,
    load_tokenizer,
    read_record,
    save_model,
)
from longrope.searched_on import check_searched_on
from longrope.use import tiers_from

LONG = 4 * WINDOW


def stretched(rope, window: int = LONG) -> RescaleFactors:
    return RescaleFactors(rope, window, "search", (1.0, 1.5, 2.0, window / WINDOW))


def ids(length: int) -> torch.Tensor:
    return torch.arange(1, length + 1)[None] % 300


@pytest.fixture(scope="module")
def results(model_folder, rope, tmp_path_factory):
    """A folder of results whose weights were tuned, with tiers of 64, 128 and 256 tokens."""
    folder = tmp_path_factory.mktemp("results") / "tiny" / "longrope-256"
    record = read_record(model_folder).tuned_as("longrope-256")
    model = load_model(model_folder)
    with torch.no_grad():
        model.model.norm.weight += 0.1
    middle = dataclasses.replace(stretched(rope, 2 * WINDOW), n_hat=4)
    tiers = make_tiers([stretched(rope, WINDOW), middle, stretched(rope)])
    save_model(model, load_tokenizer(model_folder), folder / "model", record, "float32",
               tiers.longest)  # fmt: skip
    write_extended(folder / "extended", tiers, folder / "model")
    return folder


def test_a_folder_of_results_loads_as_its_parts_do(results):
    model, tokenizer = longrope.load(results)
    expected = ExtendedModel(
        load_model(results / "model"), read_tiers(results / "extended/extended.json")
    )
    for length in (WINDOW, WINDOW + 1, LONG):
        assert model.pin(length) == expected.pin(length)
        with torch.no_grad():
            found, wanted = (each.model(ids(length)).logits for each in (model, expected))
        assert torch.equal(found, wanted)
    assert tokenizer.decode(tokenizer("King Lear").input_ids) == "King Lear"


def test_a_loaded_model_never_turns_by_the_original_rope_unasked(results):
    model, _ = longrope.load(results)
    plain = load_model(results / "model")
    with torch.no_grad():
        found, without = model.model(ids(LONG)).logits, plain(ids(LONG)).logits
        model.pin(LONG)
        assert torch.equal(found, model.model(ids(LONG)).logits)
    assert (found - without).abs().max() > 1e-3


def test_what_was_pinned_stays_pinned_whatever_is_called_in_between(results):
    model, _ = longrope.load(results)
    with torch.no_grad():
        for pin in (lambda: None, lambda: model.pin(WINDOW + 1)):
            pin()
            before = model.model(ids(LONG)).logits
            model(ids(WINDOW))
            model.generate(ids(8), max_new_tokens=2, do_sample=False, pad_token_id=0)
            with pytest.raises(UserError):
                model(ids(LONG), past_key_values=model(ids(8), use_cache=True).past_key_values)
            assert torch.equal(model.model(ids(LONG)).logits, before)


def padded(*lengths: int) -> dict[str, torch.Tensor]:
    """The first tokens of the same sequence, padded on the left to one batch, with its mask."""
    longest = max(lengths)
    rows = [torch.cat([torch.zeros(longest - each, dtype=torch.long), ids(each)[0]])
            for each in lengths]  # fmt: skip
    mask = torch.stack([(torch.arange(longest) >= longest - each).long() for each in lengths])
    return {"input_ids": torch.stack(rows), "attention_mask": mask}


MIXED = (WINDOW - 1, WINDOW, WINDOW + 1, LONG)


def test_each_row_of_a_batch_runs_with_the_factors_of_its_own_length(results):
    model, _ = longrope.load(results)
    with torch.no_grad():
        found = model(**padded(*MIXED)).logits[:, -1]
        for row, length in zip(found, MIXED, strict=True):
            model.pin(length)
            alone = model.model(ids(length)).logits[0, -1]
            torch.testing.assert_close(row, alone, atol=1e-4, rtol=0)
            assert torch.equal(model(ids(length)).logits[0, -1], alone)


@pytest.mark.parametrize(
    "ways", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}]
)
def test_rows_of_a_batch_generate_what_they_do_alone(results, ways):
    model, _ = longrope.load(results)
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, **ways}
    lengths = (WINDOW - 4, WINDOW - 2, 2 * WINDOW)  # of the first tier, the second and the third
    batch = padded(*lengths)
    answers = ways.get("num_return_sequences", 1)
    together = model.generate(batch.pop("input_ids"), **options, **batch)
    for row, length in enumerate(lengths):
        alone = model.generate(ids(length), **options)[:, length:]
        found = together[row * answers : (row + 1) * answers, 2 * WINDOW :]
        assert torch.equal(found, alone)


@pytest.mark.parametrize("width", [WINDOW, 2 * WINDOW])  # of the batch, whose rows are unlike
def test_prompts_are_given_in_any_way_that_transformers_takes(results, width):
    from transformers import GenerationConfig

    model, _ = longrope.load(results)
    batch = padded(WINDOW - 4, width)
    mask, embed = batch["attention_mask"], model.model.get_input_embeddings()
    config = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=0)
    expected = model.generate(**batch, generation_config=config)
    length = {"do_sample": False, "pad_token_id": 0, "max_length": width + 8}
    with torch.no_grad():
        vectors = {"attention_mask": mask, "inputs_embeds": embed(batch["input_ids"])}
        assert torch.equal(model(**vectors).logits, model(**batch).logits)
    assert torch.equal(model.generate(inputs=batch.pop("input_ids"), **batch, **length), expected)
    found = model.generate(**vectors, generation_config=config)
    assert torch.equal(found, expected[:, width:])
    for call in (model, model.generate):
        with pytest.raises(UserError, match="0 prompts: give one of input_ids and inputs_embeds"):
            call(attention_mask=mask)
        with pytest.raises(UserError, match="2 prompts"):
            call(ids(width), **vectors)


def test_tokens_go_to_the_device_of_the_model(results, monkeypatch):
    model, _ = longrope.load(results)
    assert model.to("meta") is model.eval() is model
    assert (model.device.type, model.dtype) == ("meta", torch.float32)
    seen = []

    def watched(**options):
        seen.append({name: each.device.type for name, each in options.items()
                     if isinstance(each, torch.Tensor)})  # fmt: skip

    monkeypatch.setattr(model.model, "generate", watched)
    monkeypatch.setattr(model.model, "forward", watched)
    model.generate(**padded(WINDOW, LONG - 8), max_new_tokens=8)
    model(**padded(WINDOW, LONG))
    assert [{*each.values()} for each in seen] == [{"meta"}, {"meta"}]
    assert {"input_ids", "attention_mask", "position_ids"} == {*seen[1]}


def test_long_text_comes_without_a_warning_and_with_the_logits_of_the_parts(results, monkeypatch):
    from transformers.generation import stopping_criteria

    said = []
    monkeypatch.setattr(stopping_criteria.logger, "warning_once", said.append)
    model, tokenizer = longrope.load(results)
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0,
               "return_dict_in_generate": True, "output_logits": True}  # fmt: skip
    found = model.generate(ids(2 * WINDOW), **options)
    stream(model, tokenizer, ids(2 * WINDOW), Decoding(4), io.StringIO())
    assert not said and model.config.max_position_embeddings == WINDOW
    model.pin(2 * WINDOW + 4)
    expected = model.model.generate(ids(2 * WINDOW), **options)
    assert "exceeded" in said[0]
    for ours, theirs in zip(found.logits, expected.logits, strict=True):
        assert torch.equal(ours, theirs)


def test_a_cache_of_a_call_goes_on_with_its_tier_and_no_further(results):
    model, _ = longrope.load(results)
    with torch.no_grad():
        cache = model(ids(WINDOW - 8), use_cache=True).past_key_values
        model(ids(LONG))  # another sequence, of another tier
        rest = ids(WINDOW)[:, WINDOW - 8 :]
        found = model(rest, past_key_values=cache).logits
        torch.testing.assert_close(found, model(ids(WINDOW)).logits[:, -8:], atol=1e-4, rtol=0)
        with pytest.raises(UserError, match=f"window of {WINDOW} tokens.*without past_key_values"):
            model(ids(1), past_key_values=cache)
        with pytest.raises(UserError, match="cache is of 1 sequences, the tokens are of 2"):
            model(ids(1).repeat(2, 1), past_key_values=cache)
    with pytest.raises(UserError, match="a prompt that is a list: give a tensor"):
        model([[1, 2, 3]])


def test_applied_and_loaded_factors_do_the_same_at_every_length(checkpoint, rope):
    from transformers import AutoModelForCausalLM

    loaded, _ = longrope.load(checkpoint, stretched(rope))
    applied = longrope.apply(AutoModelForCausalLM.from_pretrained(checkpoint), stretched(rope))
    for length in (WINDOW - 1, WINDOW, WINDOW + 1, LONG):
        with torch.no_grad():
            assert torch.equal(applied(ids(length)).logits, loaded(ids(length)).logits)


def test_the_model_folder_of_results_finds_the_factors_beside_it(results):
    model, _ = longrope.load(results / "model")
    assert [each.window for each in model.tiers.factors] == [WINDOW, 2 * WINDOW, LONG]


def test_weights_that_were_never_tuned_keep_the_original_rope_within_their_window(
    model_folder, rope
):
    model, _ = longrope.load(model_folder, stretched(rope))
    plain = load_model(model_folder)
    model.pin(WINDOW)
    with torch.no_grad():
        assert torch.equal(model.model(ids(WINDOW)).logits, plain(ids(WINDOW)).logits)
    assert model.pin(WINDOW + 1) == stretched(rope)


def test_a_checkpoint_that_was_never_imported_takes_factors_of_its_weights(
    checkpoint, rope, tmp_path
):
    write_factors(tmp_path / "factors.json", stretched(rope))
    model, _ = longrope.load(checkpoint, tmp_path / "factors.json")
    assert model.tiers.longest.lambda_ == stretched(rope).lambda_


def test_applied_factors_turn_as_transformers_own_longrope_does(checkpoint, rope):
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    longrope.apply(model, stretched(rope))
    config = AutoConfig.from_pretrained(checkpoint)
    table = list(stretched(rope).lambda_)
    config.rope_parameters = {
        "rope_type": "longrope", "rope_theta": rope.theta, "short_factor": table,
        "long_factor": table, "factor": 4.0, "attention_factor": 1.0,
        "original_max_position_embeddings": WINDOW,
    }  # fmt: skip
    theirs = AutoModelForCausalLM.from_pretrained(checkpoint, config=config)
    with torch.no_grad():
        difference = model(ids(LONG)).logits - theirs(ids(LONG)).logits
    assert difference.abs().max() < 1e-4


def test_factors_that_are_applied_after_others_replace_them(checkpoint, rope):
    from transformers import AutoModelForCausalLM

    first, second = stretched(rope), closed_form("yarn", rope, 2 * WINDOW)
    plain, alone, model = (AutoModelForCausalLM.from_pretrained(checkpoint) for _ in range(3))
    longrope.apply(alone, second)
    other = dataclasses.replace(rope, fingerprint="0123456789abcdef")
    with torch.no_grad():
        wanted, before = alone(ids(LONG)).logits, plain(ids(LONG)).logits
        able = longrope.apply(model, stretched(other), other_weights=True)
        for given in (able, model, longrope.apply(model, first)):
            able = longrope.apply(given, second)
            assert able.model is model
            assert torch.equal(model(ids(LONG)).logits, wanted)
            assert [each.window for each in able.tiers.factors] == [WINDOW, 2 * WINDOW]
        with pytest.raises(UserError, match="other_weights"):  # refused, these stay as they are
            longrope.apply(able, stretched(other))
        assert torch.equal(model(ids(LONG)).logits, wanted)
        assert not torch.equal(wanted, before)
        assert longrope.remove(able) is model
        assert torch.equal(model(ids(LONG)).logits, before)
        longrope.apply(model, second)
        assert torch.equal(model(ids(LONG)).logits, wanted)


def test_a_model_whose_factors_were_removed_saves_without_a_warning(checkpoint, rope, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    longrope.apply(longrope.apply(model, stretched(rope)), stretched(rope))
    with pytest.warns(UserWarning, match="longrope export") as said:
        model.save_pretrained(tmp_path / "with")
    assert len([each for each in said if "longrope export" in str(each.message)]) == 1
    longrope.remove(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.save_pretrained(tmp_path / "without")
    with pytest.raises(UserError, match="has no factors"):
        longrope.remove(model)


def test_factors_of_other_weights_are_refused_unless_it_is_meant(checkpoint, rope):
    from transformers import AutoModelForCausalLM

    other = stretched(dataclasses.replace(rope, fingerprint="0123456789abcdef"))
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    with pytest.raises(UserError, match=r"fingerprint.*other_weights"):
        longrope.apply(model, other)
    assert longrope.apply(model, other, other_weights=True).tiers.longest.window == LONG
    with pytest.raises(UserError, match="rope_theta"):
        longrope.apply(model, stretched(dataclasses.replace(rope, theta=5e5)), other_weights=True)


def test_saving_a_model_with_factors_warns_and_claims_no_long_window(checkpoint, rope, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    able = longrope.apply(model, stretched(rope))
    able.generate(ids(WINDOW), max_new_tokens=8, do_sample=False)
    with pytest.warns(UserWarning, match="longrope export"):
        model.save_pretrained(tmp_path / "saved")
    saved = longrope.check(tmp_path / "saved")
    assert saved.facts["window"] == WINDOW and saved.facts["scaling"] == "none"
    with pytest.warns(UserWarning, match="longrope export"):
        copy.deepcopy(model).save_pretrained(tmp_path / "copy")


def searched(rope, weights: str) -> RescaleFactors:
    """Factors that say which weights they were searched on."""
    return dataclasses.replace(stretched(rope), provenance={"weights_fingerprint": weights})


def test_factors_of_a_tuning_and_of_its_base_are_not_for_each_other(results, model_folder, rope):
    tuned = read_record(results / "model").fingerprint
    refused = r"searched on other weights.*other_weights=True"
    with pytest.raises(UserError, match=refused):
        longrope.load(model_folder, searched(rope, tuned))
    other = dataclasses.replace(searched(rope, rope.fingerprint), n_hat=3)
    with pytest.raises(UserError, match=refused):
        longrope.load(results / "model", other)
    longrope.load(results / "model", other, other_weights=True)
    # what they were tuned with was searched on the base
    longrope.load(results / "model", searched(rope, rope.fingerprint))
    longrope.load(model_folder, searched(rope, rope.fingerprint))
    # a formula was searched on nothing
    longrope.load(results / "model", dataclasses.replace(stretched(rope), n_hat=3))


def test_tiers_put_together_for_weights_may_hold_those_of_the_base():
    rope = Rope("m", 1e4, 8, WINDOW, "base")
    tiers = [searched(rope, "base"), searched(rope, "tuned")]
    check_searched_on(tiers, "tuned", "base")
    with pytest.raises(UserError, match="searched on other weights: base"):
        check_searched_on(tiers[:1], "tuned", "base")
    with pytest.raises(UserError, match="searched on other weights: tuned"):
        check_searched_on(tiers, "base", "base")


def test_a_published_entry_of_other_weights_is_refused():
    entry = longrope.catalogue.entry("tiny-longrope-2k")
    with pytest.raises(UserError, match="tiny-longrope-2k is for other weights"):
        tiers_from(entry.name, entry.tiers.rope, entry.tiers.rope.fingerprint)
    assert tiers_from(entry.name, entry.tiers.rope, entry.weights_fingerprint) == entry.tiers


def test_weights_in_memory_are_compared_with_their_files_or_a_warning_says_so(
    checkpoint, rope, tmp_path
):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[0, 0] += 1
    with pytest.raises(UserError, match=r"not those of .*q_proj.weight differs.*other_weights"):
        longrope.apply(model, stretched(rope))
    for name in ("", "nobody/nothing", str(tmp_path / "gone")):
        model = AutoModelForCausalLM.from_pretrained(checkpoint)
        model.name_or_path = model.config._name_or_path = name
        with pytest.warns(UserWarning, match="cannot be checked, as no files"):
            longrope.apply(model, stretched(rope))


def test_a_model_of_the_hub_is_checked_by_the_files_in_its_cache(
    checkpoint, rope, tmp_path, monkeypatch
):
    from huggingface_hub import constants
    from transformers import AutoModelForCausalLM

    snapshot = tmp_path / "models--some--model" / "snapshots" / ("a" * 40)
    shutil.copytree(checkpoint, snapshot)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    model.name_or_path, model.config._commit_hash = "some/model", "a" * 40
    with pytest.raises(UserError, match="searched on other weights"):
        longrope.apply(model, searched(rope, "0123456789abcdef"))
    assert longrope.apply(model, searched(rope, rope.fingerprint)).tiers.rope.model


def test_pickled_weights_are_converted_by_the_command_that_load_names(checkpoint, rope, tmp_path):
    from safetensors.torch import load_file

    folder = shutil.copytree(checkpoint, tmp_path / "my pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no \*\.safetensors"):
        fingerprint_of(folder)
    with pytest.raises(UserError, match="weights are pickled: convert them") as refused:
        longrope.load(folder, stretched(rope))
    words = shlex.split(str(refused.value).partition(": longrope ")[2])
    assert main(words) == 0
    found, _ = longrope.load(words[words.index("--out") + 1], stretched(rope), other_weights=True)
    expected, _ = longrope.load(checkpoint, stretched(rope))
    with torch.no_grad():
        assert torch.equal(found(ids(LONG)).logits, expected(ids(LONG)).logits)


@pytest.mark.parametrize(
    ("path", "factors", "message"),
    [
        ("gone", None, "neither a folder of results"),
        ("model", None, "has no factors"),
        ("model", "nowhere.json", "neither a file nor a published entry; published are .*tiny"),
    ],
)
def test_what_cannot_be_loaded_is_one_clear_error(model_folder, path, factors, message):
    with pytest.raises(UserError, match=message):
        longrope.load(model_folder.parent / path, factors)


def test_a_checkpoint_that_is_rescaled_already_takes_no_factors(checkpoint, rope, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "long")
    config = json.loads((checkpoint / "config.json").read_text())
    config["rope_scaling"] = {"rope_type": "linear", "factor": 2.0}
    (tmp_path / "long" / "config.json").write_text(json.dumps(config))
    for factors in (stretched(rope), None):  # without any, as one would load an export
        with pytest.raises(UserError, match=r"rescaled already .linear.*load it with transformers"):
            longrope.load(tmp_path / "long", factors)


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, longrope; assert longrope.load and longrope.apply and longrope.check;"
        "assert not {'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- generate -------------------------------------------------------------------------------


def test_streamed_text_is_that_of_greedy_decoding_with_the_tier_of_the_whole_length(results):
    model, tokenizer = longrope.load(results)
    tokens, out = ids(WINDOW - 2), io.StringIO()
    text = stream(model, tokenizer, tokens, Decoding(10), out)
    assert model.pin(WINDOW + 8).window == 2 * WINDOW
    with torch.no_grad():
        for _ in range(10):  # without a cache, all of it anew for each token
            logits = model.model(tokens, use_cache=False).logits[:, -1]
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
    expected = tokenizer.decode(tokens[0, WINDOW - 2 :], skip_special_tokens=True)
    assert text == expected[: len(text)] and text
    assert out.getvalue().rstrip("\n") == text.rstrip("\n")


def test_prompt_and_new_tokens_beyond_the_longest_window_are_refused(results):
    model, tokenizer = longrope.load(results)
    check_room(model.tiers, LONG - 10, 10)
    with pytest.raises(UserError, match=f"{LONG + 1}.*more than the longest window.*by 1 tokens"):
        stream(model, tokenizer, ids(LONG - 9), Decoding(10))


CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"


def test_a_question_goes_through_the_chat_template_where_there_is_one(tokenizer, tmp_path):
    (tmp_path / "book.txt").write_text("A long book.\n")
    text = prompt_text(None, tmp_path / "book.txt", "Who?")
    chatting = copy.deepcopy(tokenizer)
    chatting.chat_template = CHAT
    for given, chat, question, expected in [
        (tokenizer, True, "Who?", "A long book.\n\nQuestion: Who?\nAnswer:"),
        (tokenizer, True, None, "A long book.\n"),
        (chatting, True, "Who?", "<user>A long book.\n\nWho?<assistant>"),
        (chatting, False, "Who?", "A long book.\n\nQuestion: Who?\nAnswer:"),
    ]:
        found = prompt_tokens(given, text, question, chat=chat)
        assert given.decode(found[0], skip_special_tokens=True) == expected


@pytest.mark.parametrize(
    ("prompt", "file", "question"), [(None, None, None), ("a", "b", None), ("a", None, "Who?")]
)
def test_a_prompt_or_a_file_is_given_never_both_nor_none(prompt, file, question):
    with pytest.raises(UserError, match="--file"):
        prompt_text(prompt, file, question)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([""], "the prompt is empty"),
        ([" \n"], "the prompt is empty"),
        (["King", "--new-tokens", "0"], "--new-tokens 0: must be 1 or more"),
        (["King", "--new-tokens", "-3"], "--new-tokens -3"),
        (["King", "--temperature", "-1"], "--temperature -1: must be"),
        (["King", "--temperature", "nan"], "--temperature nan: must be"),
        (["King", "--temperature", "inf"], "--temperature inf: must be"),
        (["King", "--temperature", "1", "--seed", "-1"], "--seed -1: must be"),
        (["--file", "/nowhere.txt"], "/nowhere.txt: no such file"),
    ],
)
def test_what_generate_cannot_do_is_one_clear_error(results, capsys, options, message):
    assert main(["generate", str(results), *options]) == 1
    assert message in capsys.readouterr().err


def test_a_compressed_file_is_read_and_an_empty_one_refused(tmp_path):
    with lzma.open(tmp_path / "book.txt.xz", "wt") as file:
        file.write("A long book.\n")
    assert prompt_text(None, tmp_path / "book.txt.xz", None) == "A long book.\n"
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="holds no text"):
        prompt_text(None, tmp_path / "empty.txt", None)


def test_the_command_streams_an_answer_and_refuses_what_does_not_fit(results, tmp_path, capsys):
    (tmp_path / "book.txt").write_text("The king is in the counting house. " * 4)
    command = ["generate", str(results), "--file", str(tmp_path / "book.txt")]
    assert main([*command, "--question", "Where is the king?", "--new-tokens", "5"]) == 0
    shown = capsys.readouterr()
    assert "factors of" in shown.err and shown.out.strip()
    assert main([*command, "--new-tokens", "5000"]) == 1
    assert "more than the longest window, 256" in capsys.readouterr().err
