"""Calls become deeds: what may run (policy), how it runs (program), what happened (outcome), and a line of each (audit).

Nothing here reads text of a model: it takes the actions that functions/calls.py read from generated ids.
"""
