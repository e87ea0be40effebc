"""Logits, head differences, K and labels at random, as the losses of all margins take them."""

import torch

from gloro_fast.ops import head_differences


def problem(rows=30, classes=4):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(rows, classes, dtype=torch.float64, generator=generator)
    differences = head_differences(torch.randn(classes, 7, dtype=torch.float64, generator=generator))
    labels = torch.randint(classes, (rows,), generator=generator)
    lipschitz = torch.tensor(0.8, dtype=torch.float64)
    return logits.requires_grad_(), differences.requires_grad_(), lipschitz.requires_grad_(), labels
