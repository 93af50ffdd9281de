"""What runs a step: each backend is one implementation of `herd.engine.backend.Backend`."""
