"""Questions of retrieval between two views of places: which pictures are asked for, and among which.

Every picture is in a gallery once, several street views of a place share its aerial picture, and aerial pictures that
nearly match (VIGOR's semi-positives) are neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipelines.data.pairs import AERIAL, GROUND, aerial_id
from pipelines.data.scene import SceneRecord
from pipelines.metrics.recall import Ranks, Ties, one_percent, permutation_p, wilson

Direction = Literal["ground-aerial", "aerial-ground"]
"""From the view of the queries to that of the gallery."""
DIRECTIONS: tuple[Direction, ...] = ("ground-aerial", "aerial-ground")
KS = ("1", "5", "10", "1%")
"""What recall is told at; 1% is `one_percent` of each gallery."""


@dataclass(frozen=True)
class Gallery:
    """The pictures of one source, or of all. aerials: a record for each aerial picture, grounds: for each street view.

    owner: (grounds,) int64, the aerial picture of each street view. semi: of each, those that nearly match.
    """

    name: str
    aerials: list[SceneRecord]
    grounds: list[SceneRecord]
    owner: np.ndarray
    semi: list[list[int]]

    def question(self, direction: Direction, asked: Collection[str] | None = None) -> Question:
        """What is asked in a direction. asked: ids of the pairs that are queries, all of them if None."""
        chosen = [i for i, record in enumerate(self.grounds) if asked is None or record.id in asked]
        if direction == "ground-aerial":
            positives = [[int(self.owner[i])] for i in chosen]
            return Question(np.array(chosen, np.int64), positives, [self.semi[i] for i in chosen])
        places = np.unique(self.owner[chosen])
        near: dict[int, list[int]] = {}
        for i, items in enumerate(self.semi):
            for item in items:
                near.setdefault(item, []).append(i)
        own = [np.flatnonzero(self.owner == place).tolist() for place in places]
        return Question(places, own, [near.get(int(place), []) for place in places])


@dataclass(frozen=True)
class Question:
    """queries: (q,) numbers among the aerials or the grounds. positives, ignored: numbers in the gallery, of each."""

    queries: np.ndarray
    positives: list[list[int]]
    ignored: list[list[int]]


def galleries(records: Sequence[SceneRecord], by_source: bool) -> list[Gallery]:
    """The galleries of paired records: one for each source that has a street view, or one of all."""
    names = sorted({record.domain for record in records if GROUND in record.views}) if by_source else [""]
    return [_gallery(name, [r for r in records if not by_source or r.domain == name]) for name in names]


def _gallery(name: str, records: Sequence[SceneRecord]) -> Gallery:
    number: dict[str, int] = {}
    aerials: list[SceneRecord] = []
    for record in records:
        if AERIAL in record.views and aerial_id(record) not in number:
            number[aerial_id(record)] = len(aerials)
            aerials.append(record)
    grounds = [record for record in records if AERIAL in record.views and GROUND in record.views]
    owner = np.array([number[aerial_id(record)] for record in grounds], np.int64)
    near = [[number[i] for i in record.extra.get("semi", ()) if i in number] for record in grounds]
    semi = [[i for i in items if i != own] for items, own in zip(near, owner.tolist(), strict=True)]
    return Gallery(name, aerials, grounds, owner, semi)


@dataclass(frozen=True)
class Tally:
    """What became of the queries of one direction, one row of a table.

    hits: by k and rule of ties, (q,) bool. found, wanted: (q,) the place of what was found first (-1 for a tie), and
    the query's own. strata: (q,) the gallery that each was asked in. chance: (q,) of a hit at 1. gallery: items.
    """

    hits: dict[tuple[str, Ties], np.ndarray]
    found: np.ndarray
    wanted: np.ndarray
    strata: np.ndarray
    chance: np.ndarray
    gallery: int

    def __len__(self) -> int:
        return len(self.found)

    def recall(self, k: str, ties: Ties = "against") -> float:
        return float(self.hits[k, ties].mean())

    def p(self, seed: int) -> float:
        """Of as many hits at 1 if the queries of a gallery were dealt their places at random."""
        return permutation_p(self.found, self.wanted, self.strata, seed=seed)

    def alarm(self) -> str | None:
        """Says so where ties decide: an embedder that maps much to one point."""
        for k in KS:
            mine, theirs = self.recall(k), self.recall(k, "for")
            if mine != theirs:
                return (
                    f"ties decide: R@{k} is {mine:.1%} with ties against the query and {theirs:.1%} by the published "
                    "rule; the embedder maps different pictures to one point"
                )
        return None


def tally(gallery: Gallery, direction: Direction, question: Question, ranks: Ranks, stratum: int) -> Tally:
    """The ranks of a question's queries as hits at each k."""
    ties: tuple[Ties, ...] = ("against", "for")
    hits = {(k, rule): ranks.hits(_k(k, ranks.gallery), rule) for k in KS for rule in ties}
    if direction == "ground-aerial":
        found, wanted = ranks.top, gallery.owner[question.queries]
    else:
        found, wanted = np.where(ranks.top < 0, -1, gallery.owner[ranks.top]), question.queries
    chance = ranks.own / ranks.candidates
    return Tally(hits, found, wanted, np.full(len(found), stratum), chance, ranks.gallery)


def pool(tallies: Sequence[Tally]) -> Tally:
    """One tally of all queries; its gallery is the sum of the strata's."""
    sizes = {int(one.strata[0]): one.gallery for one in tallies if len(one)}
    hits = {key: np.concatenate([one.hits[key] for one in tallies]) for key in tallies[0].hits}
    found, wanted, strata, chance = (
        np.concatenate([getattr(one, name) for one in tallies]) for name in ("found", "wanted", "strata", "chance")
    )
    return Tally(hits, found, wanted, strata, chance, sum(sizes.values()))


def table_row(source: str, tallies: Sequence[tuple[Tally, Tally]], seed: int) -> dict[str, Any]:
    """A row of the report's table: all queries of some tallies, each with that of the color histograms."""
    mine, baseline = pool([one for one, _ in tallies]), pool([other for _, other in tallies])
    return {
        "source": source,
        "queries": len(mine),
        "gallery": mine.gallery,
        "recall": {k: {**_share(mine, k), "published": mine.recall(k, "for")} for k in KS},
        "chance": float(mine.chance.mean()),
        "p": mine.p(seed),
        "histogram": {"recall": {k: _share(baseline, k) for k in KS}, "p": baseline.p(seed)},
        "alarm": mine.alarm(),
    }


def _share(one: Tally, k: str) -> dict[str, Any]:
    hits = int(one.hits[k, "against"].sum())
    return {"value": one.recall(k), "hits": hits, "interval": list(wilson(hits, len(one)))}


def _k(k: str, gallery: int) -> int:
    return one_percent(gallery) if k == "1%" else int(k)
