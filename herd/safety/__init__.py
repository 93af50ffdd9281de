"""What stands between a model and the world: insecure code, injections, hazards. Nothing here calls anything outside the machine."""
