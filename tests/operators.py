"""Which operators of torch run, for tests that count them."""

from torch.utils._python_dispatch import TorchDispatchMode


class Steps(TorchDispatchMode):
    """The names of the operators that run, in order."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        self.names.append(str(operator))
        return operator(*arguments, **(keywords or {}))
