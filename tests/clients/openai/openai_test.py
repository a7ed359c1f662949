# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""OpenAI's own Python client against the server's HTTP port: the wire's vectors, its classes of errors, its patience."""

import asyncio
import pathlib
import ssl
import sys
import threading

import httpx
import numpy as np
import openai
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path += [str(ROOT / "tests/e2e"), str(ROOT / "tests/clients")]

from harness import HANG_SECONDS, Server, ids_input, pb, run_server, text_input, values  # noqa: E402
from servers import MODEL, QUICK, SecureServer, make_pki  # noqa: E402

TEXTS = ["a compiler for the C language", "play chess against the computer", "naïve café", ""]
HTTP = "--http_listen=127.0.0.1:0"


def http_address(server):
    return server.wait_for_line(r"ready .* http=(\S+)").group(1)


def client_of(server, **options):
    options = {"api_key": "none", "max_retries": 0, "timeout": HANG_SECONDS, **options}
    return openai.OpenAI(base_url=f"http://{http_address(server)}/v1", **options)


@pytest.fixture(scope="module")
def server():
    """The demo model; 64 tokens a sequence and 8 inputs a call at most."""
    with Server([MODEL], *QUICK, HTTP, "--max_sequence_tokens=64", "--max_inputs=8", "--max_message_mib=1") as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with client_of(server) as client:
        yield client


def embed(server, inputs, **fields):
    return np.array([values(result.vectors[0]) for result in server.call("Embed", pb.EmbedRequest(inputs=inputs, **fields)).results])


def vectors(answer):
    assert [row.index for row in answer.data] == list(range(len(answer.data)))
    return np.array([row.embedding for row in answer.data], np.float32)


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}, {"model": "demo", "user": "ann"}], ids=str)
def test_vectors_are_the_wires_own(server, client, options):
    answer = client.embeddings.create(input=TEXTS, **{"model": "demo", **options})
    assert (vectors(answer) == embed(server, [text_input(t) for t in TEXTS])).all()
    assert answer.model == "demo" and answer.object == "list" and answer.usage.prompt_tokens == answer.usage.total_tokens > 0


def test_one_text_ids_and_dimensions(server, client):
    assert (vectors(client.embeddings.create(model="demo", input=TEXTS[0])) == embed(server, [text_input(TEXTS[0])])).all()
    rows = [[2, 77, 3], [2, 3]]
    assert (vectors(client.embeddings.create(model="demo", input=rows)) == embed(server, [ids_input(r) for r in rows])).all()
    assert (vectors(client.embeddings.create(model="demo", input=rows[0])) == embed(server, [ids_input(rows[0])])).all()
    short = vectors(client.embeddings.create(model="demo", input=TEXTS, dimensions=64))
    assert (short == embed(server, [text_input(t) for t in TEXTS], dimensions=64)).all() and short.shape == (4, 64)


def test_a_long_text_and_truncation(server, client):
    long = "word " * 100
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="demo", input=["a", long])
    assert caught.value.param == "input" and caught.value.body["message"].startswith("input[1]: ") and "64" in caught.value.body["message"]
    answer = client.embeddings.create(model="demo", input=long, extra_body={"truncate": True})
    assert answer.usage.total_tokens == 64


@pytest.mark.parametrize("fields, error, words", [
    ({"model": "nobody"}, openai.NotFoundError, "no model 'nobody'; this server has demo"),
    ({"input": []}, openai.BadRequestError, "input: none given"),
    ({"input": ["x"] * 9}, openai.BadRequestError, "more than 8 given"),
    ({"input": [[99999999]]}, openai.BadRequestError, "input[0][0]: 99999999 is not below the vocabulary size"),
    ({"dimensions": 385}, openai.BadRequestError, "dimensions: 385 is above the width"),
    ({"encoding_format": "int8"}, openai.BadRequestError, "encoding_format: 'int8'"),
    ({"extra_body": {"pooling": "cls"}}, openai.BadRequestError, "'pooling': there is no such field"),
])
def test_errors_are_the_clients_own(client, fields, error, words):
    with pytest.raises(error) as caught:
        client.embeddings.create(**{"model": "demo", "input": "x", **fields})
    assert words in caught.value.body["message"]


def test_a_large_body(server, client):
    assert len(client.embeddings.create(model="demo", input=["x " * 20] * 8).data) == 8
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(model="demo", input="x" * (2 << 20))
    assert caught.value.status_code == 413


