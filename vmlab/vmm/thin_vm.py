"""A virtual machine with nothing around it: what KVM gives to a program, on the simulated processor's own VT-x.

A host's kernel has entered VMX operation and made a VMCS for one guest in real mode, with extended page tables that map
nothing yet. Its user maps memory, writes code, sets registers, and *runs*: the processor executes the guest until it leaves it,
and says why. What a VM exit asks for is the user's to do. That loop is a hypervisor, a thin one.

Simplified: one VCPU, no interrupts, and no device at all.

Read more: `Documentation/virt/kvm/api.rst` of Linux (KVM_CREATE_VM, KVM_SET_USER_MEMORY_REGION, KVM_RUN); Intel SDM vol. 3,
chapters 24 to 27.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmlab.errors import OptionError, VmlabError
from vmlab.isa.x86.registers import CR0_NE, CR4_VMXE, FIXED
from vmlab.machine.cpu_model import find_cpu_model
from vmlab.machine.machine import Machine
from vmlab.machine.memory import PAGE_SIZE
from vmlab.machine.page_formats_host import WRITE_BACK, ept
from vmlab.machine.page_tables import PageTables
from vmlab.machine.vmx import controls as c
from vmlab.machine.vmx import fields as f
from vmlab.machine.vmx.intercepts import IO_IN, IO_PORT_SHIFT, IO_SIZE
from vmlab.machine.vmx.reasons import ENTRY_FAILURE, BasicReason
from vmlab.vmm.exits import BY_BASIC_REASON
from vmlab.vmm.host_frames import HostFrames
from vmlab.vmm.virtual_machine import make_vmcs
from vmlab.vmm.vt_x import NEEDED, switch_on

__all__ = ["ThinExit", "ThinVm"]

FRAMES = 448
MEMORY = 4 << 20
STEPS = 1_000_000
LEVELS = 4
GENERAL = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
IN_VMCS = {"esp": f.GUEST_RSP, "eip": f.GUEST_RIP, "eflags": f.GUEST_RFLAGS}
MASK = 0xFFFFFFFF
ALL_ONES = (1 << 64) - 1
WRITE = 2  # of an EPT violation's exit qualification
CODE, DATA, TASK, UNUSABLE = 0x9B, 0x93, 0x8B, 0x10000
REASONS = ("CPUID", "EPT violation", "HLT", "I/O instruction")
BY_NAME = {field.name: encoding for encoding, field in f.FIELDS.items()}


@dataclass(frozen=True, slots=True, repr=False)
class ThinExit:
    """Why the guest was left.

    Attributes
    ----------
    reason : str
        `"CPUID"`, `"EPT violation"`, `"HLT"`, `"I/O instruction"`, or another of the manual's reasons.
    address : int
        The guest's instruction pointer.
    length : int
        Bytes of the instruction, where one has exited; what the pointer must be advanced by once it is done.
    port, size : int or None
        Of an I/O instruction: the port, and how many bytes.
    is_in : bool
        True for IN, which waits for a value in EAX; False for OUT, whose value is there.
    gpa : int or None
        Of an EPT violation: the guest-physical address.
    is_write : bool
        Whether it was to be written.
    """

    reason: str
    address: int
    length: int = 0
    port: int | None = None
    size: int | None = None
    is_in: bool = False
    gpa: int | None = None
    is_write: bool = False

    @property
    def what(self) -> str:
        """Why, in words."""
        if self.port is not None:
            bits = f"{8 * (self.size or 0)} bits"
            return f"{self.reason}: {'IN from' if self.is_in else 'OUT to'} port {self.port:#x}, {bits}"
        if self.gpa is not None:
            return f"{self.reason}: {'write to' if self.is_write else 'read of'} {self.gpa:#x}"
        return self.reason

    def describe(self) -> str:
        """One line: where the guest was, and why it was left."""
        return f"{self.address:#06x}  {self.what}"

    def __repr__(self) -> str:
        return f"<exit at {self.address:#06x}: {self.what}>"


class Registers:
    """The guest's registers, by name: `eax` to `edi`, `esp`, `eip`, `eflags`."""

    def __init__(self, vm: ThinVm) -> None:
        self._vm = vm

    def _check(self, name: object) -> str:
        if not isinstance(name, str) or name not in (*GENERAL, *IN_VMCS):
            raise OptionError(
                f"there is no register {name!r}: choose one of {', '.join(dict.fromkeys((*GENERAL, *IN_VMCS)))}"
            )
        return name

    def __getitem__(self, name: str) -> int:
        self._check(name)
        if name in IN_VMCS:
            return self._vm.vmread(IN_VMCS[name]) & MASK
        return self._vm.cpu.registers[GENERAL.index(name)] & MASK

    def __setitem__(self, name: str, value: int) -> None:
        self._check(name)
        if type(value) is not int or not 0 <= value <= MASK:
            raise OptionError(f"{name} takes an int of 32 bits, not {value!r}")
        if name in IN_VMCS:
            self._vm.vmwrite(IN_VMCS[name], value)
        else:
            self._vm.cpu.registers[GENERAL.index(name)] = value

    def __repr__(self) -> str:
        return "  ".join(f"{name}={self[name]:08x}" for name in dict.fromkeys((*GENERAL, *IN_VMCS)))


