"""Train, judge and ship sub-billion vision-language models for edge devices."""

__version__ = "0.1.0"
