"""Builder of the root file system of an image: Python, the libraries that it loads, and nothing else of the system.

    python runtime_root.py ENVIRONMENT ROOT

The program copies into ROOT: the interpreter of the virtual environment ENVIRONMENT, its standard library, each shared
library that an extension module needs, the certificates of authorities, and the files that the C library reads.
ENVIRONMENT stays at its place: the image copies it to the same path. The program records the Debian packages of these
files in ROOT/var/lib/dpkg/status.d. Scanners of vulnerabilities read that folder.
"""

from __future__ import annotations

import compileall
import os
import re
import shutil
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

ELF = b"\x7fELF"
USER = 65532
# Parts of the standard library that no server imports: tests, windows, installers, interactive programs.
UNUSED = (
    *("test", "idlelib", "tkinter", "turtledemo", "turtle.py", "ensurepip", "lib2to3", "pydoc_data", "curses"),
    *("site-packages", "dist-packages", "config-3*", "__pycache__", "EXTERNALLY-MANAGED", "venv", "distutils"),
    *("_test*.so", "_tkinter*.so", "_curses*.so", "readline*.so", "_ctypes_test*.so", "xxlimited*.so", "xxsubtype*.so"),
    *("_sqlite3*.so", "sqlite3", "_dbm*.so", "_gdbm*.so"),
)
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
FROM_THE_HOST = {"libcuda.so.1", "libnvidia-ml.so.1"}  # a driver's libraries, which the container runtime mounts
SYSTEM = (  # files that the C library, OpenSSL and scanners read; absent ones are left out
    *(AUTHORITIES, "/etc/ssl/openssl.cnf", "/etc/ld.so.conf", "/etc/ld.so.conf.d"),
    *("/etc/os-release", "/usr/lib/os-release"),
)
TEXTS = {
    "etc/passwd": f"root:x:0:0:root:/:/sbin/nologin\nkanserve:x:{USER}:{USER}:kanserve:/:/sbin/nologin\n",
    "etc/group": f"root:x:0:\nkanserve:x:{USER}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


class RootError(Exception):
    """A reason to stop the build; the message has what was found and what was expected."""


class Root:
    """A root file system under construction. `files`: the paths of the build system whose copies are in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: set[Path] = set()

    def target(self, path: Path) -> Path:
        """The place for a file of the build system. Links among its folders, such as /lib, become links here, too."""
        place, real = self.folder, Path("/")
        for part in path.parent.parts[1:]:
            real, place = real / part, place / part
            if real.is_symlink():
                self.link(real, place)
                return self.target((real.parent / os.readlink(real)).resolve() / path.relative_to(real))
        place.mkdir(parents=True, exist_ok=True)
        return place / path.name

    def link(self, source: Path, place: Path) -> None:
        """The same link as `source`."""
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.is_symlink():
            place.symlink_to(os.readlink(source))

    def add(self, path: Path) -> None:
        """Copy a file or a folder. For a link: the link, and the file that it names."""
        path = Path(os.path.normpath(path))
        place = self.target(path)
        if path.is_symlink():
            self.link(path, place)
            self.add(path.parent.resolve() / os.readlink(path))
        elif path.is_dir():
            place.mkdir(exist_ok=True)
            for inner in sorted(path.iterdir()):
                self.add(inner)
        elif not place.exists():
            shutil.copy2(path, place)
            self.files.add(path)


def is_elf(path: Path) -> bool:
    """True for programs and shared libraries."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(ELF)) == ELF


def needed(programs: Sequence[Path]) -> Iterator[Path]:
    """Absolute paths of the libraries that the loader maps for these files. Raises RootError if it misses one."""
    for program in programs:
        done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
        lost = set(re.findall(r"^\s*(\S+) => not found", done.stdout, re.MULTILINE)) - FROM_THE_HOST
        if lost:
            raise RootError(f"{program} needs {', '.join(sorted(lost))}, which this system does not have")
        yield from map(Path, re.findall(r"(?:=> |^\s*)(/\S+) \(0x", done.stdout, re.MULTILINE))


def standard_library(root: Root) -> None:
    """Add the modules of Python without UNUSED, compiled."""
    folders = {Path(sysconfig.get_path(name, vars={"base": sys.base_prefix})) for name in ("stdlib", "platstdlib")}
    for folder in folders:
        place = root.target(folder)
        shutil.copytree(folder, place, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*UNUSED))
        root.files.update(folder / path.relative_to(place) for path in place.rglob("*") if path.is_file())
        for path in place.rglob("*"):  # Debian has links to /etc, such as sitecustomize.py
            if path.is_symlink() and os.readlink(path).startswith("/"):
                path.unlink()
        compileall.compile_dir(place, quiet=1, stripdir=str(root.folder), prependdir="/")


