# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Long documents from outside: windows against the reference's hidden states, EmbedDocument against Embed, its limits,
its progress, cancellation, memory."""

import grpc
import numpy as np
import pytest
from harness import DEMO, HANG_SECONDS, Oracle, Server, assert_close, encoder_pb2_grpc, ids_input, pair_input, pb, refused, text_input, values

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NASTY = "Ünïcödé é日本語 — “quotes” 👨‍👩‍👧 \u0301mark, ﬁle; the lion\tsleeps.\n"


@pytest.fixture(scope="module")
def demo():
    with Server([f"demo={DEMO / 'model'}"], "--dtype=float32", "--parallel_max_tokens=64", "--max_sequence_tokens=300000") as running:
        yield running


def windows(length, size, stride):
    """The contract, written down a second time."""
    spans, start = [], 0
    while True:
        spans.append((start, min(start + size, length)))
        if start + size >= length:
            return spans
        start += stride


def document(server, request, whole=None, **options):
    """(progress, vectors, end) of an answer; the whole document's vector goes to the list `whole`."""
    progress, vectors, end = [], [], None
    whole = [] if whole is None else whole
    for message in server.stub.EmbedDocument(request, timeout=HANG_SECONDS, **options):
        assert message.ByteSize() <= 2 << 20 and end is None
        kind = message.WhichOneof("content")
        if kind == "progress":
            progress.append((message.progress.tokens_done, message.progress.tokens_total))
            assert not vectors
        elif kind == "document":
            whole.append(message.document)
        elif kind == "vectors":
            assert not whole and message.vectors.first_vector == len(vectors)
            vectors.extend(message.vectors.vectors)
        else:
            end = message.end
    assert end.num_vectors == len(vectors)
    return progress, vectors, end


@pytest.mark.parametrize("name", Oracle.NAMES)
def test_windows_are_means_of_the_references_hidden_states(name):
    oracle = Oracle(name)
    with Server([oracle.directory], "--dtype=float32") as server:
        for size, stride in [(1, 1), (4, 1), (5, 3), (7, 0), (64, 64), (4096, 100)]:
            request = pb.EmbedRequest(inputs=oracle.inputs(), pooling=pb.POOLING_WINDOWS, normalize=False,
                                      windows=pb.WindowOptions(size_tokens=size, stride_tokens=stride))
            for result, hidden in zip(server.call("Embed", request).results, oracle.hidden):
                spans = windows(len(hidden), size, stride or size)
                assert [(v.span.start_token, v.span.end_token) for v in result.vectors] == spans
                assert_close([values(v) for v in result.vectors], [hidden[a:b].mean(axis=0) for a, b in spans])


def test_a_window_as_long_as_the_row_is_the_mean(demo):
    for size in (len(NASTY) * 4, 4_000_000_000):
        whole = demo.call("Embed", pb.EmbedRequest(inputs=[text_input(NASTY)], pooling=pb.POOLING_MEAN)).results[0]
        window = demo.call("Embed", pb.EmbedRequest(inputs=[text_input(NASTY)], pooling=pb.POOLING_WINDOWS,
                                                    windows=pb.WindowOptions(size_tokens=size))).results[0]
        assert values(whole.vectors[0]).tolist() == values(window.vectors[0]).tolist() and len(window.vectors) == 1


def test_byte_spans_are_those_of_the_windows_tokens(demo):
    text = NASTY * 30
    tokens = demo.call("Tokenize", pb.TokenizeRequest(inputs=[text_input(text)])).results[0].spans
    result = demo.call("Embed", pb.EmbedRequest(inputs=[text_input(text)], pooling=pb.POOLING_WINDOWS,
                                                windows=pb.WindowOptions(size_tokens=10, stride_tokens=7))).results[0]
    for vector in result.vectors:
        inside = [t for t in tokens[vector.span.start_token:vector.span.end_token] if t.end_byte]
        want = (inside[0].start_byte, inside[-1].end_byte) if inside else (0, 0)
        assert (vector.span.start_byte, vector.span.end_byte) == want
        text.encode()[slice(*want)].decode()  # never within a character


