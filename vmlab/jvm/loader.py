"""The class loader: finds class files, links classes, and gives them their places in memory.

A program's classes are found by name among those it was given; all others in the library, whose sources and class files are in
`vmlab/jvm/library/`. What neither has is an error of the program, and ends it.

Simplified: one loader; access rights (`private`, `protected`) are the compiler's business and are not checked again.

Read more: JVMS 5.3 to 5.5.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from vmlab.errors import ImageError
from vmlab.jvm.class_file import FINAL, parse_class
from vmlab.jvm.classes import DISPLAY, DISPLAY_AT, ELEMENT_AT, INITIALISED, TABLE_AT, Field, JavaClass, Method
from vmlab.jvm.descriptors import element_of, spell_method

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vmlab.jvm.class_file import ClassFile, Member
    from vmlab.jvm.constant_pool import Reference
    from vmlab.jvm.process import Process

__all__ = ["ARRAY_TYPES", "ClassLoader"]

OBJECT = "java/lang/Object"
DEEPEST = 64
"""Classes above a class: more is a damaged file rather than a program."""
LARGEST_OBJECT = 0x1000
"""Bytes of an object: its last field lies in the page that is not there for the null reference."""

ARRAY_TYPES = {"[" + letter: letter for letter in "ZBCSIJ"}


@cache
def _library() -> dict[str, str]:
    """Return where the library's class files are, by name of the class."""
    found: dict[str, str] = {}
    pending = [("", resources.files("vmlab.jvm").joinpath("library"))]
    while pending:
        path, folder = pending.pop()
        for each in folder.iterdir():
            if each.is_dir():
                pending.append((f"{path}{each.name}/", each))
            elif each.name.endswith(".class"):
                found[path + each.name.removesuffix(".class")] = path + each.name
    return found


@cache
def _read_library(name: str) -> ClassFile:
    path = _library()[name]
    return parse_class(resources.files("vmlab.jvm").joinpath("library", *path.split("/")).read_bytes(), path)


