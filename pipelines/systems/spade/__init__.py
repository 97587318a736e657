"""SPADE: T. Park, M.-Y. Liu, T.-C. Wang, J.-Y. Zhu, «Semantic Image Synthesis with Spatially-Adaptive Normalization»,
CVPR 2019.

A generator that is told the label map at every normalization layer, so that it is not washed away. It retrieves
nothing: here it is the baseline that RESAIL builds on.
"""
