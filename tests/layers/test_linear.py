"""The linear layer: its formula, the two libraries that multiply for it, and when which of them does."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from operators import Steps
from strategies import normal, seeds, small, whole
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.nn import functional as F

from minivid.classroom.evidence import agree, holds
from minivid.layers import linear as module
from minivid.layers.linear import FEW_ROWS, ROWS, Linear, add_product, linear, product

OPERATOR = "mkldnn._linear_pointwise.default"
LARGE = 2**20  # multiplications; the library's own bound, a few times this one, would only make the tests slower


def found():
    """oneDNN's operator, where this torch has one."""
    try:
        return torch.ops.mkldnn._linear_pointwise.default if torch.backends.mkldnn.is_available() else None
    except AttributeError:
        return None


needs_onednn = pytest.mark.skipif(found() is None, reason="this torch has no oneDNN")


@pytest.fixture
def onednn(monkeypatch):
    """oneDNN whatever the processor: it need not be the faster one to give the same numbers."""
    if found() is None:
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(module, "_onednn", found())
    monkeypatch.setattr(module, "MULTIPLICATIONS", LARGE)
    monkeypatch.setattr(module, "LONG", 2**60)


class Other(torch.Tensor):
    """A stand-in for numbers, as of a shard."""


def by_onednn(*tensors) -> bool:
    """Whether the product went to oneDNN."""
    with Steps() as steps:
        linear(*tensors)
    assert module.by_onednn(*tensors) == (OPERATOR in steps.names) or torch.is_autocast_enabled("cpu")
    return OPERATOR in steps.names


def by_columns(*tensors) -> bool:
    """Whether the columns of the matrix were summed."""
    with Steps() as steps:
        linear(*tensors)
    return any("embedding_bag" in name for name in steps.names)


def column_major(weight):
    """The same matrix, laid out column by column."""
    return weight.t().contiguous().t()


@pytest.fixture
def columns(onednn, monkeypatch):
    """Sums of columns whatever the processor and for matrices of 24 numbers on, on one thread; nothing is kept yet."""
    monkeypatch.setattr(module, "NUMBERS", 24)
    monkeypatch.setattr(module, "_kept", {})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---- laws


@pytest.mark.law("linear")
@given(st.data(), small, small, small, small, st.booleans())
def test_every_row_meets_every_row_of_the_matrix(impl, data, b, n, k, d, biased):
    """y[i] = sum_j W[i, j] x[j] + b[i]."""
    x, weight = data.draw(whole(b, n, k)), data.draw(whole(d, k))
    bias = data.draw(whole(d)) if biased else None
    want = (x[..., None, :] * weight).sum(-1) + (0 if bias is None else bias)
    agree(impl.linear(x, weight, bias), want, "not W x + b", axes="b n d", x=x, weight=weight, bias=bias)


@pytest.mark.law("linear")
@given(st.data(), small, small, small)
def test_of_zeros_the_bias_is_left(impl, data, n, k, d):
    """W 0 + b = b, for every row."""
    bias, x, weight = data.draw(whole(d)), torch.zeros(n, k), normal(0, d, k)
    agree(impl.linear(x, weight, bias), bias.expand(n, d), "rows of zeros do not give the bias", axes="n d", bias=bias)


@pytest.mark.law("linear")
@given(st.data(), small, small, small)
def test_a_sum_of_rows_gives_the_sum_of_what_they_give(impl, data, n, k, d):
    """W (x + y) = W x + W y."""
    x, y, weight = data.draw(whole(n, k)), data.draw(whole(n, k)), data.draw(whole(d, k))
    want = impl.linear(x, weight) + impl.linear(y, weight)
    agree(
        impl.linear(x + y, weight), want, "not linear: W (x + y) is not W x + W y", axes="n d", x=x, y=y, weight=weight
    )


@pytest.mark.law("linear")
@given(seeds, small, small, small)
def test_gradients_are_products_too(impl, seed, n, k, d):
    """dL/dx = W^T dL/dy, dL/dW = sum of dL/dy x^T, dL/db = sum of dL/dy."""
    x, weight, bias = (normal(seed + i, *shape) for i, shape in enumerate([(n, k), (d, k), (d,)]))
    grad = normal(seed + 3, n, d)
    wanted = (("rows", grad @ weight, "n k"), ("matrix", grad.T @ x, "d k"), ("bias", grad.sum(0), "d"))
    for at, (name, want, axes) in enumerate(wanted):
        given = [t.clone().requires_grad_(i == at) for i, t in enumerate((x, weight, bias))]
        y = impl.linear(*given)
        holds(y.requires_grad, f"no gradient goes back to the {name}", x=x, weight=weight, bias=bias)
        (got,) = torch.autograd.grad(y, given[at], grad)
        agree(got, want, f"the gradient of the {name} is another", axes=axes, x=x, weight=weight, bias=bias, grad=grad)


