"""The class file: what `javac` writes for one class.

    u4 magic CAFEBABE   u2 minor, u2 major version
    constant pool       u2 access   u2 this class   u2 super class   u2[] interfaces
    fields              u2 access   u2 name   u2 descriptor   attributes
    methods             the same; code is in the attribute Code
    attributes          u2 name   u4 length   contents

Simplified: of the attributes Code, ConstantValue, LineNumberTable and SourceFile are read. Stack maps are not: the verifier
infers types by itself (JVMS 4.10.2).

Read more: JVMS chapter 4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vmlab.errors import ImageError
from vmlab.jvm.constant_pool import ConstantPool
from vmlab.jvm.descriptors import parse_field, parse_method
from vmlab.jvm.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ABSTRACT", "FINAL", "INTERFACE", "NATIVE", "STATIC", "SYNCHRONIZED", "ClassFile", "CodeAttribute", "ExceptionEntry", "Member", "parse_class",
]  # fmt: skip

MAGIC = 0xCAFEBABE
OLDEST, NEWEST = 45, 52
"""Versions: JDK 1.1 to Java SE 8. Newer compilers write the latter with `--release 8`."""

STATIC, FINAL, SYNCHRONIZED, NATIVE, INTERFACE, ABSTRACT = 0x8, 0x10, 0x20, 0x100, 0x200, 0x400


@dataclass(frozen=True, slots=True)
class ExceptionEntry:
    """A row of the exception table: from `start` up to, not with, `end`, exceptions of a class lead to `handler`.

    Places are offsets in the code; `catch` is None where all exceptions are caught.
    """

    start: int
    end: int
    handler: int
    catch: str | None


@dataclass(frozen=True, slots=True)
class CodeAttribute:
    """The code of a method, in bytes, and what belongs to it."""

    max_stack: int
    max_locals: int
    code: bytes
    exceptions: tuple[ExceptionEntry, ...]
    lines: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Member:
    """A field or a method."""

    access: int
    name: str
    descriptor: str
    code: CodeAttribute | None = None
    constant: int = 0
    """Index of a static field's constant, 0 where it has none."""

    @property
    def is_static(self) -> bool:
        """True for a member of the class itself."""
        return bool(self.access & STATIC)


@dataclass(frozen=True, slots=True)
class ClassFile:
    """A parsed class file."""

    name: str
    superclass: str | None
    interfaces: tuple[str, ...]
    access: int
    pool: ConstantPool = field(repr=False)
    fields: tuple[Member, ...] = ()
    methods: tuple[Member, ...] = ()
    source: str = ""


def parse_class(data: bytes, name: str) -> ClassFile:
    """Take a class file apart.

    Parameters
    ----------
    data : bytes
        The file.
    name : str
        For messages.

    Raises
    ------
    ImageError
        It is no class file, truncated or damaged, or of a Java newer than 8.
    """
    reader = Reader(data, name)
    if len(data) < 8 or reader.u4() != MAGIC:
        raise ImageError(f"{name}: no class file: it does not begin with CAFEBABE")
    reader.u2()
    major = reader.u2()
    if not OLDEST <= major <= NEWEST:
        raise ImageError(
            f"{name}: class file of version {major}, this virtual machine reads {OLDEST} to {NEWEST} (Java 8): "
            "compile with `javac --release 8 -XDstringConcat=inline`"
        )
    pool = ConstantPool(reader)
    access, this, above = reader.u2(), reader.u2(), reader.u2()
    interfaces = tuple(pool.class_name(reader.u2()) for _ in range(reader.u2()))
    fields = tuple(_member(reader, pool, _field_attribute) for _ in range(reader.u2()))
    methods = tuple(_member(reader, pool, _method_attribute) for _ in range(reader.u2()))
    source = ""
    for attribute, body in _attributes(reader, pool):
        if attribute == "SourceFile":
            source = pool.text(body.u2())
    if not reader.at_end:
        raise ImageError(f"{name}: {len(data) - reader.place} bytes behind the end of the class: the file is damaged")
    own = pool.class_name(this)
    for each in (own, *interfaces):
        _no_array(each, name)
    superclass = pool.class_name(above) if above else None
    if superclass is not None:
        _no_array(superclass, name)
    for member in fields:
        parse_field(member.descriptor)
    for member in methods:
        _check_method(member, name, is_interface=bool(access & INTERFACE))
    for members in (fields, methods):
        if len({(each.name, each.descriptor) for each in members}) < len(members):
            raise ImageError(f"{name}: a field or method is there twice: the file is damaged")
    return ClassFile(own, superclass, interfaces, access, pool, fields, methods, source)


