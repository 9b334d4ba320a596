"""Recipes that train: the stages and the stand-ins for the hub's weights."""

from omnivision_train.put_off import put_off

put_off("datasets")  # before anything here imports transformers' Trainer
