"""Random kernels, natively and under trap-and-emulate: bit for bit the same."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vmm.harness import kernel, twins
from tests.vmm.random_kernels import PaeWriter, Writer

LIMIT = 32_000


class Drawn:
    """Choices that hypothesis makes, so that it can shrink a kernel."""

    def __init__(self, data) -> None:
        self.data = data

    def choice(self, options):
        return self.data.draw(st.sampled_from(options))

    def randint(self, low, high):
        return self.data.draw(st.integers(low, high))


@given(st.data())
@settings(max_examples=25)
def test_kernels_that_shrink(data):
    twins(kernel(Writer(Drawn(data)).kernel()), max_instructions=LIMIT, input="abcdef")


@pytest.mark.parametrize("group", range(10))
def test_kernels_from_seeds(group):
    for seed in range(8 * group, 8 * group + 8):
        twins(kernel(Writer(random.Random(seed)).kernel(), f"seed {seed}"), max_instructions=LIMIT, input="abcdef")


@pytest.mark.parametrize("group", range(4))
def test_kernels_with_pae(group):
    for seed in range(8 * group, 8 * group + 8):
        twins(kernel(PaeWriter(random.Random(seed)).kernel(), f"PAE {seed}"), max_instructions=LIMIT, input="abcdef")


@pytest.mark.long
@pytest.mark.parametrize("group", range(50))
def test_many_more_kernels(group):
    for seed in range(1000 + 20 * group, 1020 + 20 * group):
        twins(kernel(Writer(random.Random(seed)).kernel(), f"seed {seed}"), max_instructions=LIMIT, input="abcdef")
        twins(kernel(PaeWriter(random.Random(seed)).kernel(), f"PAE {seed}"), max_instructions=LIMIT, input="abcdef")
