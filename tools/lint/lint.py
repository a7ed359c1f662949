# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The house's own rules, as small programs. Each rule reads files and yields findings; its exceptions stand beside it, by name.

    python3 tools/lint/lint.py                 the whole tree; one finding a line, exit 1 if there is any
    python3 tools/lint/lint.py --root DIR      another tree (tests/tools/lint/lint_test.py has a bad sample for every rule)

Standard library only. What formatters and compilers see (layout, warnings) is not repeated here.
"""

import argparse
import fnmatch
import pathlib
import re
import subprocess
import sys

MAX_FILE_BYTES = 16 << 20
CODE = ("*.h", "*.cc", "*.cu", "*.cuh")

RULES = []


def rule(*patterns, exceptions=()):
    """Registers f(path, text) -> iterable of (line, message), run on the files that match patterns and no exception."""

    def register(function):
        function.patterns, function.exceptions = patterns, exceptions
        RULES.append(function)
        return function

    return register


def matches(path, patterns):
    """fnmatch on the whole path; a pattern without a slash is matched against the file's name."""
    return any(fnmatch.fnmatch(path if "/" in p else path.rsplit("/", 1)[-1], p) for p in patterns)


def is_code(path):
    return matches(path, CODE)


def without_comments(text):
    """C++ text with // comments, /* */ comments and string contents blanked; lines stay where they are."""
    token = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.S)
    return token.sub(lambda m: re.sub(r"[^\n\"]", " ", m.group()), text)


