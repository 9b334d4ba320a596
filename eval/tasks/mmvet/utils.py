"""Binds the mmvet benchmark to lm-eval; the YAML files beside it name these."""

from omnivision_eval import mmvet
from omnivision_eval.lm_task import aggregation, doc_to_image, doc_to_target, doc_to_text as text_of, load, process_results as results_of

__all__ = ["load", "doc_to_image", "doc_to_target"]

doc_to_text = text_of(mmvet)
process_results = results_of(mmvet)

judged = aggregation(mmvet, "judged")
valid_rate = aggregation(mmvet, "valid_rate")
missing = aggregation(mmvet, "missing")
std = aggregation(mmvet, "std")
