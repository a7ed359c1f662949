# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Sums JUnit reports into one closing line: `123 passed, 0 failed, 0 skipped`. Exits 1 on any failure, or if there is no report.

    python3 tools/test_summary.py build/test/*.xml
"""

import pathlib
import sys
import xml.etree.ElementTree


def count(report):
    """(passed, failed, skipped) of one JUnit file, whatever wrote it (ctest and pytest differ in their totals)."""
    passed = failed = skipped = 0
    try:
        cases = list(xml.etree.ElementTree.parse(report).iter("testcase"))
    except xml.etree.ElementTree.ParseError:
        return 0, 1, 0  # whoever wrote it died over it
    for case in cases:
        if case.find("failure") is not None or case.find("error") is not None or case.get("status") == "fail":
            failed += 1
        elif case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def main():
    reports = [pathlib.Path(a) for a in sys.argv[1:] if pathlib.Path(a).is_file()]
    passed, failed, skipped = (sum(column) for column in zip(*map(count, reports))) if reports else (0, 0, 0)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not reports else 0


if __name__ == "__main__":
    sys.exit(main())
