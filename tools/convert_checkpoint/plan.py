# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What a conversion is going to write, and all that stands in its way, collected so that one run names everything."""

import re

from model_directory.weights import FLOATS

_HEAD_WIDTH = 64  # of every published size


class Plan:
    """Takes tensors out of a checkpoint one by one; what is left at the end was not understood.

        plan = Plan(checkpoint.tensors)
        plan.take("bert.pooler.dense.weight", (768, 768))
        plan.drop("cls.*", "masked-LM head")
        plan.finish()                                  # ValueError listing what is missing, misshapen or left

    tensors: {name: Tensor} taken. dropped: {name: why}. config: config.json. untold: what no tensor says, a line each.
    """

    def __init__(self, tensors):
        self._left = dict(tensors)
        self.tensors, self.dropped, self.config = {}, {}, {}
        self.untold, self.problems = [], []

    def has(self, name):
        return name in self._left or name in self.tensors

    def shape(self, name, rank):
        """The shape of a tensor of that rank, left where it is; ValueError if there is none such."""
        tensor = self._left.get(name)
        if tensor is None:
            raise ValueError(f"tensor '{name}' is missing")
        if len(tensor.shape) != rank:
            raise ValueError(f"tensor '{name}' has shape {list(tensor.shape)}, not {rank} dimensions")
        return tensor.shape

    def indices(self, pattern):
        """The numbers that the group of pattern has in the names, which must be 0, 1, 2, …; returns how many."""
        found = sorted({int(m[1]) for m in map(re.compile(pattern).match, self._left) if m})
        if found != list(range(len(found))) or not found:
            raise ValueError(f"layers are numbered {found}, not 0, 1, 2, …")
        return len(found)

    def take(self, name, shape):
        """Takes a tensor of numbers for the model; a complaint if it is missing or another shape."""
        tensor = self._left.pop(name, None)
        if tensor is None:
            self.problems.append(f"missing   {name} {list(shape)}")
        elif tensor.shape != tuple(shape):
            self.problems.append(f"misshapen {name} {list(tensor.shape)}, the others ask for {list(shape)}")
        elif tensor.type not in FLOATS:
            self.problems.append(f"type      {name} is {tensor.type}, not one of {', '.join(FLOATS)}")
        else:
            self.tensors[name] = tensor

    def take_all(self, *pairs):
        for name, shape in pairs:
            self.take(name, shape)

    def drop(self, pattern, why):
        """Leaves out every tensor left whose whole name matches the regular expression."""
        for name in [n for n in self._left if re.fullmatch(pattern, n)]:
            self.dropped[name] = why
            del self._left[name]

    def tell(self, text):
        self.untold.append(text)

    def differ(self, what, said, seen):
        """A complaint that the checkpoint's settings say otherwise than its tensors."""
        self.problems.append(f"disagrees {what}: {said} by its configuration, {seen} by its tensors")

    def heads(self, what, said, seen, width):
        """How many heads layers of that width have: seen in the gates (None = there are none), said by the settings (None, 0 =
        nothing, where heads of the published width are taken). what is the setting's name."""
        if seen is None:
            if not said:
                if width % _HEAD_WIDTH:
                    raise ValueError(f"no tensor tells the number of heads, and {width} is no multiple of {_HEAD_WIDTH}: give --num_heads")
                said = width // _HEAD_WIDTH
                self.tell(f"{what}: {said} taken, {_HEAD_WIDTH} wide as published; --num_heads for others")
            seen = said
        elif said and said != seen:
            self.differ(what, said, seen)
        if width % seen:
            raise ValueError(f"the width {width} is no multiple of {seen} heads")
        return seen

    def finish(self):
        self.problems += [f"unknown   {name} {list(t.shape)}" for name, t in self._left.items()]
        if self.problems:
            raise ValueError("\n  ".join([f"{len(self.problems)} things stand in the way; nothing was written:"] + self.problems))
