"""What the common workload must print, computed here from its definition."""

from __future__ import annotations

from functools import reduce

DATA = bytes((i * 7 + (i >> 8) * 13 + 5) & 0xFF for i in range(4096))
CHECKSUM = reduce(lambda total, byte: (total * 31 + byte) % (1 << 32), DATA, 0)
PRIMES = sum(all(number % divisor for divisor in range(2, number)) for number in range(2, 2000))
LINE = f"primes {PRIMES} disk {CHECKSUM:08x} pages {sum(range(1, 9))}\n"
