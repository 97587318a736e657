"""RetrieveGAN: H.-Y. Tseng, H.-Y. Lee, L. Jiang, M.-H. Yang, W. Yang, «RetrieveGAN: Image Synthesis via Differentiable
Patch Retrieval», ECCV 2020.

Every object of a scene graph gets a patch of its class out of a bank, one after the other, so that they go together;
the choice is differentiable, and learned with the generator that paints the image around the patches.
"""