def _no_array(class_name: str, file: str) -> None:
    if class_name.startswith("["):
        raise ImageError(f"{file}: a class is named {class_name[:40]!r}, as an array: the file is damaged")


def _check_method(member: Member, file: str, *, is_interface: bool) -> None:
    parameters, result = parse_method(member.descriptor)
    has_code = member.code is not None
    if has_code == bool(member.access & (NATIVE | ABSTRACT)):
        raise ImageError(f"{file}: {member.name} must have code, or be native or abstract: the file is damaged")
    if member.name.startswith("<"):
        allowed = (
            member.name == "<init>" and not is_interface and not member.is_static and result == "V"
        ) or member.name == "<clinit>"
        if not allowed or not has_code:
            raise ImageError(f"{file}: {member.name[:40]} is no initialiser: the file is damaged")
        if member.name == "<clinit>" and (not member.is_static or member.descriptor != "()V"):
            raise ImageError(f"{file}: <clinit> is static, without parameters and result: the file is damaged")
    words = sum(2 if each in "JD" else 1 for each in parameters) + (not member.is_static)
    if member.code is not None and words > member.code.max_locals:
        raise ImageError(f"{file}: {member.name} has more parameters than local variables: the file is damaged")


def _attributes(reader: Reader, pool: ConstantPool) -> list[tuple[str, Reader]]:
    return [(pool.text(reader.u2()), reader.part(reader.u4())) for _ in range(reader.u2())]


def _member(
    reader: Reader, pool: ConstantPool, read: Callable[[str, Reader, ConstantPool], CodeAttribute | int | None]
) -> Member:
    access, name, descriptor = reader.u2(), pool.text(reader.u2()), pool.text(reader.u2())
    code, constant = None, 0
    for attribute, body in _attributes(reader, pool):
        found = read(attribute, body, pool)
        if isinstance(found, CodeAttribute):
            code = found
        elif found is not None:
            constant = found
    return Member(access, name, descriptor, code, constant)


def _field_attribute(attribute: str, body: Reader, pool: ConstantPool) -> int | None:
    return body.u2() if attribute == "ConstantValue" else None


def _method_attribute(attribute: str, body: Reader, pool: ConstantPool) -> CodeAttribute | None:
    if attribute != "Code":
        return None
    max_stack, max_locals = body.u2(), body.u2()
    code = body.bytes(body.u4())
    if not 0 < len(code) < 1 << 16:
        raise ImageError(f"{body.name}: a method with {len(code)} bytes of code: 1 to 65535 are allowed (JVMS 4.7.3)")
    exceptions = []
    for _ in range(body.u2()):
        start, end, handler, catch = body.u2(), body.u2(), body.u2(), body.u2()
        exceptions.append(ExceptionEntry(start, end, handler, pool.class_name(catch) if catch else None))
    lines: list[tuple[int, int]] = []
    for inner, part in _attributes(body, pool):
        if inner == "LineNumberTable":
            lines += [(part.u2(), part.u2()) for _ in range(part.u2())]
    return CodeAttribute(max_stack, max_locals, code, tuple(exceptions), tuple(sorted(lines)))
