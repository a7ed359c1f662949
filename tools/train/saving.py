# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What a run leaves on disk while it goes on: whole at any time, even where the run is killed as it writes."""

import os
import shutil

import torch
from lion import write_model
from model_directory import layout


def save_checkpoint(path, state):
    """state, a dict of torch's, in one file."""
    torch.save(state, path + ".new")
    os.replace(path + ".new", path)


def replace_model(model, tokenizer, directory):
    """The model directory, in the place of the one that is there. Killed between two renames, it leaves the old one as
    DIRECTORY.old."""
    old = f"{os.path.abspath(directory)}.old"
    shutil.rmtree(old, ignore_errors=True)
    with layout.new_directory(f"{os.path.abspath(directory)}.new") as new:
        write_model(model, tokenizer, new)
    if os.path.exists(directory):
        os.rename(directory, old)
    os.rename(f"{os.path.abspath(directory)}.new", directory)
    shutil.rmtree(old, ignore_errors=True)
