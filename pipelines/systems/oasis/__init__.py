"""OASIS: V. Sushko, E. Schönfeld, D. Zhang, J. Gall, B. Schiele, A. Khoreva, «You Only Need Adversarial Supervision
for Semantic Image Synthesis», ICLR 2021.

A SPADE generator with 3D noise whose discriminator is a segmentation network that knows one class more, «fake». It
needs no perceptual loss and no encoder. Here it is a baseline.
"""
