"""The installed locustfile, in a folder of its own: Locust puts that folder on `sys.path`."""
