"""SGD, Adam and AdamW beside torch's: the same weights after every step, and state dicts that can be exchanged."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, whole
from torch import Tensor, nn
from two_processes import two_processes

from minivid.classroom.evidence import agree, holds
from minivid.training import optimizer as library
from minivid.training.optimizer import SGD, Adam, AdamW, _cut, _runs, adam_step, adamw_step, decay_groups, sgd_step
from minivid.training.processes import share

SGD_OPTIONS = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.5, "dampening": 0.3},
    {"weight_decay": 0.1},
    {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True, "lr": 0.05},
    {"momentum": 0.5, "weight_decay": 0.1, "maximize": True},
    {"momentum": 0.9, "weight_decay": 0.1, "dampening": 0.5, "foreach": False},
    {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True, "foreach": False, "maximize": True},
    {"foreach": False},
    {"momentum": 0.9, "foreach": True},
]
ADAM_OPTIONS = [
    {},
    {"lr": 0.1, "weight_decay": 0.5},
    {"amsgrad": True, "weight_decay": 0.1},
    {"maximize": True, "weight_decay": 0.1},
    {"foreach": False, "weight_decay": 0.1},
    {"foreach": False, "weight_decay": 0.1, "amsgrad": True, "maximize": True},
    {"decoupled_weight_decay": True, "weight_decay": 0.5},
]
ADAMW_OPTIONS = [
    {},
    {"lr": 0.1, "weight_decay": 0.5},
    {"betas": (0.5, 0.6), "eps": 0.1},
    {"weight_decay": 0.0},
    {"betas": (0.0, 0.0)},
    {"amsgrad": True, "betas": (0.5, 0.6), "lr": 0.1},
    {"maximize": True, "weight_decay": 0.5},
    {"foreach": False, "lr": 0.1, "weight_decay": 0.5, "eps": 0.1},
    {"foreach": False, "lr": 0.1, "amsgrad": True, "maximize": True, "weight_decay": 0.5, "betas": (0.5, 0.6)},
    {"foreach": True},
]
TWINS = [(SGD, torch.optim.SGD, options) for options in SGD_OPTIONS]
TWINS += [(Adam, torch.optim.Adam, options) for options in ADAM_OPTIONS]
TWINS += [(AdamW, torch.optim.AdamW, options) for options in ADAMW_OPTIONS]


def weights(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    """Three shapes, the last one a scalar."""
    return [nn.Parameter(normal(i, *shape, dtype=dtype)) for i, shape in enumerate([(3, 5), (7,), ()])]


def give_gradients(parameters: list[nn.Parameter], step: int) -> None:
    """Gradients that depend on step and weights, as those of a loss; the second weight misses every third one."""
    for i, parameter in enumerate(parameters):
        gradient = normal(100 * step + i, *parameter.shape, dtype=parameter.dtype) + 0.5 * parameter.detach()
        parameter.grad = None if i == 1 and step % 3 == 1 else gradient


@st.composite
def moments(draw, n: int = 3):
    """A weight, a gradient, and averages of gradients and of their squares, as they are after some steps."""
    weight, gradient, mean = (draw(whole(n, low=-3, high=3)) for _ in range(3))
    return weight, gradient, mean, draw(whole(n, low=1, high=4))


# ---- laws


@pytest.mark.law("sgd_step")
@given(whole(3), whole(3), st.sampled_from([0.1, 0.5]))
def test_sgd_step_goes_downhill_by_lr_times_the_gradient(impl, weight, gradient, lr):
    """Without momentum and decay, w becomes w - lr gradient."""
    got = impl.sgd_step(weight, gradient, None, lr=lr)[0]
    agree(got, weight - lr * gradient, "the new weight differs", axes="n", weight=weight, gradient=gradient, lr=lr)


@pytest.mark.law("sgd_step")
@given(st.lists(whole(2), min_size=1, max_size=4), st.sampled_from([0.0, 0.5]), st.booleans())
def test_sgd_step_remembers_the_steps_before(impl, gradients, dampening, nesterov):
    """v = momentum v + (1 - dampening) gradient, the first v being the gradient itself; nesterov looks ahead."""
    options = dict(lr=0.5, momentum=0.5, dampening=0.0 if nesterov else dampening, nesterov=nesterov)
    ours, velocity, theirs = torch.ones(2), None, nn.Parameter(torch.ones(2))
    twin = torch.optim.SGD([theirs], **options)
    for step, gradient in enumerate(gradients, 1):
        ours, velocity = impl.sgd_step(ours, gradient, velocity, **options)
        theirs.grad = gradient.clone()
        twin.step()
        shown = dict(gradients=torch.stack(gradients[:step]), **options)
        agree(ours, theirs.detach(), f"the weight after step {step} differs", axes="n", **shown)
        agree(velocity, twin.state[theirs]["momentum_buffer"], f"v after step {step} differs", axes="n", **shown)


@pytest.mark.law("sgd_step")
@given(whole(3), whole(3), whole(3), st.sampled_from([0.25, 0.5]))
def test_sgd_step_decays_through_the_gradient(impl, weight, gradient, velocity, weight_decay):
    """weight_decay w is added to the gradient before all else."""
    options = dict(lr=0.5, momentum=0.5)
    got = impl.sgd_step(weight, gradient, velocity, weight_decay=weight_decay, **options)
    want = impl.sgd_step(weight, gradient + weight_decay * weight, velocity, **options)
    shown = dict(weight=weight, gradient=gradient, velocity=velocity, weight_decay=weight_decay)
    agree(got[0], want[0], "the new weight differs", axes="n", **shown)
    agree(got[1], want[1], "the new v differs", axes="n", **shown)


@pytest.mark.law("adam_step")
@given(moments(), st.integers(1, 5), st.sampled_from([0.0, 0.5]))
def test_adam_step_equals_torch(impl, case, step, weight_decay):
    """One step from any state gives torch.optim.Adam's weight and averages."""
    same_as_torch(impl.adam_step, torch.optim.Adam, case, step, weight_decay)


