# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The plots of docs/benchmarks.md, as SVG text: no library, and the same bytes from the same figures."""

import math
from xml.sax.saxutils import escape

import report

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 40, 50
COLORS = ["#1b6ca8", "#d1495b", "#66a182", "#edae49", "#8d5a97", "#00798c", "#7a7a7a", "#30343f", "#c97b63"]


class Svg:
    def __init__(self, title):
        self.parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
                      f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>']
        self.text(LEFT, 22, title, size=14)

    def text(self, x, y, text, anchor="start", size=12, color="#222"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{color}">{escape(text)}</text>')

    def line(self, x1, y1, x2, y2, color="#ddd"):
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"/>')

    def rect(self, x, y, width, height, color):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}"/>')

    def path(self, points, color, dashed=False):
        d = "M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<path d="{d}" fill="none" stroke="{color}" stroke-width="2"{" stroke-dasharray=" + chr(34) + "5 4" + chr(34) if dashed else ""}/>')
        if not dashed:
            self.parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in points]

    def end(self):
        return "\n".join([*self.parts, "</svg>", ""])


def ticks(low, high, logarithmic):
    """Round numbers that span [low, high]."""
    if logarithmic:
        return [10**n for n in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    step = 10 ** math.floor(math.log10(max(high, 1e-9)))
    step = step / 5 if high / step < 2 else step / 2 if high / step < 5 else step
    return [step * n for n in range(math.ceil(high / step) + 1)]


def curves(title, series, log_x=True, log_y=False):
    """{name: {x: y}} as lines over one pair of axes; empty series are left out."""
    series = {name: points for name, points in series.items() if points}
    xs = sorted({x for points in series.values() for x in points})
    ys = [y for points in series.values() for y in points.values()]
    marks = ticks(min(ys), max(ys), log_y)
    svg = Svg(title)

    def place(value, low, high, logarithmic):
        if logarithmic:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return (value - low) / max(1e-9, high - low)

    def x(value):
        return LEFT + (WIDTH - LEFT - RIGHT) * place(value, xs[0], xs[-1], log_x)

    def y(value):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * place(value, marks[0], marks[-1], log_y)

    for mark in marks:
        svg.line(LEFT, y(mark), WIDTH - RIGHT, y(mark))
        svg.text(LEFT - 6, y(mark) + 4, f"{mark:,.10g}", "end")
    last = -100
    for value in xs:
        if x(value) - last >= 30:  # neighbours too near are not named
            last = x(value)
            svg.text(x(value), HEIGHT - BOTTOM + 18, f"{value:,}", "middle", 11)
    for i, (name, points) in enumerate(series.items()):
        color = COLORS[i % len(COLORS)]
        svg.path([(x(n), y(points[n])) for n in sorted(points)], color)
        svg.rect(WIDTH - RIGHT + 14, TOP + 12 + 20 * i, 16, 4, color)
        svg.text(WIDTH - RIGHT + 38, TOP + 18 + 20 * i, name)
    return svg.end()


def throughput(found):
    """Tokens a second by length, both logarithmic."""
    floor = report.by_length(report.run_of(found, "lion-s", "bfloat16")["lengths"], "floor_tokens_per_second")
    series = {"floor (products alone)": floor, "LION-S": report.engine_rates(found), "LION-D": report.engine_rates(found, "lion-d"),
              "LION-LIT": report.engine_rates(found, "lion-lit"), "LION-S fp8": report.engine_rates(found, "lion-s", "fp8"),
              "Hugging Face BERT": report.by_length(report.peer(found, "bert").get("lengths"), "tokens_per_second"),
              "plain masked LION-S": report.by_length(report.peer(found, "plain").get("lengths"), "tokens_per_second")}
    series = {name: points for name, points in series.items() if points}
    lengths = sorted({n for points in series.values() for n in points})
    rates = [rate for points in series.values() for rate in points.values()]
    low, high = 10 ** math.floor(math.log10(min(rates))), 10 ** math.ceil(math.log10(max(rates)))
    svg = Svg(f"Tokens a second by tokens a row, base size, bfloat16, {found['machine']['gpu']}")

    def x(n):
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(n / lengths[0]) / max(1e-9, math.log(lengths[-1] / lengths[0]))

    def y(rate):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log(rate / low) / math.log(high / low)

    tick = low
    while tick <= high:
        svg.line(LEFT, y(tick), WIDTH - RIGHT, y(tick))
        svg.text(LEFT - 6, y(tick) + 4, f"{tick:,.0f}" if tick < 1e6 else f"{tick / 1e6:g} M", "end")
        tick *= 10
    for n in lengths:
        svg.text(x(n), HEIGHT - BOTTOM + 18, f"{n:,}", "middle", 11)
    for i, (name, points) in enumerate(series.items()):
        color = "#7a7a7a" if i == 0 else COLORS[i - 1]
        svg.path([(x(n), y(points[n])) for n in sorted(points)], color, dashed=i == 0)
        svg.rect(WIDTH - RIGHT + 14, TOP + 12 + 20 * i, 16, 4, color)
        svg.text(WIDTH - RIGHT + 38, TOP + 18 + 20 * i, name)
    return svg.end()


def layer(found, lengths, ignored):
    """A bar of stages a length, beside the floor's."""
    run = report.run_of(found, "lion-s", "bfloat16")
    entries = [e for e in run["lengths"] if e["length"] in lengths and "stages_ms" in e]
    names = sorted({n for e in entries for n in e["stages_ms"] if n not in ignored})
    svg = Svg(f"Time of a layer by stage, µs a 1,000 tokens, LION-S, bfloat16, {found['machine']['gpu']}")
    bars = []
    for e in entries:
        tokens = e["length"] * e["rows"]
        bars.append((f"rows of {e['length']:,}", {n: e["stages_ms"].get(n, 0) / run["layers"] / tokens * 1e6 for n in names}))
        bars.append(("floor", {n: e["rested_floor_ms_per_layer"].get(n, 0) / tokens * 1e6 for n in names}))
    highest = max(sum(parts.values()) for _, parts in bars)
    step = (WIDTH - LEFT - RIGHT) / len(bars)
    scale = (HEIGHT - TOP - BOTTOM) / highest
    for tick in range(0, int(highest) + 1, 5):
        svg.line(LEFT, HEIGHT - BOTTOM - tick * scale, WIDTH - RIGHT, HEIGHT - BOTTOM - tick * scale)
        svg.text(LEFT - 6, HEIGHT - BOTTOM - tick * scale + 4, str(tick), "end")
    for i, (label, parts) in enumerate(bars):
        bottom = HEIGHT - BOTTOM
        for j, name in enumerate(names):
            height = parts[name] * scale
            bottom -= height
            svg.rect(LEFT + i * step + step * 0.15, bottom, step * 0.7, height, COLORS[j % len(COLORS)])
        svg.text(LEFT + (i + 0.5) * step, HEIGHT - BOTTOM + 18, label, "middle", 11)
    for j, name in enumerate(names):
        svg.rect(WIDTH - RIGHT + 14, TOP + 8 + 20 * j, 12, 12, COLORS[j % len(COLORS)])
        svg.text(WIDTH - RIGHT + 32, TOP + 18 + 20 * j, name)
    return svg.end()
