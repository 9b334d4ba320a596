"""Importing it registers the model with transformers' Auto classes: each of these modules does so at its end."""

from omnivision.model import configuration, modeling, processing  # noqa: F401
