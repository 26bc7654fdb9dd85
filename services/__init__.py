"""tenantry's own processes; they meet one another over gRPC only."""
