"""The one console command: a table of verbs, and one home for every error they can end in."""
