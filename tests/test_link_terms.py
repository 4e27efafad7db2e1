"""Notebooks link to the glossary's page: each link leads to a term, and there are not too many."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest

import vmlab
from tools.link_terms import LINK, MOST, PAGE, link, page, unlink

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TARGET = re.compile(rf"\[([^\]]+)\]\({re.escape(PAGE)}#([^)]+)\)")


def markdown(path):
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def written(*texts):
    cells = [nbformat.v4.new_markdown_cell(text) for text in texts]
    return [cell.source for cell in link(nbformat.v4.new_notebook(cells=cells), "06-hardware-assist").cells]


def test_the_page_is_up_to_date():
    assert (FOLDER / PAGE).read_text(encoding="utf-8") == page(), "python -m tools.link_terms writes it"


def test_every_link_of_the_page_leads_somewhere():
    text = page()
    headings = {line.removeprefix("### ").replace(" ", "-") for line in text.splitlines() if line.startswith("### ")}
    assert headings == {term.anchor for term in vmlab.glossary()}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) == headings
    for name in re.findall(r"\((\S+\.ipynb)\)", text):
        assert (FOLDER / name).exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_links_of_a_notebook(path):
    found = TARGET.findall(markdown(path))
    assert 0 < len(found) <= MOST, "python -m tools.link_terms makes them"
    anchors = {term.anchor: term for term in vmlab.glossary()}
    for words, anchor in found:
        assert vmlab.glossary(re.sub(r"(?<=s)es$", "", words)) is anchors[anchor], words
    assert max(Counter(anchor for _, anchor in found).values()) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_linking_twice_changes_nothing(path):
    once = link(nbformat.read(path, as_version=4), path.stem)
    assert link(nbformat.from_dict(once), path.stem) == once


def test_the_first_mention_is_linked():
    assert written("A **VMCS** it is.", "The VMCS.") == [f"A **[VMCS]({PAGE}#VMCS)** it is.", "The VMCS."]
    assert written("Two hypervisors.") == [f"Two [hypervisors]({PAGE}#hypervisor)."]


def test_the_longer_of_two_terms_is_meant():
    assert written("nested page tables") == [f"[nested page tables]({PAGE}#nested-page-tables)"]


def test_what_is_no_mention():
    for text in ("`VMCS`", "```\nVMCS\n```", "# VMCS", "[VMCS](x.ipynb)", "VMCSx", "isolation is a common word", "kvm"):
        assert written(text) == [text]
    assert written("# A heading\n\nThe VMCS") == [f"# A heading\n\nThe [VMCS]({PAGE}#VMCS)"]
    assert written("*isolation*") == [f"*[isolation]({PAGE}#isolation)*"]


def test_own_terms_come_before_others_where_there_are_too_many():
    others = [term for term in vmlab.glossary() if term.lab == "07-page-tables" and not term.common][:MOST]
    text = "; ".join(term.english for term in others)
    assert len(LINK.findall(written(text)[0])) == MOST
    first, second = written(text, "KVM")
    assert (len(LINK.findall(first)), second) == (MOST - 1, f"[KVM]({PAGE}#KVM)")
    assert unlink(first) == text
