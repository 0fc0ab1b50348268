"""The study of the published 91.0: what its causes cost, one at a time (README.md beside)."""
