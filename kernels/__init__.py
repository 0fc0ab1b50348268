"""Single operations that torch does slowly on some hardware, each beside its plain form.

product.py               matrix product on the CPU, linear layer
lstm.py                  LSTM recurrence
cudnn.py                 cuDNN's LSTM and GRU: weights in one piece of memory, in the type wanted
forget_mult.py           the QRNN's recurrence; forget_mult_triton.py is its GPU form
qrnn_gates.py            the QRNN's activations, recurrence and output gate in one pass
gates_triton.py          TrellisNet's gates on a GPU (for a CPU: cpp/gates.cpp, narrow_gates.cpp)
silu_gates.py            silu(a) b, alone and around the Toeplitz products of a small grid
gated_step.py            one position of a layer of gated units, for generation
rms_norm.py              division by the root mean square; rms_norm_triton.py is its GPU form
log_softmax.py           log softmax in the memory of its argument
masks.py                 dropout masks
transfer.py              copies to a GPU that nobody waits for
second_derivatives.py    how all of them are differentiated twice: through their plain forms
cpu.py                   what the CPU at hand is good at
library.py, build.py     the compiled code in cpp/: calling it, building it

The fast forms are tested against the plain ones, outputs and every gradient.
"""
