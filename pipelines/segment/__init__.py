"""Segmenters: networks that say which class each pixel shows. A loss network for RESAIL, or a judge for evaluation."""
