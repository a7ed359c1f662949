# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The long demo model through the service: a window of one pass over a page knows which page it is of, the same words alone do not."""

import gzip
import json

import numpy as np
import pytest
from harness import DEMO, HANG_SECONDS, Server, pb, text_input, values

PAGES, WINDOW = 60, 64
# What pages say in much the same words: a passage of it alone tells nothing of its page.
EXIT_STATUS = """EXIT STATUS
The exit status is 0 if everything went well, 1 if some of the work could not be done, and 2 if there was serious trouble, such as an option
that is not known or a file that cannot be read. A message on standard error says what went wrong and where. If the program was stopped by
a signal, the exit status is 128 and the number of the signal. Other numbers are kept for later versions, so that scripts should treat any
number but 0 as an error, whatever it is, and should not depend on the wording of the messages, which may change with the language.
"""


def pages():
    """(question, page) of packages that the model has not learned: each page a description, and that one section at its end."""
    with gzip.open(DEMO / "texts/sections_heldout.jsonl.gz", "rt") as file:
        packages = [json.loads(line) for line in file]
    for package in sorted(packages, key=lambda p: -len(p["text"]))[2 : 2 + PAGES]:
        synopsis, description = package["text"].split("\n", 1)
        yield f"exit status of {package['name']}: {synopsis}", f"DESCRIPTION\n{synopsis}. {description}\n\n{EXIT_STATUS}"


def embed(server, texts, **fields):
    return server.call("Embed", pb.EmbedRequest(inputs=[text_input(t) for t in texts], normalize=True, **fields)).results


@pytest.fixture(scope="module")
def long_model():
    with Server([f"long={DEMO / 'long_model'}"], "--parallel_max_tokens=64") as running:
        yield running


def document(server, text):
    """The windows of one EmbedDocument."""
    request = pb.EmbedDocumentRequest(input=text_input(text), windows=pb.WindowOptions(size_tokens=WINDOW), normalize=True)
    answers = server.stub.EmbedDocument(request, timeout=HANG_SECONDS)
    return [v for a in answers if a.WhichOneof("content") == "vectors" for v in a.vectors.vectors]


def test_windows_find_their_page_and_passages_alone_do_not(long_model):
    owner, of_section, windows, passages = [], [], [], []
    questions, texts = zip(*pages())
    for number, text in enumerate(texts):
        data = text.encode()
        for vector in document(long_model, text):
            start, end = vector.span.start_byte, vector.span.end_byte
            owner.append(number)
            of_section.append((start + end) / 2 >= data.index(b"EXIT STATUS"))
            windows.append(values(vector))
            passages.append(data[start:end].decode())
    alone = [values(r.vectors[0]) for r in embed(long_model, passages)]
    asked = np.array([values(r.vectors[0]) for r in embed(long_model, questions)])

    def recall(vectors, k):
        best = np.argsort(-(asked @ np.array(vectors).T), axis=1)[:, :k]
        return np.mean([any(owner[p] == q and of_section[p] for p in row) for q, row in enumerate(best)])

    assert recall(windows, 3) >= 0.9 and recall(alone, 3) <= 0.6
