"""What interpreting a guest instruction costs the host: measured by an interpreter for x86-64 on this laboratory's own x86.

`interpreter.asm` is the core of one, in the manner of the processor here: decoded once, then one jump for each instruction.
It interprets two loops of the guest `workload`, which are 90 % of what that executes: the checksum and the sieve.
"""

from __future__ import annotations

from pathlib import Path

import vmlab
from vmlab.guests import arm64 as guests
from vmlab.guests import workload_disk
from vmlab.isa.arm64 import assemble, decode
from vmlab.machine.arm64.board import LOAD, RAM
from vmlab.machine.costs import EMULATOR

CORE = Path(__file__).with_name("interpreter.asm").read_text(encoding="utf-8")
MEMORY = 0x20_0000
"""Where the interpreter keeps the guest's memory."""
DATA, SIEVE = 0x0, 0x2000

LOOPS = f"""
        mov x20, #0
        mov w21, #0
        mov x2, #0
        mov x19, #{DATA}
2:      ldrb w3, [x19, x2]
        lsl w4, w21, #5
        sub w4, w4, w21
        add w21, w4, w3
        add x2, x2, #1
        cmp x2, #4096
        b.lo 2b

        mov x19, #{SIEVE}
        mov x22, #0
        mov x1, #2
1:      ldrb w2, [x19, x1]
        cbnz w2, 3f
        add x22, x22, #1
        add x3, x1, x1
        mov w4, #1
2:      cmp x3, #2000
        b.hs 3f
        strb w4, [x19, x3]
        add x3, x3, x1
        b 2b
3:      add x1, x1, #1
        cmp x1, #2000
        b.lo 1b
"""


def record(word: int, number: int) -> str:
    """Return the record of an instruction, as data for the assembler."""
    i = decode(word)
    fields, name = i.fields, i.mnemonic
    wide = "" if fields.get("sf", 1) else "_word"
    kind = "immediate" if "imm12" in fields else "register"
    handler = {
        "add": f"add_{kind}" if wide == "" else "add_word", "sub": "sub_word", "ubfm": "shift_word", "movz": "move",
        "subs": "compare", "b": "branch", "b.lo": "branch_lo", "b.hs": "branch_hs", "cbnz": "branch_nonzero",
        "ldrb": "load_byte", "strb": "store_byte",
    }[name]  # fmt: skip
    d = fields.get("rd", fields.get("rt", 0))
    first = fields["rt"] if name == "cbnz" else fields.get("rn", 0)
    value = fields["imm12"] << 12 * fields["sh"] if "imm12" in fields else fields.get("imm16")
    if value is None:
        value = 31 - fields["imms"] if name == "ubfm" else 8 * fields.get("rm", 0)
    target = number
    for field, bits in (("imm26", 26), ("imm19", 19)):
        if field in fields:
            target += fields[field] - (1 << bits if fields[field] >> bits - 1 else 0)
    return f"dq {handler}\n dd {8 * (33 if d == 31 else d)}, {8 * first}\n dq {value}, records + {32 * target}"


def words(source: str) -> list[int]:
    code = assemble(source, LOAD).code
    return [int.from_bytes(code[place : place + 4], "little") for place in range(0, len(code), 4)]


def test_the_cost_of_an_instruction():
    disk = workload_disk().read(0, 8)
    # as the machine here does it
    ours = guests.machine(LOOPS.replace("mov x19, #", f"ldr x19, ={RAM} + ") + "ldr x0, =0x84000008\n hvc #0")
    ours.board.memory.write_bytes(DATA, disk)
    ours.run()
    executed = ours.instructions - 2
    # as the interpreter does it
    data = "\n".join(record(word, number) for number, word in enumerate(words(LOOPS)))
    source = f"MEMORY equ {MEMORY}\n{CORE}\n{data}\ndq leave_, 0, 0, 0\ntimes {MEMORY - 0x10_0000}-($-$$) db 0\n"
    source += "db " + ", ".join(map(str, disk))
    image = vmlab.assemble(source)
    run = vmlab.run(image, cpu="core-2", memory=8 << 20)
    assert run.outcome == "exit"
    registers = image.symbols["registers"]
    memory = run.guests[0].memory
    theirs = [memory.read(registers + 8 * number, 8) for number in range(31)]
    for number in (1, 2, 3, 4, 21, 22):
        assert theirs[number] == ours.state.x[number], number
    assert (theirs[21], theirs[22]) == (0xE3AD_8000, 303)
    measured = run.instructions / executed
    assert executed == 60_929
    assert round(measured) == EMULATOR.instruction, measured