def test_windows_of_pairs_ids_and_truncated_text(demo):
    options = pb.WindowOptions(size_tokens=4)

    def spans(content, **fields):
        result = demo.call("Embed", pb.EmbedRequest(inputs=[content], pooling=pb.POOLING_WINDOWS, windows=options, **fields)).results[0]
        return [(v.span.start_token, v.span.end_token, v.span.start_byte, v.span.end_byte) for v in result.vectors]

    assert spans(pair_input("a b c", "d e")) == [(0, 4, 0, 5), (4, 8, 0, 3)]  # [CLS] a b c | [SEP] d e [SEP]
    assert spans(ids_input([2, 100, 101, 102, 3])) == [(0, 4, 0, 0), (4, 5, 0, 0)]
    with Server([f"demo={DEMO / 'model'}"], "--max_sequence_tokens=6") as small:
        for side, want in ((pb.TRUNCATION_RIGHT, [(0, 4, 0, 5), (4, 6, 6, 7)]), (pb.TRUNCATION_LEFT, [(0, 4, 4, 9), (4, 6, 10, 11)])):
            request = pb.EmbedRequest(inputs=[text_input("a b c d e f")], pooling=pb.POOLING_WINDOWS, windows=options,
                                      options=pb.EncodeOptions(truncation=side))
            result = small.call("Embed", request).results[0]
            assert [(v.span.start_token, v.span.end_token, v.span.start_byte, v.span.end_byte) for v in result.vectors] == want and result.truncated


@pytest.mark.parametrize("mode", [pb.COMPUTE_MODE_CHUNKED, pb.COMPUTE_MODE_RECURRENT])
def test_a_document_has_the_bits_of_embed(demo, mode):
    ids = np.random.default_rng(1).integers(5, 16000, 9000)
    fields = dict(options=pb.EncodeOptions(mode=mode), windows=pb.WindowOptions(size_tokens=100, stride_tokens=40), dimensions=48,
                  vector_type=pb.VECTOR_TYPE_FLOAT16_BYTES)
    progress, vectors, end = document(demo, pb.EmbedDocumentRequest(input=ids_input(ids), **fields))
    embed = demo.call("Embed", pb.EmbedRequest(inputs=[ids_input(ids)], pooling=pb.POOLING_WINDOWS, **fields)).results[0]
    assert [v.SerializeToString() for v in vectors] == [v.SerializeToString() for v in embed.vectors]
    assert (end.token_count, end.mode, end.truncated) == (9000, mode, False)
    assert progress[-1] == (9000, 9000) and progress == sorted(progress)


@pytest.mark.parametrize("length", [5, 700, 9000])
def test_one_pass_gives_the_whole_with_its_windows(demo, length):
    ids = np.random.default_rng(4).integers(5, 16000, length)
    fields = dict(input=ids_input(ids), dimensions=100, windows=pb.WindowOptions(size_tokens=128, stride_tokens=96))
    whole = []
    _, vectors, end = document(demo, pb.EmbedDocumentRequest(with_document=True, **fields), whole)
    _, plain, _ = document(demo, pb.EmbedDocumentRequest(**fields))
    assert [v.SerializeToString() for v in vectors] == [v.SerializeToString() for v in plain] and end.num_vectors == len(vectors)
    mean = demo.call("Embed", pb.EmbedRequest(inputs=[ids_input(ids)], pooling=pb.POOLING_MEAN, dimensions=100)).results[0].vectors[0]
    assert len(whole) == 1 and whole[0].values == mean.values
    assert (whole[0].span.start_token, whole[0].span.end_token) == (0, length)


def test_windows_end_where_sentences_do(demo):
    sentences = ["The lion sleeps tonight. ", "It is 4.5 years old!  ", "Does it\ndream of\nzebras? ", "日本語の文。", "A title\n\n", "And so on: " + "word " * 200]
    text = "".join(sentences) * 20
    starts = {0, *np.cumsum([len(s.encode()) for s in sentences * 20])}
    request = pb.EmbedRequest(inputs=[text_input(text)], pooling=pb.POOLING_WINDOWS,
                              windows=pb.WindowOptions(size_tokens=60, boundary=pb.WINDOW_BOUNDARY_SENTENCE))
    result = demo.call("Embed", request).results[0]
    spans = [v.span for v in result.vectors]
    assert spans[0].start_token == 0 and spans[-1].end_token == result.token_count
    assert all(a.end_token == b.start_token for a, b in zip(spans, spans[1:]))
    assert all(0 < s.end_token - s.start_token <= 60 for s in spans)
    # The words' sentence alone is too long, and has no line's end: cut after 60 tokens, thrice.
    inside = [s for s in spans if s.start_byte not in starts]
    assert len(inside) == 3 * 20 and all(text.encode()[s.start_byte:s.end_byte].startswith(b"word") for s in inside)
    with refused(INVALID, "texts", begins="inputs[0].token_ids"):
        request.inputs[0].CopyFrom(ids_input([2, 100, 3]))
        demo.call("Embed", request)