@pytest.mark.law("adam_step")
@given(whole(3), st.sampled_from([1e-3, 1.0, 1e3]))
def test_adam_step_has_size_lr_at_first_whatever_the_size_of_the_gradient(impl, signs, size):
    """The first step goes lr against the sign of the gradient; a gradient of 0 moves nothing."""
    nothing = torch.zeros(3)
    got = impl.adam_step(nothing, size * signs, nothing, nothing, 1, lr=0.5)[0]
    agree(got, -0.5 * signs.sign(), "the first step differs", axes="n", gradient=size * signs, lr=0.5)


@pytest.mark.law("adamw_step")
@given(moments(), st.integers(1, 5), st.sampled_from([0.0, 0.5]))
def test_adamw_step_equals_torch(impl, case, step, weight_decay):
    """One step from any state gives torch.optim.AdamW's weight and averages."""
    same_as_torch(impl.adamw_step, torch.optim.AdamW, case, step, weight_decay)


@pytest.mark.law("adamw_step")
@given(whole(3), st.integers(1, 5), st.sampled_from([0.25, 0.5]))
def test_adamw_step_without_a_gradient_shrinks_the_weight(impl, weight, step, weight_decay):
    """Where there never was a gradient, w becomes (1 - lr weight_decay) w."""
    nothing = torch.zeros(3)
    got, mean, square = impl.adamw_step(weight, nothing, nothing, nothing, step, lr=0.5, weight_decay=weight_decay)
    shown = dict(weight=weight, step=step, lr=0.5, weight_decay=weight_decay)
    agree(got, (1 - 0.5 * weight_decay) * weight, "the decay differs", axes="n", **shown)
    for name, average in (("m", mean), ("v", square)):
        agree(average, nothing, f"the decay went into {name}", axes="n", **shown)


