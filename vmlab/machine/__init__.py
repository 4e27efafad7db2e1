"""The computer: processor, memory, bus and devices, page tables and TLB, images, clock, trace and recording."""
