"""`pool: bank`: the retrieval over the whole bank, of which a step embeds no more than K patches for each object.

What is estimated: Algorithm 1 over all pieces of each object's class, with Gumbel noise for every one of them, under
features that are kept and embedded anew slice by slice while the patch embedder trains. A first pass without gradient
runs it lazily. For object i and step t it looks at the `head`, the H nearest pieces to the query, each with its own
noise; and at the `tail`: the R pieces behind them are R exponential clocks E = exp(-G), which ring first in a Poisson
process of rate R with uniform labels, so its first m rings are the m largest noises of the tail, wherever they fell.
The second pass (`retrieve`, with gradient) gets the K pieces of each object that collected most, with the noise they
had; noise that nobody looked at is drawn when it is needed, given that it was below the m-th. (Nearest neighbors and
few large noises instead of all: Mussmann, Levy, Ermon, UAI 2017.)

How far off it is: the estimate is biased, and the bias has a bound that is known for every draw.
    1. Let F be the mass exp(hat_j / tau) of all pieces at step t, Z that of those looked at, D that of those of them
       which are not among the K, g_i the m-th noise, B_i the log pi of the H-th nearest.
    2. A piece j nobody looked at is no nearer than the head, l_j <= B_i, and rang later, G_j <= g_i.
    3. So all u_i of them have a mass of at most U = sum_i u_i exp((B_i + g_i + C_i) / tau), and F <= Z + U.
    4. The K keep at least Z - D, so s(t) over the whole bank gives the others 1 - (Z - D) / F <= (D + U) / (Z + U).
    5. s(t) over the K is s(t) over the bank, conditioned on the K: their total variation is just that omitted mass.
Where max_i (B_i + g_i + C_i) < max_j hat_j, the piece that is chosen is the very one that the whole bank would have
given: then hard selection is exact. The bound is for the step's query and penalties C and for the features as kept;
how far these lag behind is `drift`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pipelines.config import Config
from pipelines.index.factory import Factory
from pipelines.index.neighbors import NONE
from pipelines.index.vectors import VectorIndex
from pipelines.systems.retrievegan.lazy import (
    Ranges,
    best_distinct,
    draw_tail,
    first_place,
    head_noise,
    nearest_free,
    rest_noise,
)
from pipelines.systems.retrievegan.retrieval import NEVER, Distance, QueryUpdate

TOGETHER = 16
"""Queries that faiss is asked at once: from 20 on it computes distances otherwise, and what an image finds would depend
on its neighbors in the batch."""


class PoolSettings(Config):
    """How the whole bank is searched."""

    head: int = Field(32, ge=1)
    """Nearest pieces to the query that are looked at for each object and step."""
    tail: int = Field(32, ge=1)
    """Largest Gumbel noises among all other pieces of the class that are looked at."""
    refresh: int = Field(1024, ge=1)
    """Pieces that are embedded anew before each step; the first time it is all of them."""


@dataclass(frozen=True)
class Look:
    """What the first pass looked at in one step, or stacked along dimension 1 in all of them, from which its claims can
    be checked. W = H + m pieces of each of N objects, in B images.

    query: (B, d). penalty: (B, N) C. places: (B, N, W) int64, in the order of classes. noise: (B, N, W). log_pi:
    (B, N, W). valid: (B, N, W) bool, False where there is no such piece, or the object has been served. highest: (B, N)
    the most that log pi + G of any other piece can be, -inf where there is none. unseen: (B, N) how many others there
    are. latest: (B, N) exp(-G) of every other piece is above this; 0 where nothing is known of them. s: (B, N, W) over
    what was looked at. missed: (B,) logarithm of the most that the mass of all others can be, in parts of that of what
    was looked at. group: (B,) object served, and place: (B,) by what, NONE where the image rests.
    """

    query: Tensor
    penalty: Tensor
    places: Tensor
    noise: Tensor
    log_pi: Tensor
    valid: Tensor
    highest: Tensor
    unseen: Tensor
    latest: Tensor
    s: Tensor
    missed: Tensor
    group: Tensor
    place: Tensor


@dataclass(frozen=True)
class Proposal:
    """The candidates of the second pass.

    rows: (B, N, K) int64 of the bank, NONE for none; no row twice for one object. noise: (B, T, N, K) Gumbel. first:
    (B,) int64 the piece whose feature starts the retrieval, NONE in an image without candidates. bound: (B, T) the most
    of s(t) over the whole bank that can be of pieces not in rows. exact: (B, T) bool, is the piece that was served
    certainly that of the whole bank. Where an image rests the bound is 0, and exact. looks: of all steps.
    """

    rows: Tensor
    noise: Tensor
    first: Tensor
    bound: Tensor
    exact: Tensor
    looks: Look


class BankPool:
    """The features of a bank's pieces, class by class in exact indexes, and the first pass over all of them.

    categories: (n,) of the pieces. keys: (n,) int64, as of `Bank.exclusion_keys`; no image is served a piece of its own
    key. threads: of the search. On a GPU the search is a product of matrices.
    """

    def __init__(self, categories: np.ndarray, keys: np.ndarray, settings: PoolSettings, threads: int = 1) -> None:
        self.settings, self.threads = settings, threads
        # the pieces of a class lie together, and in it those of a key: a range of places says what is excluded
        order = np.lexsort((keys, categories))
        self.rows = torch.from_numpy(order)
        """(n,) int64: the row of the bank at each place."""
        self._span = int(keys.max(initial=0)) + 1
        self._categories = torch.from_numpy(categories[order].astype(np.int64))
        self._codes = self._categories * self._span + torch.from_numpy(keys[order].astype(np.int64))
        self._turns = torch.from_numpy(np.random.default_rng(0).permutation(len(order)))
        self._position = 0
        self.features: Tensor | None = None
        """(n, d) float32 by place; None until they are embedded or restored."""
        self._indexes: dict[int, VectorIndex] = {}
        self.drift = 0.0
        """Mean squared distance by which the last slice had moved since it was embedded before."""

    def refresh(self, embed: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Embed the next slice of the bank anew, at first all of it; the state for a checkpoint.

        embed: rows (m,) int64 to features (m, d) on the device of the search; without gradient, and always of the same
        rows alike (networks in eval mode).
        """
        with torch.no_grad():
            if self.features is None:
                self._keep(torch.cat([embed(rows).float() for rows in self.rows.split(self.settings.refresh)]))
            else:
                count = len(self.rows)
                turns = self._position + torch.arange(min(self.settings.refresh, count))
                self._position = int(turns[-1] + 1) % count
                self._replace(self._turns[turns % count].sort().values, embed)
        return self.state()

    def state(self) -> dict[str, Tensor]:
        """What `restore` goes on from: the features by place, and how far the present round has come."""
        assert self.features is not None
        return {"features": self.features, "position": torch.tensor(self._position)}

    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on from the state of a checkpoint."""
        self._keep(state["features"].to(device, copy=True))
        self._position = int(state["position"])

    def _keep(self, features: Tensor) -> None:
        self.features, self._indexes = features, {}
        if features.device.type != "cpu":
            return
        for category in self._categories.unique().tolist():
            vectors = features[self._class(category)].numpy()
            index = VectorIndex.empty(Factory("flat"), features.shape[1], "l2")
            index.add(np.arange(len(vectors)), vectors)
            self._indexes[category] = index

    def _replace(self, places: Tensor, embed: Callable[[Tensor], Tensor]) -> None:
        """Embed some places, in ascending order, anew."""
        assert self.features is not None
        new, on_device = embed(self.rows[places]).float(), places.to(self.features.device)
        self.drift = float((new - self.features[on_device]).square().sum(1).mean())
        self.features[on_device] = new
        for category, index in self._indexes.items():
            part = self._class(category)
            mine = places[slice(*torch.searchsorted(places, torch.tensor([part.start, part.stop])).tolist())]
            index.replace((mine - part.start).numpy(), self.features[mine].numpy())

    def _class(self, category: int) -> slice:
        """The places of a class."""
        ends = torch.tensor([category, category + 1])
        return slice(*torch.searchsorted(self._categories, ends).tolist())

    def _ranges(self, categories: Tensor, exclude: Tensor) -> Ranges:
        """Where the pieces of each object lie, and which of them are of the image itself."""
        start, stop = (torch.searchsorted(self._categories, categories, right=right) for right in (False, True))
        key = exclude.unsqueeze(1).expand(categories.shape)
        code = categories * self._span + key
        own, own_stop = (torch.searchsorted(self._codes, code, right=right) for right in (False, True))
        known = (key >= 0) & (key < self._span)
        return Ranges(start, stop, torch.where(known, own, stop), torch.where(known, own_stop, stop))

    def nearest(self, query: Tensor, classes: list[int], asking: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The `count` nearest places of each of U classes to the queries (B, d), nearest first, and their squared
        distances; (U, B, count), NONE and inf where a class has fewer. asking: (U, B) bool, which are needed at all."""
        assert self.features is not None
        places = torch.full((len(classes), len(query), count), NONE, device=query.device)
        far = torch.full(places.shape, torch.inf, device=query.device)
        for u, category in enumerate(classes):
            part = self._class(category)
            m = min(count, part.stop - part.start)
            if self._indexes:
                for some in asking[u].nonzero().squeeze(1).split(TOGETHER) if asking[u].any() else ():
                    numbers, away = self._indexes[category].search(query[some].numpy(), m, 0, threads=self.threads)
                    places[u, some, :m] = torch.from_numpy(numbers) + part.start
                    far[u, some, :m] = torch.from_numpy(away).to(far.dtype)
            else:
                among = self.features[part]
                squares = query.square().sum(1, keepdim=True) + among.square().sum(1)
                found, at = (squares - 2 * query @ among.T).topk(m, 1, largest=False)
                places[u, :, :m], far[u, :, :m] = at + part.start, found.clamp(min=0)
        return places, far

    @torch.no_grad()
    def propose(
        self,
        categories: Tensor,
        present: Tensor,
        exclude: Tensor,
        seeds: Tensor,
        k: int,
        *,
        tau: float,
        alpha: float = 10.0,
        distance: Distance = "l2sq",
        query_update: QueryUpdate = "half",
        eps: float = 1e-6,
        noise: bool = True,
    ) -> Proposal:
        """The first pass, with hard selection: k candidates for each object, on the device of the features.

        All on the CPU: categories (B, N) int64 class indices. present: (B, N) bool. exclude: (B,) int64 keys, NONE to
        exclude nothing. seeds: (B,) int64, on which alone the draws of an image depend. noise: False for greedy
        selection. The others as of `retrieve`. The retrieval starts from a piece of an object, both drawn uniformly.
        """
        assert self.features is not None, "refresh or restore comes first"
        device = self.features.device
        ranges = self._ranges(categories, exclude)
        active = present & (ranges.free > 0)
        categories_asked, number = categories[active].unique(return_inverse=True)
        classes = categories_asked.tolist() or [0]  # a batch without any candidate goes through one step of nothing
        of_class = torch.zeros_like(categories).masked_scatter(active, number)
        asking = (of_class == torch.arange(len(classes)).view(-1, 1, 1)) & active
        width = self.settings.head + int((ranges.own_stop - ranges.own).where(active, 0).max())
        steps = max(1, int(active.sum(1).max()))
        seeds, active, of_class = (x.to(device) for x in (seeds, active, of_class))
        ranges = ranges.to(device)
        images = torch.arange(len(seeds), device=device).unsqueeze(1)
        first = first_place(seeds, active, ranges)
        query = torch.where((first == NONE).unsqueeze(1), 0.0, self.features[first.clamp(min=0)])
        penalty, gathered = query.new_zeros(active.shape), torch.zeros_like(query)
        looks: list[Look] = []
        for t in range(steps):
            if device.type == "cpu":  # elsewhere it takes longer to know who still asks than to answer
                asking = asking & active
            near, far = self.nearest(query, classes, asking.any(2), width)
            near, far = near[of_class, images], far[of_class, images].masked_fill(~active.unsqueeze(2), torch.inf)
            head, far = nearest_free(near, far, ranges, self.settings.head)
            log_pi = -alpha * (far if distance == "l2sq" else far.sqrt())
            look = self._look(t, query, penalty, active, head, log_pi, ranges, seeds, tau, alpha, distance, noise)
            found = self.features[look.place.clamp(min=0)]
            gathered = gathered + found
            updated = (query + found) / 2 if query_update == "half" else gathered / (t + 1)
            query = torch.where((look.group == NONE).unsqueeze(1), query, updated)
            penalty = penalty + (1 - look.s.amax(2)).clamp(min=eps).log()
            active = active & (torch.arange(active.shape[1], device=device) != look.group.unsqueeze(1))
            looks.append(look)
        return self._proposal(first, looks, seeds, active.shape[1], k, noise)

    def _look(
        self,
        t: int,
        query: Tensor,
        penalty: Tensor,
        active: Tensor,
        head: Tensor,
        log_pi: Tensor,
        ranges: Ranges,
        seeds: Tensor,
        tau: float,
        alpha: float,
        distance: Distance,
        noise: bool,
    ) -> Look:
        """Step t of the first pass. head: (B, N, H) places and log_pi: theirs."""
        assert self.features is not None
        valid = head != NONE
        furthest = torch.where(valid, log_pi, torch.inf).amin(2)
        if noise:
            tail = draw_tail(seeds, t, head, valid, ranges, self.settings.tail)
            d = (self.features[tail.place] - query[:, None, None]).square().sum(3)
            log_pi = torch.cat([log_pi, -alpha * (d if distance == "l2sq" else d.sqrt())], 2)
            drawn = torch.cat([head_noise(seeds, t, head), tail.noise], 2).float()
            head, valid = torch.cat([head, tail.place], 2), torch.cat([valid, tail.valid & active.unsqueeze(2)], 2)
            latest, unseen = tail.latest, tail.unseen
        else:
            drawn, latest, unseen = torch.zeros_like(log_pi), torch.ones_like(penalty), ranges.free - valid.sum(2)
        latest, unseen = torch.where(active, latest, 0.0), torch.where(active, unseen, 0)
        highest = torch.where(unseen > 0, furthest - latest.log(), -torch.inf).float()
        logits = torch.where(valid, log_pi + drawn + penalty.unsqueeze(2), NEVER).flatten(1) / tau
        missed = (unseen.log() + (highest + penalty) / tau).logsumexp(1) - logits.logsumexp(1)
        pick, rests = logits.argmax(1, keepdim=True), ~active.any(1)
        return Look(
            query=query,
            penalty=penalty,
            places=head,
            noise=drawn,
            log_pi=log_pi,
            valid=valid,
            highest=highest,
            unseen=unseen,
            latest=latest,
            s=torch.where(valid, logits.softmax(1).view(valid.shape), 0.0),
            missed=torch.where(rests, -torch.inf, missed),
            group=(pick.squeeze(1) // valid.shape[2]).masked_fill(rests, NONE),
            place=head.flatten(1).gather(1, pick).squeeze(1).masked_fill(rests, NONE),
        )

    def _proposal(self, first: Tensor, looks: list[Look], seeds: Tensor, groups: int, k: int, noise: bool) -> Proposal:
        """Keep the k pieces of each object that collected most in any one step, first of all the one it was served."""
        look = Look(*(torch.stack(parts, 1) for parts in zip(*(vars(one).values() for one in looks), strict=True)))
        served = look.group.unsqueeze(2) == torch.arange(groups, device=seeds.device)
        score = torch.where(look.valid, look.s, -torch.inf)
        score = score.masked_fill(served.unsqueeze(3) & (look.places == look.place[:, :, None, None]) & look.valid, 2.0)
        most, at = score.topk(min(k, score.shape[3]), 3)
        places = look.places.gather(3, at)
        kept = best_distinct(places.transpose(1, 2).flatten(2), most.transpose(1, 2).flatten(2), k)
        same = (kept[:, None, :, :, None] == look.places.unsqueeze(3)) & look.valid.unsqueeze(3)
        drawn = torch.zeros(same.shape[:4], device=seeds.device)
        if noise:
            known = torch.where(same, look.noise.unsqueeze(3), 0.0).sum(4)
            drawn = torch.where(same.any(4), known, rest_noise(seeds, kept, look.latest).float())
        share = torch.where(same.any(3), look.s, 0.0).sum((2, 3)) / (1 + look.missed.exp())
        hat = torch.where(look.valid, look.log_pi + look.noise + look.penalty.unsqueeze(3), NEVER).flatten(2).amax(2)
        rests = look.group == NONE
        rows = self.rows.to(seeds.device)
        return Proposal(
            rows=torch.where(kept == NONE, NONE, rows[kept.clamp(min=0)]),
            noise=drawn,
            first=torch.where(first == NONE, NONE, rows[first.clamp(min=0)]),
            bound=(1 - share).clamp(min=0).masked_fill(rests, 0.0),
            exact=rests | ((look.highest + look.penalty).amax(2) < hat),
            looks=look,
        )
