"""
Exporting an extended model: written beside its place, reread, compared, and only then put there.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from longrope import __version__
from longrope.errors import UserError, unknown_name
from longrope.export import FORMS
from longrope.export.beside import check_keeps_measured
from longrope.export.card import write_card
from longrope.export.full import full_keys, write_module
from longrope.export.gguf_file import write_gguf
from longrope.export.measured import losses, measured_in, pairs, read_measured
from longrope.export.native import NOT_IN_4, goes_to_weights, native_config
from longrope.export.request import Export, Written
from longrope.export.reread import own_logits, reread_full, reread_native
from longrope.export.serve import write_serving
from longrope.export.tables import Tables, choose, left_out
from longrope.export.weights import carry, check_foldable, raise_generation, rewrite, tidy_tokenizer
from longrope.extended import read_tiers, with_original
from longrope.factors import write_factors
from longrope.files import read_json, replacing, write_json
from longrope.models.architectures import PLAIN, rope_type_of
from longrope.models.checkpoint import ModelRecord, read_record, stored_dtype, tuned_factors
from longrope.searched_on import check_searched_on
from longrope.versions import VERSIONS
from longrope.windows import window_label

NOTE = "longrope_export.json"  # what was exported from what, for tools and for people


def export_model(
    asked: Export,
    model: Path,
    tiers: Path,
    out: Path,
    records: Sequence[Path] = (),
    trainings: Sequence[Path] = (),
    published: Sequence[dict] = (),
) -> Written:
    """Export the weights in `model` with the factors in `tiers` as the folder `out`.

    `records` are evaluations, `trainings` metrics of tunings, `published` evaluations of an entry,
    all for the card. Raises UserError if the form or the engine cannot carry the model, or if what
    was written reads back otherwise.
    """
    if asked.form not in FORMS:
        raise unknown_name("form", asked.form, FORMS)
    if (asked.form == "gguf") != (asked.engine.file == "gguf"):
        raise UserError(
            f"--form {asked.form} is not what {asked.engine.name} loads: llama.cpp takes the form"
            " gguf, every other engine native or full"
        )
    record = read_record(model)
    _check_plain(model, record)
    check_out(out, model, tiers)
    extended = read_tiers(tiers, record.rope)
    check_searched_on(
        extended.factors,
        record.fingerprint,
        record.rope.fingerprint,
        tuned_factors(model),
        "export the weights that they were searched on",
    )
    if record.fingerprint == record.rope.fingerprint:
        extended = with_original(extended)
    tables = choose(extended, asked.window, two=asked.two)
    if asked.two:
        asked.engine.check_two_tables((tables.short.attention_factor, tables.long.attention_factor))
    with replacing(out) as draft:
        draft.mkdir()
        if asked.form == "gguf":
            written = write_gguf(draft, model, record, tables, asked.dtype)
        else:
            written = _write_folder(draft, asked, model, record, tables)
        rows = pairs([*read_measured(records, record), *measured_in(published, record)], tables)
        check_keeps_measured(out, rows)
        written = replace(written, lost=list(losses(rows, tables)))
        if asked.form == "full":  # the one table counts only where nobody trusts its file
            written = replace(
                written, **{key: _untrusted(getattr(written, key)) for key in ("said", "lost")}
            )
        write_factors(draft / "factors.json", tables.long)
        write_serving(draft, asked, record, written)
        write_card(draft, asked, record, written, rows, trainings)
        _write_note(draft, asked, record, written)
    return written


def _write_folder(
    draft: Path, asked: Export, model: Path, record: ModelRecord, tables: Tables
) -> Written:
    config = read_json(model / "config.json")
    in_weights = goes_to_weights(config, asked.engine, tables)
    if in_weights:
        check_foldable(config)
    folded = tables.long.attention_factor if in_weights else 1.0
    carry(model, draft)
    tidy_tokenizer(draft, tables.window)
    raise_generation(draft, tables.window)
    stored = asked.dtype or stored_dtype(model)
    exported = native_config(config, tables, in_weights=in_weights, dtype=stored)
    if in_weights or asked.dtype:
        rewrite(draft, config, record.rope, factor=folded, dtype=asked.dtype)
    if asked.form == "full":
        exported |= full_keys(tables.tiers, folded)
        write_module(draft, config)
    write_json(draft / "config.json", exported)
    meant = [tables.long] if tables.one else [tables.short, tables.long]
    every = list(tables.tiers.factors) if asked.form == "full" else []
    logits = own_logits(model, record, meant + every)
    exact = stored == "float32" or not (in_weights or asked.dtype)
    plain, tiers = logits[: len(meant)], logits[len(meant) :]
    difference = reread_native(draft, meant, tables, plain, in_weights=in_weights, exact=exact)
    said = list(left_out(tables))
    if not any(draft.glob("tokenizer*")):
        said.append("The checkpoint has no tokenizer, so this has none: put the model's here.")
    if (kind := config.get("model_type")) in NOT_IN_4:
        said.append(f"transformers 4.57 refuses to load {kind} models with longrope: 5 does.")
    if asked.form == "full":
        difference = reread_full(draft, tables.tiers, tiers, exact=exact, folded=folded)
    return Written(tables, in_weights, difference, said)


def _untrusted(said: list[str]) -> list[str]:
    return [f"without trust_remote_code: {each}" for each in said]


def check_out(out: Path, model: Path, tiers: Path) -> None:
    """Raise UserError where an export would take the place of anything but an older export, or of
    what somebody has put into one."""
    where = out.resolve()
    if where == Path.cwd():
        raise UserError(f"--out {out}: the working directory cannot be replaced: name a folder")
    for source in (model.resolve(), tiers.resolve()):
        if where == source or where in source.parents or source in where.parents:
            raise UserError(f"--out {out}: {source} is there, from which it is made: take another")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / NOTE).is_file():
        raise UserError(f"--out {out}: there is something that is no export: take another name")
    written = read_json(out / NOTE).get("files")
    foreign = [name for name in _files_in(out) if isinstance(written, list) and name not in written]
    if foreign:
        raise UserError(
            f"--out {out}: {foreign[0]} is no file of the export there, and would be lost with it:"
            " move it away, or take another name"
        )


def _files_in(folder: Path) -> list[str]:
    """The files below a folder, by their paths in it, but for the note of the export."""
    files = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if not path.is_dir())
    return [str(path) for path in files if path.name != NOTE]


def _check_plain(model: Path, record: ModelRecord) -> None:
    """Raise UserError for a checkpoint that comes with a rescaled RoPE."""
    if (type_ := rope_type_of(read_json(model / "config.json"))) != PLAIN:
        raise UserError(
            f"model {record.rope.model!r} comes with a RoPE of its own ({type_}): only models that"
            " were extended here are exported"
        )


def _write_note(draft: Path, asked: Export, record: ModelRecord, written: Written) -> None:
    tables = written.tables
    write_json(
        draft / NOTE,
        {
            "schema": 1,
            "form": asked.form,
            "engine": asked.engine.name,
            "model": record.rope.model,
            "weights": record.weights,
            "weights_fingerprint": record.fingerprint,
            "base_fingerprint": record.rope.fingerprint,
            "original_window": record.rope.original_window,
            "window": tables.window,
            "tables": 1 if tables.one else 2,
            "attention_factor_in_weights": written.in_weights,
            "largest_difference_of_a_logit": written.difference,
            "files": _files_in(draft),
            "cannot_express": written.said,
            "measured": written.lost,
            "longrope": __version__,
            "version": VERSIONS["export"],
        },
    )


def summary(asked: Export, written: Written, out: Path) -> list[str]:
    """What the command says when it is done."""
    tables = written.tables
    count = "all tiers" if asked.form == "full" else "one table" if tables.one else "two tables"
    lines = [f"{out}: {asked.form} for {asked.engine.name}, {count}, {window_label(tables.window)}"]
    if written.difference is None:
        lines.append("reread by the package gguf: every tensor and key is as meant; not run here")
    else:
        lines.append(
            f"reread by transformers: the largest difference of a logit is {written.difference:.1g}"
        )
    if written.in_weights:
        lines.append(
            f"the attention factor {tables.long.attention_factor:g} is in the query weights"
        )
    lacks = "" if asked.form == "full" else "not in this form: "
    return [*lines, *[f"{lacks}{each}" for each in written.said], *written.lost]
