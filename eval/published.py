"""Published scores to stand beside a model's own rows: read in papers and model cards, not measured here.

Gathered from the models' own cards and papers; a dash there is None. nanoLLaVA and TinyLLaVA report one ScienceQA
figure: TinyLLaVA's 60.3 is the image subset. TinyLLaVA is its Qwen2.5-0.5B model with 729 image tokens.
"""

from __future__ import annotations

BENCHMARKS = ("mmvet", "chartqa", "mmmu_test", "mmmu_val", "scienceqa_val", "scienceqa_test", "pope", "scienceqa_img")

PUBLISHED: dict[str, dict[str, float | None]] = {
    "OmniVision v1": dict(zip(BENCHMARKS, (27.5, 59.2, 41.8, 39.9, 62.2, 64.5, 89.4, None), strict=True)),
    "OmniVision v2": dict(zip(BENCHMARKS, (30.9, 61.9, 42.1, 40.0, 71.0, 71.0, 93.3, None), strict=True)),
    "nanoLLaVA": dict(zip(BENCHMARKS, (23.9, None, 28.6, 30.4, 59.0, 59.0, 84.1, None), strict=True)),
    "Qwen2-VL-2B": dict(zip(BENCHMARKS, (49.5, 73.5, 41.1, None, None, None, None, None), strict=True)),
    "TinyLLaVA 0.5B": dict(zip(BENCHMARKS, (23.9, None, None, 33.3, None, None, 86.1, 60.3), strict=True)),
}
SAME = {"mmvet": "mmvet", "chartqa": "chartqa", "mmmu": "mmmu_val", "scienceqa": "scienceqa_test", "scienceqa_img": "scienceqa_img", "pope": "pope"}  # task -> its published figure
NOTE = "published on the real benchmarks, not measured here; the embedded world's questions are easier and not comparable"
