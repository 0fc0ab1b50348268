#!/usr/bin/env bash
# What the original's script_lra.py calls, with the 20 positional arguments of train_lra.sh. There it
# knew the names of the gtu family only and refused tno and tno2d, which script_lra.py gave it.
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/train_lra.sh" "$@"
