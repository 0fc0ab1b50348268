"""Character PTB's lines in the log: bits per character, three decimals."""

STEP_CHAR = ("| epoch {epoch:3d} | {batch:5d}/{batches:5d} batches | lr {lr} | ms/batch {ms:5.2f} "
             "| raw_loss {raw:5.3f} | aux_loss {aux:5.2f} | bpc {bpc:5.3f}")
EPOCH_CHAR = "| End of epoch {epoch:3d} | {split} loss {loss:5.3f} | {split} bpc {bpc:8.3f}"
END_CHAR = "| End of training | test loss {loss:5.3f} | test bpc {bpc:8.3f}"
