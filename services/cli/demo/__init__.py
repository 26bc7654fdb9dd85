"""What `tenantry up` provisions and shows: three demo tenants, their keys and adapters, a first answer."""
