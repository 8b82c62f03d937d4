"""State and Layout: broadcast of clocks, sums per sample, repetition and selection of samples."""

from __future__ import annotations

import pytest
import torch

from sciflow.core.state import Layout, State

INDEX = torch.tensor([0, 0, 1, 2, 2, 2])


def test_rows_of_a_shared_clock_are_left_alone():
    t = torch.tensor(0.3)
    assert Layout(3).rows(t, torch.zeros(3, 4)) is t


def test_rows_broadcast_per_sample_values():
    v = torch.tensor([1.0, 2.0, 3.0])
    dense = Layout(3).rows(v, torch.zeros(3, 4, 5))
    assert dense.shape == (3, 1, 1) and dense.flatten().tolist() == [1, 2, 3]
    ragged = Layout(3, INDEX).rows(v, torch.zeros(6, 2))
    assert ragged.shape == (6, 1) and ragged.flatten().tolist() == [1, 1, 2, 3, 3, 3]
    assert Layout(3, INDEX).rows(v, torch.zeros(6)).tolist() == [1, 1, 2, 3, 3, 3]


def test_per_sample_sums_dense_masked_and_ragged():
    x = torch.arange(24.0).reshape(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1.0]])[..., None]
    assert Layout(2).per_sample(x).tolist() == [66.0, 210.0]
    assert Layout(2, mask=mask).per_sample(x).tolist() == [15.0, 210.0]
    assert Layout(2, mask=mask).per_sample(x.sum(-1)).tolist() == [
        15.0,
        210.0,
    ]  # entries reduced over the last dimension
    assert Layout(2, mask=mask[..., 0]).per_sample(x).tolist() == [15.0, 210.0]
    rows = torch.arange(12.0).reshape(6, 2)
    assert Layout(3, INDEX).per_sample(rows).tolist() == [6.0, 9.0, 51.0]
    row_mask = torch.tensor([1, 0, 1, 1, 1, 0.0])[:, None]
    assert Layout(3, INDEX, row_mask).per_sample(rows).tolist() == [1.0, 9.0, 30.0]


def test_counts():
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1.0]])[..., None]
    assert Layout(2, mask=mask).counts(torch.zeros(2, 4, 3)).tolist() == [6, 12]
    assert Layout(2, mask=mask[..., 0]).counts(torch.zeros(2, 4, dtype=torch.long)).tolist() == [2, 4]


def mixed_state() -> State:
    """Three samples: a dense masked field, a ragged one of 2, 1 and 3 rows, a per-sample and a global condition."""
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1.0]])[..., None]
    return State(
        {"x": torch.arange(18.0).reshape(3, 3, 2), "pos": torch.arange(12.0).reshape(6, 2)},
        {
            "x": Layout(3, mask=mask, sizes=(2, 1, 3), anchor=torch.arange(3.0)[:, None, None]),
            "pos": Layout(3, INDEX, sizes=(2, 1, 3)),
        },
        {"property": torch.tensor([10.0, 20.0, 30.0]), "name": "run", "table": torch.arange(5.0)},
    )


def test_select_picks_samples_in_order_with_repeats():
    state = mixed_state().select([2, 0, 2])
    old = mixed_state()
    assert torch.equal(state["x"], old["x"][[2, 0, 2]])
    assert torch.equal(state["pos"], old["pos"][[3, 4, 5, 0, 1, 3, 4, 5]])
    assert state.layouts["pos"].index.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]  # type: ignore[union-attr]
    assert state.layouts["x"].sizes == (3, 2, 3) and state.batch == 3
    assert state.layouts["x"].mask[:, :, 0].sum(1).tolist() == [3, 2, 3]  # type: ignore[union-attr, index]
    assert state.layouts["x"].anchor.flatten().tolist() == [2, 0, 2]  # type: ignore[union-attr]
    assert state.cond["property"].tolist() == [30, 10, 30]
    assert state.cond["name"] == "run" and len(state.cond["table"]) == 5


def test_repeat_is_select_of_all_samples_several_times():
    state = mixed_state()
    repeated, selected = state.repeat(3), state.select([0, 1, 2] * 3)
    for name in state.fields:
        assert torch.equal(repeated[name], selected[name])
        assert repeated.layouts[name].batch == 9
        assert repeated.layouts[name].sizes == selected.layouts[name].sizes
    assert torch.equal(repeated.layouts["pos"].index, selected.layouts["pos"].index)  # type: ignore[arg-type]
    assert torch.equal(repeated.cond["property"], selected.cond["property"])


def test_state_is_not_changed_by_put_and_condition():
    state = mixed_state()
    new = state.put(x=torch.zeros(3, 3, 2)).condition(property=None, extra=1)
    assert state["x"][0, 0, 1] == 1 and "extra" not in state.cond
    assert new["x"].abs().sum() == 0 and new.cond["extra"] == 1 and new.cond["property"] is None
    with pytest.raises(AttributeError):
        state.fields = {}  # type: ignore[misc]


def test_to_moves_everything():
    state = mixed_state().to("meta")
    assert state["x"].device.type == "meta" and state.cond["property"].device.type == "meta"
    layout = state.layouts["pos"]
    assert layout.index.device.type == "meta"  # type: ignore[union-attr]
    assert state.layouts["x"].mask.device.type == "meta"  # type: ignore[union-attr]
    assert state.layouts["x"].anchor.device.type == "meta"  # type: ignore[union-attr]


def test_detach_cuts_gradients():
    x = torch.ones(2, 1, requires_grad=True)
    state = State({"x": x * 2}, {"x": Layout(2)})
    assert state["x"].requires_grad and not state.detach()["x"].requires_grad
