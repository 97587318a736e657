"""`pool: bank` against the dense evaluation: every piece of every class, with a noise of its own, at every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from pipelines.index.factory import Factory
from pipelines.index.vectors import VectorIndex
from pipelines.systems.retrievegan.lazy import Ranges, best_distinct, draw_tail, exponential, rest_noise, uniform
from pipelines.systems.retrievegan.pool import BankPool, PoolSettings, Proposal
from pipelines.systems.retrievegan.retrieval import gumbel, retrieve

NONE = -1


class Bank:
    """Pieces of some classes in some images, and their features."""

    def __init__(self, seed: int, counts: list[int], images: int, d: int = 4, **given: int) -> None:
        rng = np.random.default_rng(seed)
        self.categories = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        self.keys = rng.integers(0, images, len(self.categories))
        vectors = rng.standard_normal((len(self.categories), d))
        self.features = torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).float()
        self.pool = BankPool(self.categories, self.keys, PoolSettings(**given))

    def embed(self, rows: Tensor) -> Tensor:
        return self.features[rows]

    def free(self, category: int, exclude: int) -> np.ndarray:
        """Rows of a class that an image may be served."""
        return np.flatnonzero((self.categories == category) & (self.keys != exclude))


def test_splitmix_gives_its_published_first_number() -> None:
    # seed 0: 0xE220A8397B1DCDAF; a seed of 0 stays 0 when it is mixed, and the counter adds the increment
    expected = (0xE220A8397B1DCDAF >> 11) + 0.5
    assert uniform(torch.tensor([0]), 0).item() == expected * 2.0**-53


def test_draws_are_uniform_and_differ_by_every_counter() -> None:
    drawn = uniform(torch.arange(40).view(-1, 1, 1), torch.arange(50).view(-1, 1), torch.arange(50))
    assert drawn.shape == (40, 50, 50) and (drawn > 0).all() and (drawn < 1).all()
    assert stats.kstest(drawn.flatten().numpy(), "uniform").pvalue > 1e-3
    assert len(drawn.unique()) == drawn.numel()
    for dim in range(3):
        one, other = drawn.narrow(dim, 0, drawn.shape[dim] - 1), drawn.narrow(dim, 1, drawn.shape[dim] - 1)
        assert abs(np.corrcoef(one.flatten().numpy(), other.flatten().numpy())[0, 1]) < 0.02


def test_the_noise_of_a_tail_is_that_of_independent_pieces() -> None:
    draws, m = 6000, 4
    start, size, own = 5, 14, (8, 10)
    whole = torch.ones(draws, 1, dtype=torch.int64)
    ranges = Ranges(whole * start, whole * (start + size), whole * own[0], whole * own[1])
    head = torch.tensor([12, 5, -1]).expand(draws, 1, 3)
    tail = draw_tail(torch.arange(draws), 2, head, head >= 0, ranges, m)
    rest = [p for p in range(start, start + size) if p not in (*range(*own), 12, 5)]
    assert set(tail.place[tail.valid].tolist()) == set(rest)
    assert (tail.unseen.squeeze() == len(rest) - tail.valid.sum((1, 2))).all()
    # complete it: what did not ring is below the last ring
    places = torch.tensor(rest).expand(draws, 1, -1)
    late = rest_noise(torch.arange(draws), places, tail.latest.unsqueeze(1))[:, 0]
    same = (places.unsqueeze(3) == tail.place.unsqueeze(2)) & tail.valid.unsqueeze(2)
    noise = torch.where(same.any(3), (same * tail.noise.unsqueeze(2)).sum(3), late)[:, 0].numpy()
    assert (same.sum(3) <= 1).all()
    assert (late[:, 0] <= -tail.latest.log()).all()
    assert (np.where(same.any(3)[:, 0], np.inf, noise) > -np.inf).all()
    for column in noise.T:
        assert stats.kstest(column, "gumbel_r").pvalue > 1e-3
    assert stats.kstest(noise.max(1) - np.log(len(rest)), "gumbel_r").pvalue > 1e-3
    fresh = np.random.default_rng(0).gumbel(size=noise.shape)
    assert stats.kstest(np.sort(noise)[:, -2], np.sort(fresh)[:, -2]).pvalue > 1e-3
    correlation = np.corrcoef(np.exp(-np.exp(-noise)).T) - np.eye(len(rest))
    assert np.abs(correlation).max() < 0.06
    largest = np.bincount(noise.argmax(1), minlength=len(rest))
    assert stats.chisquare(largest).pvalue > 1e-3


def test_best_distinct_keeps_each_place_once() -> None:
    places = torch.tensor([[[4, 7, 4, 9, 7, 3]]])
    scores = torch.tensor([[[0.2, 0.9, 0.5, 0.1, 0.3, -torch.inf]]])
    assert best_distinct(places, scores, 2).tolist() == [[[7, 4]]]
    assert best_distinct(places, scores, 5).tolist() == [[[7, 4, 9, NONE, NONE]]]
    assert best_distinct(places, scores, 8).tolist() == [[[7, 4, 9, *[NONE] * 5]]]


def propose(
    bank: Bank, categories: list[list[int]], exclude: list[int], seeds: list[int], k: int, **given: Any
) -> Proposal:
    asked = torch.tensor(categories)
    return bank.pool.propose(asked, asked != NONE, torch.tensor(exclude), torch.tensor(seeds), k, **given)


def check_image(
    bank: Bank, proposal: Proposal, b: int, categories: list[int], exclude: int, tau: float, alpha: float, noisy: bool
) -> None:
    """One image, step by step, with the very noise that the first pass looked at and any that fits for the others."""
    looks, rng = proposal.looks, np.random.default_rng(b)
    rows_of = bank.pool.rows.numpy()
    free = [bank.free(c, exclude) if c != NONE else np.zeros(0, int) for c in categories]
    waiting = {i for i, rows in enumerate(free) if len(rows)}
    kept = [set(proposal.rows[b, i].tolist()) - {NONE} for i in range(len(categories))]
    for i, rows in enumerate(free):
        assert kept[i] <= set(rows.tolist())
        assert len(kept[i]) == int((proposal.rows[b, i] != NONE).sum())
    if not waiting:
        assert proposal.first[b] == NONE
    else:
        assert int(proposal.first[b]) in np.concatenate(free)
        torch.testing.assert_close(looks.query[b, 0], bank.features[proposal.first[b]])
    for t in range(proposal.bound.shape[1]):
        if not waiting:
            assert proposal.bound[b, t] == 0 and proposal.exact[b, t] and looks.group[b, t] == NONE
            continue
        query = looks.query[b, t].double().numpy()
        hats, owner, in_kept, all_rows = [], [], [], []
        for i in waiting:
            places, valid = looks.places[b, t, i].numpy(), looks.valid[b, t, i].numpy()
            looked = dict(zip(rows_of[places[valid]].tolist(), looks.noise[b, t, i].numpy()[valid], strict=True))
            assert len(looked) == valid.sum() and set(looked) <= set(free[i].tolist())
            assert len(free[i]) - len(looked) == int(looks.unseen[b, t, i])
            later = dict(zip(proposal.rows[b, i].tolist(), proposal.noise[b, t, i].tolist(), strict=True))
            vectors = bank.features[free[i]].double().numpy()
            log_pi = -alpha * ((vectors - query) ** 2).sum(1)
            for row, value in zip(free[i].tolist(), log_pi, strict=True):
                if row in looked:
                    g = looked[row]
                    assert row not in later or later[row] == pytest.approx(g, abs=1e-6)
                elif row in later:
                    g = later[row]
                else:
                    g = -np.log(float(looks.latest[b, t, i]) + rng.exponential()) if noisy else 0.0
                if row not in looked:
                    assert value + g <= float(looks.highest[b, t, i]) + 1e-4
                hats.append(value + g + float(looks.penalty[b, t, i]))
                owner.append(i)
                in_kept.append(row in kept[i])
                all_rows.append(row)
        s = np.exp((np.array(hats) - max(hats)) / tau)
        s /= s.sum()
        assert s[~np.array(in_kept)].sum() <= float(proposal.bound[b, t]) + 1e-5
        group, row = int(looks.group[b, t]), int(rows_of[looks.place[b, t]])
        if proposal.exact[b, t]:  # no piece of the whole bank scored higher than the one that was served
            served = next(n for n, names in enumerate(zip(owner, all_rows, strict=True)) if names == (group, row))
            assert max(hats) == pytest.approx(hats[served], abs=1e-4)
        assert row in kept[group]
        waiting.discard(group)
    assert not waiting


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.3, 1.0]), st.booleans())
def test_what_is_omitted_is_bounded_in_every_draw(seed: int, tau: float, noisy: bool) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.choice([0, 1, 2, 5, 40, 150], 4).tolist()
    bank = Bank(
        seed, counts, int(rng.choice([1, 3, 30])), head=int(rng.choice([1, 4, 12])), tail=int(rng.choice([1, 6]))
    )
    if not sum(counts):
        return
    bank.pool.refresh(bank.embed)
    batch, groups = 3, int(rng.integers(1, 6))
    categories = rng.integers(-1, 5, (batch, groups)).tolist()  # class 4 is in no piece
    exclude, seeds = rng.integers(-1, 4, batch).tolist(), rng.integers(0, 2**62, batch).tolist()
    k = int(rng.integers(1, 8))
    proposal = propose(bank, categories, exclude, seeds, k, tau=tau, alpha=5.0, noise=noisy)
    assert proposal.rows.shape == (batch, groups, k)
    assert proposal.noise.shape == (batch, proposal.bound.shape[1], groups, k) and proposal.noise.isfinite().all()
    for b in range(batch):
        check_image(bank, proposal, b, categories[b], exclude[b], tau, 5.0, noisy)


def second_pass(bank: Bank, proposal: Proposal, tau: float, alpha: float) -> Any:
    query = torch.where((proposal.first == NONE).unsqueeze(1), 0.0, bank.features[proposal.first.clamp(min=0)])
    present = proposal.rows != NONE
    return retrieve(bank.features[proposal.rows.clamp(min=0)], present, query, proposal.noise, tau=tau, alpha=alpha)


def test_the_second_pass_serves_what_the_first_one_did() -> None:
    bank = Bank(3, [300, 20, 4], 40, head=16, tail=16)
    bank.pool.refresh(bank.embed)
    categories = np.random.default_rng(0).integers(-1, 3, (200, 5)).tolist()
    proposal = propose(bank, categories, [NONE] * 200, list(range(200)), 6, tau=0.1)
    selection = second_pass(bank, proposal, 0.1, 10.0)
    looks, steps = proposal.looks, selection.order.shape[1]
    assert (selection.order == looks.group[:, :steps]).float().mean() > 0.99  # penalties over the K differ a little
    same = (selection.order == looks.group[:, :steps]).all(1)
    rows = proposal.rows.gather(2, selection.chosen.clamp(min=0).unsqueeze(2)).squeeze(2)
    for b in same.nonzero().flatten().tolist():
        for t in range(steps):
            if (group := int(looks.group[b, t])) != NONE:
                assert rows[b, group] == bank.pool.rows[looks.place[b, t]]


def relaxed(bank: Bank, rows: Tensor, first: Tensor, noise: Tensor, tau: float, alpha: float) -> tuple[Tensor, Tensor]:
    """(B, n) the relaxed S over all pieces of the bank, and (B,) how far what it holds is from the first query."""
    present, query = rows != NONE, bank.features[first]
    selection = retrieve(bank.features[rows.clamp(min=0)], present, query, noise, tau=tau, alpha=alpha)
    total = torch.zeros(len(rows), len(bank.categories))
    total.scatter_add_(1, rows.flatten(1).clamp(min=0), selection.steps.sum(1).flatten(1))
    far = (bank.features - query.unsqueeze(1)).square().sum(2)
    return total.double(), (total * far).sum(1).double()


def dense(bank: Bank, exclude: int, draws: int, tau: float, alpha: float) -> tuple[Tensor, Tensor]:
    """The same of the exact Algorithm 1 over one object of each of three classes, with fresh noise for every piece."""
    rng = np.random.default_rng(99)
    free = [bank.free(c, exclude) for c in range(3)]
    rows = torch.full((3, max(map(len, free))), NONE)
    for i, some in enumerate(free):
        rows[i, : len(some)] = torch.from_numpy(some)
    parts = []
    for _ in range(0, draws, 500):
        first = torch.tensor([int(rng.choice(free[int(rng.integers(3))])) for _ in range(500)])
        noise = gumbel((500, 3, *rows.shape), rng)
        parts.append(relaxed(bank, rows.expand(500, -1, -1), first, noise, tau, alpha))
    return torch.cat([total for total, _ in parts]), torch.cat([far for _, far in parts])


def gap(ours: Tensor, exact: Tensor) -> tuple[float, float]:
    """The difference of two means, and its standard error."""
    error = (ours.var() / len(ours) + exact.var() / len(exact)).sqrt()
    return abs((ours.mean() - exact.mean()).item()), error.item()


@pytest.mark.parametrize(
    ("tau", "head", "tail", "k", "at_most"), [(0.1, 16, 16, 12, 1e-3), (0.5, 16, 24, 12, 0.1), (0.1, 2, 8, 4, 3.0)]
)
def test_the_bias_of_the_estimated_soft_selection_is_within_its_bound(
    tau: float, head: int, tail: int, k: int, at_most: float
) -> None:
    """The mean of S over many draws, against the mean over as many of the exact one with fresh noise."""
    draws, alpha, exclude = 4000, 5.0, 3
    bank = Bank(11, [120, 80, 60], 10, head=head, tail=tail)
    bank.pool.refresh(bank.embed)
    proposal = propose(bank, [[0, 1, 2]] * draws, [exclude] * draws, list(range(draws)), k, tau=tau, alpha=alpha)
    estimated, near = relaxed(bank, proposal.rows, proposal.first, proposal.noise, tau, alpha)
    exact, exactly_near = dense(bank, exclude, draws, tau, alpha)
    bound = proposal.bound.sum(1).mean().item()
    assert bound < at_most

    torch.testing.assert_close(estimated.sum(1), torch.full_like(near, 3.0), atol=1e-4, rtol=0)
    # what any set of pieces gets is off by no more than the bound
    rng = np.random.default_rng(1)
    for _ in range(10):
        some = torch.from_numpy(rng.random(len(bank.categories)) < 0.5)
        bias, error = gap(estimated[:, some].sum(1), exact[:, some].sum(1))
        assert bias <= bound + 4 * error
    # and so is each piece
    deviation = ((estimated.var(0) + exact.var(0)) / draws).sqrt()
    often = exact.mean(0) > 0.002
    assert often.sum() > 50
    assert ((estimated.mean(0) - exact.mean(0)).abs() <= bound + 4.8 * deviation)[often].all()
    # distances of unit vectors are at most 4, so that the mean distance to the first query is off by 4 bounds
    bias, error = gap(near, exactly_near)
    assert bias <= 4 * bound + 4 * error


def test_the_nearest_candidates_alone_are_biased_beyond_it() -> None:
    """A planted fault: what the test above would say of a pool that knows only what is near to the first query."""
    draws, tau, alpha = 2000, 0.1, 5.0
    bank = Bank(11, [120, 80, 60], 10, head=16, tail=16)
    bank.pool.refresh(bank.embed)
    proposal = propose(bank, [[0, 1, 2]] * draws, [3] * draws, list(range(draws)), 12, tau=tau, alpha=alpha)
    first = proposal.first
    far = (bank.features.unsqueeze(0) - bank.features[first].unsqueeze(1)).square().sum(2)
    rows = []
    for c in range(3):
        free = torch.from_numpy(bank.free(c, 3))
        rows.append(free[far[:, free].topk(12, largest=False).indices])
    noise = gumbel((draws, 3, 3, 12), np.random.default_rng(0))
    _, near = relaxed(bank, torch.stack(rows, 1), first, noise, tau, alpha)
    bias, error = gap(near, dense(bank, 3, draws, tau, alpha)[1])
    assert bias > 4 * proposal.bound.sum(1).mean().item() + 8 * error


def test_an_image_depends_on_its_own_seed_alone() -> None:
    bank = Bank(5, [200, 90, 3, 60], 25, head=8, tail=8)
    bank.pool.refresh(bank.embed)
    rng = np.random.default_rng(0)
    categories, exclude = rng.integers(-1, 4, (40, 6)).tolist(), rng.integers(-1, 25, 40).tolist()
    everything = propose(bank, categories, exclude, list(range(40)), 5, tau=0.2)
    again = propose(bank, categories, exclude, list(range(40)), 5, tau=0.2)
    assert torch.equal(everything.rows, again.rows) and torch.equal(everything.noise, again.noise)
    for b in (0, 7, 39):
        alone = propose(bank, [[*categories[b], NONE]], [exclude[b]], [b], 5, tau=0.2)
        steps = alone.bound.shape[1]
        assert torch.equal(alone.rows[0, :6], everything.rows[b])
        assert torch.equal(alone.noise[0, :, :6], everything.noise[b, :steps])
        assert torch.equal(alone.bound[0], everything.bound[b, :steps])
        assert alone.first[0] == everything.first[b]
    other = propose(bank, categories, exclude, list(range(1, 41)), 5, tau=0.2)
    assert not torch.equal(other.rows, everything.rows)


def test_no_noise_is_the_greedy_choice_among_all() -> None:
    bank = Bank(8, [70, 50], 12, head=3, tail=3)
    bank.pool.refresh(bank.embed)
    proposal = propose(bank, [[0, 1, 0]], [2], [6], 3, tau=0.1, noise=False)
    assert not proposal.noise.any() and proposal.exact.all()
    query, waiting, served = bank.features[proposal.first[0]], {0, 1, 2}, []
    for _ in range(3):
        nearest = {
            i: min(((bank.features[r] - query).square().sum().item(), int(r)) for r in bank.free((0, 1, 0)[i], 2))
            for i in waiting
        }
        best = min(waiting, key=lambda i: (nearest[i][0], i))
        waiting.discard(best)
        served.append((best, nearest[best][1]))
        query = (query + bank.features[nearest[best][1]]) / 2
    got = [
        (int(g), int(bank.pool.rows[p])) for g, p in zip(proposal.looks.group[0], proposal.looks.place[0], strict=True)
    ]
    assert got == served


def test_a_batch_without_candidates_gets_none() -> None:
    bank = Bank(8, [4], 1, head=3, tail=3)
    bank.pool.refresh(bank.embed)
    proposal = propose(bank, [[0, NONE], [NONE, 3]], [0, NONE], [1, 2], 3, tau=0.1)
    assert (proposal.rows == NONE).all() and (proposal.first == NONE).all()
    assert not proposal.bound.any() and proposal.exact.all()


def test_the_first_piece_is_of_any_object_and_any_of_its_pieces() -> None:
    bank = Bank(2, [10, 2], 4, head=2, tail=2)
    bank.pool.refresh(bank.embed)
    draws = 4000
    proposal = propose(bank, [[0, NONE, 1]] * draws, [1] * draws, list(range(draws)), 2, tau=0.1)
    free = bank.free(0, 1), bank.free(1, 1)
    assert len(free[0]) > 1 and len(free[1])
    counts = np.bincount(proposal.first.numpy(), minlength=12)
    expected = np.zeros(12)
    for rows in free:
        expected[rows] = draws / 2 / len(rows)
    assert not counts[expected == 0].any()
    assert stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-3


def test_the_features_are_embedded_anew_slice_by_slice() -> None:
    bank = Bank(4, [30, 7, 13], 9, refresh=12)
    seen: list[int] = []

    def embed(rows: Tensor) -> Tensor:
        seen.extend(rows.tolist())
        return bank.features[rows]

    bank.pool.refresh(embed)
    assert sorted(seen) == list(range(50))
    bank.features = torch.nn.functional.normalize(bank.features + 0.5, dim=1)
    moved = []
    for n in range(1, 5):
        seen.clear()
        state = bank.pool.refresh(embed)
        moved += seen
        assert len(seen) == 12 and len(set(moved)) == min(12 * n, 48)
        assert bank.pool.drift > 0
    bank.pool.refresh(embed)
    assert set(moved) | set(seen) == set(range(50))
    assert torch.equal(state["features"], bank.features[bank.pool.rows])
    # the search is among the new ones
    fresh = BankPool(bank.categories, bank.keys, PoolSettings())
    fresh.refresh(bank.embed)
    asked = torch.tensor([[0, 1, 2, 0]]), torch.ones(1, 4, dtype=torch.bool), torch.tensor([2]), torch.tensor([5])
    assert torch.equal(fresh.propose(*asked, 4, tau=0.1).rows, bank.pool.propose(*asked, 4, tau=0.1).rows)


def test_going_on_from_a_state_is_as_if_nothing_had_happened() -> None:
    def features(step: int, rows: Tensor) -> Tensor:
        return torch.sin(rows.unsqueeze(1) * torch.tensor([1.0, 2.0, 3.0]) + step)

    def make() -> BankPool:
        return BankPool(np.arange(60) % 3, np.arange(60) // 4, PoolSettings(head=4, tail=4, refresh=7))

    asked = torch.tensor([[0, 1, 2]]), torch.ones(1, 3, dtype=torch.bool), torch.tensor([2]), torch.tensor([5])
    through, broken = make(), make()
    for step in range(9):
        through.refresh(lambda rows, step=step: features(step, rows))  # type: ignore[misc]
        state = broken.refresh(lambda rows, step=step: features(step, rows))  # type: ignore[misc]
        if step == 4:
            kept = {name: value.clone() for name, value in state.items()}
            broken = make()
            broken.restore(kept, torch.device("cpu"))
        assert torch.equal(through.state()["features"], broken.state()["features"])
        ours, theirs = (pool.propose(*asked, 3, tau=0.3) for pool in (through, broken))
        assert torch.equal(ours.rows, theirs.rows) and torch.equal(ours.bound, theirs.bound)


def test_a_product_of_matrices_finds_what_the_index_finds() -> None:
    bank = Bank(6, [80, 9, 40], 12, head=8, tail=4)
    bank.pool.refresh(bank.embed)
    query, asking = bank.features[::20], torch.ones(3, 7, dtype=torch.bool)
    by_index = bank.pool.nearest(query, [0, 1, 2], asking, 15)
    bank.pool._indexes = {}  # as where the features are on a GPU
    by_product = bank.pool.nearest(query, [0, 1, 2], asking, 15)
    assert torch.equal(by_index[0], by_product[0])
    torch.testing.assert_close(by_index[1], by_product[1], atol=1e-5, rtol=1e-4)
    for c in range(3):
        places = (torch.from_numpy(bank.categories)[bank.pool.rows] == c).nonzero().flatten()
        vectors = bank.features[bank.pool.rows[places]].double()
        order = (vectors - query[4].double()).square().sum(1).argsort()[:15]
        expected = torch.nn.functional.pad(places[order], (0, 15 - len(order)), value=NONE)
        assert by_index[0][c, 4].tolist() == expected.tolist()


def test_vectors_of_a_flat_index_are_replaced() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20, 3)).astype(np.float32)
    index = VectorIndex.empty(Factory("flat"), 3, "l2")
    index.add(np.arange(20), vectors)
    vectors[[3, 11]] = rng.standard_normal((2, 3))
    index.replace(np.array([3, 11]), vectors[[3, 11]])
    assert index.search(vectors, 1, 0)[0].ravel().tolist() == list(range(20))


def test_exponential_is_standard() -> None:
    assert stats.kstest(exponential(torch.arange(20_000), 3).numpy(), "expon").pvalue > 1e-3
