"""GGUF files that stock llama.cpp runs: a text file (qwen2) and a picture file (mmproj), and the way back from released ones."""
