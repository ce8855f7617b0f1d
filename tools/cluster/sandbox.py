"""Files, variables and commands of a pod as a process of this machine, with folders as volumes and a loopback address.

Processes share the file system of this machine. The sandbox replaces a mount path in an argument or a variable by the
folder of the volume, and the addresses of all interfaces and of loopback by the address of the pod.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.cluster.manifest import ManifestError, Mount, PodSpec

SERVER = (sys.executable, "-P", "-m", "kanserve")
Document = dict[str, Any]
Files = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Image:
    """Programs of the container image. `programs`: commands on this machine for paths of the image."""

    entry_point: tuple[str, ...] = SERVER
    programs: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"/opt/kanserve/bin/kanserve": SERVER})


@dataclass(frozen=True, slots=True)
class Storage:
    """Objects that volumes name: folders of claims, and files of Secrets and ConfigMaps."""

    claims: Mapping[str, Path] = field(default_factory=dict)
    secrets: Mapping[str, Files] = field(default_factory=dict)
    config_maps: Mapping[str, Files] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod's place on this machine. `paths`: folders by mount path; `address`: its IP address."""

    spec: PodSpec
    image: Image
    address: str
    paths: Mapping[str, Path]

    def command(self) -> tuple[str, ...]:
        """The command of the container."""
        start = self.here(self.spec.command) if self.spec.command else self.image.entry_point
        return (*start, *map(self.text, self.spec.args))

    def here(self, command: tuple[str, ...] | list[str]) -> tuple[str, ...]:
        """A command of the container, of a probe or of a hook."""
        first, *others = command
        return (*self.image.programs.get(first, (self.text(first),)), *map(self.text, others))

    def env(self) -> dict[str, str]:
        """The variables of the container, and those of this process that are not settings of kanserve."""
        found = {name: value for name, value in os.environ.items() if not name.startswith("KANSERVE_")}
        if "/tmp" in self.paths:
            found["TMPDIR"] = str(self.paths["/tmp"])
        return found | {name: self.text(value) for name, value in self.spec.env}

    def text(self, value: str) -> str:
        """An argument or a value, with the paths and addresses of this machine."""
        for path in sorted(self.paths, key=len, reverse=True):
            if value == path or value.startswith(f"{path}/"):
                return f"{self.paths[path]}{value[len(path) :]}"
        return value.replace("0.0.0.0", self.address).replace("127.0.0.1", self.address)


def create(spec: PodSpec, image: Image, storage: Storage, address: str, folder: Path) -> Sandbox:
    """The sandbox of a pod, with its volumes below `folder`. Raises ManifestError for an unknown object."""
    paths = {mount.path: _mounted(mount, storage, folder / mount.volume["name"]) for mount in spec.mounts}
    return Sandbox(spec, image, address, paths)


def _mounted(mount: Mount, storage: Storage, folder: Path) -> Path:
    volume = mount.volume
    if claim := volume.get("persistentVolumeClaim"):
        found: Path = _named(storage.claims, claim["claimName"], "claim") / mount.sub_path
        if not found.is_dir():
            raise ManifestError(f"claim {claim['claimName']}: no folder {mount.sub_path or '.'}")
        return found
    folder.mkdir(parents=True, exist_ok=True)
    for path, content, mode in _files(volume, storage):
        file = folder / "..data" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(mode)
        first = Path(path).parts[0]
        if not (folder / first).is_symlink():
            (folder / first).symlink_to(f"..data/{first}")
    return folder / mount.sub_path


def _files(volume: Document, storage: Storage) -> Iterator[tuple[str, bytes, int]]:
    """Path, content and mode of the files of a Secret, a ConfigMap, or a projection of them."""
    if "projected" in volume:
        mode = volume["projected"].get("defaultMode", 0o644)
        for source in volume["projected"]["sources"]:
            for path, content, _ in _files({k: {"defaultMode": mode, **v} for k, v in source.items()}, storage):
                yield path, content, mode
        return
    for kind, key, objects in (("secret", "secretName", storage.secrets), ("configMap", "name", storage.config_maps)):
        if kind in volume:
            source = volume[kind]
            files = _named(objects, source.get(key) or source["name"], kind)
            chosen = source.get("items") or [{"key": name, "path": name} for name in files]
            for item in chosen:
                yield item["path"], _named(files, item["key"], "key"), source.get("defaultMode", 0o644)


def _named(objects: Mapping[str, Any], name: str, kind: str) -> Any:
    if name not in objects:
        raise ManifestError(f"{kind} {name}: not in the cluster, expected one of {', '.join(objects) or 'none'}")
    return objects[name]
