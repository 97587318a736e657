"""The cross-view system: H. Yang, Y. Li, Y. Zhu, «Retrieval-guided Cross-view Image Synthesis», arXiv:2411.19510, 2024.

An embedder is trained so that an aerial photo and a street photo of one place meet. Frozen, it tells a generator and
a discriminator what the source view shows, and the generator paints the other view of that place. Networks and losses
follow our own design where the paper's are not known; see README.md.
"""
