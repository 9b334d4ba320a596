"""Training requests for any set of functions: made from its schemas or by a teacher, and none written unchecked.

words (what values are called) -> drawing (arguments that fit a schema) -> wording, sentences (a call in words) -> templates, negatives,
composed, teacher (rows) -> checks (calls that fit and come back, values that were said) -> sieve (none twice, none like a held-out one)
"""
