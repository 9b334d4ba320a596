"""Minimal-edit preference pairs: a model answers, a teacher corrects only the wrong words, gates keep what is minimal.

    answers.py (what the model says) -> a teacher (teacher.py, endpoint_teacher.py, local_teacher.py) -> gates.py -> factory.py (rows, report)
"""
