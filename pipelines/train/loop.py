"""The training loop: one function for every trainable.

Each step: seed, refresh, batch, each due phase (freeze the rest, losses, check that they are finite, backward,
average over processes, optimizer step), averaged networks, log, samples, checkpoint. Interrupted and resumed equals
uninterrupted, bit for bit on the CPU: order, noise and augmentation are functions of (seed, step, position).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.errors import ConfigError, NumericalError
from pipelines.runtime import Runtime, memory_gb
from pipelines.systems.base import Adam, Batch, Frozen, Phase, Plan, Refreshed, Sources, Trainable, Validated
from pipelines.train.asam import perturb, restore
from pipelines.train.checkpoint import AVERAGE, WEIGHTS, load_into, read_state, read_weights
from pipelines.train.config import LogConfig, LoopConfig
from pipelines.train.log import Log, Status, Watch
from pipelines.train.run import RunWriter
from pipelines.train.sampler import Draw, Examples, Order, batches, draws

Stop = Callable[[], bool]
PREVIEWS = 8


def train(
    trainable: Trainable,
    plan: Plan,
    sources: Sources,
    frozen: Frozen,
    nets: dict[str, nn.Module],
    config: LoopConfig,
    log_config: LogConfig,
    run: RunWriter,
    runtime: Runtime,
    stop: Stop = lambda: False,
    watch: Watch = lambda status: None,
) -> str:
    """Train until `config.steps`, or until `stop()` between two steps. Returns «finished» or «stopped».

    nets: the trainable's networks, initialized; frozen: networks that no phase steps. Raises NumericalError when a
    loss term is not finite; the last checkpoint is then untouched.
    """
    if config.batch % runtime.world:
        raise ConfigError(f"a batch of {config.batch} cannot be shared by {runtime.world} processes")
    for module in [*nets.values(), *frozen.values()]:
        module.to(runtime.device)
    averaged = {name: deepcopy(nets[name]).requires_grad_(False) for name in plan.averaged}
    optimizers = {name: _optimizer(nets[name], adam) for name, adam in plan.optimizers.items()}
    start = run.resumed_from or 0
    seen: dict[str, Tensor] | None = None  # what a trainable that refreshes itself saw of its bank
    if run.resumed_from is not None:
        seen = _restore(run, nets, averaged, optimizers)
    order = Order(trainable.sampling(sources), config.seed, config.batch)
    examples = Examples(trainable, sources, config.seed)
    mine = draws(order, config.batch, config.accumulate, runtime.rank, runtime.world, start, config.steps)
    loader = batches(examples, mine, log_config.workers, runtime.device.type == "cuda")
    preview = _preview_batch(examples, order, runtime)
    log = Log(run.path, run.resumed_from) if runtime.rank == 0 else None
    began, cpu_began = time.monotonic(), time.process_time()
    saved_at = began
    window, window_step = began, start
    step = start
    sums: dict[str, Tensor] = {}

    while step < config.steps:
        runtime.seed_step(step)
        if isinstance(trainable, Refreshed):
            seen = trainable.refresh(nets, sources, step, seen, runtime.device) or seen
        micro = [runtime.move(next(loader)) for _ in range(config.accumulate)]
        memos: list[dict[str, Any]] = [{"progress": step / config.steps, "state": seen} for _ in micro]
        sums = {}
        for phase in (p for p in plan.phases if p.due(step)):
            terms = _run_phase(phase, trainable, nets, frozen, micro, memos, plan, optimizers, runtime, step)
            sums.update({f"{phase.name}/{term}": value for term, value in terms.items()})
        for name, decay in plan.averaged.items():
            average(averaged[name], nets[name], decay, step)
        step += 1

        stopping = stop() and step < config.steps
        if runtime.world > 1:
            stopping = bool(runtime.mean(torch.tensor(float(stopping), device=runtime.device)) > 0)
        if step % log_config.every == 0 or step == config.steps or stopping:
            values = {name: float(runtime.mean(value)) for name, value in sums.items()}
            now = time.monotonic()
            rate = (step - window_step) * config.batch * config.accumulate / max(now - window, 1e-9)
            window, window_step = now, step
            if log is not None:
                log.metrics(step, {**values, "images_per_second": rate, "memory_gb": memory_gb(runtime.device)})
                left = (config.steps - step) * (now - began) / (step - start)
                watch(Status(step, config.steps, rate, memory_gb(runtime.device), left, values))
        done = step == config.steps or stopping
        if log is not None and (done or step % log_config.samples_every == 0):
            log.samples(step, _preview(trainable, {**nets, **averaged}, frozen, preview, runtime))
        late = time.monotonic() - saved_at > 60 * log_config.checkpoint_minutes
        if log is not None and (step == config.steps or step % log_config.validate_every == 0):
            found = _validate(trainable, {**nets, **averaged}, sources, runtime)
            if found:
                log.metrics(step, found)
                watch(Status(step, config.steps, 0.0, memory_gb(runtime.device), 0.0, {}, found))
        if log is not None and (done or late or step % log_config.checkpoint_every == 0):
            status = "finished" if step == config.steps else "stopped" if stopping else "training"
            state = {"step": step, "optimizers": {name: o.state_dict() for name, o in optimizers.items()}}
            state |= {"seen": seen} if seen is not None else {}
            spent = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu_began}
            statistics = {**spent, "threads": torch.get_num_threads()}
            run.checkpoint(step, nets, averaged, state, log_config.keep, status, statistics)
            saved_at = time.monotonic()
        if stopping:
            break
    runtime.barrier()
    if log is not None:
        log.close()
    return "finished" if step == config.steps else "stopped"


def _run_phase(
    phase: Phase,
    trainable: Trainable,
    nets: Mapping[str, nn.Module],
    frozen: Frozen,
    micro: list[Batch],
    memos: list[dict[str, Any]],
    plan: Plan,
    optimizers: Mapping[str, torch.optim.Optimizer],
    runtime: Runtime,
    step: int,
) -> dict[str, Tensor]:
    """One optimizer step of the phase's networks on the batches of this step; returns its loss terms, detached."""
    for name, net in nets.items():
        net.train()
        net.requires_grad_(name in phase.nets)
    totals = _backward(phase, trainable, nets, frozen, micro, memos, optimizers, runtime, step)
    sharp = {name: plan.optimizers[name] for name in phase.nets if plan.optimizers[name].rho is not None}
    if sharp:
        saved = {name: perturb(nets[name].parameters(), adam.rho or 0.0) for name, adam in sharp.items()}
        again = [{key: memo[key] for key in ("progress", "state")} for memo in memos]
        _backward(phase, trainable, nets, frozen, micro, again, optimizers, runtime, step)
        for name, weights in saved.items():
            restore(nets[name].parameters(), weights)
    for name in phase.nets:
        adam = plan.optimizers[name]
        if adam.clip is not None:
            torch.nn.utils.clip_grad_norm_(nets[name].parameters(), adam.clip)
        for group in optimizers[name].param_groups:
            group["lr"] = adam.lr(step)
        optimizers[name].step()
    return totals


