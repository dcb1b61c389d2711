# SPDX-License-Identifier: Apache-2.0
"""Stands for a CUDA graph on a CPU: works on its own copies of the inputs and writes where it wrote before."""


class Recorded:
    """What guidance.cuda_graphs calls a Recording; `made` counts them."""

    made = 0

    def __init__(self, call, inputs, pool):
        Recorded.made += 1
        self.call, self.inputs = call, tuple(x.clone() for x in inputs)
        self.outputs = tuple(x.clone() for x in call(*self.inputs))

    def replay(self):
        for output, new in zip(self.outputs, self.call(*self.inputs), strict=True):
            output.copy_(new)
