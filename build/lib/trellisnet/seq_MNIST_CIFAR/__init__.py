"""Sequential and permuted MNIST, sequential CIFAR-10."""
