"""Random modules against GloRo nets made of them: the same logits, no slope above the bound, no change unseen.

``python -m tests.graph.fuzz_modules --count 300 --seed 0`` tries random modules; ``--alone`` tries every piece by
itself. What a net refuses is counted, with the message; what it accepts must be right.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import sys
import time
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # Both as a module of tests.graph and from pytest.

import torch
from module_pieces import PIECES
from random_modules import Case, case_of, random_case
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.errors import GloroFastError

BATCHES = (1, 2, 3, 5, 8, 17)
EPSILON = 0.1
DISTANCES = (1e-3, 1e-2, 1e-1, 1.0, 4.0)
# What float32 rounds in logits, relatively to the largest.
SAME = 1e-4
ROUNDING = 4e-6
# What steps of bfloat16 add, relatively to the largest logit, and more where they are multiplied later.
ROUNDING_OF_BFLOAT16 = 0.05
SLACK = 1e-4


@dataclass
class Outcome:
    """What came of one case.

    Attributes:
        case: the module.
        refusal: the message with which a net was refused, or empty.
        wrong: what an accepted net did wrong, a line each.
        reached: the largest share of a bound that was found.
        changes: how each change was met: "followed" or the error's type.
    """

    case: Case
    refusal: str = ""
    wrong: list[str] = field(default_factory=list)
    reached: float = 0.0
    changes: list[str] = field(default_factory=list)


class WrongError(Exception):
    """A net does something else than its module."""


def examine(case: Case) -> Outcome:
    """Make a GloRo net of the module of a case, and try it."""
    outcome = Outcome(case)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            net = GloRoNet(case.module, EPSILON, case.shape)
        except GloroFastError as error:
            outcome.refusal = str(error)
            return outcome
        except Exception as error:  # Whatever is no error of the package is a fault of it.
            outcome.wrong.append(f"construction raises {_shown(error)}")
            return outcome
        for check in (check_logits, check_slopes, check_training, check_traces, check_changes):
            try:
                check(net, case, outcome)
            except WrongError as error:
                outcome.wrong.append(f"{check.__name__}: {error}")
            except GloroFastError as error:
                outcome.refusal = str(error)
                return outcome
            except Exception as error:
                outcome.wrong.append(f"{check.__name__} raises {_shown(error)}")
    return outcome


def class_logits(net, x):
    """Return what the net executes, but for bottom."""
    return net(x)[:, :-1]


def images(case, count):
    """Return images, positive ones for positive weights."""
    x = torch.randn(count, *case.shape)
    return x.abs() if case.positive else x


def check_logits(net, case, outcome):
    """The class logits are the module's on batches of every size in evaluation, without gradients and with."""
    net.eval()
    for count in BATCHES:
        x = images(case, count)
        for context in (torch.no_grad(), torch.enable_grad()):
            with context:
                compare(net, x, f"on {count} images")


def compare(net, x, where):
    """Raise unless both give the same; errors of both are the same."""
    try:
        expected = net.module(x.clone())
    except Exception:  # The module does not take such a batch.
        return
    found = class_logits(net, x.clone())
    if found.shape != expected.shape:
        raise WrongError(f"shape {tuple(found.shape)} instead of {tuple(expected.shape)} {where}")
    if not expected.isfinite().all():
        return
    error = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-3)
    if not error <= SAME:
        raise WrongError(f"logits differ by {float(error):.1e} {where}")