def without_line_comments(text):
    return re.sub(r"//[^\n]*|/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m.group()), text, flags=re.S)


def find(pattern, text, message):
    """One finding for every match."""
    for match in re.finditer(pattern, text, re.M):
        yield text.count("\n", 0, match.start()) + 1, message.format(*match.groups(), match=match.group().strip())


# ------------------------------------------------------------------------------------------------------------- borders


# Arrows point one way: server -> model, client -> proto, server -> proto. torch's include folder carries protobuf
# headers of another version, so a file that has both does not compile: model/ has torch, the rest has protobuf.
TORCH = r'^\s*#\s*include\s*[<"]((?:torch|ATen|c10|caffe2)/[^>"]*|torch\.h)[>"]'


@rule("*.h", "*.cc", "*.cu", "*.cuh", exceptions=("model/*", "tests/model/*", "bench/cpu_floor.cc"))
def torch_stays_in_model(path, text):
    return find(TORCH, text, "includes {0}: torch lives in model/ alone, and in the floor that the CPU is measured against")


# What server/ may include of model/ carries no torch type; the exceptions are model/'s own private headers.
@rule("model/*.h", exceptions=())
def public_model_headers_have_no_torch(path, text):
    return find(TORCH, text, "includes {0}: public headers of model/ carry no torch type")


@rule("model/*", "tests/model/*")
def model_knows_no_wire(path, text):
    if not is_code(path):
        return ()
    return find(r'^\s*#\s*include\s*[<"]((?:grpc|grpcpp|google/protobuf|lion/v1)/[^>"]*|[^>"]*\.pb\.h|server/[^>"]*|client/[^>"]*)[>"]',
                text, "includes {0}: model/ knows neither the wire nor the server")


@rule("model/kernels/*", "tests/model/kernels/*")
def kernels_know_no_torch(path, text):
    return find(TORCH, text, "includes {0}: kernels know no torch") if is_code(path) else ()


@rule("client/*", "tests/client/*")
def client_knows_only_the_wire(path, text):
    if not is_code(path):
        return ()
    return find(r'^\s*#\s*include\s*"((?:server|model)/[^"]*)"', text, "includes {0}: a client knows the wire alone")


# --------------------------------------------------------------------------------------------------------- what is used


# Tests move a fake clock, so everything in the server asks server/clock.h.
@rule("server/*", exceptions=("server/clock.cc",))
def only_the_clock_reads_time(path, text):
    if not is_code(path):
        return ()
    return find(r"absl::Now\(|absl::GetCurrentTimeNanos|_clock::now\(|\bgettimeofday\(|\bclock_gettime\(|\btime\((?:NULL|nullptr|0)\)",
                without_comments(text), "reads time by {match}: only server/clock.cc does")


# Settings come by flags, which --help lists; the environment is invisible. client/flags.cc takes an API key from it, which a
# command line would show to every user of the machine; where a user's caches lie is the environment's to say.
@rule(*CODE, exceptions=("client/flags.cc", "model/crossover_cache.cc"))
def no_environment(path, text):
    return find(r"\b(?:secure_)?getenv\(|\b(?:set|put|unset)env\(", without_comments(text), "uses {match}: settings are flags")


# A test that sleeps is slow on a good day and wrong on a bad one: wait for the event itself.
@rule("tests/*", exceptions=("tests/tools/lint/lint_test.py",))
def tests_do_not_sleep(path, text):
    code = without_comments(text) if is_code(path) else text
    return find(r"\bsleep_for\(|\bsleep_until\(|\bSleepFor\(|\busleep\(|\bnanosleep\(|\btime\.sleep\(|\bsleep\(\d", code,
                "sleeps: wait for the event itself")


# A machine without a CUDA device reports by name what it did not run.
@rule("tests/*", exceptions=("tests/tools/lint/lint_test.py", "tests/model/cuda_test.h", "tests/bench/bench_test.py"))
def tests_are_not_skipped(path, text):
    return find(r"\bGTEST_SKIP\b|\bDISABLED_\w+|\bpytest\.skip\b|\bpytest\.mark\.(?:skip|skipif|xfail)\b|\bunittest\.skip|\bimportorskip\b", text,
                "{match}: a test runs or is not there")


# Metric names are a contract: what is counted stands in one file, what is read at a scrape in another. Tests, clients and docs may name
# them.
@rule("server/*", "model/*", exceptions=("server/metrics.cc", "server/metrics.h", "server/scraped_metrics.cc"))
def metric_names_in_one_file(path, text):
    if not is_code(path):
        return ()
    return find(r'"lion_(?:rpc|sequence|sequences|tokens|queue|tokenize|compute|batch|rejected|dropped|bad_rows|model_info|build_info|device)\w*',
                without_line_comments(text), "names the metric {match}: they stand in server/metrics.cc and server/scraped_metrics.cc")


# ------------------------------------------------------------------------------------------------------------ every file


TEXT_WITH_HEADER = ("*.h", "*.cc", "*.cu", "*.cuh", "*.py", "*.rs", "*.proto", "*.cmake", "*.sh", "CMakeLists.txt", "dev", ".ci/run",
                    "Dockerfile", "*.go")
HEADER = re.compile(r"(?:#!.*\n)?(?://|#) Copyright \d{4} The LION Serve Authors\n(?://|#) SPDX-License-Identifier: Apache-2\.0\n")


# These hold others' wires, under their headers.
@rule(*TEXT_WITH_HEADER, exceptions=("proto/grpc/*", "proto/tei/*", "proto/inference/*"))
def licence_header(path, text):
    if not HEADER.match(text):
        yield 1, "does not open with the two licence lines (copy them from another file)"


# Highway includes a -inl.h once an instruction set; its guard is a toggle.
@rule("*.h", "*.cuh", exceptions=("*-inl.h",))
def guard_from_path(path, text):
    guard = "LION_" + re.sub(r"[^A-Z0-9]", "_", path.upper()) + "_"
    if not re.search(rf"^#ifndef {guard}\n#define {guard}\n", text, re.M) or not text.rstrip().endswith(f"#endif  // {guard}"):
        yield 1, f"the include guard is not {guard} (#ifndef, #define, #endif  // {guard})"


@rule("*", exceptions=("tools/lint/lint.py", "tests/tools/lint/lint_test.py", "LICENSE", "*.json", "*.jsonl", "*.txt", "*.lock"))
def nothing_left_to_do(path, text):
    return find(r"\b(?:TODO|FIXME|XXX|HACK)\b", text, "{match}: do it, or write in docs/design.md why not")


# Which mirror or registry a machine uses is that machine's business.
@rule("*", exceptions=("tools/lint/lint.py", "LICENSE", "*/Cargo.lock", "demo/texts/*", "demo/*model/*"))
def no_registry_hosts(path, text):
    return find(r"\b(?:[\w-]+\.)*(?:pypi\.org|pythonhosted\.org|crates\.io|deb\.debian\.org|archive\.ubuntu\.com|registry\.npmjs\.org|proxy\.golang\.org"
                r"|index\.docker\.io|docker\.io|ghcr\.io|gcr\.io|pkg\.dev|quay\.io)\b", text, "names the registry {match}")


@rule("*", exceptions=("tests/oracle/*", "tests/fuzz/corpus/*", "LICENSE", "*.json", "*.jsonl", "*.csv"))
def plain_text(path, text):
    for number, line in enumerate(text.split("\n"), 1):
        if line.rstrip() != line:
            yield number, "ends in white space"
        if "\t" in line and not matches(path, ("*.go", "go.mod", "Makefile", "*.tsv", "*.txt")):
            yield number, "has a tab"
    if text and not text.endswith("\n"):
        yield text.count("\n") + 1, "does not end in a newline"


def check_file_itself(path, full):
    """What is asked of every file, text or not: its size, and that it may run exactly if it says how (#!)."""
    size = full.stat().st_size
    if size > MAX_FILE_BYTES:
        yield 1, f"{size} bytes, over {MAX_FILE_BYTES}: too large for the tree"
    with open(full, "rb") as file:
        script = file.read(2) == b"#!"
    if script != bool(full.stat().st_mode & 0o111):
        yield 1, "has #! but may not be run (chmod +x)" if script else "may be run but has no #! (chmod -x)"


# ------------------------------------------------------------------------------------------------------------- the tree


def list_files(root):
    """What git tracks or would track under root, or all files where root is no work tree (the self-test's)."""
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    else:
        names = [str(p.relative_to(root)) for p in root.rglob("*")]
    return sorted({n for n in names if n and (root / n).is_file() and not (root / n).is_symlink()})


def lint(root):
    """Every finding of every rule, as (path, line, rule, message)."""
    findings = []
    for path in list_files(root):
        for line, message in check_file_itself(path, root / path):
            findings.append((path, line, "file_itself", message))
        rules = [r for r in RULES if matches(path, r.patterns) and not matches(path, r.exceptions)]
        try:
            text = (root / path).read_bytes().decode()
        except UnicodeDecodeError:
            continue  # weights and pictures
        for r in rules:
            findings += [(path, line, r.__name__, message) for line, message in r(path, text)]
    return findings


def main():
    parser = argparse.ArgumentParser(description="The house's own rules.")
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2])
    root = parser.parse_args().root
    findings = lint(root)
    for path, line, name, message in findings:
        print(f"{path}:{line}: {message} [{name}]")
    print(f"lint: {len(RULES) + 1} rules, {len(list_files(root))} files, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
