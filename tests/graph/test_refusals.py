"""What cannot be bounded is refused in one line: where, what, and what to do instead. Word by word."""

import operator

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.errors import ArchitectureError, ConfigError, UnknownLayerError

SHAPE = (2, 4, 4)


class Model(nn.Module):
    """Something, ``body``, before a dense head; or a whole ``forward`` of its own."""

    def __init__(self, body, whole=False, **layers):
        super().__init__()
        self.body, self.whole = body, whole
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.fc = nn.Linear(32, 3)

    def forward(self, x):
        y = self.body(self, x)
        return y if self.whole else self.fc(y.flatten(1))


class Gate(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Erase(nn.Module):
    def forward(self, x):
        x[:, 0] = 0
        return x


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return torch.softmax(self.query(x) @ self.key(x).transpose(-1, -2), -1) @ x


class ClipInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.clamp_(0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def compiled(module):
    module.compile()
    return module


REGISTER = "use a layer with a rule, or register one with @gloro_fast.nn.register_lipschitz_function"
REFUSED = {
    "BatchNorm without statistics": (
        Model(lambda m, x: m.bn(x), bn=nn.BatchNorm2d(2, track_running_stats=False)),
        "bn: BatchNorm2d without running statistics mixes the images of a batch also in evaluation; "
        "set track_running_stats=True",
    ),
    "LayerNorm": (
        Model(lambda m, x: m.block(x), block=nn.Sequential(nn.LayerNorm(4))),
        "block.0 is a LayerNorm, whose slope grows without limit as its input becomes constant (only its eps limits "
        "it); replace it by BatchNorm, or by nothing",
    ),
    "layer_norm": (
        Model(lambda m, x: F.layer_norm(x, (4,))),
        "layer_norm() is a function whose slope grows without limit as its input becomes constant; replace it by "
        "BatchNorm, or by nothing",
    ),
    "attention, by hand": (
        Model(lambda m, x: m.block(x), block=Attention()),
        "block.matmul() is a function that multiplies its inputs by each other and has no Lipschitz constant; replace "
        "it by a layer with a rule",
    ),
    "attention": (
        Model(lambda m, x: m.attention(x, x, x)[0], attention=nn.MultiheadAttention(4, 1)),
        "attention is a MultiheadAttention, which multiplies its inputs by each other and has no Lipschitz constant; "
        "replace it by convolutions or dense layers",
    ),
    "control flow by values": (
        Model(lambda m, x: m.block(x), block=Gate()),
        "block (Gate) decides by the values of a tensor, which no graph can hold; compute without if and while on "
        "tensors, or register a rule for it",
    ),
    "a loop over images": (
        Model(lambda m, x: torch.stack([image.relu() for image in x])),
        "unbind() mixes the images of a batch; leave dimension 0 alone",
    ),
    "in-place function of a user": (
        Model(lambda m, x: ClipInPlace.apply(x)),
        "the module (Model) calls ClipInPlace, a torch.autograd.Function, which no graph can hold; call it in a layer "
        "of its own and register a rule with @gloro_fast.nn.register_lipschitz_rule",
    ),
    "assignment into a tensor": (
        Model(lambda m, x: m.block(x), block=Erase()),
        "block (Erase) writes into a tensor; compute a new one with torch.cat, or register a rule for it",
    ),
    "two outputs": (
        Model(lambda m, x: (m.fc(x.flatten(1)), x), whole=True),
        "the module returns a tuple of 2; a GloRo net needs one tensor, the logits (B, m)",
    ),
    "no output": (
        Model(lambda m, x: m.fc.weight, whole=True),
        "the module returns what does not depend on its input; return the logits (B, m)",
    ),
    "overwritten before it is read": (
        Model(lambda m, x: (lambda y: y[:, :1] + F.relu(y, inplace=True))(m.conv(x)), conv=nn.Conv2d(2, 2, 1)),
        "relu_() writes over slice(), which add() reads afterwards; set inplace=False, or compute a new tensor",
    ),
    "overwritten images": (
        Model(lambda m, x: m.act(x), act=nn.ReLU(inplace=True)),
        "act writes over the images that the net is given; set inplace=False, or compute a new tensor",
    ),
    "statistics of the batch": (
        Model(lambda m, x: x - x.mean(0, keepdim=True)),
        "mean() mixes the images of a batch; leave dimension 0 alone",
    ),
    "overwritten images, augmented": (
        Model(lambda m, x: operator.iadd(x, 1)),
        "add_() writes over the images that the net is given; set inplace=False, or compute a new tensor",
    ),
    "a pruned layer": (
        Model(lambda m, x: m.conv(x), conv=nn.utils.prune.random_unstructured(nn.Conv2d(2, 2, 1), "weight", 1)),
        "conv (Conv2d) computes its weight in a hook that prunes it; make that permanent with "
        "torch.nn.utils.prune.remove(module, 'weight')",
    ),
    "a layer without weights yet": (
        Model(lambda m, x: m.block(x), block=nn.Sequential(nn.LazyConv2d(2, 1))),
        "block.0 (LazyConv2d) has no weights yet; run one batch through the model first",
    ),
    "a compiled module": (
        torch.compile(Model(lambda m, x: x)),
        "the module (OptimizedModule) is compiled; pass the module as it was before, and compile the GloRoNet",
    ),
    "a module that was compiled in place": (
        Model(lambda m, x: m.block(x), block=compiled(nn.Sequential(nn.ReLU()))),
        "block (Sequential) is compiled; pass the module as it was before, and compile the GloRoNet",
    ),
    "pooling with more padding than kernel": (
        Model(lambda m, x: m.pool(x), pool=nn.AvgPool2d(2, padding=2, count_include_pad=False)),
        "pool (AvgPool2d) does not take its input of shape (2, 4, 4); check input_shape and what comes before it: pad "
        "should be at most half of effective kernel size, but got pad=2, kernel_size=2 and dilation=1",
    ),
    "average pooling without a stride": (
        Model(lambda m, x: m.pool(x), pool=nn.AvgPool2d(2, stride=0)),
        "pool (AvgPool2d) does not take its input of shape (2, 4, 4); check input_shape and what comes before it: "
        "stride should not be zero",
    ),
    "max pooling without a stride": (
        Model(lambda m, x: m.pool(x), pool=nn.MaxPool2d(2, stride=0)),
        "pool (MaxPool2d) does not take its input of shape (2, 4, 4); check input_shape and what comes before it: "
        "stride should not be zero",
    ),
    "a number beyond all floats": (
        Model(lambda m, x: x * 10**400),
        "the module (Model) fails; check input_shape and what comes before it: int too big to convert",
    ),
    "the largest along a dimension": (
        Model(lambda m, x: x + x.max()),
        "max() mixes the images of a batch; leave dimension 0 alone",
    ),
    "control flow by the number of images": (
        Model(lambda m, x: x if x.shape[0] > 3 else -x),
        "the module (Model) decides by the number of images, which no graph can hold; compute the same for every batch",
    ),
    "values as numbers": (
        Model(lambda m, x: x * m.fc.bias[0].item()),
        "the module (Model) reads the values of a tensor by item(), which no graph can hold; compute with the tensor",
    ),
    "the type itself": (
        Model(lambda m, x: x * 2 if type(x) is torch.Tensor else x),
        "the graph of the module computes something else than the module for 1 images, first before or at fc: its "
        "forward asks for something that a batch without values answers otherwise, such as type(x) or the number of "
        "images; write it without, or register a rule",
    ),
    "the type of a size": (
        Model(lambda m, x: x * 2 if isinstance(x.shape[0], int) else x),
        "the graph of the module computes something else than the module for 1 images, first before or at fc: its "
        "forward asks for something that a batch without values answers otherwise, such as type(x) or the number of "
        "images; write it without, or register a rule",
    ),
    "inference mode": (
        Model(lambda m, x: torch.inference_mode()(torch.relu)(x)),
        "the module (Model) enters torch.inference_mode, which no graph can hold; use torch.no_grad",
    ),
    "a matrix from the left": (
        Model(lambda m, x: m.left.weight @ x, left=nn.Linear(4, 4)),
        "matmul() is no product x @ weight with a matrix of parameters; use that, or F.linear(x, weight)",
    ),
    "another image": (Model(lambda m, x: x.flip(0)), "flip() mixes the images of a batch; leave dimension 0 alone"),
    "more images": (
        Model(lambda m, x: x.view(x.shape[0] * 2, 1, 4, 4)),
        "fc (Linear) gets 2*B images of a batch of B; leave the batch as it is",
    ),
    "the number of images": (
        Model(lambda m, x: x * x.shape[0]),
        "mul() scales by a number that has no limit as the number of images grows; leave the batch out of it",
    ),
    "a product": (
        Model(lambda m, x: x * torch.sigmoid(x)),
        "mul() multiplies or divides two tensors of the network, which has no Lipschitz constant; register a rule for "
        "a layer that does it on bounded values",
    ),
    "an unknown function": (
        Model(lambda m, x: torch.exp(x)),
        f"exp() is a function whose Lipschitz constant is unknown with these arguments; {REGISTER}",
    ),
    "a repeated pixel": (
        Model(lambda m, x: x[:, [0, 0]]),
        f"index() is a function whose Lipschitz constant is unknown with these arguments; {REGISTER}",
    ),
    "random numbers": (
        Model(lambda m, x: x + torch.randn(1, 2, 4, 4)),
        "the module draws random numbers in its forward; use nn.Dropout or none at all",
    ),
    "dropout that is always on": (
        Model(lambda m, x: F.dropout(x, 0.5)),
        "dropout() drops at random in evaluation too; pass training=self.training",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_in_these_words(case):
    module, words = REFUSED[case]
    with pytest.raises((ArchitectureError, UnknownLayerError)) as caught:
        GloRoNet(module, 0.1, SHAPE)
    assert str(caught.value) == words


@pytest.mark.parametrize("module", [None, "2C2F"])
def test_what_is_no_module_is_refused(module):
    with pytest.raises(ConfigError) as caught:
        GloRoNet(module, 0.1, SHAPE)
    assert str(caught.value) == f"the module is {module!r}; give an nn.Module from images to logits"


def test_random_numbers_drawn_while_tracing_are_not_missed_by_the_generator():
    module, _ = REFUSED["random numbers"]
    before = torch.get_rng_state()
    with pytest.raises(ArchitectureError):
        GloRoNet(module, 0.1, SHAPE)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_parameter_is_not_written_over_while_it_is_tried():
    module = Model(lambda m, x: x * m.fc.weight.mul_(2).sum())
    before = module.fc.weight.detach().clone()
    with pytest.raises(ArchitectureError, match="a leaf Variable that requires grad is being used in an in-place"):
        GloRoNet(module, 0.1, SHAPE)
    assert torch.equal(module.fc.weight, before)
    module = Model(lambda m, x: x * m.fc.bias.detach().mul_(2).sum())
    before = module.fc.bias.detach().clone()
    with pytest.raises(ArchitectureError, match=r"mul_\(\) writes over detach\(\); compute a new tensor instead"):
        GloRoNet(module, 0.1, SHAPE)
    assert torch.equal(module.fc.bias, before)


def looking(seen):
    return lambda module, *values: seen.append(values)


PLACES = ["block", "block.0", "fc"]


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("place", PLACES)
def test_forward_hooks_that_look_have_no_part_in_a_net(register, place):
    module = Model(lambda m, x: m.block(x), block=nn.Sequential(nn.ReLU()))
    net = GloRoNet(module, 0.1, SHAPE)
    x, seen = torch.rand(3, *SHAPE), []
    wanted = net.eval().freeze()(x)
    handle = getattr(module.get_submodule(place), register)(looking(seen))
    assert torch.equal(net(x), wanted)
    assert net.certify(x).radius.isfinite().all()
    seen.clear()
    net(x)
    assert not seen
    net.module(x)
    assert len(seen) == 1
    handle.remove()
    assert torch.equal(net(x), wanted)


@pytest.mark.parametrize("place", PLACES)
def test_forward_hooks_that_change_values_are_refused(place):
    module = Model(lambda m, x: m.block(x), block=nn.Sequential(nn.ReLU()))
    net = GloRoNet(module, 0.1, SHAPE).eval()
    x = torch.rand(3, *SHAPE)
    net.certify(x)
    hooked = module.get_submodule(place)
    hooked.register_forward_hook(lambda layer, given, result: 2 * result)
    words = (
        f"{place} ({type(hooked).__name__}) has a forward hook that changes values, and a net calls no hooks; remove it"
    )
    for call in (lambda: GloRoNet(module, 0.1, SHAPE), lambda: net(x), lambda: net.certify(x), lambda: net.train()(x)):
        with pytest.raises(ArchitectureError) as caught:
            call()
        assert str(caught.value) == words


def test_a_hook_that_begins_to_change_values_changes_no_certificate():
    module, gain = Model(lambda m, x: m.act(x), act=nn.ReLU()), [None]
    module.act.register_forward_hook(lambda layer, given, result: None if gain[0] is None else gain[0] * result)
    net = GloRoNet(module, 0.1, SHAPE).eval()
    x = torch.rand(3, *SHAPE)
    before = net.certify(x)
    gain[0] = 100.0
    assert torch.equal(net.certify(x).logits, before.logits)
    assert not torch.allclose(net.module(x), before.logits)


@pytest.mark.parametrize(("value", "fails"), [(None, False), (0.0, True)])
def test_a_hook_on_all_modules_may_look_alone(value, fails):
    module = Model(lambda m, x: x.relu())
    handle = nn.modules.module.register_module_forward_hook(
        lambda layer, given, result: None if value is None else result * value
    )
    try:
        if fails:
            with pytest.raises(ArchitectureError, match=r"^all modules have a forward hook that changes values"):
                GloRoNet(module, 0.1, SHAPE)
        else:
            net = GloRoNet(module, 0.1, SHAPE).eval()
            net.certify(torch.rand(3, *SHAPE))
    finally:
        handle.remove()


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm:FutureWarning")
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_a_weight_that_a_hook_computes_is_refused(norm):
    with pytest.raises(ArchitectureError) as caught:
        GloRoNet(nn.Sequential(nn.Flatten(), norm(nn.Linear(32, 3))), 0.1, SHAPE)
    assert str(caught.value) == (
        "1 (Linear) computes its weight in a hook; use the function of that name in torch.nn.utils.parametrizations"
    )


def test_hooks_on_the_net_and_backward_hooks_are_let_through():
    module, seen = Model(lambda m, x: m.act(x), act=nn.ReLU()), []
    module.fc.register_full_backward_hook(looking(seen))
    net = GloRoNet(module, 0.1, SHAPE)
    net.register_forward_hook(looking(seen))
    net(torch.rand(3, *SHAPE)).sum().backward()
    assert len(seen) == 2


def test_a_padding_wider_than_the_image_is_one_line():
    conv = nn.Conv2d(2, 2, 3, padding=4, padding_mode="reflect")
    with pytest.raises(ArchitectureError) as caught:
        GloRoNet(Model(lambda m, x: m.conv(x), conv=conv), 0.1, SHAPE)
    start = "conv (Conv2d) does not take its input of shape (2, 4, 4); check input_shape and what comes before it: "
    assert str(caught.value).startswith(start)
    assert "\n" not in str(caught.value)
