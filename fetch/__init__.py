"""The parts of getdata.py: checks, unpack, download, addresses. It alone puts them together."""
