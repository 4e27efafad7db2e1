"""The AArch64 computer: a processor with EL0 to EL2, and a board with memory, interrupt controller, timer, serial line, disk."""
