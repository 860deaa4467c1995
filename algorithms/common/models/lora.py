"""LoRA's product in float32 on a CPU.

PEFT makes four tensors of the output's size there (the base's output, the adapter's, that one scaled, their sum), which
take longer than the adapter's few multiplications. Here a pass with many tokens multiplies by one matrix, W + s B A,
made for the pass; a pass with few adds the adapter's part into the base's output in place. PEFT computes everything
else: on GPUs, in other types (4-bit, bf16), under autocast, with dropout that is on, DoRA and other variants, a bias of
LoRA's own, embeddings, several adapters at once, a base that learns.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def adds_in_float32(layer: nn.Module, adapter: str) -> bool:
    """Whether one of PEFT's layers is a float32 matrix on a CPU with LoRA's product added, and nothing else."""
    base = layer.base_layer
    return (type(base) is nn.Linear and type(base.weight) is nn.Parameter  # no quantised tensor that poses as float32
            and base.weight.dtype == torch.float32 and base.weight.device.type == "cpu"
            and adapter not in layer.lora_variant and not layer.lora_bias.get(adapter))


def replace_forward(layer: nn.Module) -> None:
    """Let one of PEFT's layers compute by ``lora_forward``: the same output and first derivatives but for rounding.

    Second derivatives and torch.func's transforms are refused; hooks on the layer's parts are not called. Whether PEFT
    must compute is decided at each call, since a base may be moved or cast later.
    """
    layer.forward = partial(lora_forward, layer)


def lora_forward(layer: nn.Module, x: Tensor, *args, **kwargs) -> Tensor:
    """(…, in) → (…, out): x Wᵀ + c + s (x Aᵀ) Bᵀ by the active adapter, s = α/r (arXiv 2106.09685, section 4.1; α/√r
    with rsLoRA); by PEFT's own forward where that is not all there is to compute."""
    active = [] if layer.disable_adapters else layer.active_adapters
    if len(active) != 1 or args or kwargs or not _computed_here(layer, active[0], x):
        return type(layer).forward(layer, x, *args, **kwargs)
    base, (adapter,) = layer.base_layer, active
    rows = x.reshape(-1, base.in_features)  # (N, in)
    y = _AddedProduct.apply(rows, base.weight, base.bias, layer.lora_A[adapter].weight, layer.lora_B[adapter].weight,
                            layer.scaling[adapter])  # (N, out)
    return y.view(*x.shape[:-1], base.out_features)


def _computed_here(layer: nn.Module, adapter: str, x: Tensor) -> bool:
    """Whether nothing is asked at this call that only PEFT does."""
    if adapter not in layer.lora_A or not adds_in_float32(layer, adapter):
        return False
    base, dropout = layer.base_layer, layer.lora_dropout[adapter]
    return (x.dtype == layer.lora_A[adapter].weight.dtype == layer.lora_B[adapter].weight.dtype == torch.float32
            and not base.weight.requires_grad and (base.bias is None or not base.bias.requires_grad)
            and (isinstance(dropout, nn.Identity) or not dropout.training) and not layer.merged
            and not torch.is_autocast_enabled("cpu"))


class _AddedProduct(torch.autograd.Function):
    """y = x Wᵀ + c + s (x Aᵀ) Bᵀ: x (N, in), W (out, in), c (out) or None, A (r, in), B (out, r), y (N, out).

    First derivatives of x, A and B; W and c are frozen.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scaling = scaling
        # W + s B A costs out · in · r multiplications and saves the N · (in + out) · r of x Aᵀ and its product with Bᵀ
        if len(x) * sum(weight.shape) >= weight.numel():
            return nn.functional.linear(x, torch.addmm(weight, b, a, alpha=scaling), bias)
        return nn.functional.linear(x, weight, bias).addmm_(x @ a.t(), b.t(), alpha=scaling)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):  # (N, out)
        x, weight, a, b = ctx.saved_tensors
        needs_x, _, _, needs_a, needs_b, _ = ctx.needs_input_grad
        inner = (gradient @ b).mul_(ctx.scaling)  # (N, r): s g B
        return ((gradient @ weight).addmm_(inner, a) if needs_x else None,  # (N, in): g W + s g B A
                None, None,
                inner.t() @ x if needs_a else None,  # (r, in): s Bᵀ gᵀ x
                (gradient.t() @ (x @ a.t())).mul_(ctx.scaling) if needs_b else None,  # (out, r): s gᵀ x Aᵀ
                None)
