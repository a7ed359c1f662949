# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""clang-tidy-14 (with clang's thread-safety analysis) over every .cc of ours that the build compiles, one process a core.

    python3 tools/lint/tidy.py --build build/release [FILES…]

A file that was clean is not looked at again until its text, a header of ours that it includes, its compile command or the
checks change: build/tidy holds one empty file a clean state, named by their hash.
"""

import argparse
import concurrent.futures
import hashlib
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
INCLUDE = re.compile(rb'^\s*#\s*include\s*"([^"]+)"', re.M)
OURS = ("model/", "server/", "client/", "tests/", "bench/")


def text_with_headers(path, seen):
    """The file and, once each, the headers of ours that it reaches (generated ones by the .proto they come from)."""
    if path in seen:
        return b""
    seen.add(path)
    text = (ROOT / path).read_bytes()
    for name in INCLUDE.findall(text):
        header = re.sub(r"(\.grpc)?\.pb\.h$", ".proto", name.decode())
        for candidate in (header, f"proto/{header}", str(pathlib.PurePath(path).parent / header)):
            if (ROOT / candidate).is_file():
                text += text_with_headers(candidate, seen)
                break
    return text


def check(path, command, build, clean):
    """Returns clang-tidy's complaint about one file, "" if it has none."""
    key = hashlib.sha256(text_with_headers(path, set()) + command.encode() + (ROOT / ".clang-tidy").read_bytes()).hexdigest()
    if (clean / key).exists():
        return ""
    run = subprocess.run(["clang-tidy-14", "--quiet", "-p", str(build), path], cwd=ROOT, capture_output=True, text=True)
    if run.returncode == 0:
        (clean / key).touch()
        return ""
    errors = [line for line in run.stderr.split("\n") if "error:" in line]
    return run.stdout + "\n".join(errors)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release", help="holds compile_commands.json")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("files", nargs="*", help="default: all")
    args = parser.parse_args()
    clean = ROOT / "build/tidy"
    clean.mkdir(parents=True, exist_ok=True)

    commands = {}
    for entry in json.loads((args.build / "compile_commands.json").read_text()):
        path = pathlib.Path(entry["file"])
        if path.is_relative_to(ROOT) and str(path.relative_to(ROOT)).startswith(OURS):
            commands[str(path.relative_to(ROOT))] = entry["command"]
    files = sorted(args.files or commands)
    bad = 0
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        complaints = pool.map(lambda f: check(f, commands[f], args.build, clean), files)
        for number, (path, complaint) in enumerate(zip(files, complaints), 1):
            print(f"[{number}/{len(files)}] {path}", flush=True)
            if complaint:
                bad += 1
                print(complaint, flush=True)
    print(f"clang-tidy: {len(files)} files, {bad} with findings")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
