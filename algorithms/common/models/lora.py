"""LoRA's product in float32 on a CPU, where fresh tensors and skinny products cost as much as the base's own.

PEFT computes the base's output, the adapter's, its multiple and their sum, each a tensor of the output's size. Here the
sum of the base's matrix and the adapter's is made for a pass with enough tokens, and with fewer the adapter is added
into the base's output. Everything else (4-bit and bf16 weights, autocast, dropout, DoRA) stays PEFT's own.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def adds_exactly(layer: nn.Module, name: str) -> bool:
    """Whether one of PEFT's layers is a matrix with an adapter's product added, but for float32's rounding."""
    base = layer.base_layer
    return (type(base) is nn.Linear and base.weight.dtype == torch.float32 and base.weight.device.type == "cpu"
            and name not in layer.lora_variant and not layer.lora_bias.get(name))


def compute_here(layer: nn.Module) -> None:
    """Let one of PEFT's layers compute by ``adapted`` wherever the two agree but for rounding."""
    layer.forward = partial(adapted, layer)


def adapted(layer: nn.Module, x: Tensor, *others, **more) -> Tensor:
    """(…, in) → (…, out) by the active adapter: W x + b + (α/r) B A x (arXiv 2106.09685, section 4.1)."""
    name = layer._active_adapter[0] if not layer._disable_adapters and len(layer._active_adapter) == 1 else None
    if name not in layer.lora_A or others or more or not _plain(layer, name, x):
        return type(layer).forward(layer, x, *others, **more)
    base, a, b = layer.base_layer, layer.lora_A[name].weight, layer.lora_B[name].weight
    rows = x.reshape(-1, base.in_features)  # (N, in)
    y = _AddedProduct.apply(rows, base.weight, base.bias, a, b, layer.scaling[name])  # (N, out)
    return y.view(*x.shape[:-1], base.out_features)


def _plain(layer: nn.Module, name: str, x: Tensor) -> bool:
    base, dropout = layer.base_layer, layer.lora_dropout[name]
    return (adds_exactly(layer, name) and x.dtype == layer.lora_A[name].weight.dtype == torch.float32
            and not base.weight.requires_grad and (base.bias is None or not base.bias.requires_grad)
            and (isinstance(dropout, nn.Identity) or not dropout.training) and not layer.merged
            and not torch.is_autocast_enabled("cpu"))


class _AddedProduct(torch.autograd.Function):
    """y = x Wᵀ + c + s (x Aᵀ) Bᵀ for N rows, with gradients of x, A and B; W and the bias c have none."""

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scaling):
        ctx.save_for_backward(x, weight, a, b)
        ctx.scaling = scaling
        # W + s B A takes out · in · r multiplications and saves N · (in + out) · r
        if len(x) * sum(weight.shape) >= weight.numel():
            return nn.functional.linear(x, torch.addmm(weight, b, a, alpha=scaling), bias)
        return nn.functional.linear(x, weight, bias).addmm_(x @ a.t(), b.t(), alpha=scaling)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # (N, out)
        x, weight, a, b = ctx.saved_tensors
        of_x, _, _, of_a, of_b, _ = ctx.needs_input_grad
        inner = (gradient @ b).mul_(ctx.scaling)  # (N, r): s g B
        return ((gradient @ weight).addmm_(inner, a) if of_x else None, None, None,  # g W + s g B A
                inner.t() @ x if of_a else None,
                (gradient.t() @ (x @ a.t())).mul_(ctx.scaling) if of_b else None, None)
