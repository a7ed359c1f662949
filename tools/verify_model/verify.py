# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a model directory through lion-server and compares every number with an independent implementation in float64.

    python tools/verify_model/verify.py models/lion-s                                 # float32, all three forms
    python tools/verify_model/verify.py models/lion-s --dtype=float32,bfloat16

Random rows (token ids, or pixels) go to a server started for this on loopback; the last hidden states, the model's own vector and the
logits come back for each form and are compared with plain.py. Allowed: twice what the plain implementation itself loses in that type,
and one step of the type at the largest number; in float32 at least 1e-4 (times the largest number, if that is above 1).
int8 and fp8 are judged only by --tolerance. Prints the largest and the root-mean-square difference; exits 1 if one is above what is
allowed or not finite, 2 if the comparison could not be made.
"""

import argparse
import math
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import grpc  # noqa: E402
import numpy as np  # noqa: E402
import plain  # noqa: E402
from service import ROOT, Service  # noqa: E402

FORMS = {"parallel": 2, "chunked": 3, "recurrent": 4}
DTYPES = ("float32", "bfloat16", "float16", "int8", "fp8")
LENGTHS = [1, 2, 15, 64, 65, 200]
FLOAT32_TOLERANCE = 1e-4


def parse_arguments(arguments):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", help="model directory")
    p.add_argument("--server", default=str(ROOT / "build/release/bin/lion-server"))
    p.add_argument("--device", default="cpu")
    p.add_argument("--dtype", default="float32", help=f"of {', '.join(DTYPES)}; several by commas")
    p.add_argument("--forms", default="parallel,chunked,recurrent")
    p.add_argument("--chunk_tokens", type=int, default=16, help="of the chunked form; small, so that short rows have several chunks")
    p.add_argument("--lengths", default=",".join(map(str, LENGTHS)), help="text: tokens of each row")
    p.add_argument("--sizes", default="", help="images: pixels of a side of each row; two of the model's own size if empty")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--tolerance", type=float, help="the largest difference allowed, in the place of the rule above")
    options = p.parse_args(arguments)
    for name, allowed in (("dtype", DTYPES), ("forms", FORMS)):
        chosen = getattr(options, name).split(",")
        for value in chosen:
            if value not in allowed:
                p.error(f"--{name}: {value!r} is not one of {', '.join(allowed)}")
        setattr(options, name, chosen)
    for name in ("lengths", "sizes"):
        try:
            numbers = [int(n) for n in getattr(options, name).split(",") if n]
        except ValueError:
            p.error(f"--{name}: is not whole numbers with commas between")
        setattr(options, name, numbers)
    return options


def make_rows(model, options):
    rng = np.random.default_rng(options.seed)
    if model.kind == "image":
        return [model.random_row(size, rng) for size in options.sizes or [model.size, model.size]]
    return [model.random_row(length, rng) for length in options.lengths if not model.longest or length <= model.longest]


def input_of(pb, row):
    if isinstance(row, tuple):
        return pb.Input(token_ids=pb.TokenIds(ids=row[0].tolist(), type_ids=row[1].tolist()))
    return pb.Input(pixels=pb.PixelTensor(data=row.astype("<f4").tobytes()))


def served(service, model, rows, form, chunk_tokens):
    """What the server makes of the rows: one dictionary a row, as plain.run gives it. ValueError if a row has another form."""
    pb = service.pb
    options = pb.EncodeOptions(mode=FORMS[form], chunk_tokens=chunk_tokens if form == "chunked" else 0)
    outputs = []
    for row in rows:
        inputs = [input_of(pb, row)]
        hidden = service.stub.Embed(pb.EmbedRequest(inputs=inputs, options=options, pooling=pb.POOLING_TOKENS)).results[0]
        if hidden.mode != FORMS[form]:
            raise ValueError(f"the server ran form {hidden.mode} where {form} was asked for")
        output = {"hidden": np.array([v.values for v in hidden.vectors])}
        own = service.stub.Embed(pb.EmbedRequest(inputs=inputs, options=options)).results[0]
        output["vector"] = np.array(own.vectors[0].values)
        if model.classifies:
            scores = service.stub.Classify(pb.ClassifyRequest(inputs=inputs, options=options, raw_scores=True)).results[0].scores
            output["logits"] = np.array([s.score for s in sorted(scores, key=lambda s: s.index)])
        outputs.append(output)
    return outputs


def flat(outputs, name):
    return np.concatenate([np.ravel(o[name]) for o in outputs])


def allowed(name, dtype, wanted, yardstick, tolerance):
    """The largest difference allowed; None where there is no rule."""
    largest = np.abs(flat(wanted, name)).max()
    if tolerance is not None:
        return tolerance
    if yardstick is None:
        return None
    step = plain.EPSILON[dtype] * 2.0 ** math.floor(math.log2(largest)) if largest > 0 else 0.0
    loss = 2 * np.abs(flat(yardstick, name) - flat(wanted, name)).max() + step
    return max(loss, FLOAT32_TOLERANCE * max(1.0, largest)) if dtype == "float32" else loss


def verify(options):
    """True if every difference is allowed. Prints a table."""
    model = plain.load(options.model)
    rows = make_rows(model, options)
    if not rows:
        raise ValueError(f"no row to compare: the model takes at most {model.longest} tokens")
    wanted = [model.run(row) for row in rows]
    largest = {name: np.abs(flat(wanted, name)).max() for name in wanted[0]}
    shape = ", ".join(str(len(o["hidden"])) for o in wanted)
    print(f"{options.model}: {len(rows)} rows of {shape} tokens; largest numbers: " + ", ".join(f"{k} {v:.3g}" for k, v in largest.items()))
    print(f"{'dtype':9s} {'form':10s} {'output':8s} {'largest':>9s} {'rms':>9s} {'allowed':>9s}")
    good, unjudged = True, 0
    for dtype in options.dtype:
        yardstick = None
        if dtype in plain.EPSILON and options.tolerance is None:
            rounded = plain.load(options.model, dtype)
            yardstick = [rounded.run(row) for row in rows]
        with Service(options.server, options.model, f"--device={options.device}", f"--dtype={dtype}", "--parallel_max_tokens=64") as service:
            for form in options.forms:
                got = served(service, model, rows, form, options.chunk_tokens)
                for name in wanted[0]:
                    if [np.shape(o[name]) for o in got] != [np.shape(o[name]) for o in wanted]:
                        raise ValueError(f"{name}: the server's shapes are not the model's")
                    difference = np.abs(flat(got, name) - flat(wanted, name))
                    limit = allowed(name, dtype, wanted, yardstick, options.tolerance)
                    passed = bool(np.isfinite(difference).all()) and (limit is None or bool(difference.max() <= limit))
                    good = good and passed
                    unjudged += limit is None
                    verdict = "not judged" if limit is None else f"{limit:9.2e} {'ok' if passed else 'TOO FAR'}"
                    rms = math.sqrt((difference**2).mean())
                    print(f"{dtype:9s} {form:10s} {name:8s} {difference.max():9.2e} {rms:9.2e} {verdict}", flush=True)
    rest = f"; {unjudged} figures were not judged: --tolerance judges them" if unjudged else ""
    print(("equal within what is allowed" if good else "NOT equal") + rest)
    return good


def main():
    options = parse_arguments(sys.argv[1:])
    try:
        good = verify(options)
    except (ValueError, KeyError, OSError, grpc.RpcError) as e:
        text = f"{e.code().name}: {e.details()}" if isinstance(e, grpc.RpcError) else f"tensor {e} is missing" if isinstance(e, KeyError) else e
        print(f"verify.py: {text}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
