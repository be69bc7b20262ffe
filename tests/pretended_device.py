"""A second device that is none: its tensors hold numbers in RAM and refuse to meet those of the CPU.

So a mistake that a GPU would punish ("expected all tensors to be on the same device") fails on any machine,
and what is computed there must equal what is computed here.  Built on torch's way to add a device in Python,
which is experimental; where a torch lacks it, `WHY_NOT` says so.
"""

import copy
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = "pretended"
WHY_NOT = ""
try:
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME)
    # `torch.tensor(numbers, device=...)` then makes its tensor on the CPU and moves it, as for a GPU.
    torch._C._set_only_lift_cpu_tensors(True)
except (ImportError, AttributeError) as error:
    WHY_NOT = f"torch {torch.__version__} has no devices written in Python ({error})"

DEVICE = f"{NAME}:0"
aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default, aten._copy_from.default}
# A GPU's tensors may be indexed by the CPU's.
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class There(torch.Tensor):
    """A tensor on the pretended device; `held` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "There":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(DEVICE),
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> "There":
        return There(self.held.clone())

    def tolist(self) -> Any:
        return self.held.tolist()


def _compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `func` makes of the numbers, on the device that its arguments are on or name."""
    given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    there = [each for each in given if isinstance(each, There)]
    here = [each for each in given if not isinstance(each, There) and each.dim() > 0]
    if func in INDEXING:
        here = [each for each in here if each is args[0]]
    if there and here and func not in COPIES:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, but one is on the CPU")
    named = kwargs.get("device")
    lands_there = bool(there) if named is None else torch.device(named).type == NAME
    if func is aten.copy_.default:
        lands_there = isinstance(args[0], There)
    if named is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    found = func(*_held(args), **_held(kwargs))
    if func._schema.is_mutable and isinstance(found, torch.Tensor):
        for each in there:
            if each.held is found:
                return each
    return tree_map_only(torch.Tensor, There, found) if lands_there else found


def _held(values: Any) -> Any:
    return tree_map_only(There, lambda each: each.held, values)


class PretendedDevice(TorchDispatchMode):
    """Within it, tensors may be made on the pretended device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def moved(model: Any) -> Any:
    """A copy of `model` whose parameters and buffers are on the pretended device."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                there = torch.nn.Parameter(There(weight.detach()), requires_grad=weight.requires_grad)
                module._parameters[name] = there
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = There(buffer)
    return model
