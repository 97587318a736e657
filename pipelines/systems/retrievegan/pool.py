"""`pool: bank`: the retrieval over the whole bank, of which a step embeds no more than K patches for each object.

What is estimated: Algorithm 1 over all pieces C_i of each object's class, with Gumbel noise for every one of them, under
features that are kept and embedded anew slice by slice while the patch embedder trains. A first pass without gradient
runs it lazily. For object i and step t it looks at the `head`, the H nearest pieces to the query, each with its own
noise; and at the `tail`: the R pieces behind them are R exponential clocks E = exp(-G), which ring first in a Poisson
process of rate R with uniform labels, so its first m rings are the m largest noises of the tail, wherever they fell.
The second pass (`retrieve`, with gradient) gets the K pieces of each object that collected most, with the noise they
had; noise that nobody looked at is drawn when it is needed, given that it was below the m-th.

How far off it is: the estimate is biased, and the bias has a bound that is known for every draw.
    1. Let F be the mass exp(hat_j / tau) of all pieces at step t, Z that of those looked at, D that of those of them
       which are not among the K, g_i the m-th noise, B_i the log pi of the H-th nearest.
    2. A piece j nobody looked at is no nearer than the head, l_j <= B_i, and rang later, G_j <= g_i.
    3. So all u_i of them have a mass of at most U = sum_i u_i exp((B_i + g_i + C_i) / tau), and F <= Z + U.
    4. The K keep at least Z - D, so s(t) over the whole bank gives the others 1 - (Z - D) / F <= (D + U) / (Z + U).
    5. s(t) over the K is s(t) over the bank, conditioned on the K: their total variation is just that omitted mass. []
Where max_i (B_i + g_i + C_i) < max_j hat_j, the piece that is chosen is the very one that the whole bank would have
given: then hard selection is exact. The bound is for the step's query and penalties C and for the features as kept;
how far these lag behind is `drift`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pipelines.config import Config
from pipelines.index.factory import Factory
from pipelines.index.neighbors import NONE
from pipelines.index.vectors import VectorIndex
from pipelines.systems.retrievegan.retrieval import NEVER, TINY, Distance, QueryUpdate

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
class Record:
    """The first pass, step by step, from which its claims can be checked; 0 and NONE where an image rests.

    queries: (B, T, d). penalties: (B, T, N) C. rows: (B, T, N, H + m) pieces looked at, NONE for none. noise: theirs.
    highest: (B, T, N) the most that log pi + G of any other piece of the class can be, -inf where there is no other.
    latest: (B, T, N) exp(-G) is above this for every other piece. order: (B, T) int64 object served, NONE for none.
    chosen: (B, T) int64 row it was served.
    """

    queries: Tensor
    penalties: Tensor
    rows: Tensor
    noise: Tensor
    highest: Tensor
    latest: Tensor
    order: Tensor
    chosen: Tensor


@dataclass(frozen=True)
class Proposal:
    """The candidates of a second pass.

    rows: (B, N, K) int64 of the bank, NONE for none; no row twice for one object. noise: (B, T, N, K) float32 Gumbel.
    first: (B,) int64 the piece that starts the retrieval, NONE in an image without candidates. bound: (B, T) the most
    of s(t) over the whole bank that the rows can miss. exact: (B, T) bool, whether the piece served is certainly that
    of the whole bank; True where an image rests.
    """

    rows: Tensor
    noise: Tensor
    first: Tensor
    bound: Tensor
    exact: Tensor
    record: Record
