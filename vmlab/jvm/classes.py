"""Classes, fields and methods as the virtual machine knows them: linked, with their places in memory.

What compiled code needs of a class lies in the simulated memory, one record a class:

    +0   number of the class          +4   of arrays of references: the record of the elements' class
    +8   display: the records of the classes above it, by depth, eight words
    +40  the method table: an address of code for each method that can be overridden

A class extends another if the other's record is in its display, at the other's depth: one comparison.

Read more: JVMS 5.4; Click and Rose, "Fast Subtype Checking in the HotSpot JVM", Java Grande 2002 (the display).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmlab.errors import ImageError
from vmlab.jvm.class_file import ABSTRACT, INTERFACE, NATIVE, STATIC, SYNCHRONIZED
from vmlab.jvm.descriptors import is_reference, parse_method, slots, spell_method

if TYPE_CHECKING:
    from vmlab.jvm.class_file import ClassFile, Member
    from vmlab.jvm.frames import Operation
    from vmlab.jvm.verifier import Verified

__all__ = [
    "DISPLAY", "DISPLAY_AT", "ELEMENT_AT", "FAILED", "HEADER", "INITIALISED", "INITIALISING", "LINKED", "TABLE_AT", "Field", "JavaClass", "Method", "MethodKey",
]  # fmt: skip

LINKED, INITIALISING, INITIALISED, FAILED = range(4)
"""What has become of a class's static initialiser."""

HEADER = 8
"""Bytes before the first field of an object."""
ELEMENT_AT, DISPLAY_AT, DISPLAY = 4, 8, 8
TABLE_AT = DISPLAY_AT + 4 * DISPLAY

MethodKey = tuple[str, str]
"""Name and descriptor."""


class Field(NamedTuple):
    """A field: `place` is its offset in objects, or the address of a static one."""

    owner: JavaClass
    name: str
    descriptor: str
    is_static: bool
    place: int


class Method:
    """A method.

    Attributes
    ----------
    number : int
        It is known to compiled code by this.
    words : int
        Of its parameters, `this` included.
    result : str
        Type of what it returns.
    cell : int
        Address of the word that holds the address of its code.
    table_index : int
        Index in the method table, -1 where it cannot be overridden.
    verified : Verified or None
        Its instructions and types, once it has been called.
    calls, loops : int
        Counted by the interpreter, until it is compiled.
    """

    __slots__ = (
        "access", "calls", "cell", "code", "descriptor", "loops", "name", "number", "operations", "owner", "parameters", "result", "table_index", "verified",
        "words",
    )  # fmt: skip

    def __init__(self, owner: JavaClass, member: Member, number: int, cell: int) -> None:
        self.owner = owner
        self.name, self.descriptor, self.access, self.code = member.name, member.descriptor, member.access, member.code
        self.parameters, self.result = parse_method(member.descriptor)
        self.words = sum(map(slots, self.parameters)) + (not self.is_static)
        self.number, self.cell = number, cell
        self.table_index = -1
        self.verified: Verified | None = None
        self.operations: list[Operation] | None = None
        self.calls = self.loops = 0

    @property
    def is_static(self) -> bool:
        """True for a method of the class itself."""
        return bool(self.access & STATIC)

    @property
    def is_native(self) -> bool:
        """True where the virtual machine itself does its work."""
        return bool(self.access & NATIVE)

    @property
    def is_abstract(self) -> bool:
        """True where there is nothing to call."""
        return bool(self.access & ABSTRACT)

    @property
    def is_synchronized(self) -> bool:
        """True where it holds a monitor: of no effect, with one thread."""
        return bool(self.access & SYNCHRONIZED)

    @property
    def key(self) -> MethodKey:
        """Name and descriptor."""
        return self.name, self.descriptor

    @property
    def title(self) -> str:
        """Its name as Java source writes it: `Sieve.count(int)`."""
        return spell_method(self.owner.name, self.name, self.descriptor)

    def line(self, offset: int) -> int:
        """Return the line of the source that an offset of its code belongs to; 0 where it is not known."""
        found = 0
        for start, line in self.code.lines if self.code else ():
            if start <= offset:
                found = line
        return found

    def __repr__(self) -> str:
        return f"<Method {self.title}>"


