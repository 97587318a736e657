"""Differentiable retrieval against Algorithm 1 written out for one image and one candidate at a time (T4 to T9)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipelines.systems.retrievegan.losses import cooccurrence_penalty
from pipelines.systems.retrievegan.retrieval import (
    Selection,
    first_query,
    gumbel,
    pick_patches,
    retrieve,
    selection_loss,
    temperature,
    truth_loss,
)

Vector = list[float]


@dataclass
class Plain:
    """What the plain algorithm gives for one image; candidates are pairs (group, candidate)."""

    steps: list[dict[tuple[int, int], float]] = field(default_factory=list)
    total: dict[tuple[int, int], float] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    chosen: dict[int, int] = field(default_factory=dict)
    weights: dict[tuple[int, int], float] = field(default_factory=dict)
    queries: list[Vector] = field(default_factory=list)


def plain(
    features: dict[tuple[int, int], Vector],
    query: Vector,
    noise: np.ndarray | None,
    *,
    tau: float,
    alpha: float,
    distance: str = "l2sq",
    hard: bool = True,
    query_update: str = "half",
    eps: float = 1e-6,
    guard: bool = True,
    used: frozenset[int] = frozenset(),
) -> Plain:
    """Section 3.3 of the method, candidate by candidate."""
    result = Plain()
    features = {c: f for c, f in features.items() if c[0] not in used}
    groups = sorted({group for group, _ in features})
    penalty = dict.fromkeys(groups, 0.0)
    active = set(groups)
    result.total = dict.fromkeys(features, 0.0)
    served: list[Vector] = []
    for t in range(len(groups)):
        result.queries.append(query)
        hat = {}
        for c, f in features.items():
            d = sum((a - b) ** 2 for a, b in zip(f, query, strict=True))
            g = 0.0 if noise is None else float(noise[min(t, len(noise) - 1)][c])
            hat[c] = -alpha * (d if distance == "l2sq" else math.sqrt(d)) + g + penalty[c[0]]
            if guard and c[0] not in active:
                hat[c] = -math.inf
        highest = max(hat.values())
        e = {c: math.exp((h - highest) / tau) for c, h in hat.items()}
        s = {c: x / sum(e.values()) for c, x in e.items()}
        best = max(features, key=lambda c: (hat[c], (-c[0], -c[1])))
        w = {c: float(c == best) for c in s} if hard else s
        for c in features:
            result.total[c] += w[c]
        for group in groups:
            penalty[group] += math.log(max(1 - max(x for c, x in s.items() if c[0] == group), eps))
        if best[0] not in result.chosen:
            result.chosen[best[0]] = best[1]
            inside = sum(x for c, x in s.items() if c[0] == best[0])
            for c, x in s.items():
                if c[0] == best[0]:
                    result.weights[c] = float(c == best) if hard else x / inside
        active.discard(best[0])
        found = [sum(w[c] * f[i] for c, f in features.items()) for i in range(len(query))]
        served.append(found)
        if query_update == "half":
            query = [(a + b) / 2 for a, b in zip(query, found, strict=True)]
        else:
            query = [sum(column) / len(served) for column in zip(*served, strict=True)]
        result.steps.append(s)
        result.order.append(best[0])
    result.queries.append(query)
    return result


def padded(images: list[dict[tuple[int, int], Vector]], shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """features (B, N, K, d) and present (B, N, K); what is absent holds numbers that must not matter."""
    features = torch.full((len(images), *shape), 3.25, dtype=torch.float64)
    present = torch.zeros(len(images), *shape[:2], dtype=torch.bool)
    for b, image in enumerate(images):
        for (group, candidate), f in image.items():
            features[b, group, candidate] = torch.tensor(f, dtype=torch.float64)
            present[b, group, candidate] = True
    return features, present


def assert_equal(selection: Selection, b: int, expected: Plain, hard: bool) -> None:
    """One image of a batch against the plain algorithm."""
    n = len(expected.order)
    assert selection.order[b].tolist() == expected.order + [-1] * (selection.order.shape[1] - n)
    steps = np.zeros(tuple(selection.steps[b].shape))
    total, weights = np.zeros(steps.shape[1:]), np.zeros(steps.shape[1:])
    for t, s in enumerate(expected.steps):
        for c, x in s.items():
            steps[t][c] = x
    for c, x in expected.total.items():
        total[c] = x
    for c, x in expected.weights.items():
        weights[c] = x
    chosen = [expected.chosen.get(group, -1) for group in range(steps.shape[1])]
    assert selection.chosen[b].tolist() == chosen
    np.testing.assert_allclose(selection.steps[b], steps, atol=1e-9)
    np.testing.assert_allclose(selection.total[b], total, atol=1e-9)
    np.testing.assert_allclose(selection.weights[b], weights, atol=1e-9)
    np.testing.assert_allclose(selection.query[b], expected.queries[-1], atol=1e-9)
    if hard:
        assert set(selection.total[b].unique().tolist()) <= {float(x) for x in range(n + 1)}


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[dict[tuple[int, int], Vector]], tuple[int, int, int], int]:
    """Ragged images: groups absent anywhere, each with 1 to K of K candidates, and the seed of their numbers."""
    groups, k, d = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    seed = draw(st.integers(0, 2**32 - 1))
    scale = draw(st.sampled_from([0.1, 1.0, 3.0]))
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(draw(st.integers(1, 4))):
        image = {}
        for group in range(groups):
            if draw(st.integers(0, 3)):
                for candidate in rng.permutation(k)[: draw(st.integers(1, k))]:
                    image[group, int(candidate)] = (scale * rng.standard_normal(d)).tolist()
        images.append(image)
    return images, (groups, k, d), seed


@settings(max_examples=80, deadline=None)
@given(
    batches(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["l2sq", "l2"]),
    st.sampled_from(["half", "mean"]),
    st.sampled_from([0.1, 0.5, 1.0]),
    st.sampled_from(["none", "once", "per_step"]),
    st.booleans(),
)
def test_ragged_batches_are_the_plain_algorithm_image_by_image(
    batch: tuple[list[dict[tuple[int, int], Vector]], tuple[int, int, int], int],
    hard: bool, guard: bool, distance: str, query_update: str, tau: float, noise: str, some_used: bool,
) -> None:  # fmt: skip
    images, (groups, k, d), seed = batch
    features, present = padded(images, (groups, k, d))
    rng = np.random.default_rng([seed, 1])
    drawn = None
    if noise != "none":
        drawn = rng.gumbel(size=(len(images), groups if noise == "per_step" else 1, groups, k))
    queries = rng.standard_normal((len(images), d))
    used = rng.random((len(images), groups)) < 0.3 if some_used else np.zeros((len(images), groups), bool)
    kwargs = {"tau": tau, "alpha": 1.5, "distance": distance, "hard": hard, "query_update": query_update}
    selection = retrieve(
        features, present, torch.from_numpy(queries), None if drawn is None else torch.from_numpy(drawn),
        guard=guard, used=torch.from_numpy(used), **kwargs,
    )  # fmt: skip
    for b, image in enumerate(images):
        expected = plain(
            image, queries[b].tolist(), None if drawn is None else drawn[b], guard=guard,
            used=frozenset(np.flatnonzero(used[b]).tolist()), **kwargs,
        )  # fmt: skip
        assert_equal(selection, b, expected, hard and guard)


def test_what_is_chosen_is_distributed_as_the_plain_algorithm_chooses() -> None:
    rng = np.random.default_rng(5)
    image = {(0, 0): [0.0, 0.0], (0, 1): [1.0, 0.2], (1, 0): [0.3, 0.9], (1, 1): [0.1, -0.8], (2, 0): [1.0, 1.0]}
    features, present = padded([image], (3, 2, 2))
    draws, plain_draws = 20_000, 3000
    expanded = features.float().expand(draws, -1, -1, -1), present.expand(draws, -1, -1)
    selection = retrieve(*expanded, torch.zeros(draws, 2), gumbel((draws, 3, 3, 2), rng), tau=0.7, alpha=1.0, hard=True)
    names = selection.order @ torch.tensor([9, 3, 1]) * 8 + selection.chosen @ torch.tensor([4, 2, 1])
    ours = dict(zip(*(x.tolist() for x in names.unique(return_counts=True)), strict=True))
    theirs: dict[int, int] = {}
    for _ in range(plain_draws):
        noise = -np.log(-np.log(rng.random((3, 3, 2))))
        one = plain(image, [0.0, 0.0], noise, tau=0.7, alpha=1.0)
        order = sum(f * g for f, g in zip((9, 3, 1), one.order, strict=True))
        name = order * 8 + sum(f * one.chosen[g] for f, g in ((4, 0), (2, 1), (1, 2)))
        theirs[name] = theirs.get(name, 0) + 1
    # two samples of one distribution: chi-squared over the outcomes, of which there are 3! * 4
    statistic = 0.0
    for name in ours.keys() | theirs.keys():
        a, b = ours.get(name, 0), theirs.get(name, 0)
        statistic += (a * math.sqrt(plain_draws / draws) - b * math.sqrt(draws / plain_draws)) ** 2 / (a + b)
    freedom = len(ours.keys() | theirs.keys()) - 1
    assert freedom == 23
    assert statistic < 49.7  # the 0.999 quantile of chi-squared with 23 degrees of freedom


def line(*groups: list[float]) -> tuple[Tensor, Tensor]:
    """One image of candidates on a line."""
    k = max(map(len, groups))
    features = torch.tensor([[g + [0.0] * (k - len(g)) for g in groups]]).unsqueeze(3)
    present = torch.tensor([[[i < len(g) for i in range(k)] for g in groups]])
    return features, present


def test_t4_two_groups_by_hand() -> None:
    features, present = line([0, 3], [1, 5])
    selection = retrieve(features, present, torch.zeros(1, 1), None, tau=0.1, alpha=1.0)
    assert selection.order.tolist() == [[0, 1]] and selection.chosen.tolist() == [[0, 0]]
    assert selection.total.tolist() == [[[1, 0], [1, 0]]]
    assert selection.query.item() == 0.5


def test_t4_three_groups_are_served_once_each() -> None:
    features, present = line([0, 2], [1, 3], [10, 12])
    selection = retrieve(features, present, torch.zeros(1, 1), None, tau=0.1, alpha=1.0)
    assert selection.order.tolist() == [[0, 1, 2]] and selection.chosen.tolist() == [[0, 0, 0]]
    assert selection.query.item() == (0.5 + 10) / 2


def test_t4_without_the_guard_a_finite_penalty_loses_to_a_large_distance() -> None:
    features, present = line([0, 2], [1, 3], [10, 12])
    selection = retrieve(features, present, torch.zeros(1, 1), None, tau=0.1, alpha=1.0, guard=False, eps=1e-30)
    assert selection.order.tolist() == [[0, 1, 0]]
    assert selection.chosen.tolist() == [[0, 0, -1]]


def test_t5_soft_numbers() -> None:
    features, present = line([0, 3], [1, 5])
    selection = retrieve(features, present, torch.zeros(1, 1), None, tau=1.0, alpha=1.0, hard=False, guard=False)
    torch.testing.assert_close(
        selection.steps.flatten(2)[0],
        torch.tensor([[0.73099, 0.00009, 0.26892, 0.0], [0.43311, 0.00012, 0.56677, 0.0]]), atol=6e-6, rtol=0,
    )  # fmt: skip
    first = (selection.steps[0, 0] * features[0, :, :, 0]).sum() / 2
    assert first.item() == pytest.approx(0.13459, abs=6e-6)
    assert selection.total.sum().item() == pytest.approx(2.0, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.3, 1.0]), st.booleans(), st.sampled_from([0.1, 1.0, 30.0]))
def test_t6_invariants(seed: int, tau: float, hard: bool, scale: float) -> None:
    rng = np.random.default_rng(seed)
    batch, groups, k, d = 3, int(rng.integers(1, 7)), int(rng.integers(1, 6)), 8
    features = torch.from_numpy(scale * rng.standard_normal((batch, groups, k, d))).float()
    present = torch.from_numpy(rng.random((batch, groups, k)) < 0.8)
    noise, query = gumbel((batch, groups, groups, k), rng), torch.from_numpy(rng.standard_normal((batch, d))).float()

    def run(f: Tensor, p: Tensor, q: Tensor, g: Tensor) -> Selection:
        return retrieve(f, p, q, g, tau=tau, alpha=1.0, hard=hard)

    selection = run(features, present, query, noise)
    n = present.any(2).sum(1)
    torch.testing.assert_close(selection.total.sum((1, 2)), n.float(), atol=1e-5, rtol=0)
    rests = torch.arange(selection.steps.shape[1]) >= n.unsqueeze(1)
    torch.testing.assert_close(selection.steps.sum((2, 3)), (~rests).float(), atol=1e-5, rtol=0)
    assert (selection.order.eq(-1) == rests).all()
    assert (selection.steps >= 0).all() and not selection.steps[~present.unsqueeze(1).expand_as(selection.steps)].any()
    for b in range(batch):  # exactly one patch for each group that has any
        served = selection.order[b][selection.order[b] >= 0]
        assert sorted(served.tolist()) == present[b].any(1).nonzero().flatten().tolist()
    assert (selection.chosen.ge(0) == present.any(2)).all()
    assert present.gather(2, selection.chosen.clamp(min=0).unsqueeze(2)).squeeze(2)[present.any(2)].all()
    torch.testing.assert_close(selection.weights.sum(2), present.any(2).float())
    if hard:
        assert set(selection.total.unique().tolist()) <= {0.0, 1.0}
        assert set(selection.weights.unique().tolist()) <= {0.0, 1.0}

    # candidates and groups in another order
    of_groups, of_k = torch.from_numpy(rng.permutation(groups)), torch.from_numpy(rng.permutation(k))
    turned = run(features[:, of_groups][:, :, of_k], present[:, of_groups][:, :, of_k], query,
                 noise[:, :, of_groups][:, :, :, of_k])  # fmt: skip
    torch.testing.assert_close(turned.total, selection.total[:, of_groups][:, :, of_k], atol=1e-4, rtol=0)
    # more padding, and an image alone
    wide = torch.nn.functional.pad(features, (0, 0, 0, 2, 0, 1), value=7.0)
    wide_present = torch.nn.functional.pad(present, (0, 2, 0, 1))
    wider = run(wide, wide_present, query, torch.nn.functional.pad(noise, (0, 2, 0, 1, 0, 1)))
    torch.testing.assert_close(wider.total[:, :groups, :k], selection.total, atol=1e-4, rtol=0)
    alone = run(features[1:2], present[1:2], query[1:2], noise[1:2])
    torch.testing.assert_close(alone.total, selection.total[1:2], atol=1e-4, rtol=0)


def test_t7_low_temperature_is_the_argmax() -> None:
    rng = np.random.default_rng(2)
    features = torch.from_numpy(rng.standard_normal((50, 4, 5, 3))).float()
    noise, present = gumbel((50, 4, 4, 5), rng), torch.ones(50, 4, 5, dtype=torch.bool)
    soft = retrieve(features, present, features[:, 0, 0], noise, tau=1e-3, hard=False)
    hard = retrieve(features, present, features[:, 0, 0], noise, tau=1e-3, hard=True)
    first = (noise[:, 0] - 10 * (features - features[:, :1, :1]).square().sum(3)).flatten(1)
    assert (soft.steps[:, 0].flatten(1).argmax(1) == first.argmax(1)).all()
    apart = first.topk(2).values.diff().abs().squeeze(1) > 0.02
    assert apart.sum() > 40
    torch.testing.assert_close(soft.steps[apart, 0].flatten(1).max(1).values, torch.ones(int(apart.sum())))
    assert (hard.order[:, 0] == soft.order[:, 0]).all()


def test_t7_an_object_alone_gets_the_candidate_that_asks() -> None:
    features = torch.randn(1, 1, 6, 4, generator=torch.Generator().manual_seed(0))
    present = torch.ones(1, 1, 6, dtype=torch.bool)
    for j in range(6):
        assert retrieve(features, present, features[:, 0, j], None, tau=1e-3).chosen.item() == j


def test_t7_pick_rates_are_pi() -> None:
    draws, pi = 20_000, torch.tensor([0.1, 0.3, 0.6])
    features = (-pi.log()).sqrt().view(1, 1, 3, 1).expand(draws, -1, -1, -1)
    present = torch.ones(draws, 1, 3, dtype=torch.bool)
    noise = gumbel((draws, 1, 1, 3), np.random.default_rng(0))
    selection = retrieve(features, present, torch.zeros(draws, 1), noise, tau=0.1, alpha=1.0)
    rates = torch.bincount(selection.chosen.flatten(), minlength=3) / draws
    torch.testing.assert_close(rates, pi, atol=0.02, rtol=0)


@pytest.mark.parametrize("distance", ["l2sq", "l2"])
def test_t8_the_loss_of_the_image_reaches_the_patch_embedder(distance: str) -> None:
    torch.manual_seed(0)
    embedder = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.LeakyReLU(), nn.Flatten(), nn.Linear(36, 6))
    generator = nn.Conv2d(3, 1, 3)
    patches = torch.rand(2, 3, 4, 3, 8, 8) * 2 - 1
    present = torch.ones(2, 3, 4, dtype=torch.bool)
    present[1, 2] = False
    features = embedder(patches.flatten(0, 2)).view(2, 3, 4, -1)
    noise = gumbel((2, 3, 3, 4), np.random.default_rng(0))
    query = first_query(features, present, torch.tensor([0.3, 0.9]))
    selection = retrieve(features, present, query, noise, tau=0.5, alpha=1.0, distance=distance)  # type: ignore[arg-type]
    picked = pick_patches(selection.weights, patches)
    for b in range(2):
        for group in range(3):
            j = int(selection.chosen[b, group])
            expected = patches[b, group, j] if j >= 0 else torch.zeros(3, 8, 8)
            assert torch.equal(picked[b, group], expected)
    generator(picked.flatten(0, 1)).square().mean().backward()
    for parameter in embedder.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any()


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("distance", ["l2sq", "l2"])
def test_t8_no_gradient_is_nan_where_s_is_exactly_one(hard: bool, distance: str) -> None:
    features = torch.tensor([[[[0.0], [50.0]], [[0.0], [60.0]], [[0.0], [70.0]]]], requires_grad=True)
    present = torch.tensor([[[True, True], [True, True], [False, False]]])
    query = features[:, 0, 0]
    selection = retrieve(features, present, query, None, tau=0.01, hard=hard, distance=distance)  # type: ignore[arg-type]
    assert selection.steps[0, 1].max() == 1
    (selection.total.square().sum() + selection.weights.square().sum() + selection.query.sum()).backward()
    assert features.grad is not None and features.grad.isfinite().all()


def test_the_soft_selection_has_the_gradient_of_its_value_and_the_hard_one_the_same() -> None:
    generator = torch.Generator().manual_seed(3)
    features = 0.3 * torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=generator)
    noise = 0.2 * torch.randn(2, 3, 3, 2, dtype=torch.float64, generator=generator)
    present = torch.ones(2, 3, 2, dtype=torch.bool)
    present[0, 1, 1] = present[1, 2] = False
    query = 0.1 * torch.randn(2, 2, dtype=torch.float64, generator=generator)

    def soft(f: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        selection = retrieve(f, present, q, noise, tau=0.8, alpha=1.0, hard=False)
        return selection.total, selection.weights

    assert torch.autograd.gradcheck(soft, (features.requires_grad_(), query.requires_grad_()))
    # at a single step the straight-through gradient is that of the soft selection
    gradients = []
    for hard in (True, False):
        alone = retrieve(features[:, :1], present[:, :1], query, noise[:, :, :1], tau=0.8, alpha=1.0, hard=hard)
        value = alone.weights @ torch.tensor([1.0, 2.0], dtype=torch.float64)
        gradients.append(torch.autograd.grad(value.sum() + alone.total[:, :, 0].sum(), features)[0])
    torch.testing.assert_close(*gradients)


def test_t9_co_occurrence_penalty() -> None:
    vectors = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]], requires_grad=True)
    both = torch.ones(1, 2, dtype=torch.bool)
    penalty = cooccurrence_penalty(vectors, both)
    assert penalty.item() == pytest.approx(10, abs=1e-4)
    penalty.backward()
    assert vectors.grad is not None and vectors.grad.isfinite().all()
    assert cooccurrence_penalty(vectors, torch.tensor([[True, False]])).item() == 0


def test_t9_truth_loss() -> None:
    log_truth = torch.tensor([[[0.5, 0.9, 0.25], [1e-30, 0.9, 0.25]]]).log()
    assert truth_loss(log_truth, torch.tensor([[True, False, False]])).item() == pytest.approx(0.6931, abs=1e-4)
    assert truth_loss(log_truth, torch.tensor([[True, False, True]])).item() == pytest.approx(0.6931, abs=1e-4)
    assert truth_loss(torch.zeros(1, 1, 1), torch.tensor([[True]])).item() == 0
    assert truth_loss(log_truth, torch.zeros(1, 3, dtype=torch.bool)).item() == 0


def test_selection_loss_is_that_of_the_plain_algorithm() -> None:
    rng = np.random.default_rng(7)
    sizes = [(3, [2, 2, 1]), (1, [2]), (2, [0, 2])]
    images, own, losses = [], np.zeros((3, 3, 4)), []
    noise, first = rng.gumbel(size=(3, 2, 3, 3)), [1, 0, 1]
    for b, (n, candidates) in enumerate(sizes):
        image = {(i, j): (0.5 * rng.standard_normal(4)).tolist() for i in range(n) for j in range(candidates[i])}
        images.append(image)
        own[b, :n] = 0.5 * rng.standard_normal((n, 4))
        everything = image | {(i, 2): own[b, i].tolist() for i in range(n)}
        got = plain(everything, own[b, first[b]].tolist(), noise[b], tau=0.5, alpha=2.0, hard=False,
                    used=frozenset([first[b]]))  # fmt: skip
        found = [sum(s.get((i, 2), 0) for s in got.steps) for i in range(n) if i != first[b]]
        losses.append(-sum(math.log(max(x, 1e-8)) for x in found) / max(1, n - 1))
    features, present = padded(images, (3, 2, 4))
    objects = torch.tensor([[i < n for i in range(3)] for n, _ in sizes])
    loss = selection_loss(
        features, present, torch.from_numpy(own), objects, torch.tensor(first), torch.from_numpy(noise),
        tau=0.5, alpha=2.0,
    )  # fmt: skip
    assert losses[1] == 0
    assert loss.item() == pytest.approx(np.mean(losses), abs=1e-9)


def test_selection_loss_pulls_at_a_truth_that_is_hopeless() -> None:
    own = torch.tensor([[[0.0], [9.0]]], requires_grad=True)
    loss = selection_loss(
        torch.zeros(1, 2, 1, 1), torch.ones(1, 2, 1, dtype=torch.bool), own, torch.ones(1, 2, dtype=torch.bool),
        torch.tensor([0]), None, tau=0.1,
    )  # fmt: skip
    loss.backward()
    assert loss.isfinite() and own.grad is not None and own.grad[0, 1].item() > 0


def test_a_batch_without_candidates_gives_nothing_and_no_gradient_is_nan() -> None:
    features = torch.randn(2, 3, 4, 5, requires_grad=True)
    present = torch.zeros(2, 3, 4, dtype=torch.bool)
    query = first_query(features, present, torch.tensor([0.0, 0.5]))
    assert not query.any()
    selection = retrieve(features, present, query, None, tau=0.1)
    assert selection.order.tolist() == [[-1], [-1]] and (selection.chosen == -1).all() and not selection.total.any()
    picked = pick_patches(selection.weights, torch.rand(2, 3, 4, 3, 8, 8))
    assert picked.shape == (2, 3, 3, 8, 8) and not picked.any()
    (picked.sum() + selection.total.sum()).backward()


def test_first_query_draws_every_candidate_there_is_equally() -> None:
    present = torch.tensor([[[False, True], [True, True]]]).expand(900, -1, -1)
    features = torch.arange(4.0).view(1, 2, 2, 1).expand(900, -1, -1, -1)
    query = first_query(features, present, (torch.arange(900, dtype=torch.float64) + 0.5) / 900)
    assert torch.bincount(query.flatten().long(), minlength=4).tolist() == [0, 300, 300, 300]
    assert first_query(features, present, torch.full((900,), 1 - 1e-16, dtype=torch.float64)).eq(3).all()


def test_autocast_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.standard_normal((2, 3, 4, 16))).float()
    present, noise = torch.ones(2, 3, 4, dtype=torch.bool), gumbel((2, 3, 3, 4), rng)
    patches = torch.rand(2, 3, 4, 3, 8, 8)
    plainly = retrieve(features, present, features[:, 0, 0], noise, tau=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        under = retrieve(features, present, features[:, 0, 0], noise, tau=0.1)
        picked = pick_patches(under.weights, patches)
    assert torch.equal(under.steps, plainly.steps) and under.steps.dtype == torch.float32
    assert torch.equal(picked, pick_patches(plainly.weights, patches))


def test_gumbel_noise_is_standard_and_finite() -> None:
    noise = gumbel((100_000,), np.random.default_rng(0))
    assert noise.isfinite().all() and noise.dtype == torch.float32
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.std().item() == pytest.approx(1.2825, abs=0.02)


def test_temperature_falls_linearly_then_stays() -> None:
    assert temperature(0, 1.0, 0.1, 0.5) == 1.0
    assert temperature(0.25, 1.0, 0.1, 0.5) == pytest.approx(0.55)
    assert temperature(0.5, 1.0, 0.1, 0.5) == temperature(1, 1.0, 0.1, 0.5) == 0.1
    assert temperature(0, 1.0, 0.1, 0.0) == 0.1
