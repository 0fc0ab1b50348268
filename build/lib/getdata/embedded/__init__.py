"""Data sets that need no network. Each builder takes the folder to fill; nothing runs at import."""
