# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Start-up: flags, names, the ready line, exit codes, health before and after, reflection, ListModels."""

import hashlib
import json
import re
import socket

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import models
from harness import ORACLE, SERVICE, Server, ids_input, pb, refused, run_server

MODEL = ORACLE / "text-lion-s-ln"
QUICK = ("--dtype=float32", "--parallel_max_tokens=64", "--max_batch_tokens=256")
FLAGS = """listen metrics_listen device dtype mode parallel_max_tokens chunk_tokens max_batch_tokens max_sequence_tokens max_queue_tokens max_inputs
           max_message_mib compute_threads tokenizer_threads tls_cert tls_key tls_client_ca api_key_file drain_delay drain_timeout log_format""".split()


def test_help_lists_every_flag():
    _, lines = run_server("--help")
    text = "\n".join(lines)
    assert [flag for flag in FLAGS if not re.search(rf"--{flag}\b", text)] == []


@pytest.mark.parametrize("flag", ["--no_such_flag=1", "--max_inputs=many", "--drain_delay=soon"])
def test_what_absl_refuses_exits_1(flag):
    code, lines = run_server(flag, MODEL)
    assert code == 1
    assert flag.split("=")[0].lstrip("-") in "\n".join(lines)


# flag, what its line names
REFUSED = [
    ("--device=tpu", ["device", "tpu"]),
    ("--device=cuda:zero", ["device", "cuda:zero"]),
    ("--device=cpu,cuda:0", ["device", "cpu,cuda:0", "cpu stands alone"]),
    ("--device=cuda:0,cuda:0", ["device", "cuda:0 is named twice"]),
    ("--device=cuda:0,", ["device", "takes auto, cpu, cuda"]),
    ("--device=cuda:999", ["device", "cuda:999"]),
    ("--dtype=int4", ["dtype", "int4"]),
    ("--mode=quantum", ["mode", "quantum"]),
    ("--log_format=xml", ["log_format", "xml"]),
    *((f"--{flag}=-1", [flag, "-1"]) for flag in
      ("parallel_max_tokens", "chunk_tokens", "max_batch_tokens", "max_sequence_tokens", "max_queue_tokens", "max_inputs", "max_message_mib",
       "compute_threads", "tokenizer_threads")),
    ("--parallel_max_tokens=16385", ["parallel_max_tokens", "16385", "16384"]),
    ("--drain_delay=-1s", ["drain_delay"]),
    ("--drain_timeout=-1s", ["drain_timeout"]),
    ("--max_message_mib=2048", ["max_message_mib", "2048"]),
    ("--listen=nonsense", ["listen", "nonsense"]),
    ("--listen=127.0.0.1:99999", ["listen", "99999"]),
    ("--metrics_listen=127.0.0.1", ["metrics_listen", "127.0.0.1"]),
    ("--tls_cert=/nowhere.pem", ["tls_key"]),
    ("--tls_key=/nowhere.pem", ["tls_cert"]),
    ("--tls_client_ca=/nowhere.pem", ["tls_client_ca"]),
    ("--api_key_file=/nowhere.keys", ["/nowhere.keys"]),
]


def refuses(args, words):
    code, lines = run_server(*args)
    said = "\n".join(lines)
    assert code == 2, f"exit {code}:\n{said}"
    assert lines and all(str(w) in lines[-1] for w in words), f"its last line does not name {words}:\n{said}"
    assert "ready grpc=" not in said


@pytest.mark.parametrize("flag, words", REFUSED, ids=[r[0] for r in REFUSED])
def test_values_that_we_refuse_exit_2(flag, words):
    refuses([flag, MODEL], words)


@pytest.mark.parametrize("dtype", ["float16", "fp8"])
def test_a_precision_that_the_cpu_does_not_have(dtype):
    refuses(["--device=cpu", f"--dtype={dtype}", MODEL], ["dtype", dtype])


@pytest.mark.parametrize("args, words", [
    ([], ["model"]),
    ([f"={MODEL}"], [str(MODEL)]),
    ([f"a b={MODEL}"], ["a b"]),
    ([f"a/b={MODEL}"], ["a/b"]),
    ([f"{'n' * 65}={MODEL}"], ["64"]),
    ([f"unknown={MODEL}"], ["unknown"]),
    ([MODEL, MODEL], ["text-lion-s-ln"]),
    ([f"same={MODEL}", f"same={ORACLE / 'text-lion-d-noln'}"], ["same"]),
    (["name="], ["name"]),
])
def test_names_that_we_refuse(args, words):
    refuses(args, words)