@pytest.mark.law("adamw_step")
@given(whole(3), moments(), st.sampled_from([0.1, 10.0]))
def test_adamw_step_does_not_see_the_size_of_the_gradients(impl, weight, case, size):
    """All gradients ten times as large: the same step, by the root of the average square."""
    _, gradient, mean, square = case
    options = dict(lr=0.5, eps=0.0, weight_decay=0.25)
    want = impl.adamw_step(weight, gradient, mean, square, 3, **options)[0]
    got = impl.adamw_step(weight, size * gradient, size * mean, size**2 * square, 3, **options)[0]
    shown = dict(weight=weight, gradient=gradient, mean=mean, square=square, size=size)
    agree(got, want, "larger gradients make another step", axes="n", **shown)


@pytest.mark.law("adamw_step")
@given(moments())
def test_adamw_step_leaves_its_arguments_as_they_are(impl, case):
    """The new numbers are new tensors; the old ones can be looked at afterwards."""
    given_tensors = [tensor.clone() for tensor in case]
    impl.adamw_step(*given_tensors, 2)
    names = ("weight", "gradient", "mean", "square")
    for name, now, then in zip(names, given_tensors, case, strict=True):
        agree(now, then, f"{name} was changed in place", axes="n")


def same_as_torch(ours, twin, case, step, weight_decay):
    weight, gradient, mean, square = case
    for options in ({}, {"lr": 0.5, "betas": (0.5, 0.75), "eps": 0.25}):
        parameter = nn.Parameter(weight.clone())
        optimizer = twin([parameter], weight_decay=weight_decay, **options)
        averages = {"exp_avg": mean.clone(), "exp_avg_sq": square.clone()}
        optimizer.state[parameter] = {"step": torch.tensor(step - 1.0), **averages}
        parameter.grad = gradient.clone()
        optimizer.step()
        got = ours(weight, gradient, mean, square, step, weight_decay=weight_decay, **options)
        want = (parameter.detach(), averages["exp_avg"], averages["exp_avg_sq"])
        shown = dict(weight=weight, gradient=gradient, mean=mean, square=square, step=step, weight_decay=weight_decay)
        holds(len(got) == 3, "a step gives the new weight, mean and square", **shown)
        # The weight last: where an average is wrong, say so first.
        for i, name in ((1, "mean"), (2, "square"), (0, "weight")):
            agree(got[i], want[i], f"the new {name} differs", axes="n", **shown, **options)


# ---- beside torch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("step", "twin"), [(adam_step, Adam), (adamw_step, AdamW)])
def test_the_defaults_of_a_step_are_those_of_the_class(step, twin, dtype):
    weight = nn.Parameter(normal(0, 3, dtype=dtype))
    weight.grad, nothing = normal(1, 3, dtype=dtype), torch.zeros(3, dtype=dtype)
    got = step(weight.detach().clone(), weight.grad, nothing, nothing, 1)[0]
    twin([weight]).step()
    torch.testing.assert_close(got, weight.detach(), atol=1e-6 if dtype == torch.float32 else 1e-12, rtol=0)


def test_sgd_step_alone_neither_remembers_nor_looks_ahead():
    weight, gradient, velocity = normal(0, 3), normal(1, 3), normal(2, 3)
    got = sgd_step(weight, gradient, velocity, lr=0.5)
    for x, y in zip(got, (weight - 0.5 * gradient, gradient), strict=True):
        torch.testing.assert_close(x, y, atol=1e-6, rtol=0)
    got = sgd_step(weight, gradient, velocity, lr=0.5, momentum=0.25)
    want = 0.25 * velocity + gradient
    for x, y in zip(got, (weight - 0.5 * want, want), strict=True):
        torch.testing.assert_close(x, y, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("foreach", "steps"), [(False, 3), (True, 0), (None, 0)])
