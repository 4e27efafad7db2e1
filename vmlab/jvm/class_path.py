"""Where a program's class files come from: a shipped program, a file, a folder, an archive, or bytes.

Read more: `java`'s manual page, on the class path.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from vmlab.errors import ImageError, OptionError
from vmlab.jvm.class_file import STATIC, ClassFile, parse_class

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ClassPath", "find_program", "programs"]

SUFFIX = ".class"
LARGEST = 1 << 22
MAIN = ("main", "([Ljava/lang/String;)V")


class ClassPath(Mapping[str, ClassFile]):
    """Class files by the names of their classes, each read when it is asked for.

    Parameters
    ----------
    names : iterable of str
        Names of the classes that are known to be there.
    read : callable
        Returns the bytes of one, None where it is not there.
    """

    def __init__(self, names: list[str], read: Callable[[str], bytes | None]) -> None:
        self.names, self._read = names, read
        self._files: dict[str, ClassFile | None] = {}
        self.digests: dict[str, str] = {}

    def __getitem__(self, name: str) -> ClassFile:
        if name not in self._files:
            raw = self._read(name)
            if raw is not None:
                self.digests[name] = hashlib.sha256(raw).hexdigest()
            found = None if raw is None else parse_class(raw, name.rpartition("/")[2] + SUFFIX)
            if found is not None and found.name != name:
                raise ImageError(f"{name}{SUFFIX} holds the class {found.name}: its name and place must be the class's")
            self._files[name] = found
        known = self._files[name]
        if known is None:
            raise KeyError(name)
        return known

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and self[name] is not None
        except KeyError:
            return False

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.names, *(name for name, file in self._files.items() if file)]))

    def __len__(self) -> int:
        return len(list(iter(self)))


def _folder() -> Any:  # noqa: ANN401 - what importlib.resources gives
    return resources.files("vmlab").joinpath("guests", "java")


def programs() -> list[str]:
    """Return the names of the programs that come with vmlab, in alphabetical order.

    Examples
    --------
    >>> "Sieve" in programs()
    True
    """
    return sorted(each.name.removesuffix(".java") for each in _folder().iterdir() if each.name.endswith(".java"))


def find_program(program: object) -> tuple[ClassPath, str]:
    """Return the class path of a program, and the name of the class whose `main` it begins with.

    Parameters
    ----------
    program : str, path, bytes, or mapping of str to bytes
        The name of a program of `programs()`; a class file; a folder or archive (.jar) of class files; a class file's bytes; or the bytes
        of several by the names of their classes.

    Raises
    ------
    ImageError
        There is none, it is damaged, or no class has a `main`.
    OptionError
        That is no program.
    """
    if isinstance(program, (bytes, bytearray)):
        found = parse_class(bytes(program), "the class file")
        return _with_main(ClassPath([found.name], {found.name: bytes(program)}.get))
    if isinstance(program, Mapping):
        if not program or not all(isinstance(k, str) and isinstance(v, (bytes, bytearray)) for k, v in program.items()):
            raise OptionError("a program of several classes is a dict of their names to the bytes of their class files")
        files = {name.replace(".", "/"): bytes(raw) for name, raw in program.items()}
        return _with_main(ClassPath(list(files), files.get))
    if isinstance(program, str) and program in programs():
        return _with_main(_shipped(program))
    if not isinstance(program, (str, os.PathLike)):
        raise OptionError(
            f"a program is a name of {', '.join(programs()[:4])}, …, a path, or the bytes of class files, not {program!r:.60}"
        )
    return _from_path(Path(program))


def _shipped(name: str) -> ClassPath:
    folder = _folder()

    def read(wanted: str) -> bytes | None:
        own = wanted == name or wanted.startswith(f"{name}$")
        file = folder.joinpath(wanted + SUFFIX)
        return file.read_bytes() if own and "/" not in wanted and file.is_file() else None

    return ClassPath([name], read)


def _from_path(path: Path) -> tuple[ClassPath, str]:
    if path.suffix == ".java":
        raise ImageError(
            f"{path}: a source: compile it with `javac --release 8 -XDstringConcat=inline {path.name}` and give the class file"
        )
    try:
        if path.is_dir():
            names = sorted(each.name.removesuffix(SUFFIX) for each in path.iterdir() if each.suffix == SUFFIX)
            return _with_main(_in_folder(path, names))
        if path.suffix in (".jar", ".zip"):
            return _archive(path)
        raw = path.read_bytes()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        hint = f"; the programs that come with vmlab are {', '.join(programs())}" if not path.exists() else ""
        raise ImageError(f"{path}: cannot be read: {error}{hint}") from None
    found = parse_class(raw, path.name)
    root = path.resolve().parent
    for part in reversed(found.name.split("/")[:-1]):
        if root.name != part:
            raise ImageError(f"{path}: the class {found.name} must lie in folders of its package's names")
        root = root.parent
    return _with_main(_in_folder(root, [found.name]))


def _in_folder(root: Path, names: list[str]) -> ClassPath:
    def read(name: str) -> bytes | None:
        parts = PurePosixPath(name).parts
        if ".." in parts or name.startswith("/") or "\0" in name or "\\" in name:
            return None
        file = root.joinpath(*parts[:-1], parts[-1] + SUFFIX) if parts else root
        try:
            return file.read_bytes() if file.is_file() and file.stat().st_size <= LARGEST else None
        except OSError:
            return None

    return ClassPath(names, read)


def _archive(path: Path) -> tuple[ClassPath, str]:
    with zipfile.ZipFile(path) as archive:
        files = {
            info.filename.removesuffix(SUFFIX): archive.read(info)
            for info in archive.infolist()
            if info.filename.endswith(SUFFIX) and info.file_size <= LARGEST
        }
        try:
            manifest = archive.read("META-INF/MANIFEST.MF").decode("utf-8", "replace")
        except KeyError:
            manifest = ""
    named = [line.partition(":")[2].strip() for line in manifest.splitlines() if line.startswith("Main-Class:")]
    return _with_main(ClassPath(sorted(files), files.get), named[0].replace(".", "/") if named else None)


def _with_main(path: ClassPath, wanted: str | None = None) -> tuple[ClassPath, str]:
    """Find the class whose `main` the program begins with."""
    for name in [wanted] if wanted else path.names:
        if name not in path:
            raise ImageError(f"there is no class file of {name}")
        if any((each.name, each.descriptor) == MAIN and each.access & STATIC for each in path[name].methods):
            return path, name
    raise ImageError(
        f"none of {', '.join(path.names[:6]) or 'no classes'} has `public static void main(String[] args)`: give the class that has"
    )
