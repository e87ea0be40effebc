"""What a float32 net on a GPU evaluates and certifies by is never in TF32, and no switch of the process is touched.

There is no GPU here: operations are logged on fake tensors, or on the CPU, which is taken for a GPU.
"""

import copy
import sys
import threading

import pytest
import torch
import torch.nn.functional as F
from layer_samples import COPYING, MAPS
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

from gloro_fast import GloRoNet, architectures
from gloro_fast.errors import ArchitectureError
from gloro_fast.graph.plan import as_evaluated, make_plan
from gloro_fast.graph.strictly import Strictly, may_use_tf32
from gloro_fast.losses import CrossEntropyLoss
from gloro_fast.nn import LipschitzConstant, MinMax, register_lipschitz_rule
from gloro_fast.ops import geometry, strict
from gloro_fast.ops.strict_convolution import convolution_reference, strict_convolution, wide_convolution


class Log(TorchDispatchMode):
    """Names the operations that may use TF32 among those that this thread calls."""

    def __init__(self):
        super().__init__()
        self.loose, self.names = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        if may_use_tf32(func, args, kwargs or {}):
            self.loose.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_gpu(monkeypatch):
    """Take the CPU for a GPU with cuDNN."""
    for mode in (strict.FLOAT32, strict.WEIGHTS):
        monkeypatch.setattr(mode, "devices", ("cuda", "cpu"))
    monkeypatch.setattr(sys.modules["gloro_fast.ops.strict_convolution"], "_HAS_CUDNN", True)


class Functions(nn.Module):
    """Products and convolutions that are no layers."""

    def __init__(self):
        super().__init__()
        self.kernel, self.weight = nn.Parameter(torch.randn(4, 2, 3, 2)), nn.Parameter(torch.randn(36, 6))
        self.square, self.bias = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6))

    def forward(self, x):
        h = F.conv2d(input=x, weight=self.kernel, padding="same", dilation=(1, 2))
        h = F.conv_transpose2d(h, self.kernel, stride=(1, 2))
        h = F.conv2d(h, self.kernel.detach(), None, (1, 3), groups=1).flatten(1)[:, :36]
        h = torch.addmm(self.bias, h @ self.weight, self.weight[:6])
        return torch.mm(h, self.square @ self.square.T) + F.linear(h, self.square)


class Cayley(nn.Module):
    def forward(self, a):
        one = torch.eye(len(a), dtype=a.dtype, device=a.device)
        return torch.linalg.solve(one + a - a.T, torch.einsum("ij,jk->ik", one - a + a.T, one))


def orthogonal():
    layer = nn.Linear(6, 6)
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", Cayley())
    return nn.Sequential(layer, MinMax(), parametrizations.orthogonal(nn.Linear(6, 6), orthogonal_map="matrix_exp"))


NETS = {
    "2C2F": (lambda: architectures.build("2C2F", input_shape=(1, 8, 8), num_classes=4), (1, 8, 8)),
    "6C2F": (lambda: architectures.build("6C2F", input_shape=(3, 16, 16), num_classes=4), (3, 16, 16)),
    "functions": (Functions, (2, 5, 5)),
    "orthogonal": (orthogonal, (6,)),
    "rows": (lambda: nn.Sequential(nn.Linear(6, 4), MinMax(), nn.Flatten(), nn.Linear(16, 3)), (4, 6)),
    **{
        f"{number} {type(layer).__name__}": (
            lambda layer=layer: nn.Sequential(copy.deepcopy(layer), nn.Flatten()),
            shape,
        )
        for number, (layer, shape) in enumerate([*MAPS, *COPYING])
    },
}


def planned(case):
    make, shape = NETS[case]
    torch.manual_seed(0)
    return make_plan(make().eval(), shape), torch.rand(5, *shape)


