"""The constant pool: names, numbers, strings and symbolic references of a class, by index.

    tag  constant             holds
      1  Utf8                 length, bytes in modified UTF-8
      3  Integer   4 Float    4 bytes
      5  Long      6 Double   8 bytes, and takes two indices
      7  Class                index of its name
      8  String               index of its text
      9  Fieldref 10 Methodref 11 InterfaceMethodref   index of the class, index of name and type
     12  NameAndType          index of the name, index of the descriptor
     15  MethodHandle 16 MethodType 18 InvokeDynamic   read over: what uses them is refused

Read more: JVMS 4.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vmlab.errors import ImageError
from vmlab.jvm.descriptors import parse_field, parse_method

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmlab.jvm.reader import Reader

__all__ = ["ConstantPool", "Reference", "decode_text", "encode_text"]

UTF8, INTEGER, FLOAT, LONG, DOUBLE, CLASS, STRING = 1, 3, 4, 5, 6, 7, 8
FIELD, METHOD, INTERFACE_METHOD, NAME_AND_TYPE = 9, 10, 11, 12
METHOD_HANDLE, METHOD_TYPE, INVOKE_DYNAMIC = 15, 16, 18

_NAMES = {
    UTF8: "text", INTEGER: "int", FLOAT: "float", LONG: "long", DOUBLE: "double", CLASS: "class", STRING: "string", FIELD: "field",
    METHOD: "method", INTERFACE_METHOD: "interface method", NAME_AND_TYPE: "name and type", METHOD_HANDLE: "method handle",
    METHOD_TYPE: "method type", INVOKE_DYNAMIC: "dynamic call site",
}  # fmt: skip

_READ: dict[int, Callable[[Reader], Any]] = {
    UTF8: lambda reader: decode_text(reader.bytes(reader.u2()), reader.name),
    INTEGER: lambda reader: reader.s4(),
    FLOAT: lambda reader: reader.u4(),
    LONG: lambda reader: reader.s8(),
    DOUBLE: lambda reader: reader.bytes(8),
    CLASS: lambda reader: reader.u2(),
    STRING: lambda reader: reader.u2(),
    FIELD: lambda reader: (reader.u2(), reader.u2()),
    METHOD: lambda reader: (reader.u2(), reader.u2()),
    INTERFACE_METHOD: lambda reader: (reader.u2(), reader.u2()),
    NAME_AND_TYPE: lambda reader: (reader.u2(), reader.u2()),
    METHOD_HANDLE: lambda reader: (reader.u1(), reader.u2()),
    METHOD_TYPE: lambda reader: reader.u2(),
    INVOKE_DYNAMIC: lambda reader: (reader.u2(), reader.u2()),
}


class Reference(NamedTuple):
    """A symbolic reference to a field or method: class, name, descriptor."""

    owner: str
    name: str
    descriptor: str


def decode_text(raw: bytes, name: str) -> str:
    r"""Decode modified UTF-8: as UTF-8, but zero is two bytes, and characters above FFFF are two surrogates.

    >>> decode_text(b"a\xc0\x80b", "A.class")
    'a\x00b'
    """
    try:
        return raw.replace(b"\xc0\x80", b"\0").decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise ImageError(f"{name}: a text of its constant pool is no modified UTF-8: the file is damaged") from None


def encode_text(text: str) -> bytes:
    """Return a text's UTF-16 code units, two bytes each, little-endian, as a char array holds them."""
    return text.encode("utf-16-le", "surrogatepass")


class ConstantPool:
    """The constants of one class; each is checked when it is asked for.

    Parameters
    ----------
    reader : Reader
        At the pool's count.
    """

    def __init__(self, reader: Reader) -> None:
        self.name = reader.name
        count = reader.u2()
        self._entries: list[tuple[int, Any]] = [(0, None)] * max(count, 1)
        index = 1
        while index < count:
            tag = reader.u1()
            read = _READ.get(tag)
            if read is None:
                raise ImageError(f"{self.name}: constant {index} has tag {tag}, which no class file of Java 8 has")
            self._entries[index] = tag, read(reader)
            index += 2 if tag in (LONG, DOUBLE) else 1

    def _entry(self, index: int, *tags: int) -> Any:  # noqa: ANN401 - what a constant of these kinds holds
        tag, value = self._entries[index] if 0 < index < len(self._entries) else (0, None)
        if tag not in tags:
            wanted = " or ".join(_NAMES[each] for each in tags)
            found = f"a {_NAMES[tag]}" if tag else "nothing"
            raise ImageError(f"{self.name}: constant {index} must be a {wanted}, there is {found}: the file is damaged")
        return value

    def tag(self, index: int) -> int:
        """Return the kind of a constant; 0 where there is none."""
        return self._entries[index][0] if 0 < index < len(self._entries) else 0

    def text(self, index: int) -> str:
        """Return a text."""
        return str(self._entry(index, UTF8))

    def number(self, index: int) -> int:
        """Return an int or long."""
        return int(self._entry(index, INTEGER, LONG))

    def string(self, index: int) -> str:
        """Return the text of a string."""
        return self.text(self._entry(index, STRING))

    def class_name(self, index: int) -> str:
        """Return the name of a class, as `java/lang/Object`; of an array, its descriptor."""
        found = self.text(self._entry(index, CLASS))
        if found.startswith("["):
            return parse_field(found)
        if not found or set(found) & set(".;[("):
            raise ImageError(f"{self.name}: {found[:60]!r} is no name of a class: the file is damaged")
        return found

    def _reference(self, index: int, *tags: int) -> Reference:
        owner, name_and_type = self._entry(index, *tags)
        name, descriptor = self._entry(name_and_type, NAME_AND_TYPE)
        return Reference(self.class_name(owner), self.text(name), self.text(descriptor))

    def field(self, index: int) -> Reference:
        """Return a reference to a field."""
        found = self._reference(index, FIELD)
        parse_field(found.descriptor)
        return found

    def method(self, index: int) -> Reference:
        """Return a reference to a method of a class or interface."""
        found = self._reference(index, METHOD, INTERFACE_METHOD)
        parse_method(found.descriptor)
        return found

    def loadable(self, index: int) -> tuple[str, int | str]:
        """Return what LDC loads: its type and value.

        The type is `"I"`, `"J"`, `"F"`, `"D"`, that of a string, or that of a class.
        """
        tag = self.tag(index)
        if tag in (INTEGER, LONG):
            return ("I" if tag == INTEGER else "J"), self.number(index)
        if tag in (FLOAT, DOUBLE):
            return ("F" if tag == FLOAT else "D"), 0
        if tag == CLASS:
            return "Ljava/lang/Class;", self.class_name(index)
        return "Ljava/lang/String;", self.string(index)
