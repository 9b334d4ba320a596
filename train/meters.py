"""What a log line tells of the steps since the line before: means without skipped steps, speed, memory; continued by a resumed run."""

from __future__ import annotations

import sys
import time
from collections import Counter

import torch

from omnivision.errors import DivergedError
from omnivision.memory import peak_gib
from omnivision_train.config import passes_over
from omnivision_train.ranks import gathered
from omnivision_train.throughput import Flops, device_peak

MOST_SKIPPED = 5  # steps in a row without a finite loss and gradient


class Meters:
    """The part of the stages' trainers that measures."""

    def heads(self) -> int:
        """How often the head runs on what is supervised, at this step."""
        return 1

    def floating_point_ops(self, inputs) -> int:
        """Nothing: transformers would go over all parameters at every step; Flops has counted them once."""
        return 0

    def _inner_training_loop(self, *args, **kwargs):
        self._skipped, self._skipped_in_a_row, self._skipped_since_log = 0, 0, 0
        self._before_step, self._last_logged, self._step_rows = torch.zeros(()), 0, []
        self._seen, self._since, self._waited = Counter(), time.perf_counter(), 0.0
        self._means_before: dict[str, int] = {}
        self._flops = Flops(self.model, self.data_collator.cache is not None, getattr(self, "ref_model", None) is not None,
                            getattr(self.stage_config, "frozen_layers", 0))
        return super()._inner_training_loop(*args, **kwargs)

    def get_batch_samples(self, *args, **kwargs):
        started = time.perf_counter()
        found = super().get_batch_samples(*args, **kwargs)
        self._waited += time.perf_counter() - started
        return found

    def training_step(self, model, inputs, num_items_in_batch=None):
        self._step_rows += inputs.pop("row_ids", [])
        self._seen["tokens"] += inputs.pop("num_tokens", 0)
        self._seen["supervised"] += inputs.pop("num_supervised", 0) * self.heads()
        self._seen["pictures"] += max(1, sum(len(inputs[key]) for key in ("image_features", "pixel_values") if key in inputs))  # a blank one for texts alone
        self._seen["uncached"] += len(inputs["pixel_values"]) if "unencoded" in inputs else 0
        return super().training_step(model, inputs, num_items_in_batch)

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, *args, **kwargs):
        """After every optimizer step: a step that DeepSpeed or clip_or_skip left out counts in no mean."""
        if self._step_rows:  # transformers calls this once more after an epoch
            if self.accelerator.optimizer_step_was_skipped:
                self._count_skipped(tr_loss)
            else:
                self._skipped_in_a_row = 0
            self._before_step, self._step_rows = tr_loss.detach().clone(), []
            self._means_before = {key: len(values) for key, values in self._means().items()}
        logging = self.control.should_log and self.state.global_step > self._globalstep_last_logged
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)
        if logging:
            self._before_step, self._means_before = torch.zeros_like(self._before_step), {}

    def _count_skipped(self, tr_loss: torch.Tensor) -> None:
        tr_loss.copy_(self._before_step)
        for key, values in self._means().items():
            del values[self._means_before.get(key, 0):]
        self._skipped, self._skipped_in_a_row, self._skipped_since_log = (
            self._skipped + 1, self._skipped_in_a_row + 1, self._skipped_since_log + 1)
        rows = sorted({row for rows in gathered(self._step_rows) for row in rows})
        step = self.state.global_step
        if self.is_world_process_zero():
            print(f"step {step}: loss or gradient is not finite; the step is skipped (rows {', '.join(rows[:8])})", file=sys.stderr)
        if self._skipped_in_a_row == MOST_SKIPPED:
            raise DivergedError(f"Loss or gradient were not finite in {MOST_SKIPPED} steps in a row", f"step {step}, rows {', '.join(rows)}",
                                "Look at these rows, or begin again with a lower `lr`; both need another `out`.")

    def log(self, logs, *args, **kwargs):
        if "loss" in logs and self._skipped:
            window = self.state.global_step - self._last_logged
            counted = window - self._skipped_since_log
            logs["loss"] = logs["loss"] * window / counted if counted else float("nan")
            logs["skipped"] = self._skipped
        if "loss" in logs:
            logs |= self._speed()
            self._last_logged, self._skipped_since_log = self.state.global_step, 0
        return super().log(logs, *args, **kwargs)

    def _speed(self) -> dict[str, float]:
        """Since the last log line: tokens a second and 10^12 operations of the model's products over all processes, the share of the time in which
        the process that waited longest waited for data, and the share of the chips' peak where that is known."""
        every, waits, peaks = zip(*gathered((self._seen, self._waited, peak_gib())), strict=True)
        seen, now = sum(every, Counter()), time.perf_counter()
        seconds, self._since, self._seen, self._waited = now - self._since, now, Counter(), 0.0
        flops, peak = self._flops.of(**seen) * passes_over(self.stage_config), device_peak()
        speed = {"tokens_per_second": seen["tokens"] / seconds, "teraflop": flops / 1e12, "data_wait": round(max(waits) / seconds, 4), "peak_memory_gib": round(max(peaks), 2)}
        return speed | ({"peak_share": flops / seconds / peak / self.args.world_size} if peak else {})

    def _means(self) -> dict[str, list[float | torch.Tensor]]:
        """PairTrainer's values since the last log line, whose means it logs; the other trainers have none."""
        return getattr(self, "_metrics", {}).get("train", {})

    def meters(self) -> dict:
        """This process' running sums, for a checkpoint."""
        return {"loss": self._tr_loss.item(), "logged": self._globalstep_last_logged, "seen": dict(self._seen),
                "seconds": time.perf_counter() - self._since, "waited": self._waited,
                "skipped": [self._skipped, self._skipped_in_a_row, self._skipped_since_log],
                "means": {key: [float(value) for value in values] for key, values in self._means().items()}}

    def set_meters(self, meters: dict) -> None:
        """Continues them."""
        self._tr_loss.fill_(meters["loss"])
        self._before_step = self._tr_loss.clone()
        self._globalstep_last_logged = self._last_logged = meters["logged"]
        self._skipped, self._skipped_in_a_row, self._skipped_since_log = meters["skipped"]
        self._seen, self._waited = Counter(meters.get("seen", {})), meters.get("waited", 0.0)
        self._since = time.perf_counter() - meters.get("seconds", 0.0)
        for key, values in meters.get("means", {}).items():
            self._metrics["train"][key] = list(values)
        self._means_before = {key: len(values) for key, values in self._means().items()}