@pytest.mark.parametrize("case", NETS)
def test_no_operation_of_an_evaluation_on_a_gpu_may_use_tf32(case, monkeypatch):
    if case == "orthogonal":
        pytest.skip("orthogonal parametrizations look at values")
    if case.endswith(("CayleyLinear", "BCOP")) and not torch.backends.cuda.is_built():
        pytest.skip("systems of linear equations want a torch with CUDA even for fake tensors")
    monkeypatch.setattr(sys.modules["gloro_fast.ops.strict_convolution"], "_HAS_CUDNN", True)
    plan, x = planned(case)
    loose, strictly = (Log(), Log())
    for run, log in ((plan.run, loose), (plan.evaluate, strictly)):
        whole = Runs(plan.module, run)
        tensors = {**dict(whole.named_parameters()), **dict(whole.named_buffers())}
        with FakeTensorMode():
            fakes = {name: torch.empty(t.shape, dtype=t.dtype, device="cuda") for name, t in tensors.items()}
            with torch.no_grad(), log:
                y = torch.func.functional_call(whole, fakes, (torch.empty(x.shape, device="cuda"),))
        assert y.device.type == "cuda"
    assert loose.loose
    assert not strictly.loose


class Runs(nn.Module):
    def __init__(self, module, run):
        super().__init__()
        self.module, self.run = module, run

    def forward(self, x):
        return self.run(x)


@pytest.mark.parametrize("case", NETS)
@pytest.mark.parametrize("cudnn", [True, False])
def test_strict_steps_compute_what_the_others_do(case, cudnn, as_gpu, monkeypatch):
    monkeypatch.setattr(sys.modules["gloro_fast.ops.strict_convolution"], "_HAS_CUDNN", cudnn)
    plan, x = planned(case)
    results = []
    for run in (plan.run, plan.evaluate):
        with Log() as log:
            y = run(x.requires_grad_())
            results.append(
                [y, *torch.autograd.grad(y.square().sum(), [x, *plan.module.parameters()], allow_unused=True)]
            )
    assert not [name for name in log.loose if "backward" not in name and "_convolution" in name]
    for mine, its in zip(*results, strict=True):
        assert (mine is None) == (its is None)
        if mine is not None:
            torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5 * float(its.detach().abs().max()))


@pytest.mark.parametrize("case", ["2C2F", "functions", "orthogonal"])
def test_float64_and_half_nets_run_as_ever(case, as_gpu):
    make, shape = NETS[case]
    for dtype in (torch.float64, torch.bfloat16):
        if case == "orthogonal" and dtype == torch.bfloat16:
            continue
        plan = make_plan(make().to(dtype).eval(), shape)
        x = torch.rand(5, *shape, dtype=dtype)
        with torch.no_grad():
            assert torch.equal(plan.run(x), plan.evaluate(x))


def test_on_the_cpu_nothing_is_replaced():
    plan, x = planned("2C2F")
    with torch.no_grad(), Log() as log:
        assert torch.equal(plan.evaluate(x), plan.run(x))
    assert not any("_convolution" in name for name in log.names)


def test_in_autocast_a_function_is_left_alone(as_gpu):
    x, weight = torch.rand(2, 6), torch.rand(3, 6)
    with torch.autocast("cpu", torch.bfloat16), strict.FLOAT32:
        assert F.linear(x, weight).dtype == torch.bfloat16


class Hidden(nn.Module):
    """Layers of a user's, which multiply in ways that PyTorch has."""

    def __init__(self, how):
        super().__init__()
        self.how, self.weight = how, nn.Parameter(torch.eye(6) / 2)

    def forward(self, x):
        return self.how(x, self.weight)


@register_lipschitz_rule(Hidden)
def _hidden(module, input_shape):
    return LipschitzConstant(100.0, "upper bound")


@pytest.mark.parametrize(
    "how",
    [
        lambda x, w: x @ w,
        lambda x, w: torch.einsum("bi,ij->bj", x, w),
        lambda x, w: torch.bmm(x[None], w[None])[0],
        lambda x, w: torch.baddbmm(x[None], x[None], w[None], alpha=2.0)[0],
        lambda x, w: torch.linalg.solve(w, x, left=False),
        lambda x, w: F.conv1d(x[:, None], w[:1, None, :3], padding=1)[:, 0],
        lambda x, w: x.matmul(w.matrix_exp()),
        lambda x, w: w.mm(x.T).T,
        lambda x, w: F.bilinear(x, x, w[None].expand(6, 6, 6)),
    ],
)
def test_layers_of_a_users_multiply_in_float64(how, as_gpu):
    plan = make_plan(nn.Sequential(Hidden(how), nn.Linear(6, 2)).eval(), (6,))
    assert [step.known for step, *_ in plan.strict.steps] == [False, True]
    x = torch.rand(5, 6)
    with torch.no_grad():
        with Log() as log:
            y = plan.evaluate(x)
        torch.testing.assert_close(y, plan.run(x), rtol=1e-4, atol=1e-4)
    assert not log.loose


