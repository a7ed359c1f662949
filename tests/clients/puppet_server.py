# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""A server that refuses when told, to see what a client makes of it: one without a model, for retries alone.

    with PuppetServer([("RESOURCE_EXHAUSTED", "50"), ("UNAVAILABLE", None)]) as puppet:
        ...        # the first two calls are refused, the first with grpc-retry-pushback-ms: 50; the rest answer
        puppet.calls    # every call that arrived: Call(method, time, metadata)
"""

import concurrent.futures
import dataclasses
import threading
import time

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from harness import SERVICE, pb


@dataclasses.dataclass
class Call:
    method: str
    time: float  # by time.monotonic()
    metadata: dict


class PuppetServer:
    """Answers Embed with one vector [1, 2] an input, Classify with one label, health with SERVING.

    refusals are (code, pushback or None), one a call, in turn; health is never refused. hold: an event that a call which is
    not refused waits for.
    """

    def __init__(self, refusals=(), hold=None):
        self._refusals = list(refusals)
        self._hold = hold
        self._lock = threading.Lock()
        self.calls = []

    def _arrive(self, method, context):
        with self._lock:
            self.calls.append(Call(method, time.monotonic(), dict(context.invocation_metadata())))
            refusal = self._refusals.pop(0) if self._refusals else None
        if refusal is not None:
            code, pushback = refusal
            if pushback is not None:
                context.set_trailing_metadata([("grpc-retry-pushback-ms", pushback)])
            context.abort(grpc.StatusCode[code], "not now")
        if self._hold is not None:
            self._hold.wait()

    def _embed(self, request, context):
        self._arrive("Embed", context)
        vector = pb.Vector(values=[1, 2])
        if request.vector_type == pb.VECTOR_TYPE_FLOAT32_BYTES:
            vector = pb.Vector(data=b"\0\0\x80\x3f\0\0\0\x40")
        result = pb.EmbedResult(vectors=[vector], token_count=1, mode=pb.COMPUTE_MODE_PARALLEL)
        return pb.EmbedResponse(model="puppet", model_version="0", results=[result] * len(request.inputs))

    def _classify(self, request, context):
        self._arrive("Classify", context)
        result = pb.ClassifyResult(scores=[pb.LabelScore(label="puppet", score=1)], token_count=1, mode=pb.COMPUTE_MODE_PARALLEL)
        return pb.ClassifyResponse(model="puppet", model_version="0", results=[result] * len(request.inputs))

    def __enter__(self):
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
        handlers = {"Embed": grpc.unary_unary_rpc_method_handler(self._embed, pb.EmbedRequest.FromString, pb.EmbedResponse.SerializeToString),
                    "Classify": grpc.unary_unary_rpc_method_handler(self._classify, pb.ClassifyRequest.FromString, pb.ClassifyResponse.SerializeToString)}
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
        servicer = health.HealthServicer()
        servicer.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self._server)
        self.grpc = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, *_):
        self._server.stop(None).wait()
