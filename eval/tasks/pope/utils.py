"""Binds the pope benchmark to lm-eval; the YAML files beside it name these."""

from omnivision_eval import pope
from omnivision_eval.lm_task import aggregation, doc_to_image, doc_to_target, doc_to_text as text_of, load, process_results as results_of

__all__ = ["load", "doc_to_image", "doc_to_target"]

doc_to_text = text_of(pope)
process_results = results_of(pope)

f1 = aggregation(pope, "f1")
accuracy = aggregation(pope, "accuracy")
precision = aggregation(pope, "precision")
recall = aggregation(pope, "recall")
yes_ratio = aggregation(pope, "yes_ratio")
false_yes = aggregation(pope, "false_yes")
false_yes_rate = aggregation(pope, "false_yes_rate")
valid_rate = aggregation(pope, "valid_rate")
