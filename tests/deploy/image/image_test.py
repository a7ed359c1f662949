# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The container image, built for real by buildah on a base made by debootstrap, run with its own command and health check, and looked into.
Not part of plain `./dev test`: it takes a quarter of an hour the first time, root, and 20 GB under build/image. `./dev test --all` runs it.

What it builds on is Debian as debootstrap makes it plus this machine's own settings for reaching packages; the tools' stage is kept for the
next run as long as nothing that decides it changes.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import stat
import subprocess
import time

import pytest

from harness import HANG_SECONDS, ROOT
from tools import run, until

WORK = ROOT / "build/image"
ENVIRONMENT = {**os.environ, "BUILDAH_ISOLATION": "chroot", "CONTAINERS_STORAGE_CONF": str(WORK / "storage.conf")}
MAX_MB = 450
USER = 65532


def buildah(*command, **options):
    return run("buildah", *command, env=ENVIRONMENT, **options)


def has_image(name):
    return subprocess.run(["buildah", "inspect", "--type", "image", name], env=ENVIRONMENT, capture_output=True).returncode == 0


def adopt_this_machines_network(root):
    """Mirrors, proxies and certificate authorities are the machine's business, so the base takes them from it."""
    (root / "etc/apt/sources.list").unlink(missing_ok=True)
    for place in ("etc/apt/sources.list", "etc/apt/sources.list.d", "etc/apt/apt.conf.d", "usr/share/keyrings", "usr/local/share/ca-certificates", "etc/pip.conf",
                  "root/.config/pip", "root/.cargo/config.toml"):
        source, target = pathlib.Path("/") / place, root / place
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    # Debian's own suites alone: what else this machine is set up for is not needed and might not be reachable.
    for listed in (root / "etc/apt/sources.list.d").glob("*"):
        if "debian" not in listed.name:
            listed.unlink()
    run("chroot", root, "update-ca-certificates")
    (root / "etc/pip.conf").write_text("[global]\ncert = /etc/ssl/certs/ca-certificates.crt\ndefault-timeout = 180\n")


@pytest.fixture(scope="session")
def base():
    assert os.geteuid() == 0, "buildah's chroot isolation and debootstrap want root"
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK / "storage.conf").write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{WORK / "store"}"\nrunroot = "{WORK / "run"}"\n')
    name = "localhost/lion-test-base"
    if not has_image(name):
        shutil.rmtree(WORK / "base", ignore_errors=True)
        run("debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", WORK / "base")
        adopt_this_machines_network(WORK / "base")
        container = buildah("from", "scratch").strip()
        buildah("copy", "--quiet", container, WORK / "base", "/")
        buildah("commit", "--quiet", "--rm", container, name)
        shutil.rmtree(WORK / "base")
    return name


@pytest.fixture(scope="session")
def commit():
    """The tree's, when the image is built of it."""
    return run("git", "-C", ROOT, "rev-parse", "--short=12", "HEAD").strip()


@pytest.fixture(scope="session")
def image(base, commit):
    """The image's name; ./dev image has just built it."""
    decides = [ROOT / "dev", ROOT / "cmake/torch-requirements.txt", ROOT / "cmake/cuda-requirements.txt"]
    tools = f"localhost/lion-test-tools:{hashlib.sha256(b''.join(p.read_bytes() for p in decides)).hexdigest()[:12]}"
    if not has_image(tools):
        buildah("build", "--format=docker", f"--build-arg=BASE_IMAGE={base}", "--target=tools", f"--tag={tools}", ROOT)
    name = "localhost/lion-serve:test"
    run(ROOT / "dev", "image", "--base", tools, name, env={**ENVIRONMENT, "PATH": path_without_docker()})
    yield name
    buildah("rm", "--all")
    buildah("rmi", "--prune")


def path_without_docker():
    """./dev image prefers a docker engine; here it shall use buildah."""
    folder = WORK / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "docker").write_text("#!/bin/sh\nexit 1\n")
    (folder / "docker").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.fixture(scope="session")
def config(image):
    return json.loads(buildah("inspect", "--type=image", image))["Docker"]["config"]


@pytest.fixture(scope="session")
def container(image):
    return buildah("from", image).strip()


@pytest.fixture(scope="session")
def root(container):
    return pathlib.Path(buildah("mount", container).strip())


def everything(root):
    """Every path in the image, with what lstat says."""
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = pathlib.Path(folder) / name
            yield "/" + str(path.relative_to(root)), path.lstat()


# -------------------------------------------------------------------------------------------------------------- contents


