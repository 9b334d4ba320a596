"""Binds the open_ended benchmark to lm-eval; the YAML files beside it name these."""

from omnivision_eval import open_ended
from omnivision_eval.lm_task import aggregation, doc_to_image, doc_to_target, doc_to_text as text_of, load, process_results as results_of

__all__ = ["load", "doc_to_image", "doc_to_target"]

doc_to_text = text_of(open_ended)
process_results = results_of(open_ended)

judged = aggregation(open_ended, "judged")
valid_rate = aggregation(open_ended, "valid_rate")
missing = aggregation(open_ended, "missing")
