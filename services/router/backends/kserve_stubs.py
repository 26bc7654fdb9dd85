"""The KServe v2 messages and stub, under names of our own: the only importer of `tritonclient`."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import service_pb2, service_pb2_grpc

# The wheel has no type information; these are generated protobuf classes.
InferRequest: Any = service_pb2.ModelInferRequest
InferResponse: Any = service_pb2.ModelInferResponse
StreamResponse: Any = service_pb2.ModelStreamInferResponse
ServerReadyRequest: Any = service_pb2.ServerReadyRequest
ModelReadyRequest: Any = service_pb2.ModelReadyRequest
InferenceStub: Any = service_pb2_grpc.GRPCInferenceServiceStub
STREAM_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