def check_slopes(net, case, outcome):
    """No pair of images, and no gradient, exceeds what the net claims of differences of logits."""
    net.eval()
    bounds = (net.lipschitz * net.difference_bounds).float()
    points = torch.cat([images(case, 8), images(case, 8) * 0.1, images(case, 4) * 5])
    directions = [images(case, len(points)) for _ in range(2)]
    for x, gradients in climb(net, points):
        for (i, j), gradient in gradients.items():
            steep = gradient.flatten(1).norm(dim=1)
            _claim(outcome, case, steep.max(), bounds[i, j], 0.0, f"a gradient of f_{j} - f_{i}")
            directions.append(gradient / steep.clamp_min(1e-12).view(-1, *[1] * (x.ndim - 1)))
        points = x
    # A call of a net costs far more than an image: all distances in one, and what is made of the batch size, which has
    # other slopes in other batches, in one size for each direction.
    for direction, count in zip(directions, itertools.cycle((1, 3, 60))):
        norms = direction.flatten(1).norm(dim=1).clamp_min(1e-6).view(-1, *[1] * (points.ndim - 1))
        step = direction / norms
        moved = torch.cat([points + distance * step for distance in (0.0, *DISTANCES)])
        check_moves(net, case, outcome, bounds, moved, len(points))
        x, step = (tensor.repeat(3, *[1] * len(case.shape))[:count] for tensor in (points, step))
        check_pairs(net, case, outcome, bounds, x, x + step)
    check_pairs(net, case, outcome, bounds, points, points.flip(0).roll(1, 0))


def climb(net, x, steps=3):
    """Yield points with the gradients of all differences at them, and go where the slopes are."""
    for _ in range(steps):
        x = x.detach().requires_grad_()
        try:
            gradients = _gradients(lambda x: class_logits(net, x), x)
        except RuntimeError:
            # A module may write over what autograd needs, and have no gradients itself.
            if _has_gradients(net.module, x):
                raise
            gradients = {}
        yield x.detach(), gradients
        if gradients:
            x = x.detach() + 0.5 * next(iter(gradients.values())).sign() * x.detach().abs().mean()


def _gradients(function, x):
    logits = function(x.clone())
    found = {}
    for i in range(logits.shape[1]):
        for j in range(i):
            difference = (logits[:, i] - logits[:, j]).sum()
            if not difference.requires_grad:
                continue
            (gradient,) = torch.autograd.grad(difference, x, retain_graph=True, allow_unused=True)
            if gradient is not None:
                found[j, i] = gradient.detach()
    return found


def _has_gradients(module, x):
    try:
        _gradients(module, x)
    except RuntimeError:
        return False
    return True


def check_moves(net, case, outcome, bounds, x, count):
    """The first ``count`` images of a batch against each further ``count`` of it, as ``check_pairs``."""
    with torch.no_grad():
        logits = class_logits(net, x.clone())
    for start in range(count, len(x), count):
        _compare_moves(
            case, outcome, bounds, x[start : start + count] - x[:count], logits[:count], logits[start:][:count]
        )


def check_pairs(net, case, outcome, bounds, x, y):
    """The differences of logits of two batches are within the bounds times their distances."""
    with torch.no_grad():
        first, second = class_logits(net, x.clone()), class_logits(net, y.clone())
    _compare_moves(case, outcome, bounds, y - x, first, second)


def _compare_moves(case, outcome, bounds, step, first, second):
    if not (first.isfinite().all() and second.isfinite().all()):
        return
    size = torch.maximum(first.abs().amax(), second.abs().amax())
    slack = size * (ROUNDING_OF_BFLOAT16 if case.rounds else ROUNDING)
    moved = second - first
    distance = step.flatten(1).norm(dim=1)
    for i in range(moved.shape[1]):
        for j in range(i):
            change = (moved[:, i] - moved[:, j]).abs()
            worst = int((change - bounds[j, i] * distance).argmax())
            _claim(outcome, case, change[worst], bounds[j, i] * distance[worst], slack, f"f_{i} - f_{j} of two images")


def _claim(outcome, case, found, bound, slack, what):
    if not found <= bound * (1 + SLACK) + slack:
        raise WrongError(f"{what} is {float(found / bound):.4g} times the bound")
    if found > 100 * slack and bound > 0:
        outcome.reached = max(outcome.reached, float(found / bound))


