"""ONNX files in the layout that transformers.js and optimum read, and a runner without torch."""
