"""RESAIL: Y. Shi, X. Liu, Y. Wei, Z. Wu, W. Zuo, «Retrieval-based Spatially Adaptive Normalization for Semantic Image
Synthesis», CVPR 2022.

Every segment of the layout retrieves a training segment of its class and a similar shape; pasted together they are a
guidance image. A SPADE generator whose normalization layers read the label map and the guidance image finishes it.
"""
