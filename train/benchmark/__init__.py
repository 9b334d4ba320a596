"""How fast the stages are beside stock TRL, on equal work."""
