"""Descriptors: the types of fields and methods as class files spell them.

    B byte   C char   D double   F float   I int   J long   S short   Z boolean
    Lname;   an object of a class or interface
    [type    an array
    (types)type   a method; V where it returns nothing

Read more: JVMS 4.3.
"""

from __future__ import annotations

from functools import cache

from vmlab.errors import ImageError

__all__ = [
    "ELEMENT_SIZES", "INTEGERS", "MOST_DIMENSIONS", "MethodType", "element_of", "is_reference", "parse_field", "parse_method", "slots", "spell",
    "spell_method",
]  # fmt: skip

INTEGERS = frozenset("BCISZ")
"""Types that are an int on the operand stack."""
ELEMENT_SIZES = {"B": 1, "Z": 1, "C": 2, "S": 2, "I": 4, "F": 4, "J": 8, "D": 8}
MOST_DIMENSIONS = 255

MethodType = tuple[tuple[str, ...], str]
"""Types of the parameters, type of the result."""

_NAMES = {
    "B": "byte", "C": "char", "D": "double", "F": "float", "I": "int", "J": "long", "S": "short", "Z": "boolean", "V": "void",
}  # fmt: skip


def is_reference(descriptor: str) -> bool:
    """Say whether values of a type are references."""
    return descriptor[0] in "L["


def slots(descriptor: str) -> int:
    """Return how many words of the operand stack a value of a type takes.

    >>> slots("I"), slots("J"), slots("V")
    (1, 2, 0)
    """
    return 0 if descriptor == "V" else 2 if descriptor in ("J", "D") else 1


def element_of(array: str) -> str:
    """Return the type of an array's elements.

    >>> element_of("[[I")
    '[I'
    """
    return array[1:]


def _end(text: str, start: int) -> int:
    """Return where the type that begins at a place ends; 0 where none begins."""
    place = start
    while place < len(text) and text[place] == "[":
        place += 1
    if place == len(text) or place - start > MOST_DIMENSIONS:
        return 0
    if text[place] in ELEMENT_SIZES:
        return place + 1
    if text[place] != "L":
        return 0
    end = text.find(";", place)
    return end + 1 if end > place + 1 and not set(text[place + 1 : end]) & set(".[(") else 0


@cache
def parse_field(text: str) -> str:
    """Check the descriptor of a field.

    Raises
    ------
    ImageError
        It is none.
    """
    if not text or _end(text, 0) != len(text):
        raise ImageError(f"{text[:60]!r} is no type of a field: the class file is damaged")
    return text


@cache
def parse_method(text: str) -> MethodType:
    """Take the descriptor of a method apart.

    Raises
    ------
    ImageError
        It is none.

    Examples
    --------
    >>> parse_method("([BLjava/lang/String;)V")
    (('[B', 'Ljava/lang/String;'), 'V')
    """
    place, parameters = 1, []
    while text[:1] == "(" and text[place : place + 1] not in (")", ""):
        end = _end(text, place)
        if not end:
            break
        parameters.append(text[place:end])
        place = end
    result = text[place + 1 :]
    whole = text[:1] == "(" and text[place : place + 1] == ")"
    if not whole or (result != "V" and (not result or _end(result, 0) != len(result))):
        raise ImageError(f"{text[:60]!r} is no type of a method: the class file is damaged")
    if sum(map(slots, parameters)) > 255:
        raise ImageError("a method has more than 255 words of parameters (JVMS 4.3.3): the class file is damaged")
    return tuple(parameters), result


@cache
def spell(descriptor: str) -> str:
    """Return a type as Java source spells it.

    >>> spell("[[Ljava/lang/String;"), spell("Z")
    ('java.lang.String[][]', 'boolean')
    """
    base = descriptor.lstrip("[")
    name = _NAMES[base] if base in _NAMES else base[1:-1].replace("/", ".")
    return name + "[]" * (len(descriptor) - len(base))


def spell_method(owner: str, name: str, descriptor: str) -> str:
    """Return a method as Java source names it.

    >>> spell_method("java/lang/String", "charAt", "(I)C")
    'java.lang.String.charAt(int)'
    """
    parameters, _ = parse_method(descriptor)
    return f"{owner.replace('/', '.')}.{name}({', '.join(map(spell, parameters))})"
