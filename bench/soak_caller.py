# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""One caller process of bench/soak.py: sends calls of all kinds at a rate, whatever comes back, and checks every answer's bits.

    soak_caller.py HOST:PORT KNOWN.pickle RATE SEED

Writes what it has counted so far to stdout once a second, a JSON object a line; ends, with a last line, when its stdin does. It may be
killed at any moment.
"""

import asyncio
import collections
import json
import pathlib
import pickle
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/e2e"))

import grpc  # noqa: E402
from harness import SERVICE, encoder_pb2_grpc, ids_input, pb, text_input  # noqa: E402

LENGTHS = (1, 2, 7, 16, 31, 32, 33, 64, 100, 128, 200, 256, 257, 512, 700, 1024, 2048, 4096, 8192, 16384, 32768)
TEXTS = ("", "LION", "One linear attention, three exact forms.", "naïve café, 東京 and 🦁", "a package that " * 60, "Linear. " * 400)
HANG_SECONDS = 300
MAX_IN_FLIGHT = 256  # of one caller; what would come above that is left out, and counted
Code = grpc.StatusCode


def inputs(vocab, longest):
    """Every input whose vector is known, as (pb.Input, weight): short ones come often, long ones share the tokens."""
    rows = [(ids_input([(i * 7919 + n * 104729) % vocab for i in range(n)]), n ** -0.5) for n in LENGTHS if n <= longest]
    return rows + [(text_input(t), 0.2) for t in TEXTS]


def embed_request(rows, **more):
    return pb.EmbedRequest(inputs=rows, vector_type=pb.VECTOR_TYPE_FLOAT32_BYTES, **more)


class Caller:
    def __init__(self, address, known, rate, seed):
        self.known, self.rate, self.random = known, rate, random.Random(seed)
        self.counts = collections.Counter()
        self.samples = []  # of what went wrong
        self.short_ms = []
        self.rows = [row for row, _, _ in known["rows"]]
        self.weights = [weight for _, weight, _ in known["rows"]]
        self.vectors = [vector for _, _, vector in known["rows"]]
        self.channel = grpc.aio.insecure_channel(address, [("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)])
        self.stub = encoder_pb2_grpc.EncoderServiceStub(self.channel)

    def count(self, what, n=1):
        self.counts[what] += n

    def wrong(self, what):
        self.count("wrong")
        if len(self.samples) < 10:
            self.samples.append(what)

    def lost(self, kind, error):
        """A status that this call must not have got."""
        self.count("lost")
        if len(self.samples) < 10:
            self.samples.append(f"{kind}: {error.code()}: {error.details()}")

    def pick(self, most=1):
        return self.random.choices(range(len(self.rows)), self.weights, k=self.random.randint(1, most))

    def check(self, picked, results):
        if len(results) != len(picked):
            return self.wrong(f"{len(results)} results for {len(picked)} inputs")
        for i, result in zip(picked, results):
            if result.HasField("error"):
                self.wrong(f"row {i}: {result.error.code} {result.error.message}")
            elif len(result.vectors) != 1 or result.vectors[0].data != self.vectors[i]:
                self.wrong(f"row {i} of {result.token_count} tokens has other bits than alone")
            else:
                self.count("rows_right")
        return None

    # ------------------------------------------------------------------------------------------------------------ kinds

    async def good(self):
        picked, started = self.pick(most=4), time.perf_counter()
        try:
            answer = await self.stub.Embed(embed_request([self.rows[i] for i in picked]), timeout=HANG_SECONDS)
        except grpc.aio.AioRpcError as error:
            return self.count("refused") if error.code() == Code.RESOURCE_EXHAUSTED else self.lost("good", error)
        self.check(picked, answer.results)
        self.count("answered")
        if sum(r.token_count for r in answer.results) <= 512:
            self.short_ms.append(1e3 * (time.perf_counter() - started))
        return None

    async def tokenize(self):
        text = self.random.choice(TEXTS)
        try:
            answer = await self.stub.Tokenize(pb.TokenizeRequest(inputs=[text_input(text)]), timeout=HANG_SECONDS)
        except grpc.aio.AioRpcError as error:
            return self.count("refused") if error.code() == Code.RESOURCE_EXHAUSTED else self.lost("tokenize", error)
        if list(answer.results[0].ids) != self.known["ids"][text]:
            self.wrong(f"other ids for {text[:20]!r}")
        return self.count("answered")

    async def cancelled(self):
        call = self.stub.Embed(embed_request([self.rows[i] for i in self.pick(most=4)]), timeout=HANG_SECONDS)
        await asyncio.sleep(self.random.choice((0, 0.001, 0.01, 0.1, 0.5)))
        call.cancel()
        try:
            await call
        except asyncio.CancelledError:
            return self.count("cancelled")
        except grpc.aio.AioRpcError as error:
            return self.count("refused") if error.code() == Code.RESOURCE_EXHAUSTED else self.lost("cancelled", error)
        return self.count("answered_before_cancel")

    async def hasty(self):
        picked = self.pick(most=2)
        try:
            answer = await self.stub.Embed(embed_request([self.rows[i] for i in picked]), timeout=self.random.choice((0.002, 0.02, 0.2)))
        except grpc.aio.AioRpcError as error:
            if error.code() in (Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED):
                return self.count("deadline" if error.code() == Code.DEADLINE_EXCEEDED else "refused")
            return self.lost("hasty", error)
        self.check(picked, answer.results)
        return self.count("answered")

    async def bad(self):
        raw = self.channel.unary_unary(f"/{SERVICE}/Embed")
        good = self.pick()
        request, wanted = self.random.choice((
            (b"\xff\xff\xff", Code.INVALID_ARGUMENT),
            (b"\x12\x04\x0a\x02\xc3\x28", Code.INVALID_ARGUMENT),  # not UTF-8
            (pb.EmbedRequest(), Code.INVALID_ARGUMENT),
            (pb.EmbedRequest(model="nobody", inputs=[self.rows[good[0]]]), Code.NOT_FOUND),
            (pb.EmbedRequest(inputs=[ids_input([1 << 30])]), Code.INVALID_ARGUMENT),
            (pb.EmbedRequest(inputs=[self.rows[good[0]]], dimensions=99999), Code.INVALID_ARGUMENT),
            (pb.EmbedRequest(inputs=[ids_input([1]) for _ in range(5000)]), Code.INVALID_ARGUMENT),
            (pb.EmbedRequest(inputs=[text_input("word " * 200_000)]), Code.INVALID_ARGUMENT),  # more tokens than the model takes
            (embed_request([self.rows[good[0]], pb.Input(), self.rows[good[0]]]), None),  # its row alone fails
        ))
        try:
            answer = await raw(request if isinstance(request, bytes) else request.SerializeToString(), timeout=HANG_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() == Code.RESOURCE_EXHAUSTED:
                return self.count("refused")
            return self.count("bad_refused") if error.code() == wanted else self.lost("bad", error)
        if wanted is not None:
            return self.wrong(f"a bad request was answered: {str(request)[:60]}")
        results = pb.EmbedResponse.FromString(answer).results
        self.check(good + good, [results[0], results[2]])
        if not results[1].HasField("error"):
            self.wrong("an input without content was answered")
        return self.count("answered")

    async def document(self):
        """One row as a document: progress, its one vector, the end. Some leave at the first sign of progress."""
        (i,), leaves = self.pick(), self.random.random() < 0.3
        call = self.stub.EmbedDocument(pb.EmbedDocumentRequest(input=self.rows[i], pooling=pb.POOLING_MEAN, vector_type=pb.VECTOR_TYPE_FLOAT32_BYTES),
                                       timeout=HANG_SECONDS)
        vectors, ended = [], False
        try:
            async for message in call:
                if leaves:
                    call.cancel()
                    return self.count("cancelled")
                vectors += [v.data for v in message.vectors.vectors]
                ended = ended or message.HasField("end")
        except asyncio.CancelledError:
            return self.count("cancelled")
        except grpc.aio.AioRpcError as error:
            return self.count("refused") if error.code() == Code.RESOURCE_EXHAUSTED else self.lost("document", error)
        if not ended or vectors != [self.vectors[i]]:
            return self.wrong(f"document {i}: {len(vectors)} vectors, or other bits than alone")
        self.count("rows_right")
        self.count("documents")
        return self.count("answered")

    async def stream(self):
        """A session: many messages, answers in order. Some read slowly, some leave in the middle, some end in rubbish."""
        way = self.random.choice(("plain", "plain", "slow", "leaves", "rubbish"))
        messages = [self.pick(most=2) for _ in range(self.random.randint(1, 40))]
        call = self.channel.stream_stream(f"/{SERVICE}/EmbedStream")(timeout=HANG_SECONDS)
        answered = 0

        async def write():
            for picked in messages:
                await call.write(embed_request([self.rows[i] for i in picked]).SerializeToString())
            if way == "rubbish":
                await call.write(b"\xff\xff\xff")
            await call.done_writing()

        writer = asyncio.create_task(write())
        try:
            if way == "slow":
                await asyncio.sleep(self.random.random() * 2)
            while answered < len(messages):
                data = await call.read()
                if data is grpc.aio.EOF:
                    break
                answer = pb.EmbedResponse.FromString(data)
                if answer.HasField("error"):
                    self.wrong(f"stream: {answer.error.code} {answer.error.message}")
                else:
                    self.check(messages[answered], answer.results)
                answered += 1
                if way == "leaves" and answered >= len(messages) // 2:
                    call.cancel()
                    break
            code = await call.code()
        except asyncio.CancelledError:
            code = Code.CANCELLED
        except grpc.aio.AioRpcError as error:
            code = error.code()
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        wanted = {"leaves": Code.CANCELLED, "rubbish": Code.INVALID_ARGUMENT}.get(way, Code.OK)
        if code != wanted or (way != "leaves" and answered != len(messages)):
            self.count("lost")
            self.samples.append(f"stream, {way}: {code} after {answered} of {len(messages)} answers")
        self.count("stream_messages", answered)
        self.count("streams")

    # ---------------------------------------------------------------------------------------------------------- the loop

    async def run(self):
        kinds = ((self.good, 60), (self.document, 5), (self.tokenize, 5), (self.cancelled, 8), (self.hasty, 8), (self.bad, 10), (self.stream, 4))
        loop, running, ended = asyncio.get_running_loop(), set(), asyncio.Event()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

        async def wait_for_end():
            await reader.read()
            ended.set()

        waiting = asyncio.create_task(wait_for_end())
        start = loop.time()
        next_call = next_line = start
        while not ended.is_set():
            now = loop.time()
            if now >= next_line:
                self.report()
                next_line = now + 1
            if now < next_call:
                await asyncio.sleep(min(next_call - now, 0.2))
                continue
            next_call += self.random.expovariate(self.rate)  # open loop: what is late comes at once
            if len(running) >= MAX_IN_FLIGHT:
                self.count("left_out")
                continue
            kind = self.random.choices([k for k, _ in kinds], [w for _, w in kinds])[0]
            self.count("sent")
            task = asyncio.create_task(kind())
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
        await waiting
        await self.channel.close()
        self.report(short_ms=self.short_ms[-20000:])

    def report(self, **more):
        print(json.dumps({"counts": self.counts, "samples": self.samples, **more}), flush=True)


def main():
    address, known, rate, seed = sys.argv[1:]

    async def run():
        await Caller(address, pickle.loads(pathlib.Path(known).read_bytes()), float(rate), int(seed)).run()

    asyncio.run(run())


if __name__ == "__main__":
    main()
