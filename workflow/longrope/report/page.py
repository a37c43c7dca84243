"""
The report's Markdown and its figures as pages that a browser shows: Snakemake's report embeds html
as it is, while it cuts off the head of a picture that is taller than the window.

Only what our tables and the summary use: headings, paragraphs, tables, bold and code.
"""

import base64
import html
import re

STYLE = (
    "body{font:15px/1.45 sans-serif;max-width:75em;margin:1em}table{border-collapse:collapse}"
    "td,th{padding:.25em .6em;border-bottom:1px solid #ddd}th{text-align:left}"
    "td.words{min-width:9em}img{max-width:100%}"
)
WORDS = 24  # characters: a column with a longer cell does not share its room with numbers


def page_of(markdown: str) -> str:
    """A whole html page of Markdown text."""
    blocks = re.split(r"\n\s*\n", markdown.strip())
    body = "\n".join(_block(block) for block in blocks)
    return _page(body)


def page_of_picture(png: bytes, title: str) -> str:
    """A whole html page of a picture, which it carries."""
    data = base64.b64encode(png).decode()
    return _page(f"<img alt='{html.escape(title)}' src='data:image/png;base64,{data}'>")


def _page(body: str) -> str:
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
    columns = zip(*rows[2:], strict=False)
    words = [any(len(cell) > WORDS for cell in column) for column in columns]
    tags = [f"td align='{side}'" for side in aligned]
    if rows[2:]:
        tags = [tag + " class='words'" * long for tag, long in zip(tags, words, strict=False)]
    html_rows = [_row(rows[0], [f"th align='{side}'" for side in aligned])]
    html_rows += [_row(row, tags) for row in rows[2:]]
    return "<table>\n" + "\n".join(html_rows) + "\n</table>"


def _row(cells: list[str], tags: list[str]) -> str:
    cells = [f"<{tag}>{_inline(cell)}</{tag[:2]}>" for cell, tag in zip(cells, tags, strict=False)]
    return "".join(["<tr>", *cells])


def _inline(text: str) -> str:
    text = html.escape(text)
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)
