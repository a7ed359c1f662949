# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""lion_serve._work without a server: what is sent, what is sent again and when, what becomes of each row."""

import grpc
import pytest
from lion_serve import LionError, RowError, RowsFailed, wire
from lion_serve._work import INITIAL_BACKOFF, MAX_ATTEMPTS, MAX_BACKOFF, MAX_BATCH_BYTES, Work, messages

Code = grpc.StatusCode


def inputs(n):
    return [wire.Input(text=str(i)) for i in range(n)]


def work_of(source, batch_size=3, raise_errors=False, total=None):
    return Work(iter(source), lambda results: [r.token_count for r in results], batch_size=batch_size, raise_errors=raise_errors, total=total,
                uniform=lambda low, high: 1.0)


def results(batch, **errors):
    """Row i answers its index + 100; errors are by index: r3=(code, message)."""
    made = []
    for row in batch.rows:
        if error := errors.get(f"r{row.index}"):
            made.append(wire.EmbedResult(error=wire.RowError(code=error[0].value[0], message=error[1])))
        else:
            made.append(wire.EmbedResult(token_count=row.index + 100))
    return made


def final(work):
    assert work.take(1e9) is None  # the inputs have ended
    return work.final()


def indices(batch):
    return [row.index for row in batch.rows]


def test_answers_come_in_any_order_and_results_in_the_inputs():
    work = work_of(inputs(7), total=inputs(7))
    batches = [work.take(0), work.take(0), work.take(0)]
    assert [indices(b) for b in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert work.take(0) is None and work.pause(0) is None and not work.done and work.total == 7
    for batch in (batches[2], batches[0], batches[1]):
        work.answered(batch, results(batch), 0)
    assert work.done and work.num_done == 7
    assert final(work) == [100, 101, 102, 103, 104, 105, 106]


def test_inputs_are_read_only_as_needed():
    read = []
    work = work_of((read.append(i) or wire.Input(text="x") for i in range(100)), batch_size=3)
    work.take(0)
    assert len(read) == 3
    assert work.total is None


def test_nothing_to_do():
    work = work_of([])
    assert work.take(0) is None and work.done and final(work) == []


def test_a_batch_is_cut_by_size_and_a_large_row_travels_alone():
    sizes = [10, MAX_BATCH_BYTES, 10, 10]
    work = work_of((wire.Input(text="x" * n) for n in sizes), batch_size=10)
    assert [indices(work.take(0)) for _ in range(3)] == [[0], [1], [2, 3]]


def test_a_refused_row_is_sent_again_alone_after_a_growing_pause():
    work = work_of(inputs(3))
    batch, now, pauses = work.take(0), 0.0, []
    refusal = (Code.RESOURCE_EXHAUSTED, "queue full")
    work.answered(batch, results(batch, r1=refusal), now)
    for attempt in range(2, MAX_ATTEMPTS + 1):
        assert work.take(now) is None
        pauses.append(work.pause(now))
        now += pauses[-1]
        batch = work.take(now)
        assert indices(batch) == [1] and batch.attempts == attempt - 1
        work.answered(batch, results(batch, r1=refusal), now)
    assert work.done and pauses == [min(INITIAL_BACKOFF * 2**i, MAX_BACKOFF) for i in range(MAX_ATTEMPTS - 1)]
    assert final(work) == [100, RowError(1, Code.RESOURCE_EXHAUSTED, "queue full"), 102]


def test_a_refused_row_that_is_taken_later_has_its_result():
    work = work_of(inputs(2))
    batch = work.take(0)
    work.answered(batch, results(batch, r0=(Code.UNAVAILABLE, "draining")), 0)
    batch = work.take(10)
    work.answered(batch, results(batch), 10)
    assert final(work) == [100, 101]


def test_a_bad_row_is_final_and_named_by_its_place_among_all():
    work = work_of(inputs(6))
    first, second = work.take(0), work.take(0)
    work.answered(second, results(second, r4=(Code.INVALID_ARGUMENT, "inputs[1].text: no")), 0)
    work.answered(first, results(first), 0)
    assert final(work)[4] == RowError(4, Code.INVALID_ARGUMENT, "inputs[4].text: no")


def test_a_call_whose_rows_are_all_bad_is_asked_row_by_row():
    work = work_of(inputs(3))
    work.failed(work.take(0), LionError(Code.INVALID_ARGUMENT, "inputs[0].text: no"), 0)
    alone = [work.take(0) for _ in range(3)]
    assert [indices(b) for b in alone] == [[0], [1], [2]]
    for batch in alone:
        work.failed(batch, LionError(Code.INVALID_ARGUMENT, f"inputs[0].text: {batch.rows[0].index}"), 0)
    assert [row.message for row in final(work)] == ["inputs[0].text: 0", "inputs[1].text: 1", "inputs[2].text: 2"]


def test_a_call_that_is_too_large_is_cut_in_two():
    work = work_of(inputs(5), batch_size=5)
    work.failed(work.take(0), LionError(Code.INVALID_ARGUMENT, "inputs: 900 tokens, the limit is 500"), 0)
    halves = [work.take(0), work.take(0)]
    assert [indices(b) for b in halves] == [[0, 1, 2], [3, 4]]
    for batch in halves:
        work.answered(batch, results(batch), 0)
    assert final(work) == [100, 101, 102, 103, 104]


def test_a_call_that_reached_no_server_is_sent_again_then_ends_the_work():
    work, now = work_of(inputs(2)), 0.0
    for attempt in range(MAX_ATTEMPTS):
        batch = work.take(now)
        error = LionError(Code.UNAVAILABLE, "nobody there")
        if attempt < MAX_ATTEMPTS - 1:
            work.failed(batch, error, now)
            now += work.pause(now)
        else:
            with pytest.raises(LionError, match="UNAVAILABLE: nobody there"):
                work.failed(batch, error, now)


@pytest.mark.parametrize("code", [Code.NOT_FOUND, Code.UNAUTHENTICATED, Code.UNIMPLEMENTED, Code.PERMISSION_DENIED, Code.CANCELLED])
def test_an_error_that_would_meet_every_call_ends_the_work(code):
    work = work_of(inputs(9))
    with pytest.raises(LionError) as caught:
        work.failed(work.take(0), LionError(code, "no"), 0)
    assert caught.value.code == code and not caught.value.retryable


@pytest.mark.parametrize("code", [Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.ABORTED, Code.UNKNOWN])
def test_an_error_of_one_call_is_of_its_rows(code):
    work = work_of(inputs(4))
    work.failed(work.take(0), LionError(code, "no"), 0)
    batch = work.take(0)
    work.answered(batch, results(batch), 0)
    assert final(work) == [*(RowError(i, code, "no") for i in range(3)), 103]


def test_where_waiting_cannot_help_a_row_is_not_sent_again():
    work = work_of(inputs(1))
    work.failed(work.take(0), LionError(Code.RESOURCE_EXHAUSTED, "never", no_retry=True), 0)
    assert work.done and final(work) == [RowError(0, Code.RESOURCE_EXHAUSTED, "never")]


def test_raise_errors_raises_with_all_that_is_known():
    work = work_of(inputs(3), raise_errors=True)
    batch = work.take(0)
    with pytest.raises(RowsFailed) as caught:
        work.answered(batch, results(batch, r0=(Code.INVALID_ARGUMENT, "inputs[0]: no"), r2=(Code.INTERNAL, "NaN")), 0)
    assert [e.index for e in caught.value.errors] == [0, 2] and caught.value.code == Code.INVALID_ARGUMENT
    assert str(caught.value) == "INVALID_ARGUMENT: inputs[0]: no (and 1 more)"


def test_an_input_that_cannot_travel_keeps_its_place():
    source = inputs(3)
    source[1] = RowError(1, Code.INVALID_ARGUMENT, "no Unicode")
    work = work_of(source)
    batch = work.take(0)
    assert indices(batch) == [0, 2]
    work.answered(batch, results(batch), 0)
    assert final(work) == [100, source[1], 102]
    with pytest.raises(RowsFailed, match="no Unicode"):
        work_of(source, raise_errors=True).take(0)


@pytest.mark.parametrize("wrong", [0, 2, 4])
def test_too_few_or_too_many_results_are_internal(wrong):
    work = work_of(inputs(3))
    work.answered(work.take(0), [wire.EmbedResult()] * wrong, 0)
    assert [row.code for row in final(work)] == [Code.INTERNAL] * 3


def test_an_error_with_code_ok_is_internal():
    work = work_of(inputs(1))
    work.answered(work.take(0), [wire.EmbedResult(error=wire.RowError())], 0)
    assert final(work)[0].code == Code.INTERNAL


def test_a_streams_messages():
    bad = RowError(0, Code.INVALID_ARGUMENT, "")
    assert [len(m) for m in messages(inputs(7), 3)] == [3, 3, 1]
    assert [len(m) for m in messages([bad, *inputs(3), bad, bad], 3)] == [4, 2]  # those that do not travel count for nothing
    assert [len(m) for m in messages([wire.Input(text="x" * n) for n in (10, MAX_BATCH_BYTES, 10, 10)], 3)] == [1, 1, 2]
    assert [len(m) for m in messages([wire.Input(text="x" * MAX_BATCH_BYTES)] * 2, 1)] == [1, 1]
    assert list(messages([], 3)) == []
