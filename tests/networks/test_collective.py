"""Exchange between processes: two real ones over gloo, against plain sums over all rows."""

import pytest
import torch
from exchange import rows
from ranks import results

from firstlight.networks import collective

BOTH = torch.cat([rows(0), rows(1)])


@pytest.fixture(scope="module")
def found():
    return results("exchange:exchange")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("size", 2),
        ("total", 3),
        ("any", [True, False]),
        ("sum", (rows(0)[:2] + rows(1)[:2]).tolist()),
        ("maximum", torch.maximum(rows(0)[0], rows(1)[0]).tolist()),
        ("minimum", torch.minimum(rows(0)[0], rows(1)[0]).tolist()),
        ("mean", BOTH.mean(0).tolist()),
        ("mean_1d", BOTH[:, 0].mean().item()),
        ("mean_and_var", [BOTH[:, 1].mean().item(), BOTH[:, 1].var(correction=0).item()]),
        ("mean_and_std", [BOTH[:, 1].mean().item(), BOTH[:, 1].std().item()]),
        ("with_empty", [rows(1)[:2, 0].mean().item(), rows(1)[:2, 0].var(correction=0).item()]),
        ("gather_rows", BOTH.tolist()),
        ("gather_empty", rows(1)[:2, 0].tolist()),
        ("gather_columns", torch.cat([rows(0)[:2], rows(1)[:2]], 1).tolist()),
        ("logs", [3.0]),
        ("gradients", [[3.0, 6.0], [5.0, 6.0], None]),
        ("module", [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], True]),
    ],
)
def test_every_process_gets_what_all_rows_give(found, name, wanted):
    for each in found:
        assert flat(each[name]) == pytest.approx(flat(wanted))


def flat(value):
    """Numbers of a nested list; a number as it is."""
    if isinstance(value, list):
        tensors = [torch.tensor(x, dtype=torch.float64).flatten() for x in value if x is not None]
        return torch.cat(tensors).tolist() if tensors else []
    return value


def test_texts_arrive_as_they_were_sent(found):
    for each in found:
        assert each["gather_json"] == [{"rank": 0, "text": ""}, {"rank": 1, "text": "é"}]
        assert each["broadcast"] == "zero"


def test_each_process_knows_its_rank(found):
    assert [each["rank"] for each in found] == [0, 1]


def test_alone_nothing_changes():
    x = torch.randn(5)
    assert collective.size() == 1
    assert collective.rank() == 0
    for function in (collective.sum, collective.maximum, collective.gather_rows):
        assert function(x) is x
    assert collective.mean(x) == x.mean()
    assert collective.mean_and_std(x) == (x.mean(), x.std())
    assert collective.gather_json([1]) == [[1]]
    with collective.joined():
        assert not torch.distributed.is_initialized()
