"""Write the glossary's page, and link to it from the first mention of each term in a notebook.

    python -m tools.link_terms                             notebooks/glossary.md and every notebook
    python -m tools.link_terms notebooks/01-layers.ipynb   that notebook alone

A notebook gets ten links at most, those to its own terms before others. What was linked before is linked anew, so that a
second run changes nothing. Code, headings and other links stay as they are.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import nbformat

from vmlab.terms.glossary import SOURCES, glossary

if TYPE_CHECKING:
    from vmlab.terms.term import Term

__all__ = ["MOST", "PAGE", "link", "main", "page", "unlink"]

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PAGE = "glossary.md"
MOST = 10
"""So many links a notebook; more would be in the reader's way."""

LINK = re.compile(rf"\[([^\]]+)\]\({re.escape(PAGE)}#[^)]+\)")
OTHER = re.compile(r"```.*?```|`[^`]+`|!?\[[^\]]*\]\([^)]*\)|^#[^\n]*$|<[^>]+>", re.DOTALL | re.MULTILINE)
"""What holds no mention: code, links, headings, HTML."""

HEAD = """# Glossary

The terms of the chapter on virtual machines (*Operating System Concepts*, 10th ed., chapter 18) and of the labs, in English and
in Korean. In a notebook, `vmlab.glossary("VMCS")` says one, `vmlab.glossary().search("페이지")` finds some.

<!-- Written by `python -m tools.link_terms` from vmlab/terms/*.toml. -->
"""
PARTS = {
    "overview": "Overview, history, benefits (18.1 to 18.3)",
    "building_blocks": "Building blocks (18.4.1 and 18.4.2)",
    "assistance": "Hardware assistance (18.4.3)",
    "paging": "Memory (18.4.2 and 18.4.3)",
    "kinds": "Types of virtual machines (18.5)",
    "components": "Components of the operating system (18.6)",
    "examples": "Examples and research (18.7 and 18.8)",
}


# -- the page --------------------------------------------------------------------------------------------------------


def page() -> str:
    """Return the glossary as Markdown, a heading each term."""
    terms = glossary()
    index = " · ".join(
        f"[{term.english}](#{term.anchor})" for term in sorted(terms, key=lambda each: each.english.lower())
    )
    parts = [HEAD, index + "\n"]
    for source in SOURCES:
        parts.append(f"## {PARTS[source]}\n")
        parts += [entry(term) for term in terms if term.source == source]
    return "\n".join(parts)


def entry(term: Term) -> str:
    """Return the place of a term on the page."""
    names = ", ".join(filter(None, (term.full, *term.also)))
    shown = [f"[{term.lab}]({term.lab}.ipynb)"] if term.lab else []
    shown += [f"`{term.shown_by}`"] if term.shown_by else []
    if term.see:
        shown.append("see " + ", ".join(f"[{other.english}](#{other.anchor})" for other in map(glossary, term.see)))
    return (
        f"### {term.english}\n\n**{term.korean}**{f' ({names})' if names else ''}\n\n{term.means}\n\n{term.means_korean}\n\n"
        f"{' · '.join([f'section {term.section}', *shown])}\n"
    )


# -- the notebooks ---------------------------------------------------------------------------------------------------


class Mention(NamedTuple):
    """Where a term is mentioned."""

    cell: int
    start: int
    end: int
    term: Term


def unlink(text: str) -> str:
    """Return Markdown without links to the glossary."""
    return LINK.sub(r"\1", text)


def link(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """Link the first mentions of terms in a notebook of that name (`01-layers`); return the same notebook."""
    texts = {n: unlink(cell.source) for n, cell in enumerate(notebook.cells) if cell.cell_type == "markdown"}
    first: dict[str, Mention] = {}
    for number, text in texts.items():
        for mention in _mentions(number, text):
            first.setdefault(mention.term.key, mention)
    chosen = sorted(first.values(), key=lambda each: (each.term.lab != name, each.cell, each.start))[:MOST]
    for number, start, end, term in sorted(chosen, reverse=True, key=lambda each: (each.cell, each.start)):
        text = texts[number]
        texts[number] = f"{text[:start]}[{text[start:end]}]({PAGE}#{term.anchor}){text[end:]}"
    for number, text in texts.items():
        notebook.cells[number].source = text
    return notebook


def _mentions(number: int, text: str) -> list[Mention]:
    """Return what a cell mentions, from its start on; of two that overlap, the longer one."""
    plain = OTHER.sub(lambda found: "\0" * len(found[0]), text)
    found = [Mention(number, *match.span(), term) for term in glossary() for match in _pattern(term).finditer(plain)]
    kept: list[Mention] = []
    for mention in sorted(found, key=lambda each: (each.start, -each.end)):
        if not kept or mention.start >= kept[-1].end:
            kept.append(mention)
    return kept


def _pattern(term: Term) -> re.Pattern[str]:
    """Return what finds a term by its English names: an abbreviation as it is written, other words in any case."""
    names = sorted((name for name in term.names if name.isascii()), key=len, reverse=True)
    written = {name: re.sub(r"\\?[ -]", "[ -]", re.escape(name)) + "(?:e?s)?" for name in names}
    words = "|".join(text if name != name.lower() else f"(?i:{text})" for name, text in written.items())
    before, after = (r"(?<=\*)", r"(?=\*)") if term.common else (r"(?<![\w-])", r"(?![\w-])")
    return re.compile(f"{before}(?:{words}){after}")


def main(arguments: list[str] | None = None) -> int:
    """Write the page and the links of the notebooks that `arguments` name, or all; return 0."""
    parser = argparse.ArgumentParser(prog="python -m tools.link_terms", description="Link notebooks to the glossary.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: every notebook in notebooks/")
    chosen = parser.parse_args(arguments).notebooks or sorted(NOTEBOOKS.glob("*.ipynb"))
    (NOTEBOOKS / PAGE).write_text(page(), encoding="utf-8")
    for path in chosen:
        nbformat.write(link(nbformat.read(path, as_version=4), path.stem), path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
