# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""A lion-server process on loopback for the length of a `with`, and the wire's stubs made from proto/."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading

import grpc
import grpc_tools
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]
READY_SECONDS = 600
_READY = re.compile(r"ready grpc=(\S+) ")


def stubs():
    """(encoder_pb2, encoder_pb2_grpc)."""
    try:
        from lion.v1 import encoder_pb2, encoder_pb2_grpc  # made in this process already
    except ImportError:
        with tempfile.TemporaryDirectory() as out:
            google = pathlib.Path(grpc_tools.__file__).parent / "_proto"
            flags = [f"-I{ROOT / 'proto'}", f"-I{google}", f"--python_out={out}", f"--grpc_python_out={out}"]
            if protoc.main(["protoc", *flags, "lion/v1/encoder.proto"]):
                raise RuntimeError("protoc refused proto/lion/v1/encoder.proto") from None
            sys.path.insert(0, out)
            from lion.v1 import encoder_pb2, encoder_pb2_grpc
    return encoder_pb2, encoder_pb2_grpc


class Service:
    """directory served as `model` by binary; ValueError with the server's last words where it does not start."""

    def __init__(self, binary, directory, *flags):
        self._command = [binary, "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0", *flags, f"model={directory}"]
        self._log = []

    def __enter__(self):
        pb, pb_grpc = stubs()
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        address, said = [], threading.Event()

        def read():
            for line in self._process.stderr:
                self._log.append(line.rstrip("\n"))
                if match := _READY.search(line):
                    address.append(match[1])
                    said.set()
            said.set()

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()
        said.wait(READY_SECONDS)
        if not address:
            self._end()
            raise ValueError("the server did not start:\n  " + "\n  ".join(self._log[-5:]))
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(address[0], unlimited)
        self.stub, self.pb = pb_grpc.EncoderServiceStub(self._channel), pb
        return self

    def _end(self):
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()
        self._reader.join()
        self._process.stderr.close()

    def __exit__(self, *_):
        self._channel.close()
        self._end()
