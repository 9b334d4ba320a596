"""Functional tokens beside function descriptions in the prompt, all of them or the retrieved ones: one model, one set of questions.

catalogue -> material (functions, requests, questions) -> training (one checkpoint an arm) -> arms (a prompt, a reader) ->
measure (in turn, question by question) -> summary -> table and plot. `scripts/compare_calls.py` runs it.
"""
