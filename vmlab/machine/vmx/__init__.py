"""Intel's virtual-machine extensions (VT-x): VMX operation, the VMCS, VM entries and VM exits, extended page tables."""
