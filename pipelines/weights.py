"""Pretrained weights by the names of their files: found in a directory or in torch's cache, checked, and read."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import torch

from pipelines.errors import ArtifactError, EnvironmentFault

VGG19 = "vgg19-dcbb9e9d.pth"
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
VGG16 = "vgg16-397923af.pth"
ALEXNET = "alexnet-owt-7be5be79.pth"
SQUEEZENET = "squeezenet1_1-b8a52dc0.pth"
PLACES = "alexnet_places365.pth.tar"

USES = {
    VGG19: "perceptual loss of the systems; style loss (rgs eval)",
    INCEPTION: "FID, KID and Inception score (torch-fidelity's conversion of Inception 2015-12-05)",
    VGG16: "precision and recall; LPIPS with --set lpips=vgg",
    ALEXNET: "LPIPS",
    SQUEEZENET: "LPIPS with --set lpips=squeeze",
    PLACES: "KL and agreement of scene classes; its name holds no digest, so it is taken as it is",
}
"""What rgs does with each file."""


def resolve(name: str, directory: Path | None = None, alternative: str | None = None) -> Path:
    """The file `name` in `directory`, else in torch's cache ($TORCH_HOME/hub/checkpoints).

    A name such as vgg19-dcbb9e9d.pth holds the beginning of its file's sha256, which is checked. EnvironmentFault
    where there is no such file, with what can be done (alternative: an option that needs no weights); ArtifactError
    where the file is another one than its name says.
    """
    places = [*([directory] if directory is not None else []), Path(torch.hub.get_dir()) / "checkpoints"]
    for place in places:
        if (place / name).is_file():
            _check(place / name)
            return place / name
    looked = ", ".join(str(place) for place in places)
    instead = f", or use {alternative}" if alternative else ""
    raise EnvironmentFault(
        f"the pretrained weights {name} are not on this machine",
        where=looked,
        fix=f"put the file there, or name its directory with --weights{instead}",
    )


def read(path: Path) -> dict[str, Any]:
    """The state dict in a .pth file; nothing in it is executed. ArtifactError if it cannot be read as one."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged or unsafe files
        raise ArtifactError(f"not a file of weights: {error}", where=path, fix="fetch the file again") from error
    if not isinstance(state, dict):
        raise ArtifactError("the file holds no state dict", where=path, fix="fetch the file again")
    return state


def _check(path: Path) -> None:
    match = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", path.name)
    if match is None:
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(match[1]):
        raise ArtifactError(
            f"the sha256 of {path.name} begins with {digest[: len(match[1])]}, not with {match[1]}",
            where=path,
            fix="fetch the file again",
        )
