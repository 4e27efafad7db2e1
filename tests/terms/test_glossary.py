"""The glossary: its terms are whole, what they point to is there, and a word finds its term."""

from __future__ import annotations

import importlib
import re

import nbformat
import pytest

import vmlab
from vmlab.errors import OptionError
from vmlab.terms.glossary import SOURCES
from vmlab.terms.term import folded

TERMS = list(vmlab.glossary())
SECTIONS = {"18.1", "18.2", "18.3", "18.4", *(f"18.4.{n}" for n in range(1, 4)), *(f"18.5.{n}" for n in range(1, 9))}
SECTIONS |= {*(f"18.6.{n}" for n in range(1, 6)), "18.7.1", "18.7.2", "18.8"}
KEY_TERMS = (
    "virtual machine", "host", "VMM", "hypervisor", "guest", "type 0 hypervisor", "type 1 hypervisor", "type 2 hypervisor",
    "paravirtualization", "programming-environment virtualization", "emulator", "application containment", "zone", "VCPU",
    "trap-and-emulate", "virtual user mode", "virtual kernel mode", "privileged instruction", "sensitive instruction",
    "special instruction", "binary translation", "nested page tables", "VT-x", "AMD-V", "root mode", "guest mode", "VMCS", "EPT",
    "RVI", "DMA pass-through", "interrupt remapping", "protection domain", "HVC", "EL2", "thin hypervisor",
    "control partition", "ESX", "domain 0", "hypercall", "shadow paging", "live migration", "pre-copy", "snapshot", "clone",
    "template", "suspend", "cloud computing", "VM sprawl", "overcommitment", "double paging", "balloon", "deduplication",
    "bridging", "NAT", "disk image", "P2V", "V2P", "consolidation", "isolation", "fidelity", "performance", "safety", "JVM",
    "bytecode", "JIT", "class loader", "VM exit", "VM entry", "world switch", "TLB", "VPID", "ASID", "reverse map",
    "dirty logging", "divergence", "translation unit", "translation cache", "chaining", "event channel", "shared-info page",
)  # fmt: skip
"""Terms of the chapter and of the labs that must be there."""


def resolve(name):
    """Return what a dotted name of vmlab's stands for."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@pytest.fixture(scope="module")
def lab_texts(project):
    """What is written in the cells of each notebook."""
    books = (project / "notebooks").glob("*.ipynb")
    return {path.stem: "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells) for path in books}


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.key)
def test_a_term_is_whole(term):
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 -]*", term.english), "JupyterLab and GitHub make the same anchor of it"
    assert term.section in SECTIONS
    assert term.source in SOURCES
    for sentence in (term.means, term.means_korean):
        assert re.search(r"\.$", sentence)
        assert not re.search(r"\.\s", sentence), "one sentence"
    assert re.search("[가-힣]", term.means_korean)
    assert re.search(r"다(\([^)]*\))?\.$", term.means_korean), "in the style of a textbook"
    assert re.search("[가-힣]", term.korean) or term.korean == term.english, "a maker's name has no Korean one"


@pytest.mark.parametrize("term", [term for term in TERMS if term.shown_by], ids=lambda term: term.key)
def test_what_shows_a_term_is_there(term):
    assert term.shown_by.startswith("vmlab.")
    assert resolve(term.shown_by) is not None


@pytest.mark.parametrize("term", [term for term in TERMS if term.lab], ids=lambda term: term.key)
def test_its_lab_speaks_of_a_term(term, lab_texts):
    assert term.shown_by, "what is shown in a lab has a name"
    words = [*term.names, term.shown_by.rpartition(".")[2]]
    assert any(
        re.search(rf"(?<!\w){re.escape(word)}(e?s)?(?!\w)", lab_texts[term.lab], re.IGNORECASE) for word in words
    )


def test_the_labs_are_there(lab_texts):
    labs = {term.lab for term in TERMS} - {None}
    assert labs <= set(lab_texts)
    assert len(labs) >= 9


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.key)
def test_see_also(term):
    assert term.see
    assert term.english not in term.see
    assert len(set(term.see)) == len(term.see)
    assert set(term.see) <= {other.english for other in TERMS}


def test_a_term_has_no_name_twice():
    for term in TERMS:
        names = [folded(name).removesuffix("s") for name in term.names]
        assert len(set(names)) == len(names) or term.korean == term.english, term.names


def test_a_name_means_one_term():
    owners = {}
    for term in TERMS:
        for name in (term.key, *term.names):
            assert owners.setdefault(folded(name), term.key) == term.key, name


@pytest.mark.parametrize("name", KEY_TERMS)
def test_the_chapters_key_terms(name):
    assert name in vmlab.glossary()


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("vmcs", "vmcs"),
        ("virtual-machine control structure", "vmcs"),
        ("가상 머신 제어 구조", "vmcs"),
        ("가상머신제어구조", "vmcs"),
        ("VMM", "hypervisor"),
        ("Virtual Machine Manager", "hypervisor"),
        ("hypervisors", "hypervisor"),
        ("준가상화", "paravirtualization"),
        ("Trap and Emulate", "trap-and-emulate"),
        ("nested page tables", "nested-page-tables"),
        ("ballooning", "balloon"),
        (" vm  exit ", "vm-exit"),
    ],
)
def test_a_word_finds_its_term(word, key):
    assert vmlab.glossary(word).key == key
    assert word in vmlab.glossary()


def test_an_unknown_word_is_told_what_is_near():
    with pytest.raises(OptionError, match=r"no term 'VMCX' \(did you mean .*'VMCS'.*vmlab.glossary\(\) has all"):
        vmlab.glossary("VMCX")
    with pytest.raises(OptionError, match="did you mean 'event channel', 'shared-info page'"):
        vmlab.glossary("xen")  # no name, but a word of some definitions
    with pytest.raises(OptionError, match=r"no term 'qqqqqq'; vmlab"):
        vmlab.glossary("qqqqqq")


@pytest.mark.parametrize("wrong", [5, "", b"VMCS", 3.5, ["VMCS"]])
def test_what_is_no_word(wrong):
    with pytest.raises(OptionError):
        vmlab.glossary(wrong)
    with pytest.raises(OptionError, match="some letters of a word"):
        vmlab.glossary().search(wrong)
    assert wrong not in vmlab.glossary()


def test_a_search_finds_names_before_definitions():
    found = [term.key for term in vmlab.glossary().search("벌룬")]
    assert found == ["balloon"]
    found = [term.key for term in vmlab.glossary().search("shadow")]
    named = [key for key in found if "shadow" in folded(" ".join(vmlab.glossary(key).names))]
    assert {"shadow-page-table", "shadow-paging"} <= set(named)
    assert found[: len(named)] == named
    assert "hidden-page-fault" in found[len(named) :]
    assert len(vmlab.glossary().search("qqqqqq")) == 0


def test_it_is_told_as_text_table_and_html():
    term = vmlab.glossary("EPT")
    text = repr(term)
    for part in (term.title, term.korean, term.means, term.means_korean, "section 18.4.3", "07-page-tables"):
        assert part in text
    assert "<a href='07-page-tables.ipynb'>" in term._repr_html_()
    few = vmlab.glossary().search("VMCB")
    assert few.describe().count("section") == len(few)
    assert repr(few).endswith(f"{len(few)} terms")
    assert few._repr_html_().count("<tr>") == len(few) + 1
    assert [row["key"] for row in few.rows()] == list(few.terms)
    assert few.rows()[0]["see"] == list(next(iter(few)).see)