# ---- beside torch


@given(small, small, small, seeds, st.booleans())
def test_linear_takes_the_weights_of_torch_s_layer_and_gives_its_numbers(n, k, d, seed, bias):
    theirs = nn.Linear(k, d, bias=bias, dtype=torch.float64)
    ours = Linear(k, d, bias=bias, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x = normal(seed, 2, n, k, dtype=torch.float64)
    assert torch.equal(ours(x), theirs(x)) and torch.equal(ours(x[0, 0]), theirs(x[0, 0]))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own forward derivatives
def test_linear_has_exact_gradients_of_every_order_and_in_both_directions():
    inputs = [normal(i, *shape, dtype=torch.float64).requires_grad_() for i, shape in enumerate([(2, 3), (4, 3), (4,)])]
    assert torch.autograd.gradcheck(linear, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(linear, inputs)


# Sizes beyond the bounds, odd ones and several blocks of rows among them.
SIZES = [((FEW_ROWS, 256), 256), ((3, 41, 130), 77), ((2, ROWS, 64), 33), ((2 * ROWS + 3, 33), 65)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("shape", "d"), SIZES)
@pytest.mark.parametrize("by_column", [True, False])
def test_both_libraries_give_the_same_numbers_and_gradients(onednn, shape, d, by_column, bias):
    x, weight, shift = normal(0, *shape), normal(1, d, shape[-1]), normal(2, d) if bias else None
    weight = weight.mT.contiguous().mT if by_column else weight
    inputs = [t.requires_grad_() for t in (x, weight, shift) if t is not None]
    assert by_onednn(*inputs)
    grad = normal(3, *shape[:-1], d)
    got = linear(*inputs), *torch.autograd.grad(linear(*inputs), inputs, grad)
    want = F.linear(*inputs), *torch.autograd.grad(F.linear(*inputs), inputs, grad)
    assert [t.shape for t in got] == [t.shape for t in want]
    for ours, theirs in zip(got, want, strict=True):
        # A sum of s products of normal numbers is of size sqrt(s), and float32 keeps 7 digits of it: 2e-6 of the whole
        # leaves room for the order of summing, and none for a product in bfloat16 (4e-3) or tf32 (5e-4).
        assert (ours - theirs).norm() <= 2e-6 * theirs.norm()
    with torch.no_grad():
        assert torch.equal(linear(*inputs), got[0]) and not linear(*inputs).requires_grad


def test_a_gradient_that_nobody_wants_is_not_computed(onednn):
    x, weight, bias = normal(0, 64, 256), normal(1, 128, 256), normal(2, 128)
    for at, products in ((0, 1), (1, 1), (2, 0)):
        inputs = [t.clone().requires_grad_(i == at) for i, t in enumerate((x, weight, bias))]
        y = linear(*inputs)
        with Steps() as steps:
            (got,) = torch.autograd.grad(y, inputs[at], normal(3, 64, 128))
        assert steps.names.count(OPERATOR) == products
        (want,) = torch.autograd.grad(F.linear(*inputs), inputs[at], normal(3, 64, 128))
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-5)


def test_the_gradient_of_a_matrix_is_summed_over_blocks_of_rows(onednn):
    x, weight = normal(0, 2 * ROWS + 200, 64), normal(1, 64, 64).requires_grad_()
    y = linear(x, weight)
    with Steps() as steps:
        torch.autograd.grad(y, weight, normal(2, *y.shape))
    # The third block has too few multiplications for oneDNN.
    assert steps.names.count(OPERATOR) == 2 and steps.names.count("aten.add_.Tensor") == 2


def test_gradients_of_gradients_are_torch_s(onednn):
    inputs = [normal(i, *shape).requires_grad_() for i, shape in enumerate([(2, ROWS, 33), (35, 33), (35,)])]
    found = []
    for function in (linear, F.linear):
        first = torch.autograd.grad(function(*inputs).pow(2).sum() / 1e3, inputs, create_graph=True)
        found.append(torch.autograd.grad(sum(t.pow(2).sum() for t in first) / 1e3, inputs))
    for got, want in zip(*found, strict=True):
        assert (got - want).norm() <= 1e-5 * want.norm()


def test_what_is_given_may_lie_in_memory_in_any_way(onednn):
    weight, bias = normal(0, 128, 192), normal(1, 128)
    whole = normal(2, 192, 96)
    for x in (whole.mT, whole.mT[::2], normal(3, 96, 200)[:, 3:195], normal(4, 1, 192).expand(64, 192)):
        given = x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()
        assert by_onednn(*given)
        for grad in (normal(5, 128, len(x)).mT, torch.ones(1, 1).expand(len(x), 128)):
            got, want = (torch.autograd.grad(function(*given), given, grad) for function in (linear, F.linear))
            for ours, theirs in zip(got, want, strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(linear(*given), F.linear(*given), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("k", [4, 256])
def test_products_in_buffers_are_the_same_products(onednn, k, autocast):
    x, weight, total = normal(0, 64, k), normal(1, 128, k), normal(2, 64, 128)
    buffer, by_column = torch.full((64 * 128 + 7,), math.nan), total.mT.contiguous()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), Steps() as steps:
        got = product(x, weight, buffer)
        assert add_product(total, x, weight) is None
        add_product(by_column.mT, x, weight)
        add_product(by_column, weight, x)
    torch.testing.assert_close(got, x @ weight.mT, atol=1e-4, rtol=0)
    torch.testing.assert_close(total, normal(2, 64, 128) + got, atol=1e-4, rtol=0)
    torch.testing.assert_close(by_column.mT, normal(2, 64, 128) + 2 * got, atol=1e-4, rtol=0)
    # A small product makes no tensor.
    assert steps.names.count(OPERATOR) == (4 if k == 256 else 0)
    assert ("aten.mm.default" not in steps.names) and (got.data_ptr() == buffer.data_ptr()) == (k == 4)
    assert buffer[64 * 128 :].isnan().all()


# ---- which library


def test_the_bounds_are_those_that_were_measured():
    assert (module.MULTIPLICATIONS, FEW_ROWS, ROWS) == (2**22, 16, 1024)
    assert (module.NUMBERS, module.LONG) == (3 * 2**16, 2**19)


def test_large_products_of_float32_go_to_onednn(onednn):
    k = LARGE // 64 // 64
    assert by_onednn(normal(0, 64, k), normal(1, 64, k))
    assert by_onednn(normal(0, 4, 16, k), nn.Parameter(normal(1, 64, k)), normal(2, 64))
    assert not by_onednn(normal(0, 64, k), normal(1, 63, k))
    assert not by_onednn(normal(0, 63, k), normal(1, 64, k))
    wide = normal(1, LARGE // 8 // 15, 8 * FEW_ROWS)
    assert by_onednn(normal(0, FEW_ROWS, 8 * FEW_ROWS), wide)
    assert not by_onednn(normal(0, FEW_ROWS - 1, 8 * FEW_ROWS), wide)
    assert not by_onednn(normal(0, 1, FEW_ROWS - 1, 8 * FEW_ROWS), wide)


@pytest.fixture
def long(onednn, monkeypatch):
    """Matrices of 2^14 numbers are long enough for oneDNN to take a few rows."""
    monkeypatch.setattr(module, "LONG", 2**14)
    monkeypatch.setattr(module, "NUMBERS", 2**14)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(), (1,), (3, 5)])
def test_a_few_rows_of_a_long_matrix_go_to_onednn(long, rows, bias):
    x, weight, shift = normal(0, *rows, 64), normal(1, 256, 64), normal(2, 256) if bias else None
    inputs = [t.requires_grad_() for t in (x, weight, shift) if t is not None]
    with Steps() as steps:
        got = linear(*inputs)
    assert steps.names.count(OPERATOR) == 1 and not module.by_onednn(*inputs)
    grad = normal(3, *rows, 256)
    gradients = [torch.autograd.grad(function(*inputs), inputs, grad) for function in (linear, F.linear)]
    for ours, theirs in zip((got, *gradients[0]), (F.linear(*inputs), *gradients[1]), strict=True):
        assert ours.shape == theirs.shape and (ours - theirs).norm() <= 2e-6 * theirs.norm()  # as above


def test_a_few_rows_of_other_matrices_are_torch_s(long, monkeypatch):
    def taken(*tensors):
        with Steps() as steps:
            linear(*tensors)
        return OPERATOR in steps.names

    x, weight, bias = normal(0, FEW_ROWS - 1, 64), normal(1, 256, 64), normal(2, 256)
    assert taken(x, weight) and taken(x, nn.Parameter(weight), bias) and taken(x[0], weight)
    assert not taken(normal(0, FEW_ROWS, 64), weight)  # more rows
    assert not taken(normal(0, 0, 64), weight)  # none
    assert not taken(x, normal(1, 255, 64))  # fewer numbers
    assert not taken(x, column_major(weight)) and not taken(x[0], column_major(weight))
    assert not taken(x.double(), weight.double())
    assert not taken(x, weight, bias.as_subclass(Other))
    with torch.autocast("cpu", torch.bfloat16):
        assert not taken(x, weight) and linear(x, weight).dtype == torch.bfloat16
    torch.testing.assert_close(torch.func.vmap(lambda x: linear(x, weight))(x), F.linear(x, weight), atol=1e-4, rtol=0)
    monkeypatch.setattr(module, "_onednn", None)
    assert not taken(x, weight)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("rows", [(), (1,), (1, 1)])
@pytest.mark.parametrize("biased", [False, True])
def test_a_single_row_takes_the_sum_of_the_columns(columns, threads, rows, biased):
    torch.set_num_threads(threads)
    x, weight = normal(0, *rows, 6), column_major(normal(1, 4, 6))
    bias = normal(2, 4) if biased else None
    with Steps() as steps:
        got = linear(x, weight, bias)
    assert got.shape == (*rows, 4) and got.dtype == torch.float32
    # Sums of six products of about 1, in float32.
    torch.testing.assert_close(got, F.linear(x, weight, bias), atol=1e-6, rtol=0)
    # As many sums as threads can share (of six columns, two), and then their sum.
    assert [name for name in steps.names if "embedding_bag" in name or "sum" in name] == (
        ["aten._embedding_bag_forward_only.default"] + ["aten.sum.dim_IntList"] * (threads > 1)
    )


def test_columns_are_summed_where_they_are_whatever_the_default_device(columns):
    x, weight = normal(0, 1, 6), column_major(normal(1, 4, 6))
    with torch.device("meta"):
        got = linear(x, weight)
    torch.testing.assert_close(got, F.linear(x, weight), atol=1e-6, rtol=0)


def test_the_numbers_of_the_columns_are_made_once_and_never_by_a_stand_in(columns):
    x, weight = normal(0, 1, 6), column_major(normal(1, 4, 6))
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert linear(x, weight).shape == (1, 4)
    with torch.inference_mode():
        linear(x, weight)
    for threads, places in ((1, [0]), (2, [0, 3]), (4, [0, 3]), (1, [0])):
        torch.set_num_threads(threads)
        torch.testing.assert_close(linear(x, weight), F.linear(x, weight), atol=1e-6, rtol=0)
        assert [t.tolist() for t in module._kept[6, threads]] == [[0, 1, 2, 3, 4, 5], places]
    with Steps() as steps:
        linear(x, weight)
    assert not any("arange" in name for name in steps.names)


def test_columns_are_summed_for_one_row_of_a_large_matrix_that_lies_so_without_a_gradient(columns, monkeypatch):
    x, weight, bias = normal(0, 1, 6), column_major(normal(1, 4, 6)), normal(2, 4)
    assert by_columns(x, weight) and by_columns(x, nn.Parameter(weight, requires_grad=False), bias)
    assert not by_columns(normal(0, 2, 6), weight)  # two rows
    assert not by_columns(normal(0, 0, 6), weight)  # none
    assert not by_columns(x, normal(1, 4, 6))  # row by row
    assert not by_columns(normal(0, 1, 5), column_major(normal(1, 4, 5)))  # 20 numbers
    assert not by_columns(x.double(), weight.double())
    for at in range(3):
        tensors = [t.as_subclass(Other) if i == at else t for i, t in enumerate((x, weight, bias))]
        assert not by_columns(*tensors)
    for at in range(3):  # a gradient is wanted
        tensors = [t.clone().requires_grad_() if i == at else t for i, t in enumerate((x, weight, bias))]
        assert not by_columns(*tensors)
        with torch.no_grad():
            assert by_columns(*tensors)
    with torch.autocast("cpu", torch.bfloat16):
        assert not by_columns(x, weight) and linear(x, weight).dtype == torch.bfloat16
    torch.testing.assert_close(torch.func.vmap(lambda x: linear(x, weight))(x), F.linear(x, weight))
    monkeypatch.setattr(module, "_onednn", None)
    assert not by_columns(x, weight)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shapes", [[(1, 6), (4, 7)], [(1, 6), (4, 6), (3,)]])
def test_a_single_row_that_does_not_fit_is_told_by_torch(columns, shapes):
    x, weight, *bias = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(RuntimeError, match=r"cannot be multiplied|must match|expand"):
        linear(x, column_major(weight), *bias)


@pytest.mark.usefixtures("unchecked")
def test_other_types_and_other_arrangements_are_torch_s(onednn):
    x, weight, bias = normal(0, 64, 256), normal(1, 128, 256), normal(2, 128)
    assert by_onednn(x, weight, bias)
    assert not by_onednn(x.double(), weight.double())
    assert not by_onednn(x.bfloat16(), weight.bfloat16())
    assert not by_onednn(x, normal(1, 256, 512)[::2, ::2])  # its numbers lie apart
    assert not by_onednn(x.to_mkldnn(), weight.to_mkldnn())
    assert not by_onednn(normal(0, 2**14), normal(1, 128, 2**14))  # one row
    assert not by_onednn(x, normal(1, 256))  # one row of a matrix
    for at in range(3):
        tensors = [t.as_subclass(Other) if i == at else t for i, t in enumerate((x, weight, bias))]
        assert not by_onednn(*tensors)
    with FakeTensorMode() as fake:
        assert linear(fake.from_tensor(x), fake.from_tensor(weight)).shape == (64, 128)
    assert linear(x.to("meta"), weight.to("meta"), bias.to("meta")).shape == (64, 128)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own forward derivatives
def test_a_transform_sees_torch_s_own_product(onednn, monkeypatch):
    x, weight = normal(0, 64, 256), normal(1, 128, 256)
    with torch.autocast("cpu", torch.bfloat16):
        assert not by_onednn(x, weight) and linear(x, weight).dtype == torch.bfloat16
    with monkeypatch.context() as patched:
        patched.setattr(torch.backends.mkldnn, "enabled", False)
        assert not by_onednn(x, weight)
    want = F.linear(x, weight)
    torch.testing.assert_close(torch.func.vmap(lambda row: linear(row[None], weight)[0])(x), want, atol=1e-4, rtol=0)
    pieces = torch.func.vmap(lambda rows: linear(rows, weight))(x.expand(2, 64, 256))
    torch.testing.assert_close(pieces, want.expand(2, 64, 128), atol=1e-4, rtol=0)
    _, change = torch.func.jvp(lambda x: linear(x, weight), (x,), (2 * x,))
    torch.testing.assert_close(change, 2 * want, atol=1e-4, rtol=0)
    with forward_ad.dual_level(), torch.no_grad():
        change = forward_ad.unpack_dual(linear(forward_ad.make_dual(x, 2 * x), weight)).tangent
    torch.testing.assert_close(change, 2 * want, atol=1e-4, rtol=0)
    assert by_onednn(x, weight)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not by_onednn(x, weight)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shapes", [[(64, 256), (128, 255)], [(64, 256), (128, 256), (127,)]])
def test_what_does_not_fit_is_told_by_torch(onednn, shapes):
    with pytest.raises(RuntimeError, match=r"cannot be multiplied|must match|expand"):
        linear(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.usefixtures("unchecked")
def test_a_bias_of_one_number_is_added_to_all_as_in_torch(onednn):
    x, weight = normal(0, 64, 256), normal(1, 128, 256)
    torch.testing.assert_close(linear(x, weight, torch.ones(1)), F.linear(x, weight) + 1)


@needs_onednn
@pytest.mark.parametrize("missing", ["nothing", "processor", "library", "operator", "functorch", "forward_ad"])
def test_onednn_is_taken_where_it_is_the_faster_one_and_all_that_is_needed_is_there(monkeypatch, missing):
    capability = "AVX2" if missing == "processor" else "AVX512_CORE"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    if missing == "library":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    elif missing == "operator":
        monkeypatch.setattr(torch.ops, "mkldnn", None)
    elif missing == "functorch":
        monkeypatch.delattr(torch._C, "_are_functorch_transforms_active")
    elif missing == "forward_ad":
        monkeypatch.delattr(forward_ad, "_current_level")
    assert module._operator() is (found() if missing == "nothing" else None)


def test_the_choice_is_made_when_the_module_is_loaded():
    assert module._onednn is module._operator()


def test_without_onednn_every_product_is_torch_s(monkeypatch):
    monkeypatch.setattr(module, "_onednn", None)
    x, weight = normal(0, 64, 256), normal(1, 128, 256).requires_grad_()
    assert not by_onednn(x, weight) and torch.equal(linear(x, weight), F.linear(x, weight))


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # the compiler's own import
def test_linear_compiles(onednn, compiled):
    layer, x = Linear(256, 128), normal(0, 64, 256)
    torch.testing.assert_close(compiled(layer)(x), layer(x), atol=1e-4, rtol=1e-5)
