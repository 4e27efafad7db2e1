"""Hypervisors on the simulated computer, one file a technique, and the contract that they share."""

from __future__ import annotations
