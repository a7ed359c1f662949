# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the package's wire from the service's own proto file while a wheel or sdist is built.

Into a wheel go lion_serve/wire.desc, the descriptors that lion_serve/wire.py loads, and lion_serve/wire.pyi, their types.
No generated Python: such code is tied to the protobuf that made it, descriptors load into any. Into an sdist goes the
proto file itself.
"""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTO = "lion/v1/encoder.proto"


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version, build_data):
        here = pathlib.Path(self.root)
        folders = (here / "proto", here.parents[1] / "proto")  # an sdist's, a checkout's
        proto = next((f for f in folders if (f / PROTO).is_file()), None)
        if proto is None:
            raise FileNotFoundError(f"no {PROTO} in {' or '.join(map(str, folders))}")
        if self.target_name == "sdist":
            build_data["force_include"][str(proto / PROTO)] = f"proto/{PROTO}"
            if (licence := proto.parent / "LICENSE").is_file():
                build_data["force_include"][str(licence)] = "LICENSE"
            return
        self._made = pathlib.Path(tempfile.mkdtemp())
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{proto}", f"--descriptor_set_out={self._made}/wire.desc"]
        subprocess.run([*command, "--include_imports", f"--pyi_out={self._made}", PROTO], check=True)
        types = self._made / PROTO.replace(".proto", "_pb2.pyi")
        # protoc leaves the mappings that stand for messages without arguments, which mypy --strict refuses.
        types.write_text(re.sub(r"(?<!as )\b_Mapping\b(?!\[)", "_Mapping[str, object]", types.read_text()))
        build_data["force_include"][f"{self._made}/wire.desc"] = "lion_serve/wire.desc"
        build_data["force_include"][str(types)] = "lion_serve/wire.pyi"

    def finalize(self, version, build_data, artifact_path):
        if hasattr(self, "_made"):
            shutil.rmtree(self._made)
