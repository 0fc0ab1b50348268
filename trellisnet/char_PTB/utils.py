"""Character PTB's lines in the log: bits per character, three decimals, and the texts' sizes.
Imports no torch."""

CHARACTER_LINES = {
    "step": "| epoch {epoch:3d} | {batch:5d}/{batches:5d} batches | lr {lr} | ms/batch {ms:5.2f} "
            "| raw_loss {raw:5.3f} | aux_loss {aux:5.2f} | bpc {bpc:5.3f}",
    "epoch": "| End of epoch {epoch:3d} | {split} loss {loss:5.3f} | {split} bpc {bpc:8.3f}",
    "end": "| End of training | test loss {loss:5.3f} | test bpc {bpc:8.3f}",
    "say_sizes": True}