def test_models(client):
    models = client.models.list().data
    assert [m.id for m in models] == ["demo"] and models[0].created > 1.7e9
    assert client.models.retrieve("demo").id == "demo"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_classify(server, client):
    answer = client.post("/classify", cast_to=object, body={"input": TEXTS[:2], "top_k": 3})
    same = server.call("Classify", pb.ClassifyRequest(inputs=[text_input(t) for t in TEXTS[:2]], top_k=3)).results
    for row, result in zip(answer["data"], same):
        assert [s["label"] for s in row["scores"]] == [s.label for s in result.scores] and row["label"] == result.scores[0].label
        assert [np.float32(s["score"]) for s in row["scores"]] == [np.float32(s.score) for s in result.scores]


def test_many_at_a_time(server):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"http://{http_address(server)}/v1", api_key="none", max_retries=0, timeout=HANG_SECONDS) as client:
            answers = await asyncio.gather(*(client.embeddings.create(model="demo", input=f"text number {i}") for i in range(200)))
        return [a.data[0].embedding for a in answers]

    got = np.array(asyncio.run(ask()), np.float32)
    want = np.concatenate([embed(server, [text_input(f"text number {i}") for i in range(at, at + 8)]) for at in range(0, 200, 8)])
    assert (got == want).all()


def test_metrics_and_health(server, client):
    key = 'lion_rpc_requests_total{code="OK",model="demo",rpc="http.Embeddings"}'
    before = server.metrics().get(key, 0)
    client.embeddings.create(model="demo", input="x")
    assert server.metrics()[key] == before + 1
    assert httpx.get(f"http://{http_address(server)}/health").json() == {"status": "SERVING"}


def test_a_full_queue_is_waited_for():
    with Server([MODEL], *QUICK, HTTP, "--max_sequence_tokens=256", "--max_queue_tokens=256", "--compute_threads=1") as server:
        refused = []

        def ask(client):
            for _ in range(10):
                client.embeddings.create(model="demo", input="word " * 200)

        def count(response):
            if response.status_code == 429:
                assert float(response.headers["retry-after-ms"]) > 0 and int(response.headers["retry-after"]) > 0
                refused.append(response)

        client = client_of(server, max_retries=100, http_client=httpx.Client(event_hooks={"response": [count]}))
        threads = [threading.Thread(target=ask, args=(client,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.metrics()['lion_rpc_requests_total{code="OK",model="demo",rpc="http.Embeddings"}'] == 80
        assert refused and server.metrics()['lion_rejected_total{reason="queue_full"}'] == len(refused)


def test_tls_and_keys(tmp_path):
    pki = make_pki(tmp_path)
    secure = SecureServer.with_keys(pki)
    secure._command.insert(1, HTTP)
    with secure as server:
        trust = httpx.Client(verify=ssl.create_default_context(cafile=str(pki / "ca.pem")))
        base = f"https://{http_address(server)}/v1"
        with openai.OpenAI(base_url=base, api_key="sesame", http_client=trust, max_retries=0) as client:
            assert len(client.embeddings.create(model="demo", input="x").data[0].embedding) == 384
            with pytest.raises(openai.AuthenticationError) as caught:
                client.with_options(api_key="wrong").embeddings.create(model="demo", input="x")
            assert caught.value.code == "invalid_api_key"
        with client_of(server, api_key="sesame") as plain, pytest.raises(openai.APIError):
            plain.models.list()


def test_flags_that_do_not_go_together(tmp_path):
    pki = make_pki(tmp_path)
    code, lines = run_server(HTTP, f"--tls_cert={pki / 'server.pem'}", f"--tls_key={pki / 'server.key'}", f"--tls_client_ca={pki / 'ca.pem'}", MODEL)
    assert code == 2 and "--http_listen" in lines[-1] and "--tls_client_ca" in lines[-1]


def test_a_port_in_use(server):
    code, lines = run_server("--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0", f"--http_listen={http_address(server)}", *QUICK, MODEL)
    assert code == 1 and http_address(server) in lines[-1]


def test_a_drain_answers_what_is_inside():
    with Server([MODEL], *QUICK, HTTP, "--max_sequence_tokens=20000", "--max_queue_tokens=2000000") as own, client_of(own) as client:
        answers = []
        thread = threading.Thread(target=lambda: answers.append(client.embeddings.create(model="demo", input="word " * 15000)))
        thread.start()
        while own.metrics()['lion_rpc_in_flight{rpc="http.Embeddings"}'] < 1:
            pass
        own.signal()
        thread.join()
        assert own.wait_exit() == 0 and len(answers[0].data) == 1
