"""What a tenant's config has to keep to: one module a subject, each pure; `services.config.validation` asks all."""
