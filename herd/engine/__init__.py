"""Requests in, tokens out: scheduler, paged cache, sampling, backends."""
