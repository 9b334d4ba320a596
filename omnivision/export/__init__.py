"""Files for devices, each proved to answer as the checkpoint does."""