def test_a_default_client_receives_a_long_documents_windows(demo):
    """40,001 tokens, a window every 2 of them: 30 MB of vectors through gRPC's 4 MiB limit."""
    ids = np.random.default_rng(2).integers(5, 16000, 40_001)
    channel = grpc.insecure_channel(demo.grpc, [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)])
    with channel:
        request = pb.EmbedDocumentRequest(input=ids_input(ids), windows=pb.WindowOptions(size_tokens=20, stride_tokens=2))
        count, steps = 0, []
        for message in encoder_pb2_grpc.EncoderServiceStub(channel).EmbedDocument(request, timeout=HANG_SECONDS):
            count += len(message.vectors.vectors)
            if message.HasField("progress"):
                steps.append(message.progress.tokens_done)
    assert count == len(windows(40_001, 20, 2))
    assert len(steps) > 2 and steps == sorted(steps)  # it runs in steps, and says so


def test_what_is_refused(demo):
    text = text_input("a b")
    with refused(INVALID, "size", begins="windows.size_tokens"):
        document(demo, pb.EmbedDocumentRequest(input=text))
    with refused(INVALID, 300000, 300001, begins="input.token_ids.ids"):
        document(demo, pb.EmbedDocumentRequest(input=ids_input([5] * 300001), windows=pb.WindowOptions(size_tokens=9)))
    with refused(INVALID, begins="input: has no content"):
        document(demo, pb.EmbedDocumentRequest(windows=pb.WindowOptions(size_tokens=9)))
    with refused(INVALID, begins="request does not parse as lion.v1.EmbedDocumentRequest"):
        list(demo._channel.unary_stream("/lion.v1.EncoderService/EmbedDocument", request_serializer=lambda b: b,
                                        response_deserializer=lambda b: b)(b"\xff\xff", timeout=HANG_SECONDS))


def test_a_cancelled_document_stops_and_is_counted_once(demo):
    before = demo.metrics()
    ids = np.random.default_rng(3).integers(5, 16000, 100_000)
    call = demo.stub.EmbedDocument(pb.EmbedDocumentRequest(input=ids_input(ids), windows=pb.WindowOptions(size_tokens=1)), timeout=HANG_SECONDS)
    next(call)
    call.cancel()
    key = 'lion_rpc_requests_total{code="CANCELLED",model="demo",rpc="EmbedDocument"}'
    while demo.metrics().get(key, 0) != before.get(key, 0) + 1:
        pass
    while demo.metrics()['lion_rpc_in_flight{rpc="EmbedDocument"}'] != 0:
        pass
    demo.call("Embed", pb.EmbedRequest(inputs=[text_input("still there")]))


def test_memory_is_counted_before_a_document_is_accepted():
    def request(tokens, **windows):
        return pb.EmbedDocumentRequest(input=ids_input([5 + i % 9000 for i in range(tokens)]), windows=pb.WindowOptions(**windows))

    with Server([f"demo={DEMO / 'model'}"], "--dtype=float32", "--parallel_max_tokens=64", "--max_memory_mib=100") as server:
        with refused(INVALID, "100000 tokens need", 100 << 20, "max_memory_mib", begins="input: "):
            document(server, request(100_000, size_tokens=100))
        # Not read yet, its answer is in the server: as much again is too much.
        first = server.stub.EmbedDocument(request(10_000, size_tokens=2, stride_tokens=1), timeout=HANG_SECONDS)
        next(first)
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "others have taken", begins="memory: "):
            document(server, request(10_000, size_tokens=2, stride_tokens=1))
        assert server.metrics()['lion_rejected_total{reason="memory"}'] == 1
        server.call("Embed", pb.EmbedRequest(inputs=[text_input("short rows need none of it")]))
        assert sum(len(m.vectors.vectors) for m in first) == 9999
        while True:  # it is given back soon after its last message
            try:
                assert len(document(server, request(10_000, size_tokens=2, stride_tokens=1))[1]) == 9999
                break
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_tokenizer_is_bounded_by_its_limit(demo):
    """16 MiB that cannot be cut, and 16 MiB of tokens beyond the limit: named with their length, and no memory kept."""
    demo.call("Embed", pb.EmbedRequest(inputs=[text_input("warm " * 1000)]))
    demo.reset_peak()
    before = demo.memory_bytes()
    word = demo.call("Embed", pb.EmbedRequest(inputs=[text_input("x" * (16 << 20))])).results[0]
    assert word.token_count == 3
    with refused(INVALID, (16 << 20) + 2, 300000, begins="inputs[0].text"):
        demo.call("Embed", pb.EmbedRequest(inputs=[text_input("." * (16 << 20))]))
    assert demo.memory_bytes(peak=True) - before < 300 << 20
