"""Voice activity: the 16 kHz network of silero-vad, pruned, taught by the original, written as ONNX."""
