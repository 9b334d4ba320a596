"""The one home of every constant that two stations of the road share."""

IGNORE_INDEX = -100  # labels that supervise nothing (torch's cross-entropy default)

# Qwen2.5's own special tokens; the tiny tokenizer carries the same strings.
IMAGE_TOKEN = "<|image_pad|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"

FUNCTION_PREFIX = "nexa"  # functional tokens: <nexa_0> ... <nexa_end>
FUNCTION_FILE = "functions.json"  # travels with a checkpoint that has functional tokens
