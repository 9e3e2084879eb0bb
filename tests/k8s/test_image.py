"""The image: what the Dockerfile copies is enough, it runs as nobody in particular, and a linter finds nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from roomcast_edge.settings import ADDRESS
from support.manifests import ROOT, hadolint

DOCKERFILE = ROOT / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Each instruction and its arguments, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE))
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in text.splitlines() if line.strip()]


def test_a_linter_finds_nothing():
    done = subprocess.run([hadolint(), str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_runs_as_the_user_of_the_manifests_and_asks_the_admin_port(prod):
    told = dict(instructions())
    spec = prod.get("Deployment", "roomcast-edge")["spec"]["template"]["spec"]
    user = spec["securityContext"]
    assert told["USER"] == f"{user['runAsUser']}:{user['runAsGroup']}"
    variables = dict(re.findall(r"(ROOMCAST_\w+)=(\S+)", told["ENV"]))
    ports = [ADDRESS.convert(variables[name], None, None)[1] for name in ("ROOMCAST_LISTEN", "ROOMCAST_ADMIN")]
    assert told["EXPOSE"] == " ".join(map(str, ports))
    assert [port["containerPort"] for port in spec["containers"][0]["ports"]] == ports
    assert f"http://127.0.0.1:{ports[1]}/healthz" in told["HEALTHCHECK"]
    assert (json.loads(told["ENTRYPOINT"]), json.loads(told["CMD"])) == (["roomcast"], ["edge"])


def test_what_the_image_is_built_from_is_enough(tmp_path):
    """The build's own steps, but for the packages from elsewhere: a wheel of what is copied, in a venv of its own."""
    source = tmp_path / "src"
    source.mkdir()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for name, arguments in instructions():
        if name != "COPY" or arguments.startswith("--from"):
            continue
        *paths, target = arguments.split()
        for path in paths:
            assert f"!{path}" in ignored, f".dockerignore keeps {path} out"
            if (ROOT / path).is_dir():
                shutil.copytree(ROOT / path, source / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / path, source / target)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), "."], cwd=source, check=True)
    [wheel] = tmp_path.glob("roomcast-*.whl")

    venv.create(tmp_path / "venv", with_pip=False)
    python = str(tmp_path / "venv" / "bin" / "python")
    [site] = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    (site / "libraries.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    done = subprocess.run(
        [python, "-m", "roomcast", "edge", "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--drain-time" in done.stdout
    assert (site / "roomcast" / "demo" / "chat.html").is_file()
    told = subprocess.run([python, "-c", "import roomcast; print(roomcast.__file__)"], capture_output=True, text=True)
    assert told.stdout.startswith(str(site)), "the wheel's, not this checkout's"


def test_the_page_is_where_the_chat_looks_for_it(dev):
    page = dev.get("ConfigMap", "edge-settings")["data"]["ROOMCAST_PAGE"]
    build = next(arguments for name, arguments in instructions() if name == "RUN")
    source, target = re.search(r"cp (\S+) (\S+)", build).groups()
    assert target == page
    assert (ROOT / source).is_file()
    assert any(name == "COPY" and arguments.endswith(str(Path(page).parent)) for name, arguments in instructions())
