"""Training in resumable sittings: every step's data follows from (seed, step), the state is a safetensors file."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from t2ipal.io import atomic_path

CHECKPOINT_SECONDS = 120
REPORT_SECONDS = 30


class Trainee(ABC):
    """A model in training; ``loss`` must draw all its randomness from the generators that it is given."""

    name: str
    module: Any
    batch: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup: int = 300
    average: float = 0.0

    @abstractmethod
    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss of one fresh batch and the figures to log."""

    def measure(self) -> dict[str, float]:
        """Figures on validation data, logged now and then."""
        return {}


def learning_rate_factor(step: int, warmup: int, decay_from: int, end: int) -> float:
    """Warm-up, plateau, then linear decay to zero (WSD): the plateau can be prolonged in a later sitting."""
    if step < warmup:
        return (step + 1) / warmup
    return 1.0 if step < decay_from else max(0.02, (end - step) / max(1, end - decay_from))


class Sitting:
    """Runs a :class:`Trainee` towards ``samples`` training samples, from where the last sitting stopped."""

    def __init__(self, trainee: Trainee, directory: Path, samples: int, decay: float = 0.3, seed: int = 0):
        self.trainee, self.directory, self.seed = trainee, directory, seed
        self.end = samples // trainee.batch
        self.decay_from = int(self.end * (1 - decay))
        self.step, self.seconds = 0, 0.0
        self.optimizer = torch.optim.AdamW(self._groups(), lr=trainee.learning_rate, betas=(0.9, 0.98), fused=True)
        self.averaged = {k: v.detach().clone() for k, v in trainee.module.state_dict().items()}
        directory.mkdir(parents=True, exist_ok=True)
        self._resume()

    def _groups(self) -> list[dict[str, object]]:
        decayed = [p for p in self.trainee.module.parameters() if p.ndim > 1]
        plain = [p for p in self.trainee.module.parameters() if p.ndim <= 1]
        return [{"params": decayed, "weight_decay": self.trainee.weight_decay}, {"params": plain, "weight_decay": 0.0}]

    @property
    def _state_path(self) -> Path:
        return self.directory / f"{self.trainee.name}.state.safetensors"

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _save(self) -> None:
        tensors = {f"model.{k}": v for k, v in self.trainee.module.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.averaged.items()}
        for index, parameter in enumerate(self._parameters()):
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{index}.{key}"] = value
        metadata = {"step": str(self.step), "seconds": f"{self.seconds:.0f}"}
        contiguous = {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
        with atomic_path(self._state_path) as partial:
            save_file(contiguous, partial, metadata=metadata)

    def _resume(self) -> None:
        if not self._state_path.is_file():
            return
        from safetensors import safe_open

        with safe_open(self._state_path, "pt") as handle:
            metadata = handle.metadata()
        tensors = load_file(self._state_path)
        self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])
        self.trainee.module.load_state_dict(_part(tensors, "model."))
        self.averaged = _part(tensors, "average.")
        for index, parameter in enumerate(self._parameters()):
            state = _part(tensors, f"optimizer.{index}.")
            self.optimizer.state[parameter] = {
                k: v.clone(memory_format=torch.preserve_format) if v.ndim == 0 else torch.empty_like(parameter).copy_(v)
                for k, v in state.items()
            }

    def _log(self, figures: dict[str, float]) -> None:
        with (self.directory / f"{self.trainee.name}.log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({k: round(v, 5) for k, v in figures.items()}) + "\n")

    def _average(self) -> None:
        rate = min(self.trainee.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, value in self.trainee.module.state_dict().items():
                if value.is_floating_point():
                    self.averaged[key].lerp_(value, 1 - rate)
                else:
                    self.averaged[key].copy_(value)

    def _advance(self) -> dict[str, float]:
        trainee = self.trainee
        torch.manual_seed(self.seed * 1_000_003 + self.step)
        factor = learning_rate_factor(self.step, trainee.warmup, self.decay_from, self.end)
        for group in self.optimizer.param_groups:
            group["lr"] = trainee.learning_rate * factor
        loss, figures = trainee.loss(np.random.default_rng([self.seed, self.step]))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trainee.module.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self._average()
        return {"loss": loss.item(), **figures}

    def run(self, seconds: float = float("inf"), say: Callable[[str], None] = print) -> bool:
        """Train until the samples are done (True) or the sitting's ``seconds`` are over (False)."""
        started = reported = saved = time.monotonic()
        collected: list[dict[str, float]] = []
        self.trainee.module.train()
        while self.step < self.end and time.monotonic() - started < seconds:
            before = time.monotonic()
            collected.append(self._advance())
            now = time.monotonic()
            self.seconds += now - before
            if now - reported > REPORT_SECONDS or self.step == self.end:
                self._report(collected, now - reported, say)
                collected, reported = [], time.monotonic()
            if now - saved > CHECKPOINT_SECONDS:
                self._save()
                saved = time.monotonic()
        self._save()
        return self.step >= self.end

    def _report(self, collected: list[dict[str, float]], elapsed: float, say: Callable[[str], None]) -> None:
        figures = {key: float(np.mean([entry[key] for entry in collected])) for key in collected[0]}
        rate = len(collected) * self.trainee.batch / elapsed
        self.trainee.module.eval()
        figures |= self.trainee.measure()
        self.trainee.module.train()
        self._log({"samples": self.step * self.trainee.batch, "seconds": self.seconds, **figures})
        left = (self.end - self.step) * self.trainee.batch / rate / 60
        shown = "  ".join(f"{key} {value:.3f}" for key, value in figures.items())
        done = f"{self.step * self.trainee.batch:,} of {self.end * self.trainee.batch:,} samples"
        say(f"{self.trainee.name}: {done}  {rate:.0f}/s  {left:.0f} min left  {shown}")


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