@pytest.mark.parametrize(
    ("optimizer", "step"), [(SGD, "sgd_step"), (Adam, "adam_step"), (AdamW, "adamw_step")], ids=lambda value: str(value)
)
def test_weight_by_weight_takes_the_formula_and_all_together_do_not(optimizer, step, foreach, steps, monkeypatch):
    calls, formula = [], getattr(library, step)

    def counted(*tensors, **options):
        calls.append(tensors[0].shape)
        return formula(*tensors, **options)

    monkeypatch.setattr(library, step, counted)
    parameters = weights()
    give_gradients(parameters, 0)
    optimizer(parameters, foreach=foreach).step()
    assert calls == [parameter.shape for parameter in parameters][:steps]


@pytest.mark.parametrize(("ours", "theirs"), [(SGD, torch.optim.SGD), (Adam, torch.optim.Adam)])
@pytest.mark.parametrize("foreach", [True, False])
def test_three_hundred_steps_with_groups_and_a_schedule_equal_torch(ours, theirs, foreach):
    follow(ours, theirs, {"lr": 0.05, "weight_decay": 0.1, "foreach": foreach})


@pytest.mark.parametrize("amsgrad", [True, False])
@pytest.mark.parametrize("foreach", [True, False])
def test_three_hundred_steps_of_adamw_with_groups_and_a_schedule_equal_torch(foreach, amsgrad):
    follow(AdamW, torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.1, "foreach": foreach, "amsgrad": amsgrad})


def follow(ours, theirs, options):
    sides = []
    for optimizer in (ours, theirs):
        a, b, c = weights()
        groups = [{"params": [a, b], "lr": 0.1}, {"params": [c], "weight_decay": 0.5}]
        optimizer = optimizer(groups, **options)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
        sides.append(([a, b, c], optimizer, schedule))
    for step in range(300):
        for parameters, optimizer, schedule in sides:
            give_gradients(parameters, step)
            optimizer.step()
            schedule.step()
    for got, want in zip(sides[0][0], sides[1][0], strict=True):
        torch.testing.assert_close(got, want, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("ours", "theirs", "options"), TWINS)
def test_groups_have_the_entries_of_torch(ours, theirs, options):
    assert (
        ours(weights(), **options).state_dict()["param_groups"]
        == theirs(weights(), **options).state_dict()["param_groups"]
    )


def test_half_precision_weights_follow_torch():
    sides = []
    for optimizer in (AdamW, torch.optim.AdamW):
        parameters = weights(torch.bfloat16)
        optimizer = optimizer(parameters, lr=0.1)
        for step in range(5):
            give_gradients(parameters, step)
            optimizer.step()
        sides.append(parameters)
    for got, want in zip(*sides, strict=True):
        torch.testing.assert_close(got, want)


def test_a_step_under_inference_and_hooks_are_those_of_the_base_class():
    weight, seen = nn.Parameter(torch.ones(3)), []
    optimizer = AdamW([weight])
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    weight.grad = torch.ones(3)
    optimizer.step()
    assert seen == ["after"]
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "lr": 0.5})
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 0.5]


@pytest.mark.parametrize(("ours", "theirs", "options"), TWINS)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_twenty_steps_equal_torch(ours, theirs, options, dtype, atol):
    pairs = [(weights(dtype), optimizer) for optimizer in (ours, theirs)]
    pairs = [(parameters, optimizer(parameters, **options)) for parameters, optimizer in pairs]
    for step in range(20):
        for parameters, optimizer in pairs:
            give_gradients(parameters, step)
            optimizer.step()
        for got, want in zip(pairs[0][0], pairs[1][0], strict=True):
            torch.testing.assert_close(got, want, atol=atol, rtol=atol)


