"""One aerial photo under the street views of several domains."""

from __future__ import annotations

from pathlib import Path

from pipelines.bank.images import pictures
from pipelines.data.scene import SceneRecord, View


def test_a_picture_of_several_domains_is_of_none() -> None:
    aerial = View(Path("a.png"))
    records = [
        SceneRecord(f"{domain}_{number}", "train", None, group="g", domain=domain, views={"aerial": aerial},
                    extra={"aerial_id": "a"})
        for number, domain in enumerate(("panorama", "perspective", "panorama"))
    ]  # fmt: skip
    assert [(picture.id, picture.domain) for picture in pictures(records, "aerial", Path())] == [("a", "")]
    assert [picture.domain for picture in pictures(records[::2], "aerial", Path())] == ["panorama"]