@pytest.mark.parametrize(
    "how",
    [
        lambda x, w: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0],
        lambda x, w: x.clone().addmm_(x, w),
        lambda x, w: torch.mm(x, w, out=torch.empty(len(x), 6)),
        lambda x, w: F.multi_head_attention_forward(
            x[:, None], x[:, None], x[:, None], 6, 1, w.repeat(3, 1), None, None, None, False, 0.0, w, None
        )[0][:, 0],
    ],
    ids=["attention", "in place", "out", "python"],
)
def test_what_may_use_tf32_unseen_is_refused_by_name(how, as_gpu):
    with pytest.raises(ArchitectureError, match=r"0 computes aten\..*may use TF32"):
        GloRoNet(nn.Sequential(Hidden(how), nn.Linear(6, 2)), 0.1, (6,))


@pytest.mark.parametrize("executed", [False, True])
def test_a_parametrized_weight_is_the_one_that_was_bounded(executed, as_gpu):
    torch.manual_seed(0)
    module = orthogonal().eval()
    nn.init.normal_(module[0].parametrizations.weight.original)
    plan, layer = make_plan(module, (6,)), module[0]
    nn.init.zeros_(layer.bias)
    step = plan.program.steps[0][0].linear if executed else plan.strict.steps[0][0].operation.linear
    assert step is layer
    with as_evaluated(module, plan.device):
        bounded = plan.linear_maps()[0].weight
    with torch.no_grad(), strict.SUMS if executed else strict.WEIGHTS:
        applied = layer(torch.eye(6)).T
    assert torch.equal(applied, bounded)
    assert not torch.equal(layer.weight, bounded)


def test_bounds_on_a_gpu_convolve_by_adding_products(as_gpu, monkeypatch):
    """cuDNN may choose FFT in float64, which the rounding terms of || |W| || know nothing of."""
    asked, convolved = [], []

    def counting(function):
        def call(x, *args, **kwargs):
            before = len(convolved)
            y = function(x, *args, **kwargs)
            asked.append(convolved[before:])
            return y

        return call

    def recording(x, *args):
        convolved.append(x.dtype)
        return wide_convolution(x, *args)

    monkeypatch.setitem(geometry._CONV, 2, counting(F.conv2d))
    monkeypatch.setitem(geometry._CONV_TRANSPOSE, 2, counting(F.conv_transpose2d))
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, 2, 1), MinMax(), nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Flatten(), nn.Linear(64, 3)
    net = GloRoNet(nn.Sequential(*layers), 0.1, (3, 8, 8)).eval().freeze()
    monkeypatch.setattr(strict, "wide_convolution", recording)
    asked.clear()
    norms = net.absolute_norms()
    assert asked
    assert asked == [[torch.float64]] * len(asked)
    asked.clear()
    monkeypatch.setattr(strict.WEIGHTS, "devices", ("cuda",))
    assert GloRoNet(net.module, 0.1, (3, 8, 8)).eval().freeze().absolute_norms() == norms
    assert asked == [[]] * len(asked)


CONVOLUTIONS = [
    ((2, 4, 9), (6, 2, 3), True, (2,), (1,), (1,), False, (0,), 2),
    ((2, 4, 9, 7), (6, 4, 3, 2), False, (2, 1), (1, 0), (1, 2), False, (0, 0), 1),
    ((2, 4, 5, 7), (4, 3, 3, 2), True, (2, 2), (1, 0), (1, 1), True, (1, 0), 2),
]


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions_are_that_of_pytorch(case, as_gpu):
    image, kernel, with_bias, *geometry = case
    torch.manual_seed(0)
    x, weight = torch.randn(image), torch.randn(kernel)
    bias = torch.randn(kernel[0] if not geometry[3] else kernel[1] * geometry[5]) if with_bias else None
    wanted = convolution_reference(x, weight, bias, *geometry)
    torch.testing.assert_close(strict_convolution(x, weight, bias, *geometry), wanted)
    exact = convolution_reference(*[None if t is None else t.double() for t in (x, weight, bias)], *geometry)
    assert torch.equal(wide_convolution(x, weight, bias, *geometry), exact.float())
    args = [None if t is None else t.double().requires_grad_() for t in (x, weight, bias)]
    op = torch.ops.gloro_fast.strict_convolution
    torch.library.opcheck(op.default, (*args, *(list(v) if isinstance(v, tuple) else v for v in geometry)))
    torch.autograd.gradcheck(lambda x, w: op(x, w, bias if bias is None else bias.double(), *geometry), args[:2])


