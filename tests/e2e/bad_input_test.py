# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Bad input, by table: the code, a message that names field and limit, and the server as good as before."""

import grpc
import pytest

from harness import (STREAMS, UNARY, assert_close, check_error, ids_input, pair_input, pb, refused, text_input,
                     values)

INVALID = grpc.StatusCode.INVALID_ARGUMENT
IDS = ids_input([1, 2, 3])
LONG = ids_input([1] * 65)  # one more than `small` takes
WINDOWS = pb.WindowOptions(size_tokens=2, stride_tokens=1)


def embed(*inputs, model="ids", **fields):
    return "Embed", pb.EmbedRequest(model=model, inputs=inputs or [IDS], **fields)


def classify(*inputs, model="ids", **fields):
    return "Classify", pb.ClassifyRequest(model=model, inputs=inputs or [IDS], **fields)


def tokenize(*inputs, model="text"):
    return "Tokenize", pb.TokenizeRequest(model=model, inputs=inputs or [text_input("the lion")])


def options(**fields):
    return pb.EncodeOptions(**fields)


# name, call, code, how the message begins, what it names. `small` has 64 tokens a sequence, 4 inputs, 200 tokens waiting.
CASES = [
    # Every enum, on either side of its list.
    *((f"{call.__name__}-{field}-{bad}", call(options=options(**{field: bad})), INVALID, f"options.{field}", [bad])
      for call in (embed, classify) for field in ("truncation", "mode") for bad in (-1, 4 if field == "truncation" else 5, 99, 2**31 - 1)),
    *((f"embed-pooling-{bad}", embed(pooling=bad), INVALID, "pooling", [bad]) for bad in (-1, 5, 99)),
    *((f"embed-vector_type-{bad}", embed(vector_type=bad), INVALID, "vector_type", [bad]) for bad in (-1, 5, 99)),
    ("embed-enum-among-good-inputs", embed(IDS, IDS, pooling=77), INVALID, "pooling", [77]),
    # Windows: what is invalid is so before anything else is said of them.
    ("windows-unset", embed(pooling=pb.POOLING_WINDOWS), INVALID, "windows", ["size"]),
    ("windows-size-0", embed(pooling=pb.POOLING_WINDOWS, windows=pb.WindowOptions(stride_tokens=1)), INVALID, "windows", ["size"]),
    ("windows-stride", embed(pooling=pb.POOLING_WINDOWS, windows=pb.WindowOptions(size_tokens=2, stride_tokens=3)), INVALID, "windows", [2, 3]),
    ("windows-vector_type", embed(pooling=pb.POOLING_WINDOWS, windows=WINDOWS, vector_type=9), INVALID, "vector_type", [9]),
    ("windows-dimensions", embed(pooling=pb.POOLING_WINDOWS, windows=WINDOWS, dimensions=49), INVALID, "dimensions", [49, 48]),
    # Inputs without content.
    ("embed-no-inputs", ("Embed", pb.EmbedRequest(model="ids")), INVALID, "inputs", []),
    ("classify-no-inputs", ("Classify", pb.ClassifyRequest(model="ids")), INVALID, "inputs", []),
    ("tokenize-no-inputs", ("Tokenize", pb.TokenizeRequest(model="text")), INVALID, "inputs", []),
    *((f"{call.__name__}-unset-content", call(pb.Input()), INVALID, "inputs[0]", []) for call in (embed, classify, tokenize)),
    *((f"{call.__name__}-empty-ids", call(ids_input([])), INVALID, "inputs[0]", []) for call in (embed, classify)),
    *((f"{call.__name__}-empty-ids-with-types", call(ids_input([], [0])), INVALID, "inputs[0]", []) for call in (embed, classify)),
    *((f"{call.__name__}-empty-image", call(pb.Input(image=b"")), INVALID, "inputs[0]", []) for call in (embed, classify)),
    *((f"{call.__name__}-empty-pixels", call(pb.Input(pixels=pb.PixelTensor())), INVALID, "inputs[0]", []) for call in (embed, classify)),
    # A kind of input that the model cannot take: both are named.
    *((f"{call.__name__}-image", call(pb.Input(image=b"\x89PNG\r\n")), INVALID, "inputs[0]", ["image", "text"]) for call in (embed, classify)),
    *((f"{call.__name__}-pixels", call(pb.Input(pixels=pb.PixelTensor(data=b"\0" * 12))), INVALID, "inputs[0]", ["pixels", "text"])
      for call in (embed, classify)),
    *((f"{call.__name__}-text-without-tokenizer", call(text_input("the lion"), model="ids"), INVALID, "inputs[0]", ["token"])
      for call in (embed, classify, tokenize)),
    *((f"{call.__name__}-pair-without-tokenizer", call(pair_input("the", "lion"), model="ids"), INVALID, "inputs[0]", ["token"])
      for call in (embed, classify, tokenize)),
    ("tokenize-ids", tokenize(IDS), INVALID, "inputs[0]", ["text"]),
    ("tokenize-image", tokenize(pb.Input(image=b"x")), INVALID, "inputs[0]", ["text"]),
    # Ids and type ids beyond the model's tables (211 and 2).
    *((f"{call.__name__}-id-{bad}", call(ids_input([1, bad])), INVALID, "inputs[0]", [bad, 211]) for call in (embed, classify) for bad in (211, 2**32 - 1)),
    *((f"{call.__name__}-type_id", call(ids_input([1, 2], [0, 2])), INVALID, "inputs[0]", ["type_ids", 2]) for call in (embed, classify)),
    *((f"{call.__name__}-type_ids-{n}", call(ids_input([1, 2], [0] * n)), INVALID, "inputs[0]", ["type_ids", n, 2]) for call in (embed, classify)
      for n in (1, 3)),
    # Too much of something.
    *((f"{call.__name__}-long-ids", call(LONG), INVALID, "inputs[0]", [65, 64]) for call in (embed, classify)),
    *((f"{call.__name__}-long-text", call(text_input("lion " * 63), model="text"), INVALID, "inputs[0]", [65, 64]) for call in (embed, classify)),
    *((f"{call.__name__}-long-pair", call(pair_input("lion " * 31, "lion " * 31), model="text"), INVALID, "inputs[0]", [65, 64])
      for call in (embed, classify)),
    *((f"{call.__name__}-inputs", call(*[IDS] * 5), INVALID, "inputs", [5, 4]) for call in (embed, classify)),
    ("tokenize-inputs", tokenize(*[text_input("a")] * 5), INVALID, "inputs", [5, 4]),
    *((f"{call.__name__}-request-tokens", call(*[ids_input([1] * 60)] * 4), INVALID, "inputs", [240, 200]) for call in (embed, classify)),
    ("embed-dimensions", embed(dimensions=49), INVALID, "dimensions", [49, 48]),
    ("embed-dimensions-huge", embed(dimensions=2**32 - 1), INVALID, "dimensions", [2**32 - 1, 48]),
    ("embed-dimensions-tokens", embed(dimensions=49, pooling=pb.POOLING_TOKENS), INVALID, "dimensions", [49, 48]),
    # Models.
    *((f"{call.__name__}-unknown-model", call(model="lamb"), grpc.StatusCode.NOT_FOUND, "model", ["lamb", "text", "ids", "headless"])
      for call in (embed, classify, tokenize)),
    ("embed-model-unknown-by-name", embed(model="unknown"), grpc.StatusCode.NOT_FOUND, "model", ["text", "ids", "headless"]),
    ("classify-without-head", classify(model="headless"), grpc.StatusCode.UNIMPLEMENTED, "model", ["headless"]),
    # What is wrong with a request is said before that it is not served.
    ("classify-without-head-bad-enum", classify(model="headless", options=pb.EncodeOptions(mode=9)), INVALID, "options.mode", [9]),
    ("embed-windows-bad-row", embed(ids_input([211]), pooling=pb.POOLING_WINDOWS, windows=WINDOWS), INVALID, "inputs[0]", [211]),
]


