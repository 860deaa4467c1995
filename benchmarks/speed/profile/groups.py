"""Which kind of work an operator or a function is, by the patterns of its name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

OTHER = "other operators"
LARGEST = 3  # of what no pattern matches, named
PRODUCTS = "matrix products"
# the first group with a pattern that fits has it; of those in WHOLE also whatever operators they call
OPERATORS: dict[str, tuple[str, ...]] = {
    "optimiser": ("Optimizer.step*", "aten::_fused_adam*", "aten::_foreach_*", "Optimizer.zero_grad*"),
    "attention": ("*scaled_dot_product*", "*flash_attention*", "*efficient_attention*", "ScaledDotProduct*"),
    "softmax and log-sum-exp": ("*softmax*", "*Softmax*", "*logsumexp*", "*Logsumexp*", "*cross_entropy*",
                                "*nll_loss*"),
    PRODUCTS: ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::matmul", "aten::linear", "aten::mv",
               "aten::dot", "aten::addmv", "aten::_addmm*", "*mkldnn_linear*", "aten::einsum", "*gemm*"),
    "copies and casts": ("aten::copy_", "aten::cat", "aten::to", "aten::_to_copy", "aten::clone", "aten::contiguous",
                         "aten::index*", "aten::_index*", "aten::gather*", "aten::scatter*", "aten::stack",
                         "aten::embedding*", "aten::repeat*", "aten::fill_", "aten::zero_", "aten::zeros*",
                         "aten::ones*", "aten::full*", "aten::empty*", "aten::new_*", "aten::resize_", "aten::pad",
                         "aten::constant_pad_nd", "aten::masked_select", "aten::nonzero", "aten::arange", "aten::item",
                         "aten::_local_scalar_dense", "aten::select_backward", "aten::slice_backward",
                         "aten::lift_fresh", "aten::detach*", "detach*", "Memcpy*", "Memset*"),
    "views": ("aten::view*", "aten::_unsafe_view", "aten::reshape*", "aten::_reshape*", "aten::transpose*", "aten::t",
              "aten::permute", "aten::expand*", "aten::slice", "aten::select", "aten::unsqueeze*", "aten::squeeze*",
              "aten::as_strided*", "aten::split*", "aten::chunk", "aten::narrow", "aten::alias", "aten::unbind",
              "aten::flatten", "aten::unflatten", "aten::broadcast_*", "aten::result_type"),
    "element-wise and reductions": tuple(f"aten::{name}" for name in (
        "add", "add_", "sub", "sub_", "rsub", "mul", "mul_", "div", "div_", "neg", "pow", "rsqrt", "sqrt", "exp", "log",
        "log1p", "silu*", "sigmoid*", "log_sigmoid*", "tanh*", "cos", "sin", "abs", "sign", "clamp*", "minimum",
        "maximum", "where*", "masked_fill*", "lt*", "le*", "gt*", "ge*", "eq*", "ne*", "logical_*", "bitwise_*",
        "__*__", "isfinite", "isnan", "isinf", "isin*", "sum*", "mean*", "amax*", "amin*", "max*", "min*", "any*",
        "all*", "cumsum*", "cummax*", "std*", "var*", "linalg_vector_norm", "norm*", "searchsorted", "argmax", "topk",
        "sort*", "argsort", "uniform_", "normal_", "random_", "lerp_", "addcmul*", "addcdiv*", "reciprocal",
        "threshold_backward", "rms_norm*", "_fused_rms_norm*", "floor_divide", "remainder", "tril", "triu")),
}
WHOLE = ("optimiser", "attention", "softmax and log-sum-exp")

FUNCTIONS: dict[str, tuple[str, ...]] = {
    "tokenise": ("*/data/template.py:*", "*/tokenizers/*", "*tokenizers.*", "*/transformers/*", "*/data/cuts.py:*",
                 "*/data/example.py:*", "*/data/texts.py:*"),
    "hash": ("*hashlib*", "*blake2*", "*sha256*", "*_hash*", "*/support/digests.py:*", "*/record.py:content_key",
             "*/record.py:hashes", "*/record.py:key", "*/record.py:prompt_json", "*/json/encoder.py:*",
             "*/json/__init__.py:dumps"),
    "parse": ("*/json/*", "*/records/json_rows.py:*", "*/records/lines.py:*", "*/records/readers.py:*",
              "*codecs*", "*_io.*", "*/records/packing.py:*"),
    "write": ("*/records/storage.py:*", "*/record.py:meta_json", "*pyarrow*", "*'write*"),
    "divide and find copies": ("*/records/duplicates.py:*", "*/records/sets.py:*", "*/records/own_files.py:*",
                               "*/records/views.py:*", "*/records/similar.py:*", "*/numpy/*", "*numpy.*",
                               "*/records/kept.py:*", "*/support/store.py:*", "*filelock*"),
    "check": ("*/data/records/*", "*/data/usability.py:*"),
}


def group_of(name: str, groups: Mapping[str, Sequence[str]]) -> str | None:
    """The first group that has a pattern which fits."""
    return next((group for group, patterns in groups.items()
                 if any(fnmatchcase(name, pattern) for pattern in patterns)), None)


@dataclass
class Work:
    """Seconds by group, of what stands in none by name, and the FLOP of matrix products."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    unnamed: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    flop: float = 0.0

    def add(self, group: str | None, name: str, seconds: float, flop: float = 0.0) -> None:
        self.seconds[group or OTHER] += seconds
        self.flop += flop if group == PRODUCTS else 0.0
        if group is None:
            self.unnamed[name] += seconds

    @property
    def largest(self) -> dict[str, float]:
        """Of what stands in no group, the most."""
        return dict(sorted(self.unnamed.items(), key=lambda item: -item[1])[:LARGEST])


def operators(events: Iterable[Any], device: str) -> Work:
    """Of torch.profiler's events: self time on the device, each event in its own group, or in that of the nearest one
    around it whose group is in WHOLE."""
    found = Work()
    for event in events:
        micro = event.self_cpu_time_total if device == "cpu" else event.self_device_time_total
        if micro > 0:
            found.add(placed(event), event.name, micro / 1e6, float(event.flops or 0))
    return found


def placed(event: Any) -> str | None:
    around = event
    while around is not None:
        group = group_of(around.name, OPERATORS)
        if group in WHOLE:
            return group
        around = around.cpu_parent
    return group_of(event.name, OPERATORS)


def functions(stats: Mapping[tuple, tuple]) -> Work:
    """Of cProfile's figures: own time. What fits no pattern and is built in (``len``, a dict's ``get``) is its
    callers'."""
    found = Work()
    for key, (_, _, own, _, callers) in stats.items():
        name = f"{key[0]}:{key[2]}"
        group = group_of(name, FUNCTIONS)
        if group is None and key[0] == "~" and callers:
            for caller, (_, _, part, _) in callers.items():
                found.add(group_of(f"{caller[0]}:{caller[2]}", FUNCTIONS), key[2], part)
        else:
            found.add(group, key[2], own)
    return found