@pytest.mark.parametrize(("ours", "theirs", "options"), TWINS)
def test_state_dicts_can_be_exchanged_both_ways(ours, theirs, options):
    # torch, then ours, then torch, seven steps each, equal twenty-one steps of torch.
    want, got = weights(), weights()
    alone = theirs(want, **options)
    for step in range(21):
        give_gradients(want, step)
        alone.step()
    state = None
    for turn, optimizer in enumerate((theirs, ours, theirs)):
        optimizer = optimizer(got, **options)
        if state is not None:
            optimizer.load_state_dict(copy.deepcopy(state))
        for step in range(7 * turn, 7 * turn + 7):
            give_gradients(got, step)
            optimizer.step()
        state = optimizer.state_dict()
    for x, y in zip(got, want, strict=True):
        torch.testing.assert_close(x, y, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("ours", "theirs", "options"), TWINS)
def test_state_has_the_entries_of_torch(ours, theirs, options):
    states = []
    for optimizer in (ours, theirs):
        parameters = weights()
        optimizer = optimizer(parameters, **options)
        give_gradients(parameters, 0)
        optimizer.step()
        states.append(optimizer.state_dict()["state"])
    if not options.get("momentum") and ours is SGD:
        states[1] = {}  # torch keeps an empty entry where there is no momentum
    assert states[0].keys() == states[1].keys()
    for key in states[0]:
        assert states[0][key].keys() == states[1][key].keys()
        for name in states[0][key]:
            torch.testing.assert_close(states[0][key][name], states[1][key][name], atol=1e-12, rtol=0)


def test_groups_have_their_own_options():
    results = []
    for optimizer in (AdamW, torch.optim.AdamW):
        a, b, c = weights()
        optimizer = optimizer([{"params": [a, b], "lr": 0.1}, {"params": [c], "weight_decay": 0.5}], lr=0.01)
        for step in range(3):
            give_gradients([a, b, c], step)
            optimizer.step()
        results.append([a, b, c])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


@pytest.mark.parametrize("optimizer", [SGD, Adam, AdamW])
def test_a_group_without_gradients_stops_no_other(optimizer):
    still, moved = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    moved.grad = torch.ones(3)
    optimizer([{"params": [still]}, {"params": [moved]}], lr=0.5, weight_decay=0.0).step()
    assert torch.equal(still.detach(), torch.ones(2))
    torch.testing.assert_close(moved.detach(), torch.full((3,), 0.5), atol=1e-6, rtol=0)


def test_momentum_by_hand():
    weight = nn.Parameter(torch.tensor(0.0))
    optimizer = SGD([weight], lr=1.0, momentum=0.5)
    seen = []
    for _ in range(3):
        weight.grad = torch.tensor(1.0)
        optimizer.step()
        seen.append(weight.item())
    assert seen == [-1.0, -2.5, -4.25]  # steps of 1, 1.5, 1.75: on the way to 2


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
def test_closure_is_called_with_gradients_and_its_loss_returned(optimizer):
    weight = nn.Parameter(torch.tensor(3.0))
    optimizer = optimizer([weight], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = weight.square()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9.0
    assert weight.item() < 3.0
    assert optimizer.step() is None


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
def test_gradients_are_left_alone_and_nothing_without_one_moves(optimizer):
    moved, still = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = optimizer([moved, still], lr=0.1, weight_decay=0.1)
    moved.grad = torch.ones(3)
    for _ in range(2):
        optimizer.step()
    assert torch.equal(moved.grad, torch.ones(3))
    assert torch.equal(still.detach(), torch.ones(3))
    moved.grad = None
    optimizer.step()  # nothing to do is no error


def test_momentum_does_not_live_in_the_gradient():
    # A gradient is often zeroed or written anew in place; the first step must not keep it as its momentum.
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.ones(3)
    optimizer = SGD([weight], lr=1.0, momentum=0.5)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    assert torch.equal(weight.detach(), torch.full((3,), -1.5))


def test_decay_groups_spare_biases_and_norms():
    model = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Conv3d(1, 2, 2))
    model[2].weight.requires_grad_(False)
    decayed, spared = decay_groups(model, 0.1)
    assert [p is q for p, q in zip(decayed["params"], [model[0].weight], strict=True)] == [True]
    wanted = [model[0].bias, model[1].weight, model[1].bias, model[2].bias]
    assert [p is q for p, q in zip(spared["params"], wanted, strict=True)] == [True] * 4
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


