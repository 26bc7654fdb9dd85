"""What a tenant's config has to keep to: one module a subject, each pure; `validation` asks all of them."""