def test_names_and_the_ready_line(tmp_path):
    strange = models.copy_of(models.BASE, tmp_path / "with=equals")
    args = [f"{ORACLE / 'text-lion-d-noln'}/", f"A.b_c-9={MODEL}", f"eq={strange}"]
    with Server(args, *QUICK) as server:
        ready = [line for line in server.log if "ready grpc=" in line]
        assert len(ready) == 1
        assert server.models == "text-lion-d-noln,A.b_c-9,eq"
        assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", server.grpc) and re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", server.metrics_address)
        assert [m.name for m in server.call("ListModels", pb.ListModelsRequest()).models] == server.models.split(",")
        assert server.call("Embed", pb.EmbedRequest(inputs=[ids_input([1])])).model == "text-lion-d-noln"
        server.signal()
        assert server.wait_exit() == 0
    assert len([line for line in server.log if "ready grpc=" in line]) == 1


def test_json_log():
    with Server([MODEL], *QUICK, "--log_format=json") as server:
        server.signal()
        assert server.wait_exit() == 0
    messages = [json.loads(line) for line in server.log]
    assert sum("ready grpc=" in str(m) for m in messages) == 1


def test_flagfile(tmp_path):
    (tmp_path / "flags").write_text("--max_inputs=3\n--max_sequence_tokens=77\n")
    with Server([MODEL], *QUICK, f"--flagfile={tmp_path / 'flags'}") as server:
        shown = server.call("ListModels", pb.ListModelsRequest()).models[0]
        assert (shown.max_inputs, shown.max_sequence_tokens) == (3, 77)


@pytest.mark.parametrize("flag", ["listen", "metrics_listen"])
def test_a_port_in_use_exits_1(flag):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        flags = {"listen": "127.0.0.1:0", "metrics_listen": "127.0.0.1:0", flag: address}
        code, lines = run_server(*(f"--{k}={v}" for k, v in flags.items()), *QUICK, MODEL)
        assert code == 1
        assert address in lines[-1]


@pytest.mark.parametrize("flag", ["listen", "metrics_listen"])
def test_two_servers_do_not_share_a_port(flag):
    with Server([MODEL], *QUICK) as server:
        address = server.grpc if flag == "listen" else server.metrics_address
        flags = {"listen": "127.0.0.1:0", "metrics_listen": "127.0.0.1:0", flag: address}
        code, lines = run_server(*(f"--{k}={v}" for k, v in flags.items()), *QUICK, MODEL)
        assert code == 1
        assert address in lines[-1]
        assert server.health() == "SERVING"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_health_before_ready():
    """The port is open and says NOT_SERVING, calls get UNAVAILABLE, "" is SERVING, until the warm-up has run."""
    address = f"127.0.0.1:{free_port()}"
    # A warm-up long enough to be seen: one batch of a quarter million tokens.
    with Server([MODEL], "--dtype=float32", "--parallel_max_tokens=64", "--max_batch_tokens=262144", f"--listen={address}", ready=False) as server:
        server.grpc = address
        server._channel = server.channel(**{"grpc.initial_reconnect_backoff_ms": 20, "grpc.min_reconnect_backoff_ms": 20, "grpc.max_reconnect_backoff_ms": 20})
        grpc.channel_ready_future(server._channel).result(timeout=60)
        watched = server.watch_health()
        assert next(watched) == "NOT_SERVING"
        assert server.health("") == "SERVING"
        with refused(grpc.StatusCode.UNAVAILABLE):
            server.call("Embed", pb.EmbedRequest(inputs=[ids_input([1])]))
        assert next(watched) == "SERVING"
        server.wait_for_ready()
        assert server.grpc == address
        assert server.call("Embed", pb.EmbedRequest(inputs=[ids_input([1])])).results[0].token_count == 1
        metrics = server.metrics()
        assert metrics['lion_sequences_total{mode="chunked",model="text-lion-s-ln"}'] == 0  # the warm-up is nobody's row
        assert metrics['lion_rejected_total{reason="draining"}'] == 0  # loading is not draining


def test_health_of_a_service_that_is_not_there(server):
    with refused(grpc.StatusCode.NOT_FOUND):
        server.health("lion.v1.Lamb")