def interpreter(root: Root, environment: Path) -> None:
    """Add the interpreter to which the links of the environment lead."""
    path = environment / "bin" / "python"
    while path.is_symlink():
        path = path.parent / os.readlink(path)
        if environment not in path.parents:
            root.add(path)
            return
    raise RootError(f"{path} is a file, expected a link to the system's Python")


def libraries(root: Root, environment: Path) -> None:
    """Add the shared libraries of the system that files in the root and in the environment need."""
    programs = [path for folder in (root.folder, environment) for path in sorted(folder.rglob("*")) if is_elf(path)]
    for path in sorted(set(needed(programs))):
        if environment not in path.parents and root.folder not in path.parents:
            root.add(path)


def system_files(root: Root) -> None:
    """Add SYSTEM and TEXTS, a folder for temporary files, and the index of the loader."""
    for path in map(Path, SYSTEM):
        if path.exists():
            root.add(path)
    default = root.folder / ssl.get_default_verify_paths().openssl_cafile.lstrip("/")
    if not default.is_symlink() and not default.exists():
        default.parent.mkdir(parents=True, exist_ok=True)
        default.symlink_to(AUTHORITIES)
    for name, text in TEXTS.items():
        place = root.folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    (root.folder / "tmp").mkdir(exist_ok=True)
    (root.folder / "tmp").chmod(0o1777)
    subprocess.run(["ldconfig", "-r", str(root.folder)], check=True)


def record_packages(root: Root) -> list[str]:
    """Write status and license of each Debian package of the copied files; returns the names."""
    owners = dict(owners_of(root.files))
    names = sorted({owners[path] for path in root.files if path in owners})
    folder = root.folder / "var/lib/dpkg/status.d"
    folder.mkdir(parents=True)
    for name in names:
        status = subprocess.run(["dpkg-query", "--status", name], capture_output=True, text=True, check=True).stdout
        (folder / name.partition(":")[0]).write_text(status)
        copyright_file = Path("/usr/share/doc", name.partition(":")[0], "copyright")
        if copyright_file.exists():
            root.add(copyright_file)
    return names


def owners_of(paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Path and Debian package of each file that dpkg knows, under its name before or after the merge of /usr."""
    if shutil.which("dpkg-query") is None:
        return
    names = {name: path for path in paths for name in {str(path), str(path).removeprefix("/usr")}}
    names |= {f"/usr{path}": path for path in paths if not str(path).startswith("/usr")}
    done = subprocess.run(["dpkg-query", "--search", *names], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        packages, _, name = line.partition(": ")
        if name in names and not packages.startswith("diversion by"):
            yield names[name], packages.partition(", ")[0]


def main(arguments: Sequence[str]) -> int:
    """Build the root. The exit code is 1 if a file or a library is missing."""
    try:
        environment, folder = (Path(argument).resolve() for argument in arguments)
        folder.mkdir(parents=True)
        root = Root(folder)
        interpreter(root, environment)
        standard_library(root)
        libraries(root, environment)
        system_files(root)
        names = record_packages(root)
    except (ValueError, OSError, RootError, subprocess.CalledProcessError) as error:
        print(f"runtime_root: {error}; usage: python runtime_root.py ENVIRONMENT ROOT", file=sys.stderr)
        return 1
    total = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
    print(f"{total / 1e6:.1f} MB in {folder}, from {len(names)} packages: {', '.join(names)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