def test_how_it_is_meant_to_run(config, commit):
    assert config["User"] == f"{USER}:{USER}"
    assert (config["Entrypoint"], config["Cmd"]) == (["lion-server"], ["demo=/models/demo"])
    assert set(config["ExposedPorts"]) == {"50051/tcp", "9464/tcp"}
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"] == ["CMD", "lion-client", "health", "lion.v1.EncoderService"]
    labels = {k.removeprefix("org.opencontainers.image."): v for k, v in config["Labels"].items()}
    assert labels["licenses"] == "Apache-2.0" and re.fullmatch(r"\d+\.\d+\.\d+", labels["version"])
    assert labels["revision"] == commit
    assert config["Env"] == ["PATH=/usr/local/bin"]


def test_nothing_but_what_runs(root):
    names = {path for path, _ in everything(root)}
    programs = {path for path, info in everything(root) if stat.S_ISREG(info.st_mode) and info.st_mode & 0o111 and not re.search(r"\.so(\.|$)", path)}
    assert programs == {"/usr/local/bin/lion-server", "/usr/local/bin/lion-client"}
    words = r"/(ba|da|z|k)?sh$|busybox|python|perl|/(apt|dpkg|rpm|pip)[^/]*$(?<!dpkg)|/(gcc|g\+\+|cc1|clang|ld|as|make|cmake|cargo|rustc)$|history|/src(/|$)|/root(/|$)|\.(a|o|h|py|sh)$"
    assert [n for n in names if re.search(words, n)] == []
    assert {"/models/demo/model.safetensors", "/etc/ssl/certs/ca-certificates.crt", "/usr/share/doc/lion-serve/LICENSE"} <= names


def test_nobody_can_change_it(root):
    for path, info in everything(root):
        assert (info.st_uid, info.st_gid) == (0, 0), path
        assert not info.st_mode & (stat.S_ISUID | stat.S_ISGID), path
        assert stat.S_ISLNK(info.st_mode) or not info.st_mode & 0o022 or path == "/tmp", path
        assert info.st_mode & 0o004 or stat.S_ISLNK(info.st_mode), f"{path} cannot be read by user {USER}"


def test_binaries_are_stripped_and_forget_where_they_were_built(root):
    def is_elf(path):
        with open(root / path[1:], "rb") as file:
            return file.read(4) == b"\x7fELF"

    binaries = [path for path, info in everything(root) if stat.S_ISREG(info.st_mode) and is_elf(path)]
    assert {"/usr/local/bin/lion-server", "/usr/local/bin/lion-client", "/usr/local/lib/libtorch_cpu.so"} <= set(binaries)
    for path in binaries:
        sections = run("readelf", "--wide", "--sections", root / path[1:])
        assert ".symtab" not in sections and ".debug_info" not in sections, path
        run_path = re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", run("readelf", "--wide", "--dynamic", root / path[1:]))
        assert all(part.startswith("$ORIGIN") for p in run_path for part in p.split(":")), (path, run_path)


def test_scanners_and_lawyers_find_what_they_look_for(root):
    packages = {p.name for p in (root / "var/lib/dpkg/status.d").iterdir()}
    assert {"libc6", "libssl3", "libgrpc++1.51", "libstdc++6"} <= packages
    for package in packages:
        assert re.search(r"^Version: \S+", (root / "var/lib/dpkg/status.d" / package).read_text(), re.M)
        assert (root / "usr/share/doc" / package / "copyright").stat().st_size > 0
    assert list((root / "usr/share/doc").glob("torch-*/**/*LICENSE*"))


def test_its_size(root, record_property, capsys):
    """Written down with its parts in docs/operations.md, which says the same within a tenth."""
    sizes = {}
    for path, info in everything(root):
        if stat.S_ISREG(info.st_mode):
            part = ("libtorch_cpu.so" if path.endswith("/libtorch_cpu.so") else "other libraries of wheels" if path.startswith("/usr/local/lib/") else
                    "lion-server and lion-client" if path.startswith("/usr/local/bin/") else "the demo model" if path.startswith("/models/") else "Debian's libraries")
            sizes[part] = sizes.get(part, 0) + info.st_size / 1e6
    tar = subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE)
    packed = int(subprocess.run("gzip -6 | wc -c", shell=True, stdin=tar.stdout, capture_output=True, check=True).stdout) / 1e6
    assert tar.wait() == 0
    total = sum(sizes.values())
    lines = [f"{size:.0f} MB {part}" for part, size in sorted(sizes.items(), key=lambda s: -s[1])]
    record_property("size", f"{total:.0f} MB")
    with capsys.disabled():
        print(f"\nthe image: {total:.0f} MB, {packed:.0f} MB packed: {', '.join(lines)}")
    assert total < MAX_MB
    written = float(re.search(r"The CPU's image is (\d+) MB", (ROOT / "docs/operations.md").read_text()).group(1))
    assert abs(total - written) < written / 10, "docs/operations.md says otherwise"


