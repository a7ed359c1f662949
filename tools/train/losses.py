# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What a student is taught by."""

import torch
import torch.nn.functional as F

KL_SCALE = 20.0  # cosines times this are the logits of the similarity distributions


def distill(student, teacher):
    """(loss, mean cosine): each vector near the teacher's, and the rows of the batch's similarity matrix distributed as
    the teacher's. Unit vectors (B, W)."""
    cosine = 1 - (student * teacher).sum(-1).mean()
    diagonal = torch.eye(len(student), dtype=torch.bool, device=student.device)
    logs = [F.log_softmax((z @ z.T * KL_SCALE).masked_fill(diagonal, -1e4), -1) for z in (student, teacher)]
    return 10 * cosine + F.kl_div(*logs, reduction="batchmean", log_target=True), 1 - cosine.detach()