def test_reflection(server):
    database = ProtoReflectionDescriptorDatabase(server.channel())
    others = {f"tei.v1.{name}" for name in ("Info", "Embed", "Predict", "Rerank", "Tokenize")} | {"inference.GRPCInferenceService"}
    assert others | {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= set(database.get_services())
    file = database.FindFileContainingSymbol(SERVICE)
    assert [m.name for m in file.service[0].method] == ["Embed", "EmbedStream", "Classify", "ClassifyStream", "EmbedDocument", "Tokenize", "ListModels"]


def test_list_models(server, made):
    shown = {m.name: m for m in server.call("ListModels", pb.ListModelsRequest()).models}
    assert list(shown) == server.models.split(",")
    variants = {"text-lion-s-ln": "lion-s", "text-lion-lit-ln": "lion-lit", "text-lion-d-noln": "lion-d", "text-lion-s-noln": "lion-s"}
    for name, variant in variants.items():
        model = shown[name]
        digest = hashlib.sha256((ORACLE / name / "config.json").read_bytes() + (ORACLE / name / "model.safetensors").read_bytes())
        assert model.version == digest.hexdigest()[:12]
        assert (model.variant, model.input, model.embedding_dimensions, list(model.labels)) == (variant, "text", 48, [f"label-{i}" for i in range(5)])
        assert (model.embeds, model.classifies, model.dtype, model.device) == (True, True, "float32", "cpu")
        assert (model.pooling, model.normalize) == (pb.POOLING_MEAN, False)
        assert model.max_sequence_tokens == (512 if variant == "lion-lit" else 131072)
        assert (model.parallel_max_tokens, model.max_inputs, model.max_message_bytes) == (64, 1024, 64 << 20)
        assert model.max_request_tokens == model.max_queue_tokens == 1048576
        assert 1 <= model.chunk_tokens <= 128
    assert (shown["headless"].embeds, shown["headless"].classifies, list(shown["headless"].labels)) == (True, False, [])
    versions = [m.version for m in shown.values()]
    assert all(re.fullmatch("[0-9a-f]{12}", v) for v in versions)


def test_crossover_is_measured_unless_given():
    with Server([MODEL], "--dtype=float32", "--max_batch_tokens=2048", "--chunk_tokens=16") as server:
        shown = server.call("ListModels", pb.ListModelsRequest()).models[0]
        assert shown.parallel_max_tokens in (64, 128, 256, 512, 1024)
        assert shown.chunk_tokens == 16
        assert any(f"--parallel_max_tokens={shown.parallel_max_tokens}" in line for line in server.log)
        assert any(re.search(r"--chunk_tokens=16\b", line) for line in server.log)


@pytest.mark.parametrize("mode, shown", [("parallel", pb.COMPUTE_MODE_PARALLEL), ("chunked", pb.COMPUTE_MODE_CHUNKED), ("recurrent", pb.COMPUTE_MODE_RECURRENT)])
def test_mode_flag(mode, shown):
    """The flag is what AUTO becomes; a caller's own wish goes first."""
    with Server([MODEL], *QUICK, f"--mode={mode}") as server:
        for asked, ran in ((pb.COMPUTE_MODE_UNSPECIFIED, shown), (pb.COMPUTE_MODE_AUTO, shown), (pb.COMPUTE_MODE_CHUNKED, pb.COMPUTE_MODE_CHUNKED)):
            answer = server.call("Embed", pb.EmbedRequest(inputs=[ids_input([1, 2]), ids_input([1] * 100)], options=pb.EncodeOptions(mode=asked)))
            assert [r.mode for r in answer.results] == [ran, ran]


def test_bfloat16_is_close(oracles):
    """Within a few per cent of the vector's length; the exact bound is the engine's own test."""
    oracle = oracles["text-lion-s-ln"]
    with Server([MODEL], "--dtype=bfloat16", "--parallel_max_tokens=64", "--max_batch_tokens=256") as server:
        assert server.call("ListModels", pb.ListModelsRequest()).models[0].dtype == "bfloat16"
        answer = server.call("Embed", pb.EmbedRequest(inputs=oracle.inputs(), pooling=pb.POOLING_MEAN, normalize=True))
    for result, hidden in zip(answer.results, oracle.hidden):
        want = hidden.mean(axis=0)
        cosine = sum(a * b for a, b in zip(result.vectors[0].values, want)) / float((want**2).sum()) ** 0.5
        assert cosine >= 1 - 2 * 2**-8  # two roundings to 8 bits
