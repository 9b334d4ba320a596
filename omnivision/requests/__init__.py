"""Training requests for any set of functions: made from its schemas or by a teacher, and none written unchecked.

words (what values are called) -> drawing (arguments that fit a schema) -> wording (a call as a sentence) -> templates (rows)
"""