class ThinVm:
    """A virtual machine to write a hypervisor for.

    Parameters
    ----------
    cpu : str, optional
        Model of the processor: one with extended page tables and unrestricted guests.

    Attributes
    ----------
    registers : Registers
        The guest's, between two runs.
    exits : list of ThinExit
        All so far.

    Raises
    ------
    OptionError
        The processor cannot do it.

    Examples
    --------
    >>> vm = ThinVm()
    >>> vm.map(0x1000)
    >>> vm.write(0x1000, bytes([0xB0, 0x2A, 0xE6, 0xE9, 0xF4]))     # mov al, 42; out 0xE9, al; hlt
    >>> vm.registers["eip"] = 0x1000
    >>> vm.run().describe()
    '0x1002  I/O instruction: OUT to port 0xe9, 8 bits'
    >>> vm.skip()
    >>> vm.run().reason
    'HLT'
    """

    def __init__(self, cpu: str = "westmere") -> None:
        model = find_cpu_model(cpu)
        for feature, what in NEEDED:
            if not model.has(feature):
                raise OptionError(
                    f"a thin hypervisor needs a processor with {what}, which {cpu!r} has not: choose another"
                )
        self._machine = Machine(MEMORY, model)
        self.cpu = self._machine.cpu
        self._host = host = HostFrames(self._machine.memory, FRAMES, model.physical_bits)
        host.boot(self.cpu)
        switch_on(self.cpu, host)
        self._machine.host_entry = range(host.entry, host.entry + 1)
        format_ = ept(LEVELS, physical_bits=model.physical_bits, execute_only=False, largest_page="4 KiB")
        self._tables = PageTables(format_, self._machine.memory, host.allocate)
        self._pages: dict[int, int] = {}
        self._make_vmcs()
        self.registers = Registers(self)
        self.exits: list[ThinExit] = []

    def _make_vmcs(self) -> None:
        make_vmcs(self.cpu, self._host, self._host.allocate())
        guest = {f.GUEST_ES_LIMIT + 2 * n: 0xFFFF for n in range(8)}
        guest |= {f.GUEST_ES_ACCESS + 2 * n: DATA for n in range(6)}
        guest |= {
            f.GUEST_CS_ACCESS: CODE, f.GUEST_LDTR_ACCESS: UNUSABLE, f.GUEST_TR_ACCESS: TASK, f.GUEST_CR0: CR0_NE,
            f.GUEST_CR4: CR4_VMXE, f.GUEST_DR7: 0x400, f.GUEST_RFLAGS: FIXED,
            f.GUEST_GDTR_LIMIT: 0xFFFF, f.GUEST_IDTR_LIMIT: 0xFFFF,
            f.CR0_MASK: CR0_NE, f.CR4_MASK: CR4_VMXE,
        }  # fmt: skip
        controls = {
            f.PIN_BASED_CONTROLS: c.PIN_DEFAULT,
            f.PRIMARY_CONTROLS: c.PRIMARY_TRUE_DEFAULT
            | c.HLT_EXITING
            | c.UNCONDITIONAL_IO_EXITING
            | c.ACTIVATE_SECONDARY,
            f.SECONDARY_CONTROLS: c.ENABLE_EPT | c.UNRESTRICTED_GUEST,
            f.EXIT_CONTROLS: c.EXIT_DEFAULT | c.HOST_ADDRESS_SPACE_SIZE | c.SAVE_EFER | c.LOAD_HOST_EFER,
            f.ENTRY_CONTROLS: c.ENTRY_DEFAULT | c.LOAD_GUEST_EFER,
            f.EPT_POINTER: self._tables.root | LEVELS - 1 << 3 | WRITE_BACK,
        }
        for field, value in (guest | controls).items():
            self.vmwrite(field, value)

    # -- memory --------------------------------------------------------------------------------------------------------------

    def map(self, gpa: int, size: int = 1) -> None:
        """Give the guest memory, cleared: the page around a guest-physical address, or all pages of so many bytes from there on."""
        if type(gpa) is not int or type(size) is not int or gpa < 0 or size <= 0 or gpa + size > 1 << 32:
            raise OptionError(f"map takes an address below 4 GiB and a number of bytes, not {gpa!r} and {size!r}")
        for page in range(gpa & -PAGE_SIZE, gpa + size, PAGE_SIZE):
            if page in self._pages:
                continue
            if len(self._host.free) < LEVELS:
                raise OptionError(f"the host has no memory left: {len(self._pages)} pages are mapped")
            frame = self._pages[page] = self._host.allocate()
            self._tables.map(page, frame)

    def _place(self, gpa: int, size: int) -> int:
        if type(gpa) is not int or type(size) is not int or size <= 0:
            raise OptionError(f"memory is an address and a number of bytes, not {gpa!r} and {size!r}")
        if (gpa & -PAGE_SIZE) not in self._pages or gpa % PAGE_SIZE + size > PAGE_SIZE:
            raise OptionError(f"nothing is mapped at {gpa!r}: map it first, and stay within a page")
        return self._pages[gpa & -PAGE_SIZE] + gpa % PAGE_SIZE

    def write(self, gpa: int, data: bytes) -> None:
        """Write to the guest's memory."""
        if not isinstance(data, (bytes, bytearray)):
            raise OptionError(f"write takes bytes, not {type(data).__name__}: vmlab.assemble(...) gives an image's")
        self._place(gpa, 1)
        starts = [gpa, *range((gpa | PAGE_SIZE - 1) + 1, gpa + len(data), PAGE_SIZE)]
        places = [self._place(start, 1) for start in starts]  # all of them, or nothing is written
        for start, end, place in zip(starts, [*starts[1:], gpa + len(data)], places, strict=True):
            self._machine.memory.write_bytes(place, bytes(data[start - gpa : end - gpa]))

    def read(self, gpa: int, size: int) -> bytes:
        """Read from the guest's memory, within a page."""
        return self._machine.memory.read_bytes(self._place(gpa, size), size)

    # -- the VMCS ------------------------------------------------------------------------------------------------------------

    @staticmethod
    def _encoding(field: int | str) -> int:
        encoding = BY_NAME.get(field.upper()) if isinstance(field, str) else field
        if type(encoding) is not int:
            raise OptionError(
                f"the VMCS has no field {field!r}: names are the manual's, as 'GUEST_RIP' or 'EXIT_REASON'"
            )
        return encoding

    def vmread(self, field: int | str) -> int:
        """VMREAD: read a field of the VMCS, by its encoding or its name in the manual."""
        error, value = self.cpu.vmx.read_field(self._encoding(field))
        self._refuse(error, "VMREAD", field)
        return value

    def vmwrite(self, field: int | str, value: int) -> None:
        """VMWRITE."""
        if type(value) is not int or not 0 <= value <= ALL_ONES:
            raise OptionError(f"VMWRITE takes an int of 64 bits, not {value!r}")
        self._refuse(self.cpu.vmx.write_field(self._encoding(field), value), "VMWRITE", field)

    @staticmethod
    def _refuse(error: int, instruction: str, what: object = "") -> None:
        if error:
            raise VmlabError(
                f"{instruction} {what}".strip() + f" has failed: VM-instruction error {error}{ERRORS.get(error, '')}"
            )

    # -- running ---------------------------------------------------------------------------------------------------------------

    def run(self) -> ThinExit:
        """Enter the guest, VMLAUNCH or VMRESUME, and return why it was left.

        Raises
        ------
        VmlabError
            The processor refuses to enter it, or it does nothing but run.
        """
        launched = self.cpu.vmx.launched
        self._machine.in_host = False
        error = self.cpu.vmx.enter(launch=not launched)
        self._machine.in_host = not self.cpu.non_root
        self._refuse(error, "VMRESUME" if launched else "VMLAUNCH")
        self._machine.run(STEPS)
        if not self._machine.in_host:
            raise VmlabError(f"the guest has run {STEPS:,} instructions without an exit: it is in an endless loop")
        found = self._why()
        self.exits.append(found)
        return found

    def _why(self) -> ThinExit:
        raw, qualification, address = (
            self.vmread(f.EXIT_REASON),
            self.vmread(f.EXIT_QUALIFICATION),
            self.registers["eip"],
        )
        if raw & ENTRY_FAILURE:
            raise VmlabError(
                f"VM-entry failure {raw & 0xFFFF}: the guest's state is one that no processor has (SDM vol. 3, 26.3)"
            )
        reason, length = BasicReason(raw), self.vmread(f.EXIT_INSTRUCTION_LENGTH)
        name = str(BY_BASIC_REASON[reason])
        if reason == BasicReason.IO_INSTRUCTION:
            size, port = (qualification & IO_SIZE) + 1, qualification >> IO_PORT_SHIFT
            return ThinExit(name, address, length, port=port, size=size, is_in=bool(qualification & IO_IN))
        if reason == BasicReason.EPT_VIOLATION:
            gpa = self.vmread(f.GUEST_PHYSICAL_ADDRESS)
            return ThinExit(name, address, gpa=gpa, is_write=bool(qualification & WRITE))
        return ThinExit(name, address, length)

    def skip(self) -> None:
        """Advance the guest's instruction pointer behind the instruction that has exited: once it is done."""
        if not self.exits:
            raise OptionError("nothing has exited yet: run() first")
        self.registers["eip"] = self.registers["eip"] + self.vmread(f.EXIT_INSTRUCTION_LENGTH) & MASK

    def describe(self) -> str:
        """The exits so far, one a line."""
        return "\n".join(each.describe() for each in self.exits) or "no exit yet"

    def __repr__(self) -> str:
        return f"<virtual machine: {len(self._pages)} pages mapped, {len(self.exits)} exits>"


ERRORS = {
    4: " (VMLAUNCH with a VMCS that is launched already)",
    5: " (VMRESUME with a VMCS that was never launched)",
    7: " (VM entry with a control that the processor has not)",
    8: " (VM entry with a host state that is none)",
    12: " (no such field)",
    13: " (a field that can only be read)",
}
"""What VM-instruction errors mean (SDM vol. 3, 30.4)."""
