"""Which routers there are and what each has applied."""
