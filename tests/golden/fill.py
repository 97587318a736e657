"""Rebuild the weights and inputs of the golden cases from their names (NumPy only).

A golden case is a pair of files, NAME.json and NAME.safetensors. The JSON lists every parameter of the
published network by its published state-dict key and shape; the safetensors file holds the outputs that
the published network gives, in eval mode and float32, for the weights and inputs that these functions make.
Nothing random is stored: each array is drawn from PCG64 seeded with the CRC-32 of its name.
"""

import zlib

import numpy as np


def normal(name, shape):
    """Standard normal float32 array that depends on `name` and `shape` alone."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return rng.standard_normal(tuple(shape)).astype(np.float32)


def parameter(module, key, shape):
    """Value of the parameter `key` of the module that the JSON calls `module`."""
    prefix = PREFIX[module]
    value, leaf = normal(prefix + key, shape), key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        return (1 + 0.1 * np.abs(value)).astype(np.float32)
    if leaf == "running_mean":
        return (0.1 * value).astype(np.float32)
    if len(shape) >= 2:
        return (value / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return (1 + 0.1 * value if leaf == "weight" else 0.1 * value).astype(np.float32)


# weight_u and weight_v of a spectrally normalised layer are not drawn: they are the leading left and right
# singular vectors of weight_orig reshaped to (out, -1), so that the norm is the exact spectral norm.

PREFIX = {
    "G": "G.",
    "D": "D.",
    "E": "E.",
    "Corr": "Corr.",
    "gconv": "gconv.",
    "crn": "crn.",
    "backbone": "backbone.",
    "smd_head": "",
    "generator": "generator.",
    "mapping_network": "mapping_network.",
    "style_encoder": "style_encoder.",
    "discriminator": "discriminator.",
}


def model_input(name, shape):
    """Input tensor, e.g. model_input("spade.image", (2, 3, 64, 64))."""
    return normal("input:" + name, shape)


def one_hot_labels(name, batch, classes, height, width, cell=8):
    """Blocky random label maps: one-hot float32 (batch, classes, height, width) and integer (batch, height, width)."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(("labels:" + name).encode())))
    grid = rng.integers(0, classes, (batch, height // cell, width // cell))
    labels = np.kron(grid, np.ones((1, cell, cell), np.int64))
    return np.eye(classes, dtype=np.float32)[labels].transpose(0, 3, 1, 2).copy(), labels
