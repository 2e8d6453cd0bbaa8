"""Set functions against plain loops over whole sets, and their general properties."""

import copy
import itertools
import math
import random

import numpy as np
import pytest
import torch

from firstlight.intrinsic.submodular import (
    CallableSetFunction,
    Collection,
    Coverage,
    DDesign,
    FacilityLocation,
    LinearKernel,
    LogDet,
    Matern,
    Rbf,
    RegionEntropy,
    check_set_function,
    disc,
    gp_mean,
    gp_sample,
    line_of_sight,
)
from firstlight.intrinsic.submodular.coverage_kernels import cover

NUMBERS = np.random.default_rng(7)
PLACES = 20  # a grid of 5 x 4, place = x * 4 + y
POINTS = NUMBERS.normal(size=(PLACES, 3))
WEIGHTS = NUMBERS.random(PLACES)
GROUPS = NUMBERS.integers(0, 2, (3, PLACES))
LIMITS = [2, 1, 3]
SIMILARITY = NUMBERS.random((6, PLACES))
WALLS = np.zeros((5, 4), bool)
WALLS[2, 1:3] = True
LISTS = NUMBERS.integers(-1, PLACES, (PLACES, 4))


def distance(a, b):
    return math.dist(divmod(a, 4), divmod(b, 4))


def brute_lists(places):
    return float(len({cell for place in places for cell in LISTS[place]} - {-1}))


def brute_disc(places):
    return sum(WEIGHTS[c] for c in range(PLACES) if any(distance(c, p) <= 1.5 for p in places))


def clear(a, b):
    """No wall's inside lies on the way from centre to centre: many points of it are tried."""
    (x, y), (u, v) = divmod(a, 4), divmod(b, 4)
    for i in range(1, 1001):  # 1001 has no factor that would put points on the cells' borders
        p, q = x + (u - x) * i / 1001, y + (v - y) * i / 1001
        cell = round(p), round(q)
        inside = max(abs(p - cell[0]), abs(q - cell[1])) < 0.4999
        if inside and WALLS[cell] and cell not in ((x, y), (u, v)):
            return False
    return True


CLEAR = {(a, b): clear(a, b) for a in range(PLACES) for b in range(PLACES)}


def brute_sight(places):
    seen = {c for p in places for c in range(PLACES) if distance(c, p) <= 3 and CLEAR[p, c]}
    return float(len(seen))


def brute_collection(places):
    places = set(places)
    return float(
        sum(min(sum(g[p] for p in places), d) for g, d in zip(GROUPS, LIMITS, strict=True))
    )


def brute_facility(places):
    return sum(max((row[p] for p in places), default=0.0) for row in SIMILARITY)


def brute_logdet(kernel, noise):
    def value(places):
        x = POINTS[list(places)]
        gram = np.array([[kernel(a, b) for b in x] for a in x]).reshape(len(x), len(x))
        return 0.5 * np.linalg.slogdet(np.eye(len(x)) + gram / noise**2)[1]

    return value


def plain_rbf(a, b):
    return math.exp(-sum((a - b) ** 2) / (2 * 0.8**2))


def plain_matern(a, b):
    r = math.sqrt(5) * math.dist(a, b) / 1.3
    return 2.0 * (1 + r + r * r / 3) * math.exp(-r)


def brute_design(places):
    x = POINTS[list(places)]
    return 0.5 * np.linalg.slogdet(np.eye(3) + x.T @ x / 0.5)[1]


def brute_entropy(places, cap=math.inf):
    total = 0.0
    for region in range(PLACES):
        p = min(list(places).count(region) / 10, cap)
        total -= p * math.log(p) if p > 0 else 0.0
    return total


