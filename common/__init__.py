"""The science that the papers share: split cross entropy, (NT-)ASGD, dropouts. Nothing else."""