class ClassLoader:
    """Classes by name.

    Parameters
    ----------
    files : mapping of str to ClassFile
        The program's classes.
    process : Process
        Has the memory for records, static fields and cells.
    prepare : callable
        Told of each new method; returns the address of code for it, which leads to the interpreter.

    Attributes
    ----------
    classes : dict of str to JavaClass
        Those that have been linked, in that order.
    methods : list of Method
        All methods, by number.
    by_record : dict of int to JavaClass
        Classes by the address of their records.
    """

    def __init__(self, files: Mapping[str, ClassFile], process: Process, prepare: Callable[[Method], int]) -> None:
        self.files = files
        self.process = process
        self.prepare = prepare
        self.classes: dict[str, JavaClass] = {}
        self.methods: list[Method] = []
        self.by_record: dict[int, JavaClass] = {}
        self._loading: list[str] = []

    def digest(self, name: str) -> str | None:
        """Return the SHA-256 of a class file of the program, to compare it; None for a class of the library, or of arrays."""
        return getattr(self.files, "digests", {}).get(name)

    def load(self, name: str) -> JavaClass:
        """Return a class by name (`java/lang/String`), or that of arrays by descriptor (`[I`).

        Raises
        ------
        ImageError
            There is none, or its file is damaged.
        """
        found = self.classes.get(name)
        if found is not None:
            return found
        if name.startswith("["):
            return self._array(name)
        if name in self._loading or len(self._loading) > DEEPEST:
            raise ImageError(f"class {name} is above itself, or below too many: the class file is damaged")
        self._loading.append(name)
        try:
            return self._link(self._find(name))
        finally:
            self._loading.pop()

    def _find(self, name: str) -> ClassFile:
        if name in self.files:
            return self.files[name]
        if name in _library():
            return _read_library(name)
        own = ", ".join(sorted(each.replace("/", ".") for each in self.files)[:6])
        raise ImageError(
            f"class {name.replace('/', '.')} is neither among the program's classes ({own}) nor in this virtual machine's library: "
            "give all class files of the program, and use of the standard library what vmlab/jvm/library has"
        )

    def _array(self, name: str) -> JavaClass:
        element = element_of(name)
        if element[0] in "L[":
            self.load(element[1:-1] if element[0] == "L" else element)
        elif name not in ARRAY_TYPES:
            raise ImageError("arrays of float and double: this virtual machine has no floating point; use int or long")
        superclass = self.load(OBJECT)
        found = JavaClass(name, len(self.classes), superclass)
        found.state = INITIALISED
        self._record(found)
        return found

    def _link(self, file: ClassFile) -> JavaClass:
        if (file.superclass is None) != (file.name == OBJECT):
            raise ImageError(f"class {file.name}: only java.lang.Object is below no class: the file is damaged")
        superclass = self.load(file.superclass) if file.superclass else None
        interfaces = tuple(self.load(each) for each in file.interfaces)
        if superclass and (superclass.is_interface or (superclass.file and superclass.file.access & FINAL)):
            raise ImageError(f"class {file.name} extends {superclass.name}, an interface or final: the file is damaged")
        if not all(each.is_interface for each in interfaces):
            raise ImageError(f"class {file.name} implements what is no interface: the file is damaged")
        found = JavaClass(file.name, len(self.classes), superclass, interfaces, file)
        for member in file.fields:
            found.fields[member.name, member.descriptor] = self._field(found, member)
        found.reference_fields()
        found.size += -found.size % 8
        if found.size > LARGEST_OBJECT:
            raise ImageError(f"class {file.name}: objects of {found.size} bytes; {LARGEST_OBJECT} are the most")
        found.add_methods([self._method(found, member) for member in file.methods])
        self._record(found)
        return found

    def _field(self, owner: JavaClass, member: Member) -> Field:
        size = 8 if member.descriptor in ("J", "D") else 4
        if member.is_static:
            place = self.process.reserve(size)
        else:
            place = owner.size
            owner.size += size
        return Field(owner, member.name, member.descriptor, member.is_static, place)

    def _method(self, owner: JavaClass, member: Member) -> Method:
        method = Method(owner, member, len(self.methods), self.process.reserve(4))
        self.methods.append(method)
        self.process.memory.write(method.cell, 4, self.prepare(method))
        return method

    def _record(self, found: JavaClass) -> None:
        """Write a class's record, and make the class known."""
        memory = self.process.memory
        found.record = self.process.reserve(TABLE_AT + 4 * len(found.table))
        memory.write(found.record, 4, found.number)
        if found.element[:1] in ("L", "["):
            element = found.element[1:-1] if found.element[0] == "L" else found.element
            memory.write(found.record + ELEMENT_AT, 4, self.load(element).record)
        for depth, above in enumerate(found.display[:DISPLAY]):
            memory.write(found.record + DISPLAY_AT + 4 * depth, 4, above.record)
        for index, method in enumerate(found.table):
            memory.write(found.record + TABLE_AT + 4 * index, 4, memory.read(method.cell, 4))
        self.classes[found.name] = found
        self.by_record[found.record] = found

    def set_code(self, method: Method, address: int) -> None:
        """Let all calls of a method reach code at an address."""
        memory = self.process.memory
        memory.write(method.cell, 4, address)
        for each in self.classes.values():
            for index, known in enumerate(each.table):
                if known is method:
                    memory.write(each.record + TABLE_AT + 4 * index, 4, address)

    def field(self, reference: Reference, *, is_static: bool) -> Field:
        """Find a field.

        Raises
        ------
        ImageError
            There is none, or it is (not) static.
        """
        found = self.load(reference.owner).find_field(reference.name, reference.descriptor)
        if found is None or found.is_static != is_static:
            raise ImageError(
                f"there is no {'static ' if is_static else ''}field {reference.owner.replace('/', '.')}.{reference.name}: "
                "it is not in this virtual machine's library, or compile all classes together"
            )
        return found

    def method(self, reference: Reference, *, is_static: bool = False) -> Method:
        """Find a method.

        Raises
        ------
        ImageError
            There is none, or it is (not) static.
        """
        found = self.load(reference.owner).find_method(reference.name, reference.descriptor)
        if found is None or found.is_static != is_static:
            raise ImageError(
                f"there is no {'static ' if is_static else ''}method {spell_method(*reference)}: it is not in this virtual machine's "
                "library, or compile all classes together"
            )
        return found

    def is_assignable(self, source: str, target: str) -> bool:
        """Say whether a reference of one type may stand for one of another; `"N"` is the type of null.

        As in the verifier, any object may stand for an interface: a call by it looks (JVMS 4.10.1.2).
        """
        if source in ("N", target) or target == "Ljava/lang/Object;":
            return True
        if source[0] == "[" and target[0] == "[":
            below, above = source[1:], target[1:]
            return below[0] in "L[" and above[0] in "L[" and self.is_assignable(below, above)
        if target[0] == "[":
            return False
        wanted = self.load(target[1:-1])
        return wanted.is_interface or (source[0] == "L" and wanted.name in self.load(source[1:-1]).supers)

    def is_instance(self, source: JavaClass, target: JavaClass) -> bool:
        """Say whether objects of a class are instances of another: the rule of INSTANCEOF, CHECKCAST and AASTORE."""
        if target.name in source.supers:
            return True
        if not source.element:
            return False
        if not target.element:
            return target.name in ("java/lang/Cloneable", "java/io/Serializable")
        below, above = source.element, target.element
        if below[0] not in "L[" or above[0] not in "L[":
            return below == above
        return self.is_instance(*(self.load(each[1:-1] if each[0] == "L" else each) for each in (below, above)))

    def common(self, first: str, second: str) -> str:
        """Return the type that stands for references of either type."""
        if second in (first, "N"):
            return first
        if first == "N":
            return second
        if first[0] == second[0] == "[" and first[1] in "L[" and second[1] in "L[":
            return "[" + self.common(first[1:], second[1:])
        if first[0] == "[" or second[0] == "[":
            return f"L{OBJECT};"
        left, right = self.load(first[1:-1]), self.load(second[1:-1])
        if left.is_interface or right.is_interface:
            return f"L{OBJECT};"
        return next(each for each in reversed(left.display) if each in right.display).descriptor