def check_training(net, case, outcome):
    """In training mode the class logits and the buffers afterwards are the module's, drawn from the same seed."""
    if not all(piece.repeats for piece in case.pieces):
        return
    net.train()
    module = net.module
    try:
        # The first call in a mode may look at the module anew, and draw random numbers for that.
        before = {name: value.clone() for name, value in module.named_buffers()}
        if not _runs(module, images(case, 4)):
            _put_back(module, before)
            return
        class_logits(net, images(case, 4))
        _put_back(module, before)
        for count in (2, 5, 3):
            x = images(case, count)
            before = {name: value.clone() for name, value in module.named_buffers()}
            try:
                torch.manual_seed(count)
                expected = module(x.clone())
            except Exception:
                _put_back(module, before)
                continue
            after = {name: value.clone() for name, value in module.named_buffers()}
            _put_back(module, before)
            torch.manual_seed(count)
            found = class_logits(net, x.clone())
            error = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-3)
            if expected.isfinite().all() and not error <= SAME:
                raise WrongError(f"logits differ by {float(error):.1e} on {count} images")
            for name, value in module.named_buffers():
                # Every use of a weight that spectral_norm makes is a power iteration on its vectors.
                if "parametrizations" in name or name not in after:
                    continue
                if not torch.allclose(value.float(), after[name].float(), rtol=1e-4, atol=1e-5):
                    raise WrongError(f"the buffer {name} is another after a step")
    finally:
        net.eval()


def _put_back(module, buffers):
    for name, value in module.named_buffers():
        if name in buffers:
            value.data.copy_(buffers[name])


def check_traces(net, case, outcome):
    """What the module keeps is real: it runs by itself, and holds no tensor of a capture."""
    for name, module in net.module.named_modules():
        for key, value in vars(module).items():
            for tensor in _tensors(value):
                if type(tensor) not in (torch.Tensor, nn.Parameter, nn.Buffer):
                    raise WrongError(f"{name}.{key} is left with a {type(tensor).__name__}")
    with torch.no_grad():
        net.module.eval()(images(case, 2))


def _runs(module, x):
    """Return whether the module itself takes images in its mode: some write over a view made without gradients."""
    try:
        module(x)
    except Exception:
        return False
    return True


def _tensors(value):
    if isinstance(value, torch.Tensor) or type(value).__name__ in ("Proxy", "FakeTensor"):
        yield value
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def check_changes(net, case, outcome):
    """After a change that the forward reads a net follows its module or raises; a frozen one raises."""
    for mutate in case.mutations:
        kind = type(mutate.__self__).__name__ if hasattr(mutate, "__self__") else "a closure"
        for mode in ("eval", "train"):
            net.unfreeze().train(mode == "train")
            x = images(case, 4)
            class_logits(net, x.clone())
            with _mutated(mutate):
                try:
                    _compare_now(net, x, f"after a change of {kind} in {mode}()", seed=1)
                    if mode == "eval":
                        check_slopes(net, case, outcome)
                    outcome.changes.append("followed")
                except GloroFastError as error:
                    outcome.changes.append(type(error).__name__)
            net.eval()
            _compare_now(net, x, f"after a change of {kind} was undone", seed=1)
        net.eval()
        try:
            net.freeze("torus")
        except GloroFastError as error:
            outcome.changes.append(f"not frozen: {type(error).__name__}")
            continue
        _compare_now(net, x, "frozen", seed=1)
        before = net.module(x.clone())
        with _mutated(mutate):
            if torch.equal(before, net.module(x.clone())):
                continue  # Nothing that evaluation reads.
            for name, use in (("goes on", class_logits), ("certifies", GloRoNet.certify)):
                try:
                    use(net, x.clone())
                except GloroFastError as error:
                    outcome.changes.append(f"frozen: {type(error).__name__}")
                else:
                    raise WrongError(f"a frozen net {name} after a change of {kind}")


def _compare_now(net, x, where, seed):
    torch.manual_seed(seed)
    buffers = {name: value.clone() for name, value in net.module.named_buffers()}
    expected = net.module(x.clone())
    _put_back(net.module, buffers)
    torch.manual_seed(seed)
    found = class_logits(net, x.clone())
    error = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-3)
    if expected.isfinite().all() and not error <= SAME:
        raise WrongError(f"logits differ by {float(error):.1e} {where}")


