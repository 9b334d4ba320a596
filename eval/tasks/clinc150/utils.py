"""Binds the clinc150 benchmark to lm-eval; the YAML files beside it name these."""

from omnivision_eval import clinc150
from omnivision_eval.lm_task import aggregation, doc_to_image, doc_to_target, doc_to_text as text_of, load, process_results as results_of

__all__ = ["load", "doc_to_image", "doc_to_target"]

doc_to_text = text_of(clinc150)
process_results = results_of(clinc150)

in_scope_accuracy = aggregation(clinc150, "in_scope_accuracy")
oos_recall = aggregation(clinc150, "oos_recall")
oos_precision = aggregation(clinc150, "oos_precision")
overall_accuracy = aggregation(clinc150, "overall_accuracy")
valid_rate = aggregation(clinc150, "valid_rate")
