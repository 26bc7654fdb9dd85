"""gRPC between processes: servers, channels, TLS, interceptors, statuses, health."""