@contextmanager
def _mutated(mutate):
    with ExitStack() as stack:
        with torch.no_grad():
            stack.callback(mutate())
        yield


def _shown(error):
    line = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {line}"


def main(arguments: list[str] | None = None) -> int:
    """Try modules, print what came of them, and give 1 if any was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="random modules to try")
    parser.add_argument("--seed", type=int, default=0, help="the number of the first")
    parser.add_argument("--alone", action="store_true", help="try every piece by itself instead, COUNT seeds of each")
    parser.add_argument("--only", default="", help="with --alone: pieces whose group or name contains this")
    parser.add_argument("--verbose", action="store_true", help="print a line for each")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    start = time.perf_counter()
    outcomes = []
    seeds = range(options.seed, options.seed + options.count)
    if options.alone:
        chosen = [piece for piece in PIECES.values() if options.only in f"{piece.group}: {piece.name}"]
        cases = ((f"{piece.name}, seed {s}", case_of, (piece.name, s)) for piece in chosen for s in seeds)
    else:
        cases = ((f"seed {s}", random_case, (s,)) for s in seeds)
    for name, make, given in cases:
        outcome = examine(make(*given))
        outcomes.append((name, outcome))
        if options.verbose or outcome.wrong:
            print(_line(name, outcome), flush=True)
    report([outcome for _, outcome in outcomes], time.perf_counter() - start)
    return int(any(outcome.wrong for _, outcome in outcomes))


def _line(name, outcome):
    pieces = "; ".join(outcome.case.features)
    if outcome.wrong:
        return f"WRONG {name} [{pieces}]: {' | '.join(outcome.wrong)}"
    if outcome.refusal:
        return f"refused{' (legal)' if outcome.case.legal else ''} {name} [{pieces}]: {outcome.refusal[:80]}"
    return f"accepted {name} [{pieces}]: {outcome.reached:.2f} of a bound {' '.join(outcome.changes)}"


def report(outcomes: list[Outcome], seconds: float) -> None:
    """Print counts by feature and by message."""
    table = collections.defaultdict(lambda: [0, 0, 0, 0])
    messages = collections.Counter()
    for outcome in outcomes:
        column = 3 if outcome.wrong else 0 if not outcome.refusal else 1 if outcome.case.legal else 2
        for feature in {*outcome.case.features, *(f.partition(":")[0] for f in outcome.case.features)}:
            table[feature][column] += 1
        if outcome.refusal and not outcome.wrong:
            messages["legal" if outcome.case.legal else "other", outcome.refusal[:80]] += 1
    print(f"\n{'accepted':>9} {'refused':>8} {'(legal)':>8} {'wrong':>6}  feature")
    for feature, (accepted, legal, other, wrong) in sorted(table.items()):
        print(f"{accepted:9} {legal + other:8} {legal:8} {wrong:6}  {'  ' * (':' in feature)}{feature}")
    print("\nrefused though legal:")
    for (kind, message), count in messages.most_common():
        if kind == "legal":
            print(f"{count:5}  {message}")
    print("\nrefused otherwise:")
    for (kind, message), count in messages.most_common():
        if kind == "other":
            print(f"{count:5}  {message}")
    total, accepted = len(outcomes), [o for o in outcomes if not o.refusal and not o.wrong]
    legal = sum(bool(o.refusal) and not o.wrong and o.case.legal for o in outcomes)
    refused = sum(bool(o.refusal) and not o.wrong for o in outcomes)
    wrong = sum(bool(o.wrong) for o in outcomes)
    near = sum(o.reached > 0.5 for o in accepted)
    print(
        f"\n{total} modules in {seconds:.0f} s: {len(accepted)} accepted ({near} of them reached half of a bound), "
        f"{refused} refused ({legal} of them legal), {wrong} wrong"
    )


if __name__ == "__main__":
    sys.exit(main())
