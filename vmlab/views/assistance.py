"""The words of the makers of processors for the same things of hardware assistance."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ASSISTANCE", "Assistance"]


class Assistance(NamedTuple):
    """What a maker calls it.

    Attributes
    ----------
    operation, short : str
        In which a guest runs, at length and in brief.
    guest_mode, host_mode : str
        The processor's two modes, in a word or two.
    structure : str
        What describes it.
    leaving, entering : str
        The ways out and in.
    detail : str
        What is told of an exit beside its reason.
    """

    operation: str
    short: str
    guest_mode: str
    host_mode: str
    structure: str
    leaving: str
    entering: str
    detail: str


ASSISTANCE = {
    "vt-x": Assistance(
        "VMX non-root operation",
        "VMX non-root",
        "non-root mode",
        "root mode",
        "VMCS",
        "VM exit",
        "VM entry",
        "qualification",
    ),
    "amd-v": Assistance(
        "SVM guest mode", "SVM guest", "guest mode", "host mode", "VMCB", "#VMEXIT", "VMRUN", "EXITINFO1"
    ),
}
"""Their words by technique."""
