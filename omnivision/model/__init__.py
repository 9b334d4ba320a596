"""The model in transformers' own form: configuration, tower loading, projector, fusion, processor, builder."""
