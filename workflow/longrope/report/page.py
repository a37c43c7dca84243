"""
The report's Markdown as pages that a browser shows: Snakemake's report embeds html as it is.

Only what our tables and the summary use: headings, paragraphs, tables, bold and code.
"""

import html
import re

STYLE = (
    "body{font:15px/1.45 sans-serif;max-width:75em;margin:1em}table{border-collapse:collapse}"
    "td,th{padding:.25em .6em;border-bottom:1px solid #ddd}th{text-align:left}"
)


def page_of(markdown: str) -> str:
    """A whole html page of Markdown text."""
    blocks = re.split(r"\n\s*\n", markdown.strip())
    body = "\n".join(_block(block) for block in blocks)
    return f"<!doctype html><meta charset='utf-8'><style>{STYLE}</style>\n{body}\n"


def _block(block: str) -> str:
    if match := re.match(r"(#+) (.*)", block):
        level = len(match[1])
        return f"<h{level}>{_inline(match[2])}</h{level}>"
    lines = block.splitlines()
    if not lines[0].startswith("|"):
        return f"<p>{_inline(' '.join(lines))}</p>"
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    aligned = ["right" if rule.endswith("--:") else "left" for rule in rows[1]]
    html_rows = [_row(rows[0], aligned, "th"), *(_row(row, aligned, "td") for row in rows[2:])]
    return "<table>\n" + "\n".join(html_rows) + "\n</table>"


def _row(cells: list[str], aligned: list[str], tag: str) -> str:
    styled = zip(cells, aligned, strict=False)
    return "".join(
        ["<tr>", *(f"<{tag} align='{side}'>{_inline(cell)}</{tag}>" for cell, side in styled)]
    )


def _inline(text: str) -> str:
    text = html.escape(text)
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)
