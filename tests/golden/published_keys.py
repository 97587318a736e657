"""The state dicts that the authors' networks have, written down from the papers' tables: key to shape, per option.

It is an oracle for other options than those of the golden cases; test_golden checks it against those.
"""

from __future__ import annotations

import fill
import numpy as np
import torch

Shapes = dict[str, tuple[int, ...]]


def conv(key, inputs, outputs, kernel, bias=True, spectral=True) -> Shapes:
    shape = (outputs, inputs, kernel, kernel)
    shapes: Shapes = {f"{key}.bias": (outputs,)} if bias else {}
    if not spectral:
        return {**shapes, f"{key}.weight": shape}
    size = inputs * kernel * kernel
    return {**shapes, f"{key}.weight_orig": shape, f"{key}.weight_u": (outputs,), f"{key}.weight_v": (size,)}


def plain(key, inputs, outputs, kernel) -> Shapes:
    return conv(key, inputs, outputs, kernel, spectral=False)


def batch_norm(key, features) -> Shapes:
    return {f"{key}.running_mean": (features,), f"{key}.running_var": (features,), f"{key}.num_batches_tracked": ()}


def spade(key, features, maps, kernel=3, batch="param_free_norm") -> Shapes:
    return {
        **(batch_norm(f"{key}.{batch}", features) if batch else {}),
        **plain(f"{key}.mlp_shared.0", maps, 128, kernel),
        **plain(f"{key}.mlp_gamma", 128, features, kernel),
        **plain(f"{key}.mlp_beta", 128, features, kernel),
    }


def resail(key, features, maps) -> Shapes:
    return {
        **spade(key, features, maps),
        **plain(f"{key}.conv_s", maps, 256, 3),
        **plain(f"{key}.conv_s2", 256, 256, 1),
        **plain(f"{key}.conv1", 3, 128, 3),
        **plain(f"{key}.conv2", 128, 128, 3),
        **plain(f"{key}.conv3", 128, 128, 3),
        **plain(f"{key}.conv_gamma", 128, features, 3),
        **plain(f"{key}.conv_beta", 128, features, 3),
        f"{key}.blending_gamma": (1,),
        f"{key}.blending_beta": (1,),
    }


def block(key, inputs, outputs, norm, spectral=True) -> Shapes:
    middle = min(inputs, outputs)
    shapes = {
        **conv(f"{key}.conv_0", inputs, middle, 3, spectral=spectral),
        **conv(f"{key}.conv_1", middle, outputs, 3, spectral=spectral),
        **norm(f"{key}.norm_0", inputs),
        **norm(f"{key}.norm_1", middle),
    }
    if inputs != outputs:
        shapes |= conv(f"{key}.conv_s", inputs, outputs, 1, bias=False, spectral=spectral)
        shapes |= norm(f"{key}.norm_s", inputs)
    return shapes