@pytest.mark.parametrize(
    ("deterministic", "dilation", "output_padding", "wide"),
    [(False, 2, 0, False), (True, 1, 0, False), (True, 2, 0, True), (False, 2, 1, True)],
)
def test_what_pytorch_gives_to_cublas_is_convolved_in_float64(
    deterministic, dilation, output_padding, wide, as_gpu, monkeypatch
):
    monkeypatch.setattr(torch._C, "_get_cudnn_deterministic", lambda: deterministic)
    x, weight = torch.rand(1, 2, 6, 6), torch.rand(2, 2, 2, 2)
    dilations, extras = (dilation, dilation), (output_padding, 0)
    with Log() as log:
        strict_convolution(x, weight, None, (1, 1), (0, 0), dilations, output_padding > 0, extras, 1)
    assert ("aten._to_copy.default" in log.names) == wide
    assert not log.loose


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_nets_are_strict(backend, as_gpu):
    torch._dynamo.reset()
    shape = (1, 8, 8)
    torch.manual_seed(0)
    net = GloRoNet(architectures.build("2C2F", input_shape=shape, num_classes=4), 0.1, shape).eval().freeze("trivial")
    targets = []

    def recording(graph, inputs):
        from torch._dynamo.backends.registry import lookup_backend

        targets.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return lookup_backend(backend)(graph, inputs)

    compiled = torch.compile(net, backend=recording, fullgraph=True)
    x = torch.rand(3, *shape)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), net(x), rtol=1e-5, atol=1e-6)
    assert sum("strict_convolution" in target for target in targets) == 4
    assert not any("conv2d" in target or "linear" in target or "matmul" in target for target in targets)
    pixels = x.requires_grad_()
    mine, its = (torch.autograd.grad(run(pixels)[:, :4].square().sum(), pixels)[0] for run in (compiled, net))
    torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("strict_export", [False, True])
def test_exported_nets_are_strict(strict_export, as_gpu):
    shape = (1, 8, 8)
    net = GloRoNet(architectures.build("2C2F", input_shape=shape, num_classes=4), 0.1, shape).eval().freeze("trivial")
    x = torch.rand(3, *shape)
    program = torch.export.export(net, (x,), strict=strict_export)
    for exported in (program, program.run_decompositions()):
        traced = make_fx(exported.module(), tracing_mode="real")(x)
        names = [str(node.target) for node in traced.graph.nodes]
        assert sum("strict_convolution" in name for name in names) == 4
        assert not any("aten.convolution" in name or "mm." in name or "linear" in name for name in names)
        torch.testing.assert_close(exported.module()(x), net(x), rtol=1e-5, atol=1e-6)


MEETINGS = {}


# An operation, since what a forward reads is part of its graph.
@torch.library.custom_op("gloro_fast_tests::meet", mutates_args=())
def meet(x: torch.Tensor, name: str) -> torch.Tensor:
    MEETINGS.get(name, bool)()
    return x.clone()


meet.register_fake(lambda x, name: torch.empty_like(x))
meet.register_autograd(lambda ctx, grad: (grad, None))


