# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""A small image model that takes encoded pictures, and pictures for it, without Pillow."""

import json
import shutil
import struct
import zlib

from harness import ORACLE

S = 32  # of the oracle's image models


def vision_model(directory):
    """The oracle's image model of any resolution, in directory, with a preprocessor_config.json: S x S, (x / 255 - 0.5) / 0.25."""
    shutil.copytree(ORACLE / "image-selective-s-nopos-mean", directory)
    (directory / "preprocessor_config.json").write_text(json.dumps(
        {"size": {"height": S, "width": S}, "resample": 3, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}))
    return directory


def png(pixels):
    """uint8 [H, W, 3] as a file."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = pixels.shape[:2]
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + \
        chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