def assert_alive(server):
    """Ready by its own word, and a good call gives the vector that it gave before anything bad was sent."""
    assert server.health() == server.health("") == "SERVING"
    answer = server.call("Embed", pb.EmbedRequest(model="ids", inputs=[IDS]))
    assert_close(values(answer.results[0].vectors[0]), KNOWN["vector"], 0)


KNOWN = {}


@pytest.fixture(scope="module", autouse=True)
def known_vector(small):
    KNOWN["vector"] = values(small.call("Embed", pb.EmbedRequest(model="ids", inputs=[IDS])).results[0].vectors[0])


@pytest.mark.parametrize("call, code, begins, words", [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_unary(small, call, code, begins, words):
    with refused(code, *words, begins=begins):
        small.call(*call)
    assert_alive(small)


STREAM_CASES = [c for c in CASES if c[1][0] + "Stream" in STREAMS]


@pytest.mark.parametrize("call, code, begins, words", [c[1:] for c in STREAM_CASES], ids=[c[0] for c in STREAM_CASES])
def test_in_a_stream(small, call, code, begins, words):
    """What a unary call would refuse is answered in its turn, and the stream goes on."""
    method, bad = call
    good = type(bad)(model="ids", inputs=[IDS])
    answers = list(getattr(small.stub, method + "Stream")(iter([good, bad, good])))
    assert len(answers) == 3
    assert not answers[0].HasField("error") and not answers[2].HasField("error")
    assert len(answers[0].results) == len(answers[2].results) == 1
    assert answers[0].results[0] == answers[2].results[0]
    check_error(answers[1].error.code, answers[1].error.message, code, *words, begins=begins)
    assert not answers[1].results
    assert_alive(small)


# A bad input beside good ones fails its own row: (bad input, what its message names).
ROWS = [
    (pb.Input(), []),
    (ids_input([]), []),
    (ids_input([211]), [211]),
    (ids_input([1, 2], [0]), ["type_ids"]),
    (ids_input([1], [2]), ["type_ids"]),
    (LONG, [65, 64]),
    (pb.Input(image=b"x"), ["image"]),
    (text_input("lion " * 63), [65, 64]),
]


@pytest.mark.parametrize("bad, words", ROWS)
@pytest.mark.parametrize("method", ["Embed", "Classify"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_bad_row_fails_alone(small, method, bad, words, place):
    good = [ids_input([1, 2, 3]), ids_input([4, 5])]
    alone = small.call(method, UNARY[method](model="text", inputs=good)).results
    mixed = list(small.call(method, UNARY[method](model="text", inputs=good[:place] + [bad] + good[place:])).results)
    failed = mixed.pop(place)
    check_error(failed.error.code, failed.error.message, INVALID, *words, begins=f"inputs[{place}]")
    assert (failed.token_count, failed.truncated, failed.mode) == (0, False, pb.COMPUTE_MODE_UNSPECIFIED)
    assert not (failed.vectors if method == "Embed" else failed.scores)
    assert mixed == list(alone)


def test_a_bad_row_of_tokenize_fails_alone(small):
    answer = small.call("Tokenize", pb.TokenizeRequest(model="text", inputs=[text_input("lion"), IDS, pb.Input(), text_input("the")]))
    assert [r.HasField("error") for r in answer.results] == [False, True, True, False]
    for row in (1, 2):
        check_error(answer.results[row].error.code, answer.results[row].error.message, INVALID, begins=f"inputs[{row}]")
        assert not answer.results[row].ids


def test_when_every_row_fails_the_first_speaks(small):
    with refused(INVALID, 211, begins="inputs[0]"):
        small.call("Embed", pb.EmbedRequest(model="ids", inputs=[ids_input([211]), pb.Input(), LONG]))
    with refused(INVALID, 65, 64, begins="inputs[0]"):
        small.call("Classify", pb.ClassifyRequest(model="ids", inputs=[LONG, ids_input([211])]))


def test_parallel_beyond_its_length(server):
    ids = [1] * 16385
    with refused(INVALID, 16385, 16384, begins="inputs[0]"):
        server.call("Embed", pb.EmbedRequest(inputs=[ids_input(ids)], options=options(mode=pb.COMPUTE_MODE_PARALLEL)))
    answer = server.call("Embed", pb.EmbedRequest(inputs=[ids_input(ids)]))
    assert (answer.results[0].mode, answer.results[0].token_count) == (pb.COMPUTE_MODE_CHUNKED, 16385)


def test_absolute_positions_limit_the_length(server):
    """text-lion-lit-ln has 512 positions; the flag's 131,072 is never above them."""
    shown = {m.name: m.max_sequence_tokens for m in server.call("ListModels", pb.ListModelsRequest()).models}
    assert (shown["text-lion-lit-ln"], shown["text-lion-s-ln"]) == (512, 131072)
    with refused(INVALID, 513, 512, begins="inputs[0]"):
        server.call("Embed", pb.EmbedRequest(model="text-lion-lit-ln", inputs=[ids_input([1] * 513)]))
    assert server.call("Embed", pb.EmbedRequest(model="text-lion-lit-ln", inputs=[ids_input([1] * 512)])).results[0].token_count == 512


# ------------------------------------------------------------------------------------------------ what no client would send


GARBAGE = [b"\xff", b"\x00\x01\x02garbage", b"\x0a\xff", b"\x12\x05ab", b"\x08" * 64, bytes(range(256))]
# invalid UTF-8 in a string field: model = 1 of every request; inputs[0].text; inputs[0].text_pair.first.
BAD_MODEL = b"\x0a\x02\xc3\x28"
BAD_TEXT = b"\x12\x04\x0a\x02\xc3\x28"
BAD_PAIR = b"\x12\x06\x12\x04\x0a\x02\xed\xa0"


def parses(kind, data):
    try:
        kind.FromString(data)
    except Exception:
        return False
    return True


WIRE = [(method, data) for method in UNARY for data in GARBAGE + ([BAD_MODEL, BAD_TEXT, BAD_PAIR] if method != "ListModels" else [])
        if not parses(UNARY[method], data)]


@pytest.mark.parametrize("method, data", WIRE)
def test_what_does_not_parse(small, method, data):
    with refused(INVALID, f"request does not parse as lion.v1.{UNARY[method].DESCRIPTOR.name}"):
        small.raw(method)(data, timeout=60)
    assert_alive(small)


@pytest.mark.parametrize("good", [0, 1, 5])
@pytest.mark.parametrize("method, data", [(m, d) for m in STREAMS for d in (GARBAGE[0], GARBAGE[2], BAD_MODEL, BAD_TEXT, BAD_PAIR)])
def test_what_does_not_parse_ends_a_stream(small, method, data, good):
    """Never OK with fewer answers than messages: the good ones before it may be answered, then the stream fails."""
    message = STREAMS[method](model="ids", inputs=[IDS])
    calls = small.raw(method, stream=True)(iter([message.SerializeToString()] * good + [data] + [message.SerializeToString()] * good), timeout=60)
    answers = []
    with refused(INVALID, f"request does not parse as lion.v1.{STREAMS[method].DESCRIPTOR.name}"):
        for answer in calls:
            answers.append(answer)
    assert len(answers) <= good
    assert_alive(small)


def test_an_empty_message_is_a_request_without_inputs(small):
    for method in ("Embed", "Classify", "Tokenize"):
        with refused(INVALID, begins="inputs"):
            small.raw(method)(b"", timeout=60)


def test_unknown_fields_are_passed_over(small):
    request = pb.EmbedRequest(model="ids", inputs=[IDS]).SerializeToString()
    answer = pb.EmbedResponse.FromString(small.raw("Embed")(request + b"\xfa\x3e\x03abc", timeout=60))  # field 1007
    assert_close(values(answer.results[0].vectors[0]), KNOWN["vector"], 0)


@pytest.mark.parametrize("method", ["Embed", "Classify", "Tokenize"])
def test_a_message_over_the_limit(small, method):
    """gRPC itself refuses it; a megabyte of text is cheap for nobody."""
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
        small.call(method, UNARY[method](model="text", inputs=[text_input("lion " * 230000)]))
    assert_alive(small)


@pytest.mark.parametrize("method", list(STREAMS))
def test_a_message_over_the_limit_in_a_stream(small, method):
    message = STREAMS[method](model="ids", inputs=[IDS])
    large = STREAMS[method](model="text", inputs=[text_input("lion " * 230000)])
    answers = []
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
        for answer in getattr(small.stub, method)(iter([message, large, message])):
            answers.append(answer)
    assert len(answers) <= 1
    assert_alive(small)


def test_a_method_that_is_not_there(small):
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        small.raw("Embiggen")(b"", timeout=60)
    assert_alive(small)


def test_text_just_under_the_message_limit_is_cut(small):
    """A text far over the token limit is valid with truncation, and costs its tokens alone."""
    request = pb.EmbedRequest(model="text", inputs=[text_input("lion " * 200000)], options=options(truncation=pb.TRUNCATION_RIGHT))
    result = small.call("Embed", request).results[0]
    assert (result.token_count, result.truncated) == (64, True)