# --------------------------------------------------------------------------------------------------------------- running


class Running:
    """The image's own command in the container, in a network of its own, so that the ports are those of the image."""

    def __init__(self, container, config, log):
        self._container, self._config, self._log = container, config, log

    def __enter__(self):
        command = ["buildah", "run", f"--user={self._config['User']}", self._container, "--", *self._config["Entrypoint"], *self._config["Cmd"]]
        self._file = open(self._log, "w")
        self._process = subprocess.Popen(["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command], env=ENVIRONMENT,
                                         stdin=subprocess.DEVNULL, stdout=self._file, stderr=subprocess.STDOUT)
        until(lambda: self.alive() and "ready grpc=" in self.log(), "the server to be ready")
        return self

    def alive(self):
        assert self._process.poll() is None, self.log()
        return True

    def log(self):
        return self._log.read_text()

    def server(self):
        """The server's pid, below buildah's."""
        found, queue = None, [self._process.pid]
        while queue:
            pid = queue.pop()
            with contextlib.suppress(FileNotFoundError):
                if pathlib.Path(f"/proc/{pid}/comm").read_text().strip() == "lion-server":
                    found = pid
                for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
                    queue += map(int, children.read_text().split())
        assert found, "there is no lion-server below buildah"
        return found

    def inside(self, *command, code=0):
        """Runs a command in the container's network: one of the container's own programs if it starts with lion-."""
        if command[0].startswith("lion-"):
            command = ("buildah", "run", f"--user={self._config['User']}", self._container, "--", *command)
        return run("nsenter", f"--target={self._process.pid}", "--net", *command, code=code, env=ENVIRONMENT)

    def end(self):
        """SIGTERM, as a container's engine sends it; returns the exit code."""
        os.kill(self.server(), getattr(signal, self._config["StopSignal"]))
        return self._process.wait(HANG_SECONDS)

    def __exit__(self, *_):
        if self._process.poll() is None:
            self.end()
        self._file.close()


@pytest.fixture(scope="module")
def running(container, config, root, tmp_path_factory):
    with Running(container, config, tmp_path_factory.mktemp("image") / "server.log") as server:
        yield server


def test_the_server_runs_as_nobody_in_particular(running):
    status = pathlib.Path(f"/proc/{running.server()}/status").read_text()
    assert re.search(rf"^Uid:\s+{USER}\s+{USER}\s+{USER}\s+{USER}$", status, re.M)


def test_the_probes(running, config):
    assert "SERVING" in running.inside(*config["Healthcheck"]["Test"][1:])
    assert "SERVING" in running.inside("lion-client", "health")
    running.inside("lion-client", "health", "no.such.Service", code=1)


def test_the_client_gets_vectors_and_classes(running):
    rows = [json.loads(line) for line in running.inside("lion-client", "embed", "--format=jsonl", "a web server", "nginx serves pages").splitlines()]
    assert [len(row["vector"]) for row in rows] == [384, 384]
    (row,) = [json.loads(line) for line in running.inside("lion-client", "classify", "--format=jsonl", "--top_k=1", "a compiler for the C language").splitlines()]
    assert row["scores"][0]["label"] == "devel"


def test_it_knows_its_commit_and_shows_its_metrics(running, commit):
    text = running.inside("python3", "-c", "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9464/metrics').read().decode())")
    assert re.search(rf'^lion_build_info\{{.*commit="{commit}".*\}} 1$', text, re.M)
    assert re.search(r"^process_resident_memory_bytes \S+$", text, re.M)


def test_it_ends_in_order_and_has_written_nothing(running, root):
    started = time.time() - float(pathlib.Path("/proc/uptime").read_text().split()[0])
    clock = os.sysconf("SC_CLK_TCK")
    began = started + int(pathlib.Path(f"/proc/{running.server()}/stat").read_text().rpartition(")")[2].split()[19]) / clock
    assert running.end() == 0
    assert "every call was answered" in running.log()
    # /etc/hosts, /etc/resolv.conf, /dev and the like are the engine's; a read-only root has them too.
    engines = re.compile(r"/(dev|proc|sys|run|etc)(/|$)")
    assert [path for path, info in everything(root) if info.st_mtime > began and not engines.match(path)] == []
