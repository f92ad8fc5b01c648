"""The artifact store: content-addressed, atomic, verified on read. It knows nothing of stages."""
