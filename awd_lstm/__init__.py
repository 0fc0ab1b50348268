"""LSTM / GRU / QRNN language-model toolkit (Merity, Keskar, Socher 2017 and 2018)."""
