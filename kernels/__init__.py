"""Single operations that torch does slowly on some hardware, each beside its plain form.

product.py               matrix product on the CPU, linear layer
lstm.py                  LSTM recurrence
forget_mult.py           the QRNN's recurrence; forget_mult_triton.py is its GPU form
qrnn_gates.py            the QRNN's activations, recurrence and output gate in one pass
log_softmax.py           log softmax in the memory of its argument
masks.py                 dropout masks
second_derivatives.py    how all of them are differentiated twice: through their plain forms
cpu.py                   what the CPU at hand is good at
library.py, build.py     the compiled code in cpp/: calling it, building it

The fast forms are tested against the plain ones, outputs and every gradient.
"""