def spade_generator(classes, ngf, norm, *, most=False, spectral=True, z_dim=None, start=(2, 2)) -> Shapes:
    names = ["head_0", "G_middle_0", "G_middle_1", "up_0", "up_1", "up_2", "up_3"]
    widths = [16 * ngf, 16 * ngf, 16 * ngf, 8 * ngf, 4 * ngf, 2 * ngf, ngf]
    if most:
        names, widths = [*names, "up_4"], [*widths, ngf // 2]
    if z_dim is None:
        shapes = plain("fc", classes, 16 * ngf, 3)
    else:
        seed = 16 * ngf * start[0] * start[1]
        shapes = {"fc.weight": (seed, z_dim), "fc.bias": (seed,)}
    for name, inputs, outputs in zip(names, [16 * ngf, *widths], widths, strict=False):
        shapes |= block(name, inputs, outputs, norm, spectral)
    return shapes | plain("conv_img", widths[-1], 3, 3)


def patch_sequence(key, inputs, ndf, layers, join) -> Shapes:
    shapes, width = plain(f"{key}{join}0.0", inputs, ndf, 4), ndf
    for n in range(1, layers):
        wider = min(2 * width, 512)
        shapes |= conv(f"{key}{join}{n}.0.0", width, wider, 4, bias=False)
        width = wider
    return shapes | plain(f"{key}{join}{layers}.0", width, 1, 4)


def spade_discriminator(inputs, ndf, layers, scales) -> Shapes:
    shapes: Shapes = {}
    for i in range(scales):
        shapes |= patch_sequence(f"discriminator_{i}", inputs, ndf, layers, ".model")
    return shapes


def sesame_discriminator(classes, ndf, layers, scales) -> Shapes:
    shapes: Shapes = {}
    for i in range(scales):
        key = f"discriminator_{i}"
        shapes |= patch_sequence(f"{key}.img_sequence", 3, ndf, layers, ".")
        labels = patch_sequence(f"{key}.sem_sequence", classes, ndf, layers, ".")
        shapes |= {k: v for k, v in labels.items() if f"sequence.{layers}." not in k}
    return shapes


def encoder(ngf, convs) -> Shapes:
    shapes: Shapes = {}
    width = 3
    for i in range(convs):
        shapes |= conv(f"layer{i + 1}.0", width, ngf * min(2**i, 8), 3, bias=False)
        width = ngf * min(2**i, 8)
    for head in ("fc_mu", "fc_var"):
        shapes |= {f"{head}.weight": (256, 16 * width), f"{head}.bias": (256,)}
    return shapes


def oasis_generator(classes, channels, z_dim, kernel=3) -> Shapes:
    widths = [channels * m for m in (16, 16, 16, 8, 4, 2, 1)]
    shapes = plain("fc", classes + z_dim, widths[0], 3) | plain("conv_img", channels, 3, 3)
    for i in range(6):
        shapes |= block(
            f"body.{i}",
            widths[i],
            widths[i + 1],
            lambda key, features: spade(key, features, classes + z_dim, kernel, "first_norm"),
        )
    return shapes


def linear(key, inputs, outputs, bias=True) -> Shapes:
    return {f"{key}.weight": (outputs, inputs), **({f"{key}.bias": (outputs,)} if bias else {})}


def norm(key, features) -> Shapes:
    return {f"{key}.weight": (features,), f"{key}.bias": (features,)}


def saig(width, depth, tokens, stem=(64, 128, 128, 256, 256, 512), qkv_bias=True) -> Shapes:
    shapes: Shapes = {"pos_embed": (1, tokens, width)}
    for i, (inputs, outputs) in enumerate(zip((3, *stem), stem, strict=False)):
        shapes |= plain(f"patch_embed.conv_stem.{3 * i}", inputs, outputs, 3)
        key = f"patch_embed.conv_stem.{3 * i + 1}"
        shapes |= norm(key, outputs) | batch_norm(key, outputs)
    shapes |= plain("patch_embed.conv_stem.18", stem[-1], width, 1) | norm("norm", width)
    for i in range(depth):
        shapes |= norm(f"blocks.{i}.norm1", width) | linear(f"blocks.{i}.attn.proj", width, width)
        shapes |= linear(f"blocks.{i}.attn.qkv", width, 3 * width, qkv_bias)
    return shapes


def smd(tokens, hidden, outputs) -> Shapes:
    inner = linear("linear1", tokens, hidden) | linear("linear2", hidden, tokens)
    return inner | linear("linear3", tokens, outputs)


def triple_convolutions(width, hidden, layers) -> Shapes:
    shapes: Shapes = {}
    for i in range(layers):
        shapes |= linear(f"gconvs.{i}.net1.0", 3 * width, hidden) | linear(
            f"gconvs.{i}.net1.2", hidden, 2 * hidden + width
        )
        shapes |= linear(f"gconvs.{i}.net2.0", hidden, hidden) | linear(f"gconvs.{i}.net2.2", hidden, width)
    return shapes


def refinement_network(dims, batch=True) -> Shapes:
    def normalized(key, inputs, outputs) -> Shapes:
        following = f"{key.rsplit('.', 1)[0]}.{int(key.rsplit('.', 1)[1]) + 1}"
        shapes = plain(key, inputs, outputs, 3)
        return shapes | norm(following, outputs) | batch_norm(following, outputs) if batch else shapes

    shapes: Shapes = {}
    for i, (before, after) in enumerate(zip([1, *dims[1:]], dims[1:], strict=False)):
        key = f"refinement_modules.{i}.net"
        shapes |= normalized(f"{key}.0", dims[0] + before, after) | normalized(f"{key}.3", after, after)
    return shapes | plain("output_conv.0", dims[-1], dims[-1], 3) | plain("output_conv.2", dims[-1], 3, 1)


def tensors(module: str, shapes: Shapes) -> dict[str, torch.Tensor]:
    """The golden cases' weights for these shapes, singular vectors included (see fill.py)."""
    state = {}
    for key, shape in shapes.items():
        if not key.endswith((".weight_u", ".weight_v")):
            state[key] = torch.from_numpy(np.asarray(fill.parameter(module, key, shape)))
        if key.endswith(".weight_orig"):
            W = state[key].flatten(1).double()
            u = torch.linalg.eigh(W @ W.T).eigenvectors[:, -1]
            state[key.replace("_orig", "_u")] = u.float()
            state[key.replace("_orig", "_v")] = torch.nn.functional.normalize(W.T @ u, dim=0).float()
    return state
