"""From float layers to exact ones: how far the integers may be from the floats, and what has no exact form."""

import pytest
import torch
from torch import Tensor, nn

from vqcodec.codec.exact import ExactConv2d, ExactLinear, Offset, Residual, oracle, to_exact
from vqcodec.codec.exact.export import fold_batch_norm

BITS = 10


def randomised(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> nn.BatchNorm1d | nn.BatchNorm2d:
    """In evaluation mode, with statistics that are not those it started with."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.1, 4)
    return norm.double().eval()


def integers(*shape: int) -> Tensor:
    """Activations of about +-4 in float64 integers."""
    return torch.randn(*shape, dtype=torch.float64).mul(2**BITS).round()


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("bias", [True, False])
def test_exact_layers_stay_within_their_rounding(scale: float, bias: bool) -> None:
    torch.manual_seed(0)
    for layer, x in (
        (nn.Linear(40, 6, bias), integers(50, 40)),
        (nn.Conv2d(4, 6, 3, 2, 1, bias=bias), integers(5, 4, 8, 8)),
    ):
        layer = layer.double()
        layer.weight.data.mul_(scale)
        exact = to_exact(layer, BITS)
        assert isinstance(exact, ExactLinear | ExactConv2d)
        with torch.no_grad():
            wanted = layer(x / 2**BITS) * 2**BITS
            # Each weight is off by at most 2**-(shift + 1), so is the bias, and the sum is rounded to within 1/2; the
            # float64 reference itself is off by less than 2**-30 of values below 2**20.
            magnitudes = nn.Conv2d(4, 6, 3, 2, 1, bias=False) if x.ndim == 4 else nn.Linear(40, 6, False)
            nn.init.ones_(magnitudes.weight)
            bound = 0.5 + (magnitudes.double()(x.abs()) + 1) * 2.0 ** -(int(exact.shift) + 1) + 1e-6
            inside = wanted.abs() < 32767
            assert inside.double().mean() > 0.5
            assert ((exact(x) - wanted).abs() <= bound)[inside].all()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_folded_batch_norm_is_the_same_function(affine: bool, bias: bool) -> None:
    torch.manual_seed(1)
    for layer, norm, x in (
        (nn.Linear(30, 5, bias), nn.BatchNorm1d(5, affine=affine), torch.randn(20, 30).double()),
        (nn.Conv2d(3, 5, 3, padding=1, bias=bias), nn.BatchNorm2d(5, affine=affine), torch.randn(4, 3, 6, 6).double()),
    ):
        if affine:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        layer, norm = layer.double(), randomised(norm)
        folded = fold_batch_norm(layer, norm)
        with torch.no_grad():
            # At most 30 products and 6 further roundings of 2**-53 each, on terms below 2**8 in magnitude.
            assert (folded(x) - norm(layer(x))).abs().max() < 40 * 2.0**-53 * 2**8
    assert folded.bias is not None


def test_sequential_drops_dropout_and_folds_batch_norm() -> None:
    torch.manual_seed(2)
    layers = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 5), randomised(nn.BatchNorm1d(5)), nn.ReLU()).double().eval()
    exact = to_exact(layers, BITS)
    assert [type(layer) for layer in exact.children()] == [ExactLinear, nn.ReLU]
    x = integers(9, 8)
    with torch.no_grad():
        wanted = layers(x / 2**BITS) * 2**BITS
        # As above; no shift is below 13 for weights below 2, and |x| sums to less than 8 * 2**13.
        assert (exact(x) - wanted).abs().max() <= 0.5 + (8 * 2**13 + 1) * 2.0**-14


def test_containers_keep_their_code_and_the_float_module_its_weights() -> None:
    block = Residual(nn.Sequential(nn.ReLU(), nn.Linear(4, 4)))
    before = [parameter.clone() for parameter in block.parameters()]
    exact = to_exact(block, BITS)
    assert isinstance(exact, Residual)
    assert isinstance(exact.body, nn.Sequential)
    assert isinstance(exact.body[1], ExactLinear)
    assert all(torch.equal(a, b) for a, b in zip(before, block.parameters(), strict=True))


def test_tables_are_rounded_and_limited() -> None:
    offset = Offset(1, 4)
    offset.table.data = torch.tensor([[0.0004, 0.0005, -1.5, 1e6]])
    assert to_exact(offset, BITS).table.tolist() == [[0, 1, -1536, 32767]]
    embedding = nn.Embedding.from_pretrained(torch.tensor([[0.25, -1e6]]))
    assert to_exact(embedding, BITS).table.tolist() == [[256, -32767]]


@pytest.mark.parametrize(
    "module",
    [
        nn.Tanh(), nn.ConvTranspose2d(2, 2, 2), nn.Sequential(nn.Linear(2, 2), nn.Softplus()),
        nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(2, 2, 3, dilation=2), nn.Conv2d(2, 2, 3, padding=(1, 0)),
        nn.Conv2d(2, 2, 3, padding="same"), nn.Conv2d(2, 2, 3, stride=(1, 2)),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
    ],
)  # fmt: skip
def test_layers_without_exact_form_are_refused(module: nn.Module) -> None:
    with pytest.raises(TypeError, match="has no exact form"):
        to_exact(module, BITS)


def test_a_container_with_parameters_of_its_own_is_refused() -> None:
    block = Residual(nn.Linear(2, 2))
    block.register_parameter("gain", nn.Parameter(torch.ones(1)))
    with pytest.raises(TypeError, match="Residual has no exact form"):
        to_exact(block, BITS)


def test_rectifiers_overwrite_what_layers_made_and_nothing_else() -> None:
    body = nn.Sequential(nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    exact = to_exact(nn.Sequential(nn.ReLU(), nn.Linear(6, 6), Residual(body), nn.ReLU(), nn.Sequential()), BITS)
    assert [layer.inplace for layer in exact.modules() if isinstance(layer, nn.ReLU)] == [False, False, True, True]
    x = integers(9, 6)
    given = x.clone()
    assert torch.equal(exact(x), torch.from_numpy(oracle.run(exact, given.long().numpy())).double())
    assert torch.equal(x, given)


@pytest.mark.parametrize("before", [[], [nn.ReLU()], [nn.Linear(3, 3), nn.ReLU()]])
def test_batch_norm_must_follow_a_weighted_layer(before: list[nn.Module]) -> None:
    with pytest.raises(TypeError, match="folded only into"):
        to_exact(nn.Sequential(*before, nn.BatchNorm1d(3)), BITS)


def test_batch_norm_without_statistics_is_refused() -> None:
    with pytest.raises(TypeError, match="running statistics"):
        to_exact(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False)), BITS)


def test_sums_that_could_be_inexact_are_refused() -> None:
    layer = nn.Linear(2, 2)
    nn.init.zeros_(layer.weight)  # shift 23, so a bias of 2**20 stands at 2**53
    nn.init.constant_(layer.bias, 2.0**19)
    assert to_exact(layer, BITS).shift == 23
    nn.init.constant_(layer.bias, 2.0**20)
    with pytest.raises(OverflowError, match="can reach 2\\*\\*53"):
        to_exact(layer, BITS)
