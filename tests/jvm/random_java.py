"""Random Java programs of ints, longs, arrays, objects and exceptions, whose result is one line.

Each program ends: loops have few rounds, methods call later ones alone, and all of them share a budget of calls.
"""

from __future__ import annotations

import random

METHODS = 4
INTS = [f"i{n}" for n in range(4)]
NARROW = {"b0": "byte", "s0": "short", "c0": "char"}
LONGS = ["l0", "l1"]
CONSTANTS = [
    0,
    1,
    -1,
    2,
    3,
    7,
    31,
    32,
    33,
    63,
    64,
    127,
    128,
    255,
    256,
    -128,
    32767,
    65535,
    1 << 30,
    -(1 << 31),
    (1 << 31) - 1,
]

CLASSES = """
    static int fuel;
    static int shared = {shared};
    static long wide = {wide}L;
    static int[] ints = new int[{size}];
    static byte[] bytes = new byte[{size}];
    static boolean[] flags = new boolean[{size}];
    static char[] chars = new char[{size}];
    static short[] shorts = new short[{size}];
    static long[] longs = new long[{size}];
    static Base[] objects = {{new Base(), new Left(), new Right(), new Left()}};
    static int trace;
    static {{ for (int n = 0; n < {size}; n++) {{
        ints[n] = n * 0x1234567; bytes[n] = (byte) (n * 37); chars[n] = (char) (n * 4099); shorts[n] = (short) (n * -4099); longs[n] = n * 0x123456789abL;
    }} }}

    interface Able {{ int able(int x, int y); }}
    static class Base implements Able {{
        int f = 3; byte g = 5; long h = 7; Base next = this;
        int act(int x) {{ return x + f; }}
        public int able(int x, int y) {{ return x - y + g; }}
    }}
    static class Left extends Base {{
        int act(int x) {{ return {left}; }}
    }}
    static class Right extends Base {{
        char k = 'k';
        int act(int x) {{ k += x; return super.act({right}) ^ k; }}
        public int able(int x, int y) {{ return {able}; }}
    }}
"""


def _spell(number: int) -> str:
    return str(number) if number >= 0 else f"({number})"