# Which rate and decay the parameters of a published model have with the trainer its authors published: rates by a
# piece of the name, decay for all but biases and norms. {name: (shape, lr, decay)}, one layer of each kind.
PUBLISHED = {
    "model.visual.patch_embed.proj.weight": ((8, 3, 2, 4, 4), 2e-6, 0.01),
    "model.visual.patch_embed.proj.bias": ((8,), 2e-6, 0.0),
    "model.visual.pos_embed.weight": ((16, 8), 2e-6, 0.01),
    "model.visual.blocks.0.norm1.weight": ((8,), 2e-6, 0.0),
    "model.visual.blocks.0.attn.qkv.weight": ((24, 8), 2e-6, 0.01),
    "model.visual.merger.norm.weight": ((8,), 4e-5, 0.0),
    "model.visual.merger.linear_fc1.weight": ((8, 8), 4e-5, 0.01),
    "model.visual.deepstack_merger_list.0.linear_fc1.bias": ((8,), 4e-5, 0.0),
    "model.language_model.embed_tokens.weight": ((16, 8), 2e-5, 0.01),
    "model.language_model.layers.0.self_attn.q_norm.weight": ((4,), 2e-5, 0.0),
    "model.language_model.layers.0.input_layernorm.weight": ((8,), 2e-5, 0.0),
    "model.language_model.layers.0.mlp.up_proj.weight": ((8, 8), 2e-5, 0.01),
    "lm_head.weight": ((16, 8), 2e-5, 0.01),
}


class Named(nn.Module):
    """Parameters of given names and shapes."""

    def __init__(self, shapes):
        super().__init__()
        self.named = {name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()}

    def named_parameters(self, *_, **__):
        return iter(self.named.items())


def test_rates_and_decay_are_those_of_a_published_trainer():
    model = Named({name: shape for name, (shape, _, _) in PUBLISHED.items()})
    groups = decay_groups(model, 0.01, {"merger": 4e-5, "visual": 2e-6})
    optimizer = AdamW(groups, lr=2e-5)
    got = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert {name: got[id(p)] for name, p in model.named.items()} == {
        name: (lr, decay) for name, (_, lr, decay) in PUBLISHED.items()
    }
    assert len(groups) == 6 and sum(len(group["params"]) for group in groups) == len(PUBLISHED)


def test_a_rate_for_no_parameter_is_named():
    with pytest.raises(ValueError, match=r"^rates: no learned parameter has 'tower' as the first piece in its name$"):
        decay_groups(nn.Linear(2, 3), 0.1, {"tower": 1e-3})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("optimizer", "options", "message"),
    [
        (SGD, {"lr": -0.1}, "lr is -0.1, expected 0 or more"),
        (SGD, {"momentum": -0.5}, "momentum is -0.5"),
        (SGD, {"weight_decay": -1.0}, "weight_decay is -1.0"),
        (SGD, {"nesterov": True}, "nesterov needs momentum > 0 and dampening 0, got momentum 0.0"),
        (SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "dampening=0.1"),
        (AdamW, {"lr": -0.1}, "lr is -0.1"),
        (AdamW, {"eps": -1e-8}, "eps is -1e-08"),
        (AdamW, {"weight_decay": -1.0}, "weight_decay is -1.0"),
        (Adam, {"betas": (-0.1, 0.9)}, r"betas\[0\] is -0.1, expected 0 <= beta < 1"),
        (Adam, {"capturable": True}, "^capturable=True is not taken here$"),
        (Adam, {"fused": True}, "^fused=True is not taken here$"),
        (Adam, {"differentiable": True}, "^differentiable=True is not taken here$"),
        (AdamW, {"capturable": True}, "^capturable=True is not taken here$"),
        (AdamW, {"fused": True}, "^fused=True is not taken here$"),
        (AdamW, {"differentiable": True}, "^differentiable=True is not taken here$"),
        (SGD, {"fused": True}, "^fused=True is not taken here$"),
        (SGD, {"differentiable": True}, "^differentiable=True is not taken here$"),
        (SGD, {"lr": torch.tensor(0.1)}, r"^lr is a tensor, expected a number; give lr.item\(\)$"),
        (AdamW, {"betas": (0.9, 1.0)}, r"betas\[1\] is 1.0, expected 0 <= beta < 1"),
    ],
)
def test_options_outside_their_range_are_named(optimizer, options, message):
    with pytest.raises(ValueError, match=message):
        optimizer(weights(), **options)


