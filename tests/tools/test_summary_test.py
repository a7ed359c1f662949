# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""tools/test_summary.py counts what ctest and pytest write, and fails where there is nothing to count."""

import pathlib
import subprocess
import sys

SUMMARY = pathlib.Path(__file__).resolve().parents[2] / "tools/test_summary.py"

CTEST = """<testsuite name="Linux" tests="3" failures="1" disabled="0" skipped="1">
<testcase name="a" status="run"/><testcase name="b" status="fail"><failure message=""/></testcase>
<testcase name="c" status="notrun"><skipped message=""/></testcase></testsuite>"""
PYTEST = """<testsuites><testsuite errors="1" failures="0" skipped="0" tests="3"><testcase name="d"/><testcase name="e"/>
<testcase name="f"><error message="in a fixture"/></testcase></testsuite></testsuites>"""
GOOD = '<testsuite><testcase name="a" status="run"/></testsuite>'


def summary(tmp_path, **reports):
    for name, text in reports.items():
        (tmp_path / f"{name}.xml").write_text(text)
    run = subprocess.run([sys.executable, str(SUMMARY), *map(str, sorted(tmp_path.glob("*.xml")))], capture_output=True, text=True)
    return run.returncode, run.stdout.splitlines()[-1]


def test_sums(tmp_path):
    assert summary(tmp_path, ctest=CTEST, pytest=PYTEST) == (1, "3 passed, 2 failed, 1 skipped")


def test_all_good(tmp_path):
    assert summary(tmp_path, ctest=GOOD) == (0, "1 passed, 0 failed, 0 skipped")


def test_no_report_is_a_failure(tmp_path):
    assert summary(tmp_path) == (1, "0 passed, 0 failed, 0 skipped")


def test_a_broken_report_is_a_failure(tmp_path):
    assert summary(tmp_path, cut=GOOD[:20]) == (1, "0 passed, 1 failed, 0 skipped")
