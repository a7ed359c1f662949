# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Every rule of tools/lint/lint.py finds its bad sample and leaves the good one beside it alone; the tree itself is clean."""

import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
_spec = importlib.util.spec_from_file_location("lint", ROOT / "tools/lint/lint.py")
lint = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(lint)

C = "// Copyright 2026 The LION Serve Authors\n// SPDX-License-Identifier: Apache-2.0\n\n"
P = C.replace("//", "#")


def header(guard, body=""):
    return f"{C}#ifndef {guard}\n#define {guard}\n\n{body}\n#endif  // {guard}\n"


# rule, a file that breaks it, files that do not.
SAMPLES = [
    ("torch_stays_in_model", ("server/a.cc", C + "#include <torch/torch.h>\n"), [("model/a.cc", C + "#include <ATen/ATen.h>\n")]),
    ("torch_stays_in_model", ("client/a.cc", C + '#include "c10/core/Device.h"\n'), []),
    ("public_model_headers_have_no_torch", ("model/a.h", header("LION_MODEL_A_H_", "#include <ATen/ATen.h>\n")),
     [("model/a.h", header("LION_MODEL_A_H_", "#include <vector>\n"))]),
    ("model_knows_no_wire", ("model/a.cc", C + "#include <grpcpp/grpcpp.h>\n"), [("server/a.cc", C + "#include <grpcpp/grpcpp.h>\n")]),
    ("model_knows_no_wire", ("model/a.cc", C + '#include "lion/v1/encoder.pb.h"\n'), []),
    ("model_knows_no_wire", ("model/a.cc", C + '#include "server/clock.h"\n'), []),
    ("kernels_know_no_torch", ("model/kernels/cpu/a.cc", C + "#include <ATen/ATen.h>\n"), []),
    ("client_knows_only_the_wire", ("client/a.cc", C + '#include "server/flags.h"\n'), [("client/a.cc", C + '#include "lion/v1/encoder.pb.h"\n')]),
    ("only_the_clock_reads_time", ("server/a.cc", C + "auto t = absl::Now();\n"),
     [("server/clock.cc", C + "auto t = absl::Now();\n"), ("server/b.cc", C + "// not absl::Now()\n")]),
    ("only_the_clock_reads_time", ("server/a.cc", C + "auto t = std::chrono::steady_clock::now();\n"), []),
    ("no_environment", ("model/a.cc", C + 'auto v = std::getenv("X");\n'), [("model/a.cc", C + "// no getenv() here\n")]),
    ("tests_do_not_sleep", ("tests/a_test.cc", C + "absl::SleepFor(absl::Seconds(1));\n"), [("client/a.cc", C + "absl::SleepFor(d);\n")]),
    ("tests_do_not_sleep", ("tests/e2e/a_test.py", P + "time.sleep(1)\n"), []),
    ("tests_are_not_skipped", ("tests/a_test.cc", C + "TEST(A, DISABLED_B) {}\n"), []),
    ("tests_are_not_skipped", ("tests/a_test.py", P + "@pytest.mark.skip\n"), []),
    ("metric_names_in_one_file", ("server/a.cc", C + 'auto n = "lion_tokens_total";\n'),
     [("server/metrics.cc", C + 'auto n = "lion_tokens_total";\n'), ("server/a.cc", C + "// counts lion_tokens_total\n")]),
    ("licence_header", ("server/a.cc", "int a;\n"), [("server/a.cc", C), ("tools/a.py", P)]),
    ("guard_from_path", ("server/a.h", header("SERVER_A_H")), [("server/a.h", header("LION_SERVER_A_H_"))]),
    ("nothing_left_to_do", ("server/a.cc", C + "// TODO: more\n"), []),
    ("no_registry_hosts", ("docs/a.md", "pip install --index-url https://pypi" + ".org/simple x\n"), [("docs/a.md", "pip install x\n")]),
    ("plain_text", ("docs/a.md", "a line \n"), [("docs/a.md", "a line\n")]),
    ("plain_text", ("server/a.cc", C + "\tint a;\n"), []),
    ("plain_text", ("docs/a.md", "no newline"), []),
]


def write(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.mark.parametrize("name, bad, good", SAMPLES, ids=[f"{s[0]}-{i}" for i, s in enumerate(SAMPLES)])
def test_rule_finds_its_bad_sample(tmp_path, name, bad, good):
    write(tmp_path, *bad)
    assert [(f[0], f[2]) for f in lint.lint(tmp_path) if f[2] == name] == [(bad[0], name)]
    for path, text in good:
        (tmp_path / bad[0]).unlink(missing_ok=True)
        write(tmp_path, path, text)
        assert [f for f in lint.lint(tmp_path) if f[2] == name] == []


def test_file_mode_and_size(tmp_path):
    write(tmp_path, "tools/a.sh", "#!/bin/sh\n" + P)
    write(tmp_path, "docs/a.md", "a\n")
    (tmp_path / "docs/a.md").chmod(0o755)
    with open(tmp_path / "weights.bin", "wb") as file:
        file.truncate(lint.MAX_FILE_BYTES + 1)
    assert sorted(f[0] for f in lint.lint(tmp_path) if f[2] == "file_itself") == ["docs/a.md", "tools/a.sh", "weights.bin"]


def test_every_rule_has_a_sample():
    assert {r.__name__ for r in lint.RULES} == {s[0] for s in SAMPLES}


@pytest.mark.parametrize("name", [r.__name__ for r in lint.RULES] + ["file_itself"])
def test_tree_is_clean(name):
    found = [f"{path}:{line}: {message}" for path, line, rule, message in lint.lint(ROOT) if rule == name]
    assert not found, "\n".join(found)
