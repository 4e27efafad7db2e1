"""The parts of the paravirtualizing hypervisor, named as in Xen: see `vmlab.vmm.paravirtualization`."""
