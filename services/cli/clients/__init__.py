"""Typed clients of the mesh's two listeners, for commands and for `up`.

Calls and their typed errors only: printing, options and the choice of a mesh have no place here. Entrances:
`admin.AdminClient`, `inference.InferenceClient` and `review.ReviewClient`, each over a `listener.Listener`.
"""
