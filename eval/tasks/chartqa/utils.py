"""Binds the chartqa benchmark to lm-eval; the YAML files beside it name these."""

from omnivision_eval import chartqa
from omnivision_eval.lm_task import aggregation, doc_to_image, doc_to_target, doc_to_text as text_of, load, process_results as results_of

__all__ = ["load", "doc_to_image", "doc_to_target"]

doc_to_text = text_of(chartqa)
process_results = results_of(chartqa)

relaxed_accuracy = aggregation(chartqa, "relaxed_accuracy")
valid_rate = aggregation(chartqa, "valid_rate")
