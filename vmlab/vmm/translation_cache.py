"""The translation cache: generated code in the hypervisor's window, and how the guest's addresses lead to it.

Each VCPU has a cache: a page of data, a table, and pages of code (see `vmlab.vmm.translation_unit`), which its kernel's view
of memory shows to ring 3, and its user's does not. The guest itself can neither read nor write them: in virtual kernel mode
its data segments end where the window begins. A full cache is emptied as a whole.

A unit is true as long as the guest's code, and the page that it is on, are what they were. Pages with translated code are
write-protected; after a write the code is compared. After a flush of the guest's TLB the mapping of each page is. A page whose
accessed bits are clear then *sleeps*: no way leads to its units until the guest's code comes there, and the hypervisor walks
the guest's page tables as the processor would have done, so that the guest finds the bits set as on the bare machine.

Read more: Adams and Agesen, ASPLOS 2006, 3.1.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from vmlab.errors import StateError
from vmlab.isa.x86.faults import Fault
from vmlab.isa.x86.registers import CR0_PG, ECX, ESP, IF
from vmlab.machine.memory import PAGE_SHIFT, PAGE_SIZE
from vmlab.machine.state import COUNT, LONG, Entries, Items, check_state
from vmlab.vmm.translated_pages import TranslatedPages, frame_of
from vmlab.vmm.translation_adaptation import Adaptation, read_copies
from vmlab.vmm.translation_chains import Chains
from vmlab.vmm.translation_code import (
    AT_GOAL,
    CALL_OUT,
    GOAL,
    IN_ECX,
    JUMP_BYTES,
    OTHER_PAGES,
    SAVED_ECX,
    TABLE,
    TABLE_BYTES,
    VIRTUAL_IF,
    WAITING,
    Copy,
    Place,
    Unit,
    jump_to,
    landing,
)
from vmlab.vmm.translation_unit import translate

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.machine.processor import Processor
    from vmlab.vmm.host_memory import HostMemory
    from vmlab.vmm.world import World

__all__ = ["TranslationCache"]

MASK = 0xFFFFFFFF
EMPTY = CALL_OUT
"""What the table leads to where it knows nothing: the first code of the cache."""


class TranslationCache:
    """The translations of one VCPU's code.

    Parameters
    ----------
    host : HostMemory
        Whose window shows it.
    world : World
        The guest's.
    uncounted : set of int
        Where the processor is told of the instructions that it must not count.
    pages : int
        Pages that it has in all.

    Attributes
    ----------
    data : int
        Linear address of the data page; the table is behind it.
    addresses : range
        Linear addresses of the code.
    next : int
        Where the next unit goes.
    units : dict of int to Unit
        By address in the cache.
    entries : dict of int to int
        Address in the cache by address of the guest's instruction.
    begins : dict of int to int
        Address of the guest's instruction, by that in the cache at which its translation begins.
    places : dict of int to Place
        What generated instructions are to the guest.
    jumps : dict of int to int
        Direct jumps by address in the cache, and where the guest would go.
    pages : TranslatedPages
        Pages of the guest's code, and their units.
    adaptation : Adaptation
        Which instructions are translated in another way than most.
    counters : Counter
        `"translations"`, `"instructions translated"`, `"bytes in"`, `"bytes out"`, `"look-ups"`, `"hits"`, `"chains"`,
        `"landings"`, `"call-outs"`, `"retranslations"`, `"dropped"`, `"flushes"`, and `"woken"` pages.
    """

    def __init__(self, host: HostMemory, world: World, uncounted: set[int], pages: int) -> None:
        self._host, self._world, self._uncounted, self._alone = host, world, uncounted, world.vcpu.is_alone
        self.data = host.show_new(1, writable=True)
        host.show_new(OTHER_PAGES - 1)
        start = host.show_new(pages - OTHER_PAGES)
        self.addresses = range(start, start + (pages - OTHER_PAGES) * PAGE_SIZE)
        self.adaptation = Adaptation()
        self.counters: Counter[str] = Counter()
        self._flushes_seen = -1
        self.places: dict[int, Place] = {}
        self._clear()
        self._host.write_bytes(self.addresses.start, EMPTY)

    def _clear(self) -> None:
        start = self.addresses.start
        self._uncounted.difference_update(self.places)
        self.next = start + len(EMPTY)
        self.units: dict[int, Unit] = {}
        self.entries: dict[int, int] = {}
        self.places = {start: Place(AT_GOAL, saved=True)}
        self.jumps: dict[int, int] = {}
        self.begins: dict[int, int] = {}
        self.landings: dict[int, int] = {}
        self._chains = Chains(self._host)
        self.pages = TranslatedPages()
        self._host.write_bytes(self.data + TABLE, start.to_bytes(4, "little") * (TABLE_BYTES // 4))

    # -- looking up ------------------------------------------------------------------------------------------------------

    def find(self, vcpu: Processor) -> int | None:
        """Return where the VCPU's next instruction is in the cache, translated if need be; None where it cannot be."""
        self.counters["look-ups"] += 1
        found = self.entries.get(vcpu.ip)
        if found is None:
            return self._translate(vcpu)
        self.counters["hits"] += 1
        return found

    def _translate(self, vcpu: Processor) -> int | None:
        ip = gpa = vcpu.ip
        if vcpu.cr0 & CR0_PG:
            try:
                found = vcpu.page_walk(ip, write=False, user=False, fetch=True)
            except Fault:
                return None
            if not all(step.in_register or vcpu.bus.is_ram(step.address) for step in found.steps):
                return None
            gpa = found.frame | ip & PAGE_SIZE - 1
        if not vcpu.bus.is_ram(gpa):
            return None
        if ip >> PAGE_SHIFT in self.pages.asleep:
            self._wake(ip >> PAGE_SHIFT, gpa >> PAGE_SHIFT)
            if ip in self.entries:
                return self.entries[ip]
        source = self._world.memory.read_bytes(gpa, PAGE_SIZE - (gpa & PAGE_SIZE - 1))
        unit = translate(ip, source, self.data, self.adaptation.trapping, self.adaptation.copies, alone=self._alone)
        if unit is None:
            return None
        address = self._place(unit, gpa >> PAGE_SHIFT)
        count = self.counters
        count["translations"] += 1
        count["instructions translated"] += len(unit.starts)
        count["bytes in"] += len(unit.source)
        count["bytes out"] += len(unit.code)
        return address

    def _place(self, unit: Unit, frame: int) -> int:
        """Put a unit into the cache; a full one is emptied before."""
        if self.next + len(unit.code) > self.addresses.stop:
            self._clear()
            self.counters["flushes"] += 1
        address = self.next
        code = bytearray(unit.code)
        self._install(unit, address, frame)
        for offset, goal in unit.jumps.items():  # what is there already need not be chained later
            known = self.entries.get(goal)
            if known is not None:
                code[offset : offset + JUMP_BYTES] = jump_to(address + offset, known)
                self._chains.goals[address + offset] = known
        self._host.write_bytes(address, bytes(code))
        self._world.guard_code(self.pages.frames)
        return address

    def _install(self, unit: Unit, address: int, frame: int) -> None:
        """Enter a unit whose code is to be at an address."""
        self.next = address + len(unit.code)
        self.units[address] = unit
        if unit.starts:
            self.pages.add(unit.ip >> PAGE_SHIFT, frame, address)
        for ip, offset in unit.starts.items():
            self.entries.setdefault(ip, address + offset)
            self.begins[address + offset] = ip
        self.places.update((address + offset, place) for offset, place in unit.places.items())
        self.jumps.update((address + offset, goal) for offset, goal in unit.jumps.items())
        self._uncounted.update(address + offset for offset in unit.glue)

    def chain(self, stub: int, address: int) -> None:
        """Let a direct jump lead to where its goal has been translated, if it is still there."""
        if stub in self.jumps and stub not in self._chains.goals:
            self._chains.add(stub, address)
            self.counters["chains"] += 1

    def remember(self, ip: int) -> None:
        """Enter an address that has been translated into the table in which indirect jumps look."""
        address = self.landings.get(ip)
        if address is None:
            address = self._place(landing(ip, self.data), 0)
            if ip not in self.entries:
                return  # the cache was full
            self.landings[ip] = address
            self.counters["landings"] += 1
        self._host.write(self._slot(ip), 4, address)

    def is_miss(self, address: int) -> bool:
        """Say whether an indirect jump has come to an address in vain."""
        return self.places[address].ip == AT_GOAL

    def _slot(self, ip: int) -> int:
        return self.data + TABLE + (4 * ip & TABLE_BYTES - 1)

    def code(self, address: int) -> bytes:
        """Return the generated code of a unit, as it is now."""
        return self._host.read_bytes(address, len(self.units[address].code))

    def is_chained(self, stub: int) -> bool:
        """Say whether a direct jump leads on within the cache now."""
        return self._host.read_bytes(stub, len(CALL_OUT)) != CALL_OUT

    # -- the guest's registers ---------------------------------------------------------------------------------------------

    def publish(self, vcpu: Processor) -> None:
        """Put into the data what translated code needs of the VCPU."""
        for place, value in self.adaptation.registers(vcpu).items():
            self._host.write(self.data + place, 4, value)
        self._host.write(self.data + VIRTUAL_IF, 4, vcpu.flags & IF)
        self._host.write(self.data + WAITING, 4, int(vcpu.interrupts.output or vcpu.signals.due))

    def restore(self, vcpu: Processor, *, retired: bool) -> None:
        """Make a VCPU that has been in the cache what the guest believes, if it has `retired` anything there or not."""
        place = self.places[vcpu.ip]
        ecx = self._host.read(self.data + SAVED_ECX, 4)
        if place.ip == IN_ECX:
            vcpu.ip = vcpu.registers[ECX]
        else:
            vcpu.ip = self._host.read(self.data + GOAL, 4) if place.ip == AT_GOAL else place.ip
        if place.saved:
            vcpu.registers[ECX] = ecx
        vcpu.registers[ESP] = vcpu.registers[ESP] + place.pushed & MASK
        vcpu.flags = vcpu.flags & ~IF | self._host.read(self.data + VIRTUAL_IF, 4)
        if place.shadow and retired:
            vcpu.shadow_at = vcpu.retired

    # -- what is true no more ----------------------------------------------------------------------------------------------

    def trapped(self, ip: int, copy: Copy | None = None) -> None:
        """Note that an instruction has trapped: see `Adaptation.trapped`."""
        if self.adaptation.trapped(ip, copy):
            self._translate_anew(ip)

    def called_out(self, ip: int) -> None:
        """Note a call-out."""
        self.counters["call-outs"] += 1
        if self.adaptation.called_out(ip):
            self._translate_anew(ip)

    def _translate_anew(self, ip: int) -> None:
        self.counters["retranslations"] += 1
        for address in self.pages.units(ip >> PAGE_SHIFT):
            if ip in self.units[address].starts:
                self._drop(address)

    def refresh(self, vcpu: Processor, *, invalidated: bool) -> None:
        """Drop what the guest has changed: its code, or where its code is."""
        written = self._world.written
        if written:
            for address, frame in self.pages.placed():
                if frame in written:
                    unit = self.units[address]
                    gpa = frame << PAGE_SHIFT | unit.ip & PAGE_SIZE - 1
                    if self._world.memory.read_bytes(gpa, len(unit.source)) != unit.source:
                        self._drop(address)
            written.clear()
        if invalidated or vcpu.tlb.flushes != self._flushes_seen:
            self._flushes_seen = vcpu.tlb.flushes
            moved, tired = self.pages.look(vcpu)
            for address in moved:
                self._drop(address)
            if tired:
                self._sleep(tired)
            apic = vcpu.interrupts.base >> PAGE_SHIFT, True
            self._forget_copies(lambda copy: frame_of(vcpu, copy.linear >> PAGE_SHIFT) != apic)

    def forget_copies(self) -> None:
        """Read no copies of a device's registers any more."""
        self._forget_copies(lambda _: True)

    def _forget_copies(self, which: Callable[[Copy], bool]) -> None:
        for ip in self.adaptation.forget_copies(which):
            self._translate_anew(ip)

    def _stubs(self, page: int) -> set[int]:
        return {address + offset for address in self.pages.units(page) for offset in self.units[address].jumps}

    def _sleep(self, pages: set[int]) -> None:
        """Let no way lead to the units of pages from without."""
        for ip in [ip for ip in self.entries if ip >> PAGE_SHIFT in pages]:
            del self.entries[ip]
        self._chains.switch({page: self._stubs(page) for page in pages}, self.begins, on=False)
        self.pages.asleep |= pages

    def _wake(self, page: int, frame: int) -> None:
        """Let all ways lead to the units of a page again; drop them if it is not in the frame in which it was."""
        if frame != self.pages.frame(page):
            for address in self.pages.units(page):
                self._drop(address)
            return
        for address in self.pages.units(page):
            for ip, offset in self.units[address].starts.items():
                self.entries.setdefault(ip, address + offset)
        self._chains.switch({page: self._stubs(page)}, self.begins, on=True)
        self.pages.asleep.discard(page)
        self.counters["woken"] += 1

    def _drop(self, address: int) -> None:
        unit = self.units.pop(address)
        span = range(address, address + len(unit.code))
        self.pages.remove(unit.ip >> PAGE_SHIFT, address)
        for ip in unit.starts:
            if self.entries.get(ip) in span:
                del self.entries[ip]
        stubs = [address + offset for offset in unit.jumps]
        for stub in stubs:
            del self.jumps[stub]
        self._chains.forget(stubs)
        self._chains.drop(span)
        self.counters["dropped"] += 1

    # -- saving ------------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Save what is not in memory: units are their source, and made again from it."""
        frames = dict(self.pages.placed())
        return {
            "version": 2,
            "next": self.next,
            "units": [
                [address, unit.ip, frames.get(address, 0), unit.source, *self.adaptation.part(unit.starts)]
                for address, unit in self.units.items()
            ],
            "pages": list(self.pages),
            "entries": dict(self.entries),
            "chained": dict(self._chains.goals),
            "asleep": sorted(self.pages.asleep),
            "landings": dict(self.landings),
            "adaptation": self.adaptation.save(),
            "counters": dict(self.counters),
            "flushes": self._flushes_seen,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load what `save` gave, after memory; StateError where it is damaged."""
        words = Entries(LONG, LONG)
        check_state(state, "translation cache", {
            "next": self.addresses, "units": Items(list), "pages": Items(LONG), "entries": words, "chained": words,
            "landings": words, "adaptation": dict, "counters": Entries(str, COUNT), "flushes": int, "asleep": Items(LONG),
        }, version=2)  # fmt: skip
        table = self._host.read_bytes(self.data + TABLE, TABLE_BYTES)
        self._clear()
        self._host.write_bytes(self.data + TABLE, table)
        for row in state["units"]:
            self._load_unit(row)
        if {*state["pages"]} != {*self.pages}:
            raise StateError("translation cache: saved pages are not those of the saved units")
        if not {*state["asleep"]} <= {*self.pages}:
            raise StateError("translation cache: a saved page sleeps that has no units")
        if not {*state["chained"].values()} <= {*self.begins}:
            raise StateError("translation cache: a saved jump leads to where no translation begins")
        self.adaptation.load(state["adaptation"])
        self.pages.arrange(state["pages"])
        self.entries, self._chains.goals = dict(state["entries"]), dict(state["chained"])
        self.pages.asleep = set(state["asleep"])
        self.landings, self.next = dict(state["landings"]), state["next"]
        self.counters, self._flushes_seen = Counter(state["counters"]), state["flushes"]
        for address, unit in self.units.items():  # decoded instructions do not know which of them are counted
            self._host.write_bytes(address, self._host.read_bytes(address, len(unit.code)))

    def _load_unit(self, row: list[Any]) -> None:
        fields = {"address": self.addresses, "ip": LONG, "frame": COUNT, "source": bytes}
        fields |= {"trapping": Items(LONG), "copies": Items(LONG)}
        if len(row) != len(fields):
            raise StateError(f"translation cache: a saved unit has {len(fields)} parts, not {len(row)}")
        check_state({"version": 1} | dict(zip(fields, row, strict=True)), "translation unit", fields)
        address, ip, frame, source, trapping, numbers = row
        how: Any = self.data, trapping, read_copies(numbers)
        unit = translate(ip, source, *how, alone=self._alone) if source else landing(ip, self.data)
        if unit is None or unit.source != source:
            raise StateError(f"translation cache: the saved unit of {ip:#x} is not what its code becomes")
        self._install(unit, address, frame)
