"""Recipes that train: the stages and the stand-ins for the hub's weights."""
