"""Binds the mmmu benchmark to lm-eval; the YAML files beside it name these."""

from omnivision_eval import mmmu
from omnivision_eval.lm_task import aggregation, doc_to_image, doc_to_target, doc_to_text as text_of, load, process_results as results_of

__all__ = ["load", "doc_to_image", "doc_to_target"]

doc_to_text = text_of(mmmu)
process_results = results_of(mmmu)

accuracy = aggregation(mmmu, "accuracy")
parse_failure_rate = aggregation(mmmu, "parse_failure_rate")
without_fallback = aggregation(mmmu, "without_fallback")
valid_rate = aggregation(mmmu, "valid_rate")
