"""What torch.func.vmap does with an operator that loops anyway: one call an entry, so that memory stays that of one."""

import torch
from torch import Tensor
from torch.library import CustomOpDef


def map_one_by_one(*operators: CustomOpDef) -> None:
    """Tell torch.func.vmap to map each operator by one call for every entry of the mapped axis.

    torch maps its own operators by giving them one more axis. An operator of torch.library that fills buffers in a loop
    would have to be written anew for that axis, and would then hold the buffers of all entries at a time.

    Args:
        operators: of torch.library.custom_op; each gives a tensor or a tuple of tensors.

    Source: torch.library.CustomOpDef.register_vmap.
    """
    for operator in operators:
        operator.register_vmap(_rule(operator))


def _rule(operator: CustomOpDef):
    def mapped(info, in_dims, *inputs):
        # The dimension of what is not mapped is None, of a list of numbers a list of None.
        results = [
            operator(*(x.select(dim, i) if isinstance(dim, int) else x for x, dim in zip(inputs, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])

    return mapped