class JavaClass:
    """A class, an interface, or the class of arrays of one type.

    Attributes
    ----------
    name : str
        As `java/lang/String`; of arrays their descriptor.
    record : int
        Address of its record.
    size : int
        Bytes of an object.
    references : list of int
        Offsets of its objects' references.
    statics : list of int
        Addresses of its static references.
    table : list of Method
        What can be overridden, by index; `places` has the index by name and descriptor.
    state : int
        What has become of its static initialiser.
    element : str
        Type of the elements, of an array's class; empty otherwise.
    """

    __slots__ = (
        "display", "element", "fields", "file", "interfaces", "methods", "name", "number", "places", "record", "references", "size", "state", "statics",
        "superclass", "supers", "table",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        number: int,
        superclass: JavaClass | None,
        interfaces: tuple[JavaClass, ...] = (),
        file: ClassFile | None = None,
    ) -> None:
        self.name, self.number, self.superclass, self.interfaces, self.file = name, number, superclass, interfaces, file
        self.element = name[1:] if name.startswith("[") else ""
        self.display: tuple[JavaClass, ...] = ((*superclass.display, self)) if superclass else (self,)
        self.supers: frozenset[str] = frozenset({name}).union(
            *(each.supers for each in ((superclass,) if superclass else ()) + interfaces)
        )
        self.fields: dict[tuple[str, str], Field] = {}
        self.methods: dict[MethodKey, Method] = {}
        self.table: list[Method] = list(superclass.table) if superclass else []
        self.places: dict[MethodKey, int] = dict(superclass.places) if superclass else {}
        self.references: list[int] = list(superclass.references) if superclass else []
        self.statics: list[int] = []
        self.size: int = superclass.size if superclass else HEADER
        self.record = 0
        self.state = LINKED

    @property
    def is_interface(self) -> bool:
        """True for an interface."""
        return bool(self.file and self.file.access & INTERFACE)

    @property
    def is_abstract(self) -> bool:
        """True where there are no objects of just this class."""
        return bool(self.file and self.file.access & (INTERFACE | ABSTRACT))

    @property
    def descriptor(self) -> str:
        """The type of references to its objects."""
        return self.name if self.element else f"L{self.name};"

    @property
    def title(self) -> str:
        """Its name as Java's messages have it."""
        return self.name.replace("/", ".")

    @property
    def depth(self) -> int:
        """How many classes are above it."""
        return len(self.display) - 1

    def add_methods(self, methods: list[Method]) -> None:
        """Enter its methods, and make its method table."""
        for method in methods:
            self.methods[method.key] = method
        if self.is_interface:
            return
        for method in methods:
            if not method.is_static and not method.name.startswith("<"):
                self._enter(method)
        for name in sorted(self.supers):
            for method in self._inherited(name):
                known = self.places.get(method.key)
                if known is None or (self.table[known].owner.is_interface and name in self._newer(self.table[known])):
                    self._enter(method)

    def _enter(self, method: Method) -> None:
        index = self.places.setdefault(method.key, len(self.table))
        self.table[index : index + 1] = [method]
        if not method.owner.is_interface:
            method.table_index = index

    def _inherited(self, name: str) -> list[Method]:
        """Return the methods of one of the interfaces above."""
        found = next((each for each in self.all_interfaces() if each.name == name), None)
        return [each for each in found.methods.values() if not each.is_static and each.name[0] != "<"] if found else []

    def _newer(self, method: Method) -> set[str]:
        """Return the interfaces whose methods come before one: those that extend its own; all, where it is abstract."""
        return {
            each.name
            for each in self.all_interfaces()
            if each is not method.owner and (method.owner.name in each.supers or method.is_abstract)
        }

    def all_interfaces(self) -> list[JavaClass]:
        """Return all interfaces that it implements, directly or not, each once."""
        found: dict[str, JavaClass] = {}
        pending: list[JavaClass] = [self]
        while pending:
            each = pending.pop()
            pending += each.interfaces + ((each.superclass,) if each.superclass else ())
            if each.is_interface:
                found[each.name] = each
        return list(found.values())

    def find_field(self, name: str, descriptor: str) -> Field | None:
        """Find a field here, in the interfaces, and above (JVMS 5.4.3.2)."""
        key = name, descriptor
        if key in self.fields:
            return self.fields[key]
        above = (*self.interfaces, *((self.superclass,) if self.superclass else ()))
        return next((found for each in above if (found := each.find_field(name, descriptor))), None)

    def find_method(self, name: str, descriptor: str) -> Method | None:
        """Find a method here, above, and in the interfaces (JVMS 5.4.3.3)."""
        key = name, descriptor
        for each in reversed(self.display):
            if key in each.methods:
                return each.methods[key]
        inherited = [each.methods[key] for each in self.all_interfaces() if key in each.methods]
        inherited.sort(key=lambda method: (method.is_abstract, -len(method.owner.supers), method.owner.name))
        return inherited[0] if inherited else None

    def selected(self, key: MethodKey) -> Method:
        """Return the method of an object of this class that a call by an interface reaches."""
        index = self.places.get(key)
        if index is None or self.table[index].is_abstract:
            name, descriptor = key
            raise ImageError(
                f"{self.title} has no {spell_method(self.name, name, descriptor)}: compile all classes together"
            )
        return self.table[index]

    def reference_fields(self) -> None:
        """Note where its references are."""
        for field in self.fields.values():
            if is_reference(field.descriptor):
                (self.statics if field.is_static else self.references).append(field.place)

    def __repr__(self) -> str:
        return f"<JavaClass {self.title}>"
