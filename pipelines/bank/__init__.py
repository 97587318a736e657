"""Banks: real pieces cut out of annotated images, on disk with masks, labels and provenance."""
