"""The AWD-LSTM written out to be read (after Merity, Keskar, Socher 2017)."""