def _backward(
    phase: Phase,
    trainable: Trainable,
    nets: Mapping[str, nn.Module],
    frozen: Frozen,
    micro: list[Batch],
    memos: list[dict[str, Any]],
    optimizers: Mapping[str, torch.optim.Optimizer],
    runtime: Runtime,
    step: int,
) -> dict[str, Tensor]:
    """The phase's gradients on the batches of this step, averaged over processes; returns its loss terms, detached."""
    for name in phase.nets:
        optimizers[name].zero_grad(set_to_none=True)
    totals: dict[str, Tensor] = {}
    for batch, memo in zip(micro, memos, strict=True):
        with runtime.autocast(phase.precision):
            terms = trainable.losses(phase.name, nets, frozen, batch, memo, step)
        values = torch.stack([t.detach().float() for t in terms.values()])
        if not bool(values.isfinite().all()):
            name = next(n for n, t in terms.items() if not bool(t.isfinite().all()))
            raise NumericalError(
                f"loss {phase.name}/{name} is {float(terms[name].detach())} at step {step}",
                where=f"seed {runtime.seed}",
                fix="lower the learning rate, or use --set train.precision=fp32",
            )
        (sum(terms.values(), torch.zeros((), device=runtime.device)) / len(micro)).backward()
        for name, value in zip(terms, values, strict=True):
            totals[name] = totals.get(name, torch.zeros_like(value)) + value / len(micro)
        for name, value in memo.pop("observed", {}).items():
            totals[name] = totals.get(name, torch.zeros_like(value)) + value.detach().float() / len(micro)
    runtime.average_gradients(nets[name] for name in phase.nets)
    return totals


def _optimizer(net: nn.Module, adam: Adam) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if adam.decoupled else torch.optim.Adam
    return kind(net.parameters(), lr=0.0, betas=adam.betas, weight_decay=adam.weight_decay, fused=True)


@torch.no_grad()
def average(target: nn.Module, source: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights and batch statistics; other state is copied.

    The decay grows as (1 + step) / (10 + step) up to its value, so that a short run is not an average of its start.
    """
    decay = min(decay, (1 + step) / (10 + step))
    for weight, new in zip(target.parameters(), source.parameters(), strict=True):
        weight.lerp_(new, 1 - decay)
    for (name, state), new_state in zip(target.named_buffers(), source.buffers(), strict=True):
        if name.endswith(("running_mean", "running_var")):
            state.lerp_(new_state, 1 - decay)
        else:
            state.copy_(new_state)


def _restore(
    run: RunWriter,
    nets: Mapping[str, nn.Module],
    averaged: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> dict[str, Tensor] | None:
    """Load the newest checkpoint; returns what the trainable had seen of its bank."""
    checkpoint = run.checkpoint_to_resume()
    weights = read_weights(checkpoint / WEIGHTS)
    for name, net in nets.items():
        load_into(net, weights.get(name, {}), checkpoint, name)
    for name, net in averaged.items():
        load_into(net, weights.get(name + AVERAGE, {}), checkpoint, name + AVERAGE)
    state = read_state(checkpoint)
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    seen: dict[str, Tensor] | None = state.get("seen")
    return seen


def _preview_batch(examples: Examples, order: Order, runtime: Runtime) -> Batch:
    """A fixed batch of the first positions, for sample grids that can be compared over time."""
    count = min(PREVIEWS, len(order.sampling.ids))
    return runtime.move(examples.trainable.collate([examples[Draw(p, order[p], 0)] for p in range(count)]))


@torch.no_grad()
def _preview(
    trainable: Trainable, nets: Mapping[str, nn.Module], frozen: Frozen, batch: Batch, runtime: Runtime
) -> dict[str, Tensor]:
    for net in nets.values():
        net.eval()
    with runtime.autocast():
        return trainable.preview(nets, frozen, batch)


@torch.no_grad()
def _validate(
    trainable: Trainable, nets: Mapping[str, nn.Module], sources: Sources, runtime: Runtime
) -> dict[str, float]:
    if not isinstance(trainable, Validated):
        return {}
    for net in nets.values():
        net.eval()
    with runtime.autocast("fp32"):
        measured = trainable.validate(nets, sources, runtime.device)
    return {f"validation/{name}": value for name, value in measured.items()}