def test_an_option_that_is_not_taken_is_refused_by_name():
    with pytest.raises(TypeError, match="fast"):
        AdamW(weights(), fast=True)
    state = torch.optim.AdamW(weights(), capturable=True).state_dict()
    with pytest.raises(
        ValueError, match="^capturable=True in the state dict is not taken here; go on with torch.optim$"
    ):
        AdamW(weights()).load_state_dict(state)
    state = torch.optim.SGD(weights(), fused=True).state_dict()
    with pytest.raises(ValueError, match="^fused=True in the state dict is not taken here; go on with torch.optim$"):
        SGD(weights()).load_state_dict(state)


def test_a_state_dict_that_decays_in_the_other_way_is_refused():
    words = "^decoupled_weight_decay is {} in the state dict and {} here; load it into {}$"
    with pytest.raises(ValueError, match=words.format(False, True, "Adam")):
        AdamW(weights()).load_state_dict(torch.optim.Adam(weights()).state_dict())
    with pytest.raises(ValueError, match=words.format(True, False, "AdamW")):
        Adam(weights()).load_state_dict(torch.optim.AdamW(weights()).state_dict())


@pytest.mark.parametrize(("ours", "theirs"), [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)])
def test_a_state_dict_that_does_not_say_how_it_decays_is_that_of_the_twin(ours, theirs):
    # torch's own Adam and AdamW were two classes without this entry once.
    sides = []
    for last in (ours, theirs):
        parameters = weights()
        optimizer = theirs(parameters, lr=0.1, weight_decay=0.5)
        give_gradients(parameters, 0)
        optimizer.step()
        state = copy.deepcopy(optimizer.state_dict())
        if last is ours:
            del state["param_groups"][0]["decoupled_weight_decay"]
        optimizer = last(parameters)
        optimizer.load_state_dict(state)
        give_gradients(parameters, 2)
        optimizer.step()
        sides.append((parameters, optimizer.state_dict()["param_groups"]))
    for got, want in zip(sides[0][0], sides[1][0], strict=True):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
    assert sides[0][1] == sides[1][1]


def test_gradients_of_another_kind_are_refused_by_name():
    table = nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(ValueError, match=r"^a gradient of shape \(5, 3\) is sparse; it is not taken here$"):
        SGD(table.parameters()).step()
    weight = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    weight.grad = torch.ones(2, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"^a gradient of shape \(2,\) is torch.complex64; it is not taken here$"):
        AdamW([weight]).step()


def test_runs_of_weights_cover_all_and_stay_within_their_size(monkeypatch):
    monkeypatch.setattr("minivid.training.optimizer.RUN", 10)
    sizes = [3, 7, 1, 12, 2, 8]
    got = [sizes[run] for run in _runs([torch.zeros(size) for size in sizes])]
    assert got == [[3, 7], [1], [12], [2, 8]]


def test_a_run_holds_a_quarter_of_a_million_numbers():
    number = torch.zeros(1)
    got = list(_runs([number.expand(size) for size in (2**17, 2**17, 1, 2**18, 2)]))
    assert got == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5)]


class Spread(Tensor):
    """A stand-in for numbers of which other processes have a part."""


