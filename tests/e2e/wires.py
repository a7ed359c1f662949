# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The stubs of the wires of others: text-embeddings-inference's (tei, tei_grpc) and the Open Inference Protocol's (oip, oip_grpc)."""

import sys

from grpc_tools import protoc

from harness import HANG_SECONDS, ROOT


def _generate_stubs():
    out = ROOT / "build/e2e/wires"
    out.mkdir(parents=True, exist_ok=True)
    files = ["tei/v1/tei.proto", "inference/open_inference_grpc.proto"]
    assert protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"--python_out={out}", f"--grpc_python_out={out}", *files]) == 0
    sys.path.insert(0, str(out))


_generate_stubs()
from inference import open_inference_grpc_pb2 as oip  # noqa: E402
from inference import open_inference_grpc_pb2_grpc as oip_grpc  # noqa: E402
from tei.v1 import tei_pb2 as tei  # noqa: E402
from tei.v1 import tei_pb2_grpc as tei_grpc  # noqa: E402


def infer(server, request, **options):
    return oip_grpc.GRPCInferenceServiceStub(server.channel()).ModelInfer(request, timeout=HANG_SECONDS, **options)