class Waits(nn.Module):
    """Lets the test look around while the net is evaluated."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, x):
        return torch.ops.gloro_fast_tests.meet(x, self.name)


@register_lipschitz_rule(Waits)
def _waits(module, input_shape):
    return LipschitzConstant(1.0)


def settings():
    return (
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic, torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.conv.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision,
        torch.get_float32_matmul_precision(),
    )  # fmt: skip


def waiting_net(name=""):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), Waits(name), MinMax(), nn.Flatten(), nn.Linear(8, 2))
    return GloRoNet(module, 0.1, (1, 4, 4)).eval()


@pytest.mark.parametrize("executed", [False, True])
def test_settings_are_as_they_were_in_and_after_certify_and_an_exception_in_it(executed, as_gpu, monkeypatch):
    before, seen, failing = settings(), [], threading.Event()

    def look():
        seen.append(settings())
        if failing.is_set():
            raise RuntimeError("from within")

    monkeypatch.setitem(MEETINGS, "looks", look)
    net, x = waiting_net("looks"), torch.rand(3, 1, 4, 4)
    if executed:
        # Of a user's layer it is not known how it rounds.
        monkeypatch.setattr(sys.modules["gloro_fast.net.bounded_net"], "sums_of_products", lambda *_: strict.SUMS)
        monkeypatch.setattr(type(net), "_executed_net", lambda *_: NoRounding())
    wanted = net.certify(x, executed=executed).logits
    failing.set()
    with pytest.raises(RuntimeError, match="from within"):
        net.certify(x, executed=executed)
    assert settings() == before
    assert torch._C._len_torch_function_stack() == 0
    assert torch.utils._python_dispatch._len_torch_dispatch_stack() == 0
    assert set(seen) == {before}
    failing.clear()
    assert torch.equal(net.certify(x, executed=executed).logits, wanted)


class NoRounding:
    def radii(self, x, logits, classes):
        return torch.ones(classes.shape, dtype=torch.float64)


def test_threads_that_certify_and_train_do_not_see_each_other(as_gpu, monkeypatch):
    """One evaluates while another enters certify, is within it, and leaves it, and a third trains by its switches."""
    signing, other, trained = waiting_net(), waiting_net("stays"), waiting_net().train()
    x, y = torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 0])
    wanted = signing.certify(x).logits
    other.certify(x)
    inside, leave = threading.Event(), threading.Event()
    failures, rounds = [], 20

    def stay():
        inside.set()
        assert leave.wait(20)

    monkeypatch.setitem(MEETINGS, "stays", stay)

    def guarded(work):
        def run():
            try:
                work()
            except BaseException as error:
                failures.append(error)

        return threading.Thread(target=run)

    def certify():
        for _ in range(rounds):
            with Log() as log:
                found = signing.certify(x)
            assert torch.equal(found.logits, wanted)
            assert not log.loose
            assert "aten._convolution.default" in log.names

    def train():
        for _ in range(rounds):
            with Log() as log:
                trained(x, y, CrossEntropyLoss()).backward()
            assert "aten.convolution.default" in log.loose
            assert not any("aten._convolution" in name for name in log.names)

    staying = guarded(lambda: other.certify(x))
    staying.start()
    assert inside.wait(20)
    threads = [guarded(certify), guarded(train)]
    for thread in threads:
        thread.start()
    threads[0].join(5)
    leave.set()
    for thread in (*threads, staying):
        thread.join(30)
    assert not failures


def test_steps_that_do_not_multiply_are_called_as_they_are():
    net = waiting_net()
    kinds = [step.known if isinstance(step, Strictly) else None for step, *_ in net._plan.strict.steps]
    # The user's layer might multiply.
    assert kinds == [True, False, None, True]


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_gpu
@pytest.mark.parametrize("name", ["2C2F", "6C2F"])
@pytest.mark.parametrize("compiled", [False, True])
def test_signed_logits_on_a_gpu_are_those_of_float64(name, compiled):
    shape = (1, 28, 28) if name == "2C2F" else (3, 32, 32)
    torch.manual_seed(0)
    net = GloRoNet(architectures.build(name, input_shape=shape, num_classes=10), 0.1, shape).cuda().eval().freeze()
    x = torch.rand(200, *shape, device="cuda")
    exact = copy.deepcopy(net.module).double()(x.double()).detach()
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with torch.no_grad():
            certified = net.certify(x).logits
            evaluated = (torch.compile(net) if compiled else net)(x)[:, :-1]
            executed = net.certify(x[:8], executed=True)
            loose = net._plan.run(x)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    largest = exact.abs().max()
    for logits in (certified, evaluated):
        assert (logits - exact).abs().max() <= 3e-6 * largest
    assert (executed.logits - exact[:8]).abs().max() <= 1e-6 * largest
    assert (executed.radius <= executed.real_radius).all()
    if torch.cuda.get_device_capability() >= (8, 0):
        assert (loose - exact).abs().max() > 3e-6 * largest
