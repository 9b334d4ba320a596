"""Binds the actions benchmark to lm-eval; the YAML files beside it name these."""

from omnivision_eval import actions
from omnivision_eval.lm_task import aggregation, doc_to_image, doc_to_target, doc_to_text as text_of, load, process_results as results_of

__all__ = ["load", "doc_to_image", "doc_to_target"]

doc_to_text = text_of(actions)
process_results = results_of(actions)

function = aggregation(actions, "function")
strict = aggregation(actions, "strict")
lenient = aggregation(actions, "lenient")
format_valid = aggregation(actions, "format_valid")
over_call = aggregation(actions, "over_call")
missed_call = aggregation(actions, "missed_call")
