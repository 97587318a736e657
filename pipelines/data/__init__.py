"""Annotated images: what a scene is, the readers of each format on disk, their validation and their palette."""