class Writer:
    """Writes one program."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.method = 0
        self.counters = 0
        self.has_longs = seed % 3 == 0  # a method with longs is not compiled

    def pick(self, *options):
        return self.random.choice(options)

    def integer(self, depth: int, simple: bool = False) -> str:  # noqa: PLR0911 - one kind of expression each
        pick, sub = self.pick, lambda: self.integer(depth - 1, simple)
        if depth <= 0 or self.random.random() < 0.1:
            return pick(_spell(self.random.choice(CONSTANTS)), "x" if simple else pick(*INTS, *NARROW, "shared"))
        kind = self.random.randrange(8 if simple else 17)
        if kind < 4:
            return f"({sub()} {pick('+', '-', '*', '&', '|', '^', '+', '-')} {sub()})"
        if kind == 4:
            return f"({sub()} {pick('<<', '>>', '>>>')} {sub()})"
        if kind == 5:
            return f"({sub()} {pick('/', '%')} ({sub()} | 1))"
        if kind == 6:
            return f"(({pick('byte', 'short', 'char', 'int')}) {sub()})"
        if kind == 7:
            return pick(f"(- {sub()})", f"(~{sub()})")
        if kind == 8:
            safe = " | 3" if self.random.random() < 0.8 else ""
            return f"({sub()} {pick('/', '%')} ({sub()}{safe}))"
        if kind == 9:
            return f"({self.boolean(depth - 1)} ? {sub()} : {sub()})"
        if kind == 10:
            return f"{pick('ints', 'bytes', 'chars', 'shorts')}[{self.place(depth - 1)}]"
        if kind == 11 and self.has_longs:
            return f"((int) {self.long(depth - 1)})"
        if kind == 12:
            return f"objects[{self.place(depth - 1, 4)}].{pick('f', 'g', 'next.f', f'act({sub()})')}"
        if kind == 13:
            return f"((Able) objects[{self.random.randrange(3)}]).able({sub()}, {sub()})"
        if kind == 14 and self.method + 1 < METHODS:
            middle = self.long(depth - 1) if self.has_longs else sub()
            return f"m{self.random.randrange(self.method + 1, METHODS)}({sub()}, {middle}, {sub()})"
        if kind == 15:
            return (
                f"(objects[{self.place(0, 4)}] instanceof {pick('Left', 'Right', 'Base', 'Able')} ? {sub()} : {sub()})"
            )
        if kind == 16:
            return f"({pick(*INTS)} {pick('+=', '-=', '^=', '<<=')} {sub()})"
        return pick(
            f"{pick(*INTS)}++",
            f"--{pick(*INTS)}",
            "ints.length",
            f"Integer.bitCount({sub()})",
            f"Math.max({sub()}, {sub()})",
        )

    def place(self, depth: int, size: int = 16) -> str:
        index = self.integer(depth)
        return index if self.random.random() < 0.02 else f"({index} & {size - 1})"

    def long(self, depth: int) -> str:
        if depth <= 0:
            return self.pick(*LONGS, "wide", f"{self.random.getrandbits(self.pick(3, 33, 62))}L", "-1L")
        sub = lambda: self.long(depth - 1)  # noqa: E731
        kind = self.random.randrange(8)
        if kind < 3:
            return f"({sub()} {self.pick('+', '-', '*', '&', '|', '^')} {sub()})"
        if kind == 3:
            return f"({sub()} {self.pick('<<', '>>', '>>>')} {self.integer(depth - 1)})"
        if kind == 4:
            return f"({sub()} {self.pick('/', '%')} ({sub()} | 1))"
        if kind == 5:
            return f"((long) {self.integer(depth - 1)})"
        if kind == 6:
            return f"longs[{self.place(depth - 1)}]"
        return f"objects[{self.place(0, 4)}].h"

    def boolean(self, depth: int) -> str:
        if depth <= 0:
            return f"({self.integer(0)} {self.pick('<', '<=', '==', '!=', '>', '>=')} {self.integer(0)})"
        kind = self.random.randrange(6)
        if kind == 0:
            return f"({self.boolean(depth - 1)} {self.pick('&&', '||', '^', '&', '|')} {self.boolean(depth - 1)})"
        if kind == 1:
            return f"(!{self.boolean(depth - 1)})"
        if kind == 2 and self.has_longs:
            return f"({self.long(depth - 1)} {self.pick('<', '<=', '==', '!=', '>', '>=')} {self.long(depth - 1)})"
        if kind == 3:
            return f"flags[{self.place(depth - 1)}]"
        if kind == 4:
            return f"(objects[{self.place(0, 4)}] {self.pick('==', '!=')} {self.pick('null', 'objects[1]')})"
        return f"({self.integer(depth - 1)} {self.pick('<', '<=', '==', '!=', '>', '>=')} {self.integer(depth - 1)})"

    def block(self, depth: int, count: int) -> str:
        return "{ " + " ".join(self.statement(depth) for _ in range(count)) + " }"

    def statement(self, depth: int) -> str:  # noqa: PLR0911 - one kind of statement each
        kind = self.random.randrange(9 if depth <= 0 else 15)
        if kind < 2:
            return f"{self.pick(*INTS)} {self.pick('=', '+=', '^=', '-=', '*=', '>>>=')} {self.integer(3)};"
        if kind == 2:
            name = self.pick(*NARROW)
            return self.pick(
                f"{name} = ({NARROW[name]}) {self.integer(2)};", f"{name} += {self.integer(2)};", f"{name}++;"
            )
        if kind == 3 and self.has_longs:
            return f"{self.pick(*LONGS, 'wide')} {self.pick('=', '+=', '^=', '*=')} {self.long(3)};"
        if kind == 4:
            array = self.pick("ints", "bytes", "chars", "shorts")
            cast = {"ints": "", "bytes": "(byte) ", "chars": "(char) ", "shorts": "(short) "}[array]
            return self.pick(
                f"{array}[{self.place(2)}] = {cast}{self.integer(2)};",
                f"{array}[{self.place(1)}] {self.pick('+=', '^=')} {self.integer(2)};",
            )
        if kind == 5:
            return self.pick(
                f"flags[{self.place(1)}] = {self.boolean(2)};",
                f"longs[{self.place(1)}] {self.pick('=', '-=')} {self.long(2)};" if self.has_longs else "i0++;",
            )
        if kind == 6:
            target = f"objects[{self.place(1, 4)}]"
            return self.pick(
                f"{target}.f = {self.integer(2)};", f"{target}.g = (byte) {self.integer(2)};", f"{target}.h ^= {self.long(2)};" if self.has_longs else "i1--;",
                f"{target}.next = objects[{self.place(0, 4)}];", f"((Right) {target}).k++;",
            )  # fmt: skip
        if kind == 7:
            return f"shared {self.pick('=', '+=')} {self.integer(3)};"
        if kind == 8:
            return self.pick(
                f"ints = new int[{self.integer(1)} & 31];" if self.random.random() < 0.3 else "i0--;",
                f"i1 += new int[{self.integer(0)} % 40][2].length;", "objects[3] = new Right();", "objects[3] = new Left();", "objects[3] = i0 == 7 ? null : objects[2];", "bytes = bytes.clone();",
            )  # fmt: skip
        if kind == 9:
            return f"if ({self.boolean(2)}) {self.block(depth - 1, 2)} else {self.block(depth - 1, 1)}"
        if kind in (10, 11):
            self.counters += 1
            k = f"k{self.counters}"
            out = self.pick("", f"if ({self.boolean(1)}) break;", f"if ({self.boolean(1)}) continue;")
            return f"for (int {k} = 0; {k} < {self.random.randrange(1, 9)}; {k}++) {{ {out} {self.block(depth - 1, 2)} i2 += {k}; }}"
        if kind == 12:
            keys = self.random.sample(range(-3, 12), 5) if self.random.random() < 0.5 else list(range(6))
            cases = " ".join(f"case {key}: {self.statement(0)} {self.pick('break;', '')}" for key in keys)
            return f"switch ({self.integer(1)} & 15) {{ {cases} default: {self.statement(0)} }}"
        if kind == 13:
            last = f"finally {{ {self.statement(0)} }}" if self.random.random() < 0.4 else ""
            caught = self.pick(
                "ArithmeticException", "ArrayIndexOutOfBoundsException", "NullPointerException", "RuntimeException"
            )
            thrown = (
                f'if ({self.boolean(1)}) throw new IllegalStateException("t" + i0);'
                if self.random.random() < 0.5
                else ""
            )
            return (
                f"try {{ {self.block(depth - 1, 2)} {thrown} }} catch ({caught} e) "
                f"{{ i3 += e.getMessage() == null ? 1 : e.getMessage().hashCode(); }} {last}"
            )
        return f"while (({self.integer(1)} & 1) == 0 && fuel-- > 0) {self.block(depth - 1, 1)}"

    def traced(self) -> str:
        """Return a statement whose end, even by an exception, leaves a trace of all variables."""
        state = "trace = trace * 31 + (i0 ^ 3 * i1 ^ 5 * i2 ^ 7 * i3) + b0 + 3 * s0 + 5 * c0 + shared;"
        return f"try {{ {self.statement(3)} }} catch (RuntimeException e) {{ trace += 17 * e.getClass().getName().hashCode(); }} {state}\n"

    def program(self, name: str) -> str:
        parts = [
            CLASSES.format(
                shared=self.random.choice(CONSTANTS), wide=self.random.getrandbits(60), size=16, left=self.integer(3, simple=True),
                right=self.integer(2, simple=True), able=self.integer(3, simple=True).replace("--x", "y"),
            )
        ]  # fmt: skip
        for self.method in range(METHODS):
            locals_ = (
                "int i2 = i0 ^ 5, i3 = 0; byte b0 = (byte) i1; short s0 = 77; char c0 = 'q';"
                + " long l1 = l0 * 3;" * self.has_longs
            )
            kind, last = ("long", "(int) (l0 ^ l1 >>> 9)") if self.has_longs else ("int", "l0")
            body = " ".join(self.traced() for _ in range(6))
            parts.append(
                f"static int m{self.method}(int i0, {kind} l0, int i1) {{ if (--fuel < 0) return 1; {locals_}\n{body}\n"
                f"return i0 + 3 * i1 + 5 * i2 + 7 * i3 + b0 + s0 + c0 + {last}; }}\n"
            )
        parts.append(
            "static String run() { int sum = 0; for (int n = 0; n < 12; n++) { fuel = 60;\n"
            "try { sum = sum * 31 + m0(n, n * 0x12345678, -n); }\n"
            "catch (RuntimeException e) { sum = sum * 31 + (e.getClass().getName() + e.getMessage()).hashCode(); } }\n"
            "for (int n = 0; n < 16; n++) sum = sum * 31 + (n < ints.length ? ints[n] : 0) + bytes[n] + chars[n] + shorts[n] + (flags[n] ? 1 : 0) + (int) longs[n];\n"
            'return sum + " " + trace + " " + shared + " " + wide + " " + objects[1].f + " " + objects[2].h; }'
        )
        return (
            f"public class {name} {{\n"
            + "\n".join(parts)
            + "\npublic static void main(String[] a) { System.out.println(run()); }\n}\n"
        )


def programs(seed: int, count: int) -> dict[str, str]:
    """Return sources of random programs by name, and of `All`, which runs them all."""
    found = {f"R{n}": Writer(seed * 10_000 + n).program(f"R{n}") for n in range(count)}
    calls = " ".join(f'System.out.println("{name} " + {name}.run());' for name in found)
    return {**found, "All": f"public class All {{ public static void main(String[] a) {{ {calls} }} }}\n"}
