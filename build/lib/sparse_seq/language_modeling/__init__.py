"""Dense and sparse AWD-LSTM language models."""
