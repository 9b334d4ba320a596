"""Minimal-edit preference pairs: a model answers, a teacher corrects only the wrong words, gates keep what is minimal.

    answers.py (what the model says) -> teacher (oracle.py, endpoint.py, local.py) -> gates.py -> factory.py (rows, report)
"""
