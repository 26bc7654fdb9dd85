"""The engine behind the CPU twin: continuous batching and in-batch LoRA over OpenVINO's paged attention."""
