"""A server as processes: a supervisor, an engine and front ends that share a port."""
