"""The engine behind the CPU twin: continuous batching and in-batch LoRA over OpenVINO's paged attention.

Takes and gives TensorRT-LLM's tensors, and knows neither gRPC nor tenants. Enter by `launch` (start a server),
`preparation` (make the model) and `twin.build_engine` (inside the server).
"""
