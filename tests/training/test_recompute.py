import pytest
import torch
from torch import nn

from minivid.training.recompute import recomputed


class Net(nn.Module):
    """Blocks with dropout and running averages: what a second pass could spoil."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(7, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Dropout(0.5)) for _ in range(3)
        )
        self.last = nn.Linear(7, 2)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


def step(model):
    torch.manual_seed(3)
    x = torch.randn(11, 5)
    model.zero_grad()
    loss = model(x).square().sum()
    loss.backward()
    return loss, [weight.grad.clone() for weight in model.parameters()], [b.clone() for b in model.buffers()]


def test_recomputing_changes_no_number():
    torch.manual_seed(0)
    model, plain = Net(), Net()
    plain.load_state_dict(model.state_dict())
    for _ in range(2):
        want = step(plain)
        with recomputed(model):
            found = step(model)
        assert torch.equal(found[0], want[0])
        for one, other in zip(found[1] + found[2], want[1] + want[2], strict=True):
            assert torch.equal(one, other)


def test_less_is_kept_and_blocks_are_computed_twice():
    calls, kept = [], {}
    for kind in ("plain", "recomputed"):
        model = Net()
        model.blocks[1][0].register_forward_hook(lambda *_: calls.append(1))
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: (s.append(t.numel()), t)[1], lambda t: t):
            if kind == "plain":
                loss = model(torch.randn(11, 5)).sum()
            else:
                with recomputed(model):
                    loss = model(torch.randn(11, 5)).sum()
        kept[kind] = sum(sizes)
        calls.clear()
        with recomputed(model) if kind == "recomputed" else torch.enable_grad():
            loss.backward()
        assert len(calls) == (kind == "recomputed")
    assert kept["recomputed"] < kept["plain"] / 2


def test_the_model_is_given_back_as_it_was():
    model = Net()
    before = [vars(block).keys() for block in model.blocks]
    with pytest.raises(KeyboardInterrupt), recomputed(model):
        assert all("forward" in vars(block) for block in model.blocks)
        raise KeyboardInterrupt
    assert [vars(block).keys() for block in model.blocks] == before and not any("forward" in k for k in before)


def test_the_outermost_row_of_parts_is_taken_for_the_blocks():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Tanh())
    with recomputed(model):
        assert ["forward" in vars(part) for part in model] == [True, True] and "forward" not in vars(model[0][0])
    with pytest.raises(ValueError, match="Linear: no nn.ModuleList or nn.Sequential"), recomputed(nn.Linear(2, 2)):
        pass
