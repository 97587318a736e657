"""Which patches a batch is painted from: candidates of the pre-filter or of all of the bank, and the choice of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipelines.bank.bank import Bank, Exclusion
from pipelines.systems.base import Batch, Networks
from pipelines.systems.retrievegan.config import RetrieveganConfig
from pipelines.systems.retrievegan.examples import Patches
from pipelines.systems.retrievegan.guidance import NONE
from pipelines.systems.retrievegan.losses import to_imagenet
from pipelines.systems.retrievegan.pool import BankPool
from pipelines.systems.retrievegan.retrieval import Selection, first_query, pick_patches, retrieve, selection_loss


@dataclass(frozen=True)
class Candidates:
    """What B images of at most N objects choose among. rows: (B, N, K) of the bank, NONE for none.

    features: (B, N, K, d) under the patch embedder. pixels: (B, N, K, 3, s, s) in [-1, 1]. query: (B, d) the first
    one. noise: (B, T, N, K) Gumbel, None for none. observed: what a log may tell about them.
    """

    rows: Tensor
    features: Tensor
    pixels: Tensor
    query: Tensor
    noise: Tensor | None
    observed: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Chosen:
    """One patch for each object. rows: (B, N) of the bank, NONE for an object without a candidate, and for none at all.

    ranks: (B, N) among the candidates of the index, from 1; 0 where there is no index. pixels: (B, N, 3, s, s) in
    [-1, 1], 0 where there is no patch; the gradient of the selection passes through them. candidates, selection: None
    where nothing is learned.
    """

    rows: Tensor
    ranks: Tensor
    pixels: Tensor
    candidates: Candidates | None = None
    selection: Selection | None = None


class Chooser:
    """The patches of one bank at the size of the networks, and the choice among them. open: before all else."""

    def __init__(self, config: RetrieveganConfig) -> None:
        self.config = config
        self._bank: Bank | None = None
        self._patches: Patches | None = None
        self._pools: dict[Exclusion, BankPool] = {}

    def open(self, bank: Bank) -> Patches:
        """The pixels of a bank's patches."""
        if self._patches is None or self._bank is not bank:
            self._bank, self._patches, self._pools = bank, Patches(bank, self.config.patch), {}
        return self._patches

    @property
    def patches(self) -> Patches:
        assert self._patches is not None, "open comes first"
        return self._patches

    def refresh(self, embedder: nn.Module, state: dict[str, Tensor] | None, device: torch.device) -> dict[str, Tensor]:
        """Embed the next slice of the bank, at first all of it; `state` is that of a checkpoint to go on from."""

        def embed(rows: Tensor) -> Tensor:
            vectors: Tensor = embedder(to_imagenet(self.patches(rows.to(device))))
            return vectors

        pool = self.pool("source")
        if pool.features is None and state is not None:
            pool.restore(state, device)
        return pool.refresh(embed)

    def pool(self, by: Exclusion) -> BankPool:
        """The pool in which pieces are excluded by their source, or by their group."""
        assert self._bank is not None
        if by not in self._pools:
            pool = BankPool(self._bank.categories, self._bank.exclusion_keys(by), self.config.bank)
            if by != "source":  # the same features, in the order of that pool
                first = self.pool("source")
                assert first.features is not None
                of_rows = torch.empty_like(first.features)
                of_rows[first.rows] = first.features
                pool.restore({"features": of_rows[pool.rows], "position": torch.tensor(0)}, of_rows.device)
            self._pools[by] = pool
        return self._pools[by]

    def own(self, batch: Batch) -> Tensor:
        """(B, N, 3, s, s) in [-1, 1] of the objects' own patches."""
        return self.patches(batch["own"])

    def choose(self, nets: Networks, batch: Batch, tau: float, *, noisy: bool = True) -> Chosen:
        """noisy: draw; without noise each step takes the best candidate."""
        c = self.config
        if not c.learns_retrieval:
            return Chosen(batch["picked"], batch["ranks"], self.patches(batch["picked"]))
        candidates = self._candidates(nets["P"], batch, tau, noisy)
        present = candidates.rows != NONE
        selection = retrieve(
            candidates.features,
            present,
            candidates.query,
            candidates.noise,
            tau=tau,
            alpha=c.alpha,
            distance=c.distance,
            hard=c.hard,
            query_update=c.query_update,
        )
        picked = selection.chosen
        rows = candidates.rows.gather(2, picked.clamp(min=0).unsqueeze(2)).squeeze(2)
        ranks = picked + 1 if c.pool == "prefilter" else torch.zeros_like(picked)
        return Chosen(
            rows.masked_fill(picked == NONE, NONE),
            ranks,
            pick_patches(selection.weights, candidates.pixels),
            candidates,
            selection,
        )

    def selection_loss(self, embedder: nn.Module, batch: Batch, candidates: Candidates, tau: float) -> Tensor:
        """L_sel_gt, in a pass of its own where each object's own patch is one more candidate."""
        c = self.config
        own = batch["own"]
        return selection_loss(
            candidates.features[:, :, : c.candidates],
            candidates.rows[:, :, : c.candidates] != NONE,
            embed(embedder, self.patches(own), own != NONE),
            own != NONE,
            batch["asks"],
            batch["noise_gt"],
            tau=tau,
            alpha=c.alpha,
            distance=c.distance,
            query_update=c.query_update,
        )

    def _candidates(self, embedder: nn.Module, batch: Batch, tau: float, noisy: bool) -> Candidates:
        if self.config.pool == "bank":
            return self._of_bank(embedder, batch, tau, noisy)
        rows = batch["candidates"]
        if batch["noise"].shape[-1] > rows.shape[2]:
            rows = torch.cat([rows, batch["own"].unsqueeze(2)], 2)
        pixels, present = self.patches(rows), rows != NONE
        features = embed(embedder, pixels, present)
        query = first_query(features, present, batch["uniform"])
        return Candidates(rows, features, pixels, query, batch["noise"] if noisy else None)

    def _of_bank(self, embedder: nn.Module, batch: Batch, tau: float, noisy: bool) -> Candidates:
        c, device = self.config, batch["categories"].device
        categories = batch["categories"].cpu()
        found = self.pool(batch["exclusion"][0]).propose(
            categories,
            categories != NONE,
            batch["excluded"].cpu(),
            batch["seed"].cpu(),
            c.candidates,
            tau=tau,
            alpha=c.alpha,
            distance=c.distance,
            query_update=c.query_update,
            noise=noisy,
        )
        rows, first = found.rows.to(device), found.first.to(device)
        pixels = self.patches(rows)
        features = embed(embedder, pixels, rows != NONE)
        query = embed(embedder, self.patches(first), first != NONE)
        asked = found.looks.group != NONE  # steps in which an image rests would count as exact
        steps = asked.sum(1).clamp(min=1)
        observed = {
            "missed": (found.bound.sum(1) / steps).mean(),
            "exact": ((found.exact & asked).sum(1) / steps).mean(),
            "drift": torch.tensor(self.pool("source").drift),
        }
        return Candidates(rows, features, pixels, query, found.noise.to(device) if noisy else None, observed)


def embed(embedder: nn.Module, pixels: Tensor, present: Tensor) -> Tensor:
    """(…, d) features of pixels (…, 3, s, s) in [-1, 1]; 0 where no patch is present (…)."""
    vectors: Tensor = embedder(to_imagenet(pixels[present]))
    features = vectors.new_zeros(*present.shape, vectors.shape[-1])
    features[present] = vectors
    return features