def test_what_is_larger_than_a_run_is_cut_into_rows_that_share_its_memory(monkeypatch):
    monkeypatch.setattr("minivid.training.optimizer.RUN", 10)
    # One piece, full runs, a last one with fewer rows, rows that are larger than a run, columns one behind the other.
    shapes = [(5, 2), (4, 5), (5, 4), (2, 11), (3, 3, 2)]
    wanted = [
        [(5, 2)],
        [(2, 5), (2, 5)],
        [(2, 4), (2, 4), (1, 4)],
        [(1, 11), (1, 11)],
        [(1, 3, 2), (1, 3, 2), (1, 3, 2)],
    ]
    for shape, want in zip(shapes, wanted, strict=True):
        weight, gradient = nn.Parameter(normal(0, *shape[::-1]).mT.reshape(shape)), normal(1, *shape)
        state = {"step": torch.tensor(3.0), "exp_avg": normal(2, *shape), "exp_avg_sq": normal(3, *shape)}
        weights, gradients, states = _cut([weight], [gradient], [state])
        assert [tuple(x.shape) for x in weights] == want and [x["step"] for x in states] == [state["step"]] * len(want)
        assert torch.equal(torch.cat(weights), weight) and torch.equal(torch.cat(gradients), gradient)
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(torch.cat([x[name] for x in states]), state[name])
            assert states[0][name].data_ptr() == state[name].data_ptr()
        assert weights[0].data_ptr() == weight.data_ptr()
        assert (weights[0] is weight) == (len(want) == 1)
    for whole_ in (torch.zeros(12, 1, device="meta"), torch.zeros(12, 1).as_subclass(Spread)):
        assert [x is whole_ for x in _cut([whole_], [whole_], [{"step": torch.tensor(1.0)}])[0]] == [True]


@pytest.mark.parametrize("amsgrad", [False, True])
def test_weights_in_pieces_move_as_in_one(monkeypatch, amsgrad):
    start = [normal(0, 5, 4), normal(1, 4, 7).mT, normal(2, 3), normal(3, 2, 11)]
    ours, theirs = ([nn.Parameter(x.clone()) for x in start] for _ in range(2))
    optimizers = AdamW(ours, amsgrad=amsgrad), torch.optim.AdamW(theirs, amsgrad=amsgrad)
    monkeypatch.setattr("minivid.training.optimizer.RUN", 10)
    for turn in range(3):
        for weights, optimizer in zip((ours, theirs), optimizers, strict=True):
            for i, weight in enumerate(weights):
                weight.grad = normal(10 * turn + i, *weight.shape)
            optimizer.step()
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want, atol=1e-7, rtol=1e-6)


# ---- two processes


def half_of_each_batch(folder) -> dict[str, list]:
    """Ten steps of AdamW on this process' share of the batch, the gradients averaged over the processes."""
    model = nn.parallel.DistributedDataParallel(small_model())
    train(model, *share())
    return {name: weight.tolist() for name, weight in model.module.state_dict().items()}


def small_model() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 2)).double()
    model.load_state_dict(
        {name: normal(i, *x.shape).double() for i, (name, x) in enumerate(model.state_dict().items())}
    )
    return model


def train(model: nn.Module, rank: int = 0, count: int = 1) -> None:
    optimizer = AdamW(decay_groups(model, 0.1), lr=0.05)
    for step in range(10):
        inputs, wanted = normal(step, 6, 3, dtype=torch.float64), normal(step + 100, 6, 2, dtype=torch.float64)
        optimizer.zero_grad()
        (model(inputs[rank::count]) - wanted[rank::count]).square().mean().backward()
        optimizer.step()


@pytest.mark.slow
def test_two_processes_with_half_a_batch_each_equal_one_with_the_whole(tmp_path):
    alone = small_model()
    train(alone)
    for weights in two_processes(half_of_each_batch, tmp_path):
        for name, want in alone.state_dict().items():
            # Adam divides by the root of the square: a last bit in the mean of a gradient is all that differs.
            torch.testing.assert_close(want.new_tensor(weights[name]), want, atol=1e-10, rtol=0)
            assert not torch.equal(want, small_model().state_dict()[name])