def squares(places):
    return float(len({place // 2 for place in places}))


CASES = {  # function, item of a place, brute force over a list of places, monotone
    "coverage": (
        Coverage(PLACES, max_cells=4),
        lambda p: torch.tensor(LISTS[p]),
        brute_lists,
        True,
    ),
    "disc": (
        Coverage(PLACES, weights=torch.tensor(WEIGHTS), senses=disc(5, 4, 1.5)),
        torch.tensor,
        brute_disc,
        True,
    ),
    "line of sight": (
        Coverage(PLACES, senses=line_of_sight(WALLS, 3)),
        torch.tensor,
        brute_sight,
        True,
    ),
    "collection": (
        Collection(torch.tensor(GROUPS), LIMITS),
        torch.tensor,
        brute_collection,
        True,
    ),
    "facility": (
        FacilityLocation(torch.tensor(SIMILARITY)),
        torch.tensor,
        brute_facility,
        True,
    ),
    "logdet rbf": (
        LogDet(Rbf(0.8), dim=3, noise=0.3),
        lambda p: torch.tensor(POINTS[p]),
        brute_logdet(plain_rbf, 0.3),
        True,
    ),
    "logdet matern": (
        LogDet(Matern(1.3, variance=2.0), dim=3, noise=0.7),
        lambda p: torch.tensor(POINTS[p]),
        brute_logdet(plain_matern, 0.7),
        True,
    ),
    "logdet linear": (
        LogDet(LinearKernel(), dim=3, noise=math.sqrt(0.5)),
        lambda p: torch.tensor(POINTS[p]),
        brute_design,
        True,
    ),
    "ddesign": (
        DDesign(3, ridge=0.5),
        lambda p: torch.tensor(POINTS[p]),
        brute_design,
        True,
    ),
    "entropy": (
        RegionEntropy(PLACES, horizon=10),
        torch.tensor,
        brute_entropy,
        False,
    ),
    "entropy held": (
        RegionEntropy(PLACES, horizon=10, held=True),
        torch.tensor,
        lambda places: brute_entropy(places, math.exp(-1)),
        True,
    ),
    "own": (CallableSetFunction(squares), torch.tensor, squares, True),
}
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
TIGHT = {"rel": 1e-9, "abs": 1e-9}


def walks(count, length, seed=0):
    """Lists of places; some come twice."""
    numbers = random.Random(seed)
    return [[numbers.randrange(PLACES) for _ in range(length)] for _ in range(count)]


@ALL
def test_gains_add_up_to_a_brute_force_value(case):
    function, item, brute, _ = case
    function = copy.deepcopy(function)
    env = torch.tensor([3])
    for walk in walks(2, 24):
        function.reset(env)
        for t, place in enumerate(walk):
            told = function.gain(item(place)[None], env)
            gain = function.add(item(place)[None], env)
            assert torch.equal(told, gain)
            assert gain.dtype == torch.float64
            step = brute(walk[: t + 1]) - brute(walk[:t])
            assert gain.item() == pytest.approx(step, rel=1e-6, abs=1e-8)
            assert function.total[3].item() == pytest.approx(brute(walk[: t + 1]), **TIGHT)


@ALL
def test_gains_telescope_from_any_starting_set(case):
    """The sum of r after s0 is F(tau) - F(s0)."""
    function, item, brute, _ = case
    for walk in walks(5, 30, seed=1):
        fresh = copy.deepcopy(function)
        env = torch.tensor([0])
        fresh.add(item(walk[0])[None], env)
        paid = sum(fresh.add(item(place)[None], env).item() for place in walk[1:])
        assert paid == pytest.approx(brute(walk) - brute(walk[:1]), **TIGHT)


@ALL
def test_returns_diminish_by_brute_force_and_by_the_function(case):
    function, item, brute, monotone = case
    numbers = random.Random(2)
    for _ in range(30):
        b = numbers.sample(range(PLACES), numbers.randrange(1, 8))
        a = [place for place in b if numbers.random() < 0.5]
        x = numbers.choice([place for place in range(PLACES) if place not in b])
        sets = [[*a, x], a, [*b, x], b]
        value = function.value([stacked(item, places) for places in sets])
        assert value.tolist() == pytest.approx([brute(places) for places in sets], **TIGHT)
        small, large = value[0] - value[1], value[2] - value[3]
        assert small >= large - 1e-9
        assert not monotone or large >= -1e-9


def stacked(item, places):
    """[L, *item], also of no places."""
    return torch.stack([item(place) for place in [*places, 0]])[: len(places)]


@ALL
def test_order_does_not_matter(case):
    function, item, brute, _ = case
    places = walks(1, 5, seed=3)[0]
    orders = [stacked(item, order) for order in itertools.permutations(places)]
    assert function.value(orders).tolist() == pytest.approx([brute(places)] * 120, **TIGHT)


@ALL
def test_a_batch_equals_single_items(case):
    """Environments of any number, in any order, with sets of different sizes."""
    function, item, _, _ = case
    batched, single = copy.deepcopy(function), copy.deepcopy(function)
    numbers = random.Random(4)
    for _ in range(40):
        ids = numbers.sample(range(7), numbers.randrange(1, 7))
        items = torch.stack([item(numbers.randrange(PLACES)) for _ in ids])
        gains = batched.add(items, torch.tensor(ids))
        alone = [
            single.add(one[None], torch.tensor([i])) for one, i in zip(items, ids, strict=True)
        ]
        torch.testing.assert_close(gains, torch.cat(alone))
        if numbers.random() < 0.2:
            for each in (batched, single):
                each.reset(torch.tensor(ids[:2]))


@ALL
def test_reset_empties_only_the_given_environments(case):
    function, item, brute, _ = case
    function = copy.deepcopy(function)
    walk = walks(1, 20, seed=5)[0]
    both = torch.tensor([0, 1])
    for place in walk:
        function.add(torch.stack([item(place)] * 2), both)
    function.reset(torch.tensor([1]))
    assert function.total.tolist() == pytest.approx([brute(walk), 0.0], **TIGHT)
    place = walk[3]
    gains = function.add(torch.stack([item(place)] * 2), both).tolist()
    expected = [brute([*walk, place]) - brute(walk), brute([place])]
    assert gains == pytest.approx(expected, rel=1e-6, abs=1e-8)
    function.reset()
    assert len(function.total) == 0
    assert function.add(item(place)[None], torch.tensor([5])).item() == pytest.approx(
        brute([place]), **TIGHT
    )


@ALL
def test_restored_functions_continue_identically(case):
    function, item, _, _ = case
    kept, loaded = copy.deepcopy(function), copy.deepcopy(function)
    both = torch.tensor([0, 2])
    for place in walks(1, 25, seed=6)[0]:
        kept.add(torch.stack([item(place)] * 2), both)
    loaded.load_state_dict(kept.state_dict())
    for place in range(5):
        items = torch.stack([item(place), item(place + 1)])
        assert torch.equal(kept.add(items, both), loaded.add(items, both))


@ALL
def test_the_check_passes_submodular_functions(case):
    function, item, brute, monotone = case
    pool = stacked(item, range(PLACES))
    before = copy.deepcopy(function.state_dict())
    check_set_function(function, pool, trials=40, monotone=monotone)
    assert all(torch.equal(function.state_dict()[n], x) for n, x in before.items())
    check_set_function(brute, torch.arange(PLACES), trials=20, monotone=monotone)


def test_the_check_reports_the_sets_of_a_supermodular_counterexample():
    with pytest.raises(AssertionError, match=r"not submodular: \d+ adds 1 to \[\], but 3 to \[\d+"):
        check_set_function(lambda s: len(s) ** 2, torch.arange(9), size=1)

    def pair(places):  # modular except for one pair with a larger joint value
        return len(places) + (0.5 if {3, 7} <= set(places) else 0.0)

    with pytest.raises(AssertionError, match=r"not submodular: [37] adds 1 to .*, but 1.5 to") as e:
        check_set_function(pair, torch.arange(9))
    small, large = str(e.value).split(", but ")
    assert "[" in small
    assert "3" in large or "7" in large


def test_the_check_finds_a_function_that_is_not_monotone_only_if_monotone_is_set():
    def cut(places):  # of a cycle of 9: submodular, not monotone
        inside = set(places)
        return float(sum((p in inside) != ((p + 1) % 9 in inside) for p in range(9)))

    with pytest.raises(AssertionError, match=r"not monotone: \d adds -\d to \["):
        check_set_function(cut, torch.arange(9))
    check_set_function(cut, torch.arange(9), monotone=False)
    with pytest.raises(AssertionError, match=r"not monotone: 0 adds -0\.0"):  # 2/3 of the visits
        check_set_function(RegionEntropy(2, horizon=3), torch.zeros(3, dtype=torch.int64))


def test_the_check_finds_dependence_on_order_and_on_other_environments():
    with pytest.raises(AssertionError, match="order matters"):
        check_set_function(lambda s: float(s[-1]) if s else 0.0, torch.arange(5), monotone=False)

    class Leaky(Coverage):
        def marginal(self, items, rows, write):
            return super().marginal(items, torch.zeros_like(rows), write)

    with pytest.raises(AssertionError, match="environments are not independent"):
        check_set_function(Leaky(9), torch.arange(9)[:, None], monotone=False)

    class Wrong(Coverage):
        def gain(self, items, env_ids):
            return super().gain(items, env_ids) + 1

    with pytest.raises(AssertionError, match="gain of"):
        check_set_function(Wrong(9), torch.arange(9)[:, None])
    with pytest.raises(ValueError, match="expected at least 2"):
        check_set_function(len, torch.arange(1))


@pytest.mark.parametrize("kernel", [cover, cover.py_func], ids=["compiled", "python"])
def test_the_coverage_kernel_equals_python_sets(kernel):
    numbers = np.random.default_rng(0)
    weights = numbers.random(21)
    bits = np.zeros((4, 3), np.uint8)
    sets = [set() for _ in range(4)]
    for turn in range(30):
        rows = numbers.permutation(4)[:3]
        cells = numbers.integers(-2, 21, (3, 6))
        gain, write = np.empty(3), turn % 3 > 0
        kernel(bits, rows, cells, weights, write, gain)
        for row, own, got in zip(rows, cells, gain, strict=True):
            fresh = {int(c) for c in own if c >= 0} - sets[row]
            assert got == pytest.approx(sum(weights[c] for c in fresh))
            sets[row] |= fresh if write else set()
        marked = np.unpackbits(bits, axis=1, bitorder="little")
        assert [set(row.nonzero()[0].tolist()) for row in marked] == sets


def test_a_disc_of_radius_1_is_a_cell_and_its_neighbours():
    cells = {p: {c for c in row if c >= 0} for p, row in enumerate(disc(4, 3, 1).tolist())}
    assert cells[4] == {4, 1, 7, 3, 5}
    assert cells[0] == {0, 1, 3}
    assert all((q in cells[p]) == (p in cells[q]) for p in cells for q in cells)


def test_a_wall_hides_the_cells_behind_it():
    walls = np.zeros((5, 1), bool)
    walls[2] = True
    seen = [{c for c in row if c >= 0} for row in line_of_sight(walls, 9).tolist()]
    assert seen[0] == {0, 1, 2}
    assert seen[4] == {2, 3, 4}
    corner = np.array([[False, True], [True, False]])  # two walls that touch at a corner
    assert 3 in line_of_sight(corner, 9)[0].tolist()


def test_the_constant_of_the_released_code_in_nats():
    """½ ln det(K + 1e-6 I) is F with noise 1e-3, less ln(1000) = 6.9078 a point."""
    function = LogDet(Matern(1.0), dim=3, noise=1e-3)
    x = torch.tensor(POINTS[:9])
    gram = Matern(1.0)(x, x).numpy()
    released = 0.5 * np.linalg.slogdet(gram + 1e-6 * np.eye(9))[1]
    assert function.value([x]).item() == pytest.approx(released + 9 * 6.907755, rel=1e-6)


def test_repeated_measurements_of_one_point_have_the_closed_form_information():
    """n measurements of one normal variable of variance 1 tell ½ log(1 + n / noise²)."""
    function = LogDet(Rbf(), dim=1, noise=0.5)
    sets = [torch.zeros(n, 1) for n in (0, 1, 5, 33)]
    expected = [0.5 * math.log(1 + n / 0.25) for n in (0, 1, 5, 33)]
    assert function.value(sets).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5])
def test_matern_equals_its_bessel_form(nu):
    """K of half an odd order, by its integral: K_nu(z) = ∫ exp(-z cosh t) cosh(nu t) dt."""
    t = np.linspace(0, 12, 200_001)
    for r in (0.3, 1.0, 2.7):
        z = math.sqrt(2 * nu) * r / 1.4
        bessel = np.trapezoid(np.exp(-z * np.cosh(t)) * np.cosh(nu * t), t)
        expected = 3.0 * 2 ** (1 - nu) / math.gamma(nu) * z**nu * bessel
        points = torch.tensor([[0.0, 0.0], [r, 0.0]], dtype=torch.float64)
        covariance = Matern(1.4, nu, variance=3.0)(points, points)
        assert covariance[0, 1].item() == pytest.approx(expected, rel=1e-6)
        assert covariance.diagonal().tolist() == [3.0, 3.0]


def test_sampled_fields_have_the_covariance_of_the_kernel():
    points = [[0.0], [0.5], [3.0]]
    draws = torch.stack([gp_sample(points, Rbf(), seed=seed) for seed in range(3000)])
    assert (draws.min(1).values == 0).all()
    assert torch.equal(gp_sample(points, Rbf(), seed=5), draws[5])
    for i, j in ((0, 1), (0, 2), (1, 2)):  # differences do not know of the shift
        expected = 2 - 2 * math.exp(-((points[i][0] - points[j][0]) ** 2) / 2)
        spread = (draws[:, i] - draws[:, j]).var().item()
        assert spread == pytest.approx(expected, rel=0.1)


def test_gp_mean_equals_the_posterior_mean():
    """With one measurement: k(x, s) / (k(s, s) + noise²) times what was measured."""
    points = [[0.0], [1.0], [4.0]]
    field = gp_mean(points, Rbf(), seen=[[0.0]], values=[2.0], noise=0.5)
    expected = [2.0 / 1.25 * math.exp(-(x[0] ** 2) / 2) for x in points]
    assert field.tolist() == pytest.approx(expected)
    assert not gp_mean(points, Rbf(), seen=[[0.0]], values=[-2.0]).any()


@pytest.mark.parametrize("held", [False, True])
def test_the_entropy_of_a_whole_episode_is_the_shannon_entropy(held):
    regions = [0] * 3 + [1] * 3 + [2] * 4 + [3] * 2
    p = np.array([3, 3, 4, 2]) / 12
    function = RegionEntropy(5, horizon=12, held=held)
    assert function.value([torch.tensor(regions)]).item() == pytest.approx(-(p * np.log(p)).sum())
    even = RegionEntropy(8, horizon=16, held=held).value([torch.arange(16) % 8])
    assert even.item() == pytest.approx(math.log(8))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Coverage(0), "num_cells is 0"),
        (lambda: Coverage(3, weights=[1.0, -1.0, 0.0]), "at least 0"),
        (lambda: Coverage(3, weights=[1.0]), "1 weights for 3 cells"),
        (lambda: Coverage(3, senses=[[0, 3]]), "no cell 3"),
        (lambda: Collection([[1, 0]], limits=[1, 1]), "2 limits for 1 groups"),
        (lambda: Collection([1, 0], limits=[1]), "expected 2 non-empty axes"),
        (lambda: FacilityLocation([[1.0, -0.5]]), "at least 0"),
        (lambda: FacilityLocation([[1.0]], weights=[1, 2]), "2 weights for 1 clients"),
        (lambda: LogDet(Rbf(), dim=2, noise=0.0), "noise is 0.0"),
        (lambda: DDesign(2, ridge=-1.0), "ridge is -1.0"),
        (lambda: Matern(nu=1.0), "expected 0.5, 1.5 or 2.5"),
        (lambda: Rbf(0.0), "above 0"),
        (lambda: RegionEntropy(0, horizon=3), "at least 1"),
    ],
)
def test_invalid_functions_are_rejected(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()


@pytest.mark.parametrize(
    ("function", "items", "complaint"),
    [
        (Coverage(3), [[3]], "no cell 3; there are 3"),
        (Coverage(3, senses=[[0], [1]]), [2], "no place 2: they are numbered 0 to 1"),
        (Collection([[1, 0]], [1]), [-1], "no place -1"),
        (FacilityLocation([[1.0]]), [1], "no facility 1"),
        (RegionEntropy(2, horizon=3), [2], "no region 2"),
        (LogDet(Rbf(), dim=2), [1.0], r"items of shape \(2,\)"),
    ],
)
def test_invalid_items_are_rejected(function, items, complaint):
    with pytest.raises(ValueError, match=complaint):
        function.add(torch.tensor(items), torch.tensor([0]))


def test_two_items_for_one_environment_are_rejected():
    with pytest.raises(ValueError, match="has duplicates"):
        RegionEntropy(2, horizon=3).add(torch.tensor([0, 1]), torch.tensor([4, 4]))
