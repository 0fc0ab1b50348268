"""The Toeplitz neural network (Qin et al. 2023): the operator, its units, layers and models.

Imports torch alone; what trains them is in tnn/lm, tnn/im and tnn/lra.
"""
